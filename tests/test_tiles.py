"""Tiles hold every token once, waste little, and never let padding count."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from patchpack.batch import Segments
from patchpack.model import tiled_attention as tiles
from patchpack.model.tiled_attention import TiledAttention, tile_layout, tile_lengths

CPU = torch.device("cpu")
some_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(tuple)


def cost(lengths, ranges, overhead):
    inside = [[n for n in lengths if low <= n <= high] for low, high in ranges]
    return sum(len(ns) * high**2 + overhead for ns, (_, high) in zip(inside, ranges, strict=True))


@given(some_lengths, st.integers(0, 3000))
def test_tiles_are_the_cheapest_cut(lengths, overhead):
    """Compared with every way there is to cut the distinct lengths."""
    found = tile_lengths(lengths, overhead)
    assert all(sum(low <= n <= high for low, high in found) == 1 for n in lengths)
    distinct = sorted(set(lengths))
    ways = [
        [(distinct[a], distinct[b - 1]) for a, b in pairwise((0, *cut, len(distinct)))]
        for count in range(len(distinct))
        for cut in combinations(range(1, len(distinct)), count)
    ]
    assert cost(lengths, found, overhead) == min(cost(lengths, way, overhead) for way in ways)


@given(some_lengths, st.integers(1, 3))
def test_every_token_has_one_row_and_comes_back(lengths, heads):
    segments = Segments(lengths, CPU)
    x = torch.arange(segments.num_tokens * heads * 2).view(-1, heads, 2)
    found = tile_layout(segments, heads)
    rows = found.fill(x)
    assert torch.equal(found.empty(rows, heads), x)
    assert len(rows) == segments.num_tokens * heads + len(found.padding)
    assert sum(tile.numel() for tile in found.split(rows)) == rows.numel()


@pytest.fixture
def one_tile(monkeypatch):
    """Force everything into one tile, so that there is padding."""
    monkeypatch.setattr(tiles, "tile_lengths", lambda lengths: [(min(lengths), max(lengths))])
    tile_layout.cache_clear()
    yield
    tile_layout.cache_clear()


def test_gradients_through_padding_are_right(one_tile):
    segments = Segments((2, 5, 1, 3), CPU)
    assert len(tile_layout(segments, 2).padding)
    shape = (segments.num_tokens, 2, 3)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert gradcheck(TiledAttention.apply, (*tensors, segments))


def test_not_a_number_stays_in_its_image(one_tile):
    segments = Segments((2, 5, 3), CPU)
    tensors = [torch.randn(10, 1, 4, requires_grad=True) for _ in range(3)]
    for x in tensors:
        x.data[2:7] = torch.nan
    out = TiledAttention.apply(*tensors, segments)
    outside = torch.cat([out[:2], out[7:]])
    assert outside.isfinite().all() and out[2:7].isnan().all()
    for grad in torch.autograd.grad(outside.sum(), tensors):
        assert torch.cat([grad[:2], grad[7:]]).isfinite().all()
