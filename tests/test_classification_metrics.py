"""Classification counts: additive over packs, unlabeled images skipped."""

from math import isnan

import pytest
import torch

from conftest import make_images
from patchpack.batch import collate
from patchpack.metrics.classification import ClassificationCounts, classify, count, table

LOGITS = torch.tensor([[5.0, 1, 0, 0, 0, 0, 0], [0, 0, 3, 2, 0, 0, 0], [9, 8, 7, 6, 5, 4, 0]])
LABELS = torch.tensor([0, 3, 6])


def test_counts_match_hand_computed_metrics():
    counts = count(LOGITS, LABELS)
    assert counts.images == 3 and counts.top1 == 1 / 3 and counts.top5 == 2 / 3
    assert counts.confusion[3, 2] == 1 and counts.confusion[6, 0] == 1
    expected = torch.nn.functional.cross_entropy(LOGITS, LABELS).item()
    assert counts.mean_nll == pytest.approx(expected, rel=1e-6)
    assert counts.per_class[0] == 1 and counts.per_class[3] == 0 and counts.per_class[1].isnan()


def test_counts_of_two_packs_sum_to_the_counts_of_all_images():
    whole = count(LOGITS, LABELS)
    parts = count(LOGITS[:1], LABELS[:1]) + count(LOGITS[1:], LABELS[1:])
    assert torch.equal(whole.confusion, parts.confusion) and whole.in_top5 == parts.in_top5
    assert torch.equal((whole + ClassificationCounts.none(7)).confusion, whole.confusion)
    assert ClassificationCounts.none(7).images == 0 and isnan(ClassificationCounts.none(7).top1)


def test_unlabeled_images_are_skipped():
    batch = collate(make_images(), 12)
    batch.targets["label"][0] = -1
    counts = classify(lambda b: torch.eye(3)[[0, 1, 2, 0, 1, 2]], [batch, collate([], 12)], 3)
    assert counts.images == 5 and counts.top1 == 1
    assert table(counts, ["a", "b", "c"])["per_class"] == {"a": 1.0, "b": 1.0, "c": 1.0}
