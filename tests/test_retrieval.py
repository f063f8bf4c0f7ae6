"""Recall@k matches hand-computed values and brute force."""

from math import isnan

import pytest
import torch

from patchpack.metrics import retrieval
from patchpack.metrics.retrieval import best_ranks, recalls


def test_recall_matches_hand_computed_values():
    """Image 0 ranks its own text first; image 1 ranks it second. Of two, none can miss at 2."""
    images = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    texts = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    result = recalls(images, texts, torch.tensor([[0, 0], [1, 1]]), at=(1, 2))
    assert result["image_to_text@1"] == 0.5 and isnan(result["image_to_text@2"])
    assert result["text_to_image@1"] == 1 and result["recall@1"] == 0.75
    assert result["mean_recall"] == 0.75


@pytest.mark.parametrize("cells", [1, 17, 1 << 24])
def test_best_ranks_match_brute_force(cells, monkeypatch):
    monkeypatch.setattr(retrieval, "CELLS", cells)
    torch.manual_seed(0)
    images, texts = torch.randn(9, 3), torch.randn(14, 3)
    pairs = torch.tensor([(i % 9, i) for i in range(14)] + [(0, 13), (4, 2)])
    expected = []
    for i, image in enumerate(images):
        matches = [int(t) for j, t in pairs.tolist() if i == j]
        order = (texts @ image).argsort(descending=True).tolist()
        first = min(order.index(t) for t in matches)
        expected.append(sum(t not in matches for t in order[:first]))
    assert best_ranks(images, texts, pairs).tolist() == expected


def test_constant_vectors_have_zero_recall():
    same = torch.ones(20, 4)
    result = recalls(same, same, torch.arange(20)[:, None].expand(-1, 2))
    assert set(result.values()) == {0.0}


def test_a_shared_text_matches_each_of_its_images():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    result = recalls(images, texts, torch.tensor([[0, 0], [1, 0], [2, 1]]))
    assert result["recall@1"] == 1


def test_queries_that_cannot_miss_are_left_out():
    """Text 0 matches both images; text 1 matches image 0 alone, and can miss."""
    images, texts = torch.eye(2), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    result = recalls(images, texts, torch.tensor([[0, 0], [1, 0], [0, 1]]), at=(1,))
    assert result["text_to_image@1"] == 0  # of text 1 alone
    assert result["image_to_text@1"] == 0  # of image 1 alone: its wrong text ties
    one_text = recalls(torch.eye(3), torch.ones(1, 3), torch.tensor([[0, 0], [1, 0], [2, 0]]))
    assert all(map(isnan, one_text.values()))
