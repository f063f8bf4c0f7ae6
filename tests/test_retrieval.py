"""Recall at k against counting by hand and by brute force."""

import pytest
import torch

from patchpack.metrics import retrieval
from patchpack.metrics.retrieval import best_ranks, recalls


def test_by_hand():
    """Image 0 is nearest to its text; image 1 is nearest to image 0's, then to its own."""
    images = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    texts = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    found = recalls(images, texts, torch.tensor([[0, 0], [1, 1]]), at=(1, 2))
    assert found["image_to_text@1"] == 0.5 and found["image_to_text@2"] == 1
    assert found["text_to_image@1"] == 1 and found["recall@1"] == 0.75
    assert found["mean_recall"] == 0.875


@pytest.mark.parametrize("cells", [1, 17, 1 << 24])
def test_against_brute_force(cells, monkeypatch):
    monkeypatch.setattr(retrieval, "CELLS", cells)
    torch.manual_seed(0)
    images, texts = torch.randn(9, 3), torch.randn(14, 3)
    pairs = torch.tensor([(i % 9, i) for i in range(14)] + [(0, 13), (4, 2)])
    expected = []
    for i, image in enumerate(images):
        mine = [int(t) for j, t in pairs.tolist() if i == j]
        order = (texts @ image).argsort(descending=True).tolist()
        first = min(order.index(t) for t in mine)
        expected.append(sum(t not in mine for t in order[:first]))
    assert best_ranks(images, texts, pairs).tolist() == expected


def test_a_model_that_says_the_same_of_all_finds_nothing():
    same = torch.ones(20, 4)
    found = recalls(same, same, torch.arange(20)[:, None].expand(-1, 2))
    assert set(found.values()) == {0.0}


def test_texts_that_images_share_are_right_for_each():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = recalls(images, texts, torch.tensor([[0, 0], [1, 0], [2, 1]]))
    assert found["recall@1"] == 1


def test_one_pair_and_none():
    one = torch.ones(1, 2)
    assert recalls(one, one, torch.tensor([[0, 0]]))["recall@1"] == 1
    none = torch.empty(0, 2)
    assert recalls(none, none, torch.empty(0, 2, dtype=torch.int64))["recall@10"] == 0
