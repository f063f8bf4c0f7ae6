"""Bin packing over a sliding window: which lengths go together so that packs are full.

A pack is begun with the images that have waited longest, so its composition stays random. When
the room left is small enough that a few images will fill it, one or two images from anywhere in
the window close it:

    room   ├──────────────── max_tokens ────────────────┤
    pack   │ oldest │ next oldest │ next │ first │second│      first + second = the room left

Closing is tried before and after each of the next oldest images, and the best of these tries is
taken: the one that leaves the fewest slots empty. With `fill`, where nothing fits exactly, the
closers may exceed the room and the longer one is trimmed: no slot stays empty, and the best try
is the one that trims least. The paper packs first-fit and stops at "< 2 %" padding
(arXiv 2307.06304, App. A.3).

Axes: image, pack, length (entry n counts images of n tokens), present (a length that occurs,
sorted). Lengths in tokens.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

CLOSING = 4  # mean lengths of room from which on closing is tried
TRIES = 8  # images ahead that are considered for one pack's end
MIN_KEPT_FRACTION = 0.5  # share of an image's length that trimming leaves at least

Counts = Int[np.ndarray, " length"]
LengthsPresent = Int[np.ndarray, " present"]


class Packing(NamedTuple):
    """Images in pack order."""

    order: Int[np.ndarray, " image"]  # positions in the given lengths
    lengths: Int[np.ndarray, " image"]  # of each, after trimming, aligned with `order`
    offsets: Int[np.ndarray, " pack_plus_1"]


class _PackEnd(NamedTuple):
    """A way to end a pack; less is better."""

    empty: int  # slots
    trimmed: int  # tokens
    lengths: tuple[int, int]  # in the window, the longer one first; 0 is no image


def pack_lengths(
    lengths: Int[np.ndarray, " image"],
    max_tokens: int,
    *,
    window: int,
    fill: bool,
    rng: np.random.Generator,
) -> Packing:
    """Pack images of 1 to `max_tokens` tokens, the oldest first, into packs of `max_tokens`.

    window  images looked at ahead
    fill    trim one image of a pack where that closes it, to no less than LEAST_KEPT of its length
    """
    queue = _Window(lengths.tolist(), window, max_tokens)
    closing_room = CLOSING * float(lengths.mean()) if len(lengths) else 0.0
    order: list[int] = []
    kept: list[int] = []
    offsets = [0]
    while queue.left:
        room = max_tokens
        begun = len(order)
        while queue.left and (room > closing_room or len(order) == begun):
            oldest = next(queue.ahead())
            if queue.lengths[oldest] > room:
                break
            order.append(queue.take(oldest))
            room -= queue.lengths[oldest]
        taken, closing = _best_closing(queue, room, fill, rng)
        order += [queue.take(position) for position in taken]
        order += [queue.pop_length(length) for length in closing.lengths if length]
        kept += [queue.lengths[position] for position in order[begun:]]
        if closing.trimmed:
            kept[-1 if closing.lengths[1] == 0 else -2] -= closing.trimmed
        offsets.append(len(order))
    return Packing(np.array(order, np.int64), np.array(kept, np.int32), np.array(offsets, np.int64))


class _Window:
    """The next untaken positions, by age and by length."""

    def __init__(self, lengths: list[int], size: int, max_tokens: int) -> None:
        self.lengths = lengths
        self.left = len(lengths)
        # Images present of each length. Length 0 stands for no image: there is always another.
        self.counts = np.zeros(max_tokens + 1, np.int32)
        self.counts[0] = 2
        self._taken = bytearray(len(lengths))
        self._stacks: dict[int, list[int]] = {}  # positions by length, some of them taken
        self._head = self._tail = 0
        for _ in range(min(size, len(lengths))):
            self._admit()

    def ahead(self) -> Iterator[int]:
        """The positions in it, from the one that has waited longest."""
        while self._head < self._tail and self._taken[self._head]:
            self._head += 1
        return (i for i in range(self._head, self._tail) if not self._taken[i])

    def take(self, position: int) -> int:
        """Remove a position, and let the next one in."""
        self._taken[position] = 1
        self.counts[self.lengths[position]] -= 1
        self.left -= 1
        self._admit()
        return position

    def pop_length(self, length: int) -> int:
        """Remove any position of this length; one must be present."""
        stack = self._stacks[length]
        while self._taken[stack[-1]]:
            stack.pop()
        return self.take(stack.pop())

    def _admit(self) -> None:
        if self._tail < len(self.lengths):
            length = self.lengths[self._tail]
            self.counts[length] += 1
            self._stacks.setdefault(length, []).append(self._tail)
            self._tail += 1


def _best_closing(
    queue: _Window, room: int, fill: bool, rng: np.random.Generator
) -> tuple[list[int], _PackEnd]:
    """How many of the oldest images to take yet, as positions, and the closing after them."""
    counts = queue.counts.copy()
    passed: list[int] = []
    best_after, best = 0, _closing(counts, room, fill, rng)
    for position in islice(queue.ahead(), TRIES):
        length = queue.lengths[position]
        if length > room or not (best.empty or best.trimmed):
            break
        passed.append(position)
        counts[length] -= 1
        room -= length
        closing = _closing(counts, room, fill, rng)
        if closing[:2] < best[:2]:
            best_after, best = len(passed), closing
    return passed[:best_after], best


def _closing(counts: Counts, room: int, fill: bool, rng: np.random.Generator) -> _PackEnd:
    """The best way to fill the room with at most two of the lengths present."""
    present = counts.nonzero()[0]
    shorter, longer = _pair_below(present, counts, room, rng)
    empty = room - longer - shorter
    if fill and empty and (pair := _pair_above(present, counts, room, rng)):
        beside, above = sorted(pair)
        excess = above + beside - room
        if above - excess >= above * MIN_KEPT_FRACTION:
            return _PackEnd(0, excess, (above, beside))
    return _PackEnd(empty, 0, (longer, shorter))


def _pair_below(
    present: LengthsPresent, counts: Counts, room: int, rng: np.random.Generator
) -> tuple[int, int]:
    """The two lengths present, shorter first, with the largest sum that does not pass the room."""
    first = present[: present.searchsorted(room // 2, "right")]  # the shorter is no longer
    partner = present.searchsorted(room - first, "right") - 1
    partner -= _single_copy(present, counts, partner)
    sums = first + present[partner]
    choice = _random_choice((sums == sums.max()).nonzero()[0], rng)
    shorter, longer = sorted((int(first[choice]), int(present[partner[choice]])))
    return shorter, longer


def _pair_above(
    present: LengthsPresent, counts: Counts, room: int, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Two lengths present with the least sum that reaches the room; None if there are none."""
    # Of the lengths over half of the room, none but the least can be the shorter of the best two.
    first = present[: present.searchsorted(room // 2, "right") + 1]
    partner = present.searchsorted(room - first)
    partner += _single_copy(present, counts, partner)
    there = partner < len(present)
    first, partner = first[there], partner[there]
    if not len(first):
        return None
    sums = first + present[partner]
    choice = _random_choice((sums == sums.min()).nonzero()[0], rng)
    return int(first[choice]), int(present[partner[choice]])


def _random_choice(ties: Int[np.ndarray, " tie"], rng: np.random.Generator) -> int:
    return int(ties[int(rng.random() * len(ties))])


def _single_copy(
    present: LengthsPresent, counts: Counts, partner: Int[np.ndarray, " first"]
) -> Bool[np.ndarray, " first"]:
    """Whether a length is its own partner, but is present only once."""
    own = partner == np.arange(len(partner))
    return own & (counts[present[: len(partner)]] < 2)
