"""Attention over tiles: images of similar length, padded to one dense batch.

    lengths  7 7 6 3 3 1         tile  2 x 7   tile  1 x 6   …   or   tile  3 x 7   tile  3 x 3
                                                                            x x x x x x x    x x x
                                                                            x x x x x x x    x x x
                                                                            x x x x x x .    x . .

A pack of small images has many different lengths. One product per image is mostly overhead; one
product for all images is mostly padding. `tile_lengths` finds the cheapest partition. Tokens move
into tiles and back by indices that are the same for every layer. Padding is masked, repeats a token
of its own image, and gets no gradient. Under a causal or a prefix mask it comes after all real
tokens, so the mask of later tokens hides it, too.

Axes: token, head, head_dim; row (a slot of a tile, for one head), tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from patchpack.batch import Segments
from patchpack.model.attention_layout import AttentionLayout

OVERHEAD = 10_000  # cost of one more tile, in cells of an attention matrix


def tile_lengths(lengths: tuple[int, ...], overhead: int = OVERHEAD) -> list[tuple[int, int]]:
    """Partition lengths into ranges [shortest, longest], one per tile, longest tile first.

    Minimizes Σ over tiles of (images · longest² + overhead), by dynamic programming over the
    distinct lengths.
    """
    distinct, counts = np.unique(np.asarray(lengths, dtype=np.int64), return_counts=True)
    before = np.concatenate(([0], np.cumsum(counts)))  # images shorter than each length
    best = np.zeros(len(distinct) + 1, dtype=np.int64)  # minimum cost of all shorter images
    first = np.zeros(len(distinct), dtype=np.int64)  # start of the tile that ends at each length
    for last, longest in enumerate(distinct):
        images = before[last + 1] - before[: last + 1]
        cost = best[: last + 1] + images * longest**2 + overhead
        first[last] = cost.argmin()
        best[last + 1] = cost[first[last]]
    tiles, last = [], len(distinct) - 1
    while last >= 0:
        tiles.append((int(distinct[first[last]]), int(distinct[last])))
        last = int(first[last]) - 1
    return tiles


@dataclass(frozen=True)
class TileLayout:
    """Indices from the tokens of a stream to the rows of its tiles, and back."""

    shapes: tuple[tuple[int, int], ...]  # (images · heads, slots) of each tile
    # Hidden keys, broadcast over [image, head, query slot, key slot]; None where none is hidden.
    masks: tuple[Bool[Tensor, "#image 1 #slot slot"] | None, ...]
    sources: Int[Tensor, " row"]  # token · heads + head that each row is copied from
    token_rows: Int[Tensor, " token_head"]  # row of each token and head
    padding: Int[Tensor, " padded_row"]  # rows of padding

    def split(self, rows: Float[Tensor, "row dim"]) -> Iterator[Float[Tensor, "batch slot dim"]]:
        """Yield the tiles, as views."""
        sizes = [batch * slots for batch, slots in self.shapes]
        for tile, shape in zip(rows.split(sizes), self.shapes, strict=True):
            yield tile.view(*shape, -1)

    def fill(self, x: Float[Tensor, "token head dim"]) -> Float[Tensor, "row dim"]:
        """Move a stream into tiles; padding repeats the last token of its image."""
        return x.reshape(-1, x.shape[-1]).index_select(0, self.sources)

    def empty(self, rows: Float[Tensor, "row dim"], heads: int) -> Float[Tensor, "token head dim"]:
        """Move tiles back into a stream."""
        return rows.index_select(0, self.token_rows).view(-1, heads, rows.shape[-1])


@lru_cache(maxsize=8)
def tile_layout(layout: AttentionLayout, heads: int) -> TileLayout:
    """Return the tiles of a pack with as many keys as queries; all layers share them."""
    segments = layout.queries
    lengths = np.asarray(segments.lengths, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    head = np.arange(heads)[:, None]
    shapes, masks, sources, unused = [], [], [], []
    for shortest, longest in tile_lengths(segments.lengths):
        images = np.flatnonzero((lengths >= shortest) & (lengths <= longest))
        length, slot = lengths[images, None, None], np.arange(longest)
        token = starts[images, None, None] + np.minimum(slot, length - 1)
        pad = np.broadcast_to(slot >= length, (len(images), heads, longest))
        shapes.append((len(images) * heads, longest))
        sources.append((token * heads + head).ravel())
        unused.append(pad.ravel())
        mask = _hidden(layout, images, longest)
        masks.append(_tensor(mask[:, None], segments) if mask.any() else None)
    source, empty = np.concatenate(sources), np.concatenate(unused)
    token_rows = np.empty(segments.num_tokens * heads, dtype=np.int64)
    token_rows[source[~empty]] = np.flatnonzero(~empty)
    return TileLayout(
        tuple(shapes),
        tuple(masks),
        *(_tensor(x, segments) for x in (source, token_rows, np.flatnonzero(empty))),
    )


def _hidden(
    layout: AttentionLayout, images: Int[np.ndarray, " image"], slots: int
) -> Bool[np.ndarray, "#image #slot slot"]:
    """Return which keys are hidden from which queries, in a tile of these images."""
    slot = np.arange(slots)
    if layout.mask == "full":
        return slot >= np.asarray(layout.queries.lengths)[images, None, None]
    later = slot > slot[:, None]
    if layout.mask == "causal":
        return later[None]
    return later & (slot >= np.asarray(layout.prefix_lengths)[images, None, None])


def _tensor(array: np.ndarray, segments: Segments) -> Tensor:
    return torch.tensor(array, device=segments.device)


class TiledAttention(torch.autograd.Function):
    """softmax(q kᵀ / √head_dim) v inside each image, forward and backward, in the dtype of q.

    One autograd node for all tiles: with one node per product, the overhead of autograd would
    exceed the products of small images.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout) -> Tensor:
        heads, head_dim = q.shape[1:]
        tiles = tile_layout(layout, heads)
        queries, keys, values = (tiles.fill(x) for x in (q, k, v))
        queries *= head_dim**-0.5
        out = torch.empty_like(values)
        weights = []
        with torch.autocast(q.device.type, enabled=False):
            streams = zip(*map(tiles.split, (queries, keys, values, out)), strict=True)
            for (query, key, value, mixed), mask in zip(streams, tiles.masks, strict=True):
                scores = query @ key.mT
                if mask is not None:
                    scores.unflatten(0, (-1, heads)).masked_fill_(mask, -torch.inf)
                weights.append(scores.softmax(-1))
                torch.bmm(weights[-1], value, out=mixed)
        ctx.save_for_backward(queries, keys, values, *weights)
        ctx.tiles, ctx.heads = tiles, heads
        return tiles.empty(out, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore
        tiles: TileLayout = ctx.tiles
        queries, keys, values, *weights = ctx.saved_tensors
        grads = tiles.fill(grad).index_fill_(0, tiles.padding, 0)
        d_queries, d_keys, d_values = (torch.empty_like(x) for x in (queries, keys, values))
        streams = (queries, keys, values, grads, d_queries, d_keys, d_values)
        for w, tile in zip(weights, zip(*map(tiles.split, streams), strict=True), strict=True):
            query, key, value, d_mixed, d_query, d_key, d_value = tile
            torch.bmm(w.mT, d_mixed, out=d_value)
            d_scores = torch._softmax_backward_data(d_mixed @ value.mT, w, -1, w.dtype)
            torch.bmm(d_scores, key, out=d_query)
            torch.bmm(d_scores.mT, query, out=d_key)
        d_queries *= queries.shape[-1] ** -0.5
        return *(tiles.empty(x, ctx.heads) for x in (d_queries, d_keys, d_values)), None
