"""Tiles have every token once and little padding, which changes no output and no gradient."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from patchpack.batch import Segments
from patchpack.model import tiled_attention
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.tiled_attention import TiledAttention, tile_layout, tile_lengths

segment_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(tuple)


def layout_of(lengths, mask="full", prefix_lengths=()):
    return AttentionLayout.within(Segments(lengths, torch.device("cpu")), mask, prefix_lengths)


def cost(lengths, ranges, overhead):
    inside = [[n for n in lengths if low <= n <= high] for low, high in ranges]
    return sum(len(ns) * high**2 + overhead for ns, (_, high) in zip(inside, ranges, strict=True))


@given(segment_lengths, st.integers(0, 3000))
def test_tiles_are_the_cheapest_cut(lengths, overhead):
    """Compared with every possible cut of the distinct lengths."""
    ranges = tile_lengths(lengths, overhead)
    assert all(sum(low <= n <= high for low, high in ranges) == 1 for n in lengths)
    distinct = sorted(set(lengths))
    cuts = [
        [(distinct[a], distinct[b - 1]) for a, b in pairwise((0, *cut, len(distinct)))]
        for count in range(len(distinct))
        for cut in combinations(range(1, len(distinct)), count)
    ]
    assert cost(lengths, ranges, overhead) == min(cost(lengths, c, overhead) for c in cuts)


@given(segment_lengths, st.integers(1, 3))
def test_every_token_has_one_row_and_comes_back(lengths, heads):
    x = torch.arange(sum(lengths) * heads * 2).view(-1, heads, 2)
    tiles = tile_layout(layout_of(lengths), heads)
    rows = tiles.fill(x)
    assert torch.equal(tiles.empty(rows, heads), x)
    assert len(rows) == sum(lengths) * heads + len(tiles.padding)
    assert sum(tile.numel() for tile in tiles.split(rows)) == rows.numel()


@pytest.fixture
def one_tile(monkeypatch):
    """Force everything into one tile, so that there is padding."""
    monkeypatch.setattr(
        tiled_attention, "tile_lengths", lambda lengths: [(min(lengths), max(lengths))]
    )
    tile_layout.cache_clear()
    yield
    tile_layout.cache_clear()


@pytest.mark.parametrize(
    ("mask", "prefix_lengths"), [("full", ()), ("causal", ()), ("prefix", (1, 3, 0, 3))]
)
def test_gradients_through_padding_are_right(one_tile, mask, prefix_lengths):
    layout = layout_of((2, 5, 1, 3), mask, prefix_lengths)
    assert len(tile_layout(layout, 2).padding)
    tensors = [torch.randn(11, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert gradcheck(TiledAttention.apply, (*tensors, layout))


def test_not_a_number_stays_in_its_image(one_tile):
    layout = layout_of((2, 5, 3))
    tensors = [torch.randn(10, 1, 4, requires_grad=True) for _ in range(3)]
    for x in tensors:
        x.data[2:7] = torch.nan
    out = TiledAttention.apply(*tensors, layout)
    outside = torch.cat([out[:2], out[7:]])
    assert outside.isfinite().all() and out[2:7].isnan().all()
    for grad in torch.autograd.grad(outside.sum(), tensors):
        assert torch.cat([grad[:2], grad[7:]]).isfinite().all()
