"""The layout of attention: segments of queries and of keys, and a mask inside each segment.

    segments 0 0 0 1 1        full            causal          prefix (lengths 2 1)
                              x x x . .       x . . . .       x x . . .
                              x x x . .       x x . . .       x x . . .
                              x x x . .       x x x . .       x x x . .
                              . . . x x       . . . x .       . . . x .
                              . . . x x       . . . x x       . . . x x

Segment i of the queries attends to segment i of the keys only. In self-attention both are the same;
in cross-attention lengths may differ, and only the full mask is defined.

Axes: token (a query or a key), segment.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from patchpack.batch import Segments

MaskKind = Literal["full", "causal", "prefix"]


@dataclass(frozen=True)
class AttentionLayout:
    """Segments and mask of an attention; hashable, so that layers share tiles and block masks.

    Raise ValueError if the numbers of segments differ, a query has no key, a causal or prefix mask
    has segments of different lengths, or a prefix is longer than its segment.
    """

    queries: Segments
    keys: Segments
    # full: all keys of the segment; causal: keys up to the query; prefix: causal, but the first
    # tokens of each segment are visible to all its queries
    mask: MaskKind = "full"
    prefix_lengths: tuple[int, ...] = ()  # length of each segment's prefix; for a prefix mask only

    def __post_init__(self) -> None:
        queries, keys = self.queries.lengths, self.keys.lengths
        if len(queries) != len(keys):
            raise ValueError(f"{len(queries)} segments of queries, but {len(keys)} of keys")
        if self.mask != "full" and queries != keys:
            raise ValueError(f"a {self.mask} mask needs as many keys as queries in each segment")
        if queries is not keys and any(n and not m for n, m in zip(queries, keys, strict=True)):
            raise ValueError("a segment has queries but no keys")
        prefixes = self.prefix_lengths
        if len(prefixes) != (len(queries) if self.mask == "prefix" else 0):
            raise ValueError(f"{len(prefixes)} prefix lengths for a {self.mask} mask")
        if any(not 0 <= p <= n for p, n in zip(prefixes, keys, strict=False)):
            raise ValueError("a prefix must lie inside its segment")

    @classmethod
    def within(
        cls, segments: Segments, mask: MaskKind = "full", prefix_lengths: tuple[int, ...] = ()
    ) -> "AttentionLayout":
        """Return the layout of self-attention inside each segment."""
        return cls(segments, segments, mask, prefix_lengths)

    @property
    def same_lengths(self) -> bool:
        """True if each segment has as many keys as queries."""
        return self.queries.lengths == self.keys.lengths

    def select(self, first: int, stop: int) -> "AttentionLayout":
        """Return the layout of the segments first..stop-1."""
        if (first, stop) == (0, len(self.queries.lengths)):
            return self
        queries = replace(self.queries, lengths=self.queries.lengths[first:stop])
        keys = queries
        if not self.same_lengths:
            keys = replace(self.keys, lengths=self.keys.lengths[first:stop])
        return AttentionLayout(queries, keys, self.mask, self.prefix_lengths[first:stop])

    def is_visible(
        self, query: Int[Tensor, "*any"], key: Int[Tensor, "*any"]
    ) -> Bool[Tensor, "*any"]:
        """Return whether queries attend to keys, given by their indices in the streams."""
        visible = self.queries.ids[query] == self.keys.ids[key]
        if self.mask == "full":
            return visible
        earlier = key <= query
        return visible & (earlier if self.mask == "causal" else earlier | self._in_prefix[key])

    @cached_property
    def _in_prefix(self) -> Bool[Tensor, " key"]:
        """True for keys in the prefix of their segment."""
        with torch.inference_mode(False):  # cached, and perhaps used in training later
            lengths = torch.tensor(self.prefix_lengths, dtype=torch.int64)
            ends = self.keys.offsets[:-1] + lengths.to(self.keys.device, non_blocking=True)
            keys = torch.arange(self.keys.num_tokens, device=self.keys.device)
            return keys < ends[self.keys.ids]
