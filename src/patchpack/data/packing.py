"""Bin packing over a sliding window: which lengths go together so that packs are full.

A pack is begun with the images that have waited longest, so its composition stays random. When
the room left is small enough that a few images will fill it, the best single or pair of lengths
that are present in the window closes it. With `fill`, where no exact pair exists, the pair that
exceeds the room by least is taken and its longer member trimmed: no slot stays empty.

The paper packs first-fit and stops at "< 2 %" padding (arXiv 2307.06304, App. A.3).

Axes: image, pack. Lengths in tokens.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

CLOSING = 4  # mean lengths of room at which a pair is looked for
LEAST_KEPT = 0.25  # share of an image's tokens that trimming leaves at least


class Packing(NamedTuple):
    """Images in pack order."""

    order: Int[np.ndarray, " image"]  # positions in the given lengths
    lengths: Int[np.ndarray, " image"]  # of each, after trimming, aligned with `order`
    offsets: Int[np.ndarray, " pack_plus_1"]


class _Window:
    """The next untaken positions, by age and by length."""

    def __init__(self, lengths: list[int], size: int, max_tokens: int) -> None:
        self.lengths = lengths
        self.taken = bytearray(len(lengths))
        self.counts = np.zeros(max_tokens + 1, np.int32)
        self.by_length: dict[int, list[int]] = {}
        self.head = self.tail = 0
        self.left = len(lengths)
        for _ in range(min(size, len(lengths))):
            self._admit()

    def _admit(self) -> None:
        if self.tail < len(self.lengths):
            length = self.lengths[self.tail]
            self.counts[length] += 1
            self.by_length.setdefault(length, []).append(self.tail)
            self.tail += 1

    def oldest(self) -> int:
        """The position that has waited longest."""
        while self.taken[self.head]:
            self.head += 1
        return self.head

    def take(self, position: int) -> int:
        self.taken[position] = 1
        self.counts[self.lengths[position]] -= 1
        self.left -= 1
        self._admit()
        return position

    def take_length(self, length: int) -> int:
        """Take any position of this length; one must be present."""
        stack = self.by_length[length]
        while self.taken[stack[-1]]:
            stack.pop()
        return self.take(stack.pop())


def _pair_below(
    counts: Int[np.ndarray, " length"], room: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Two present lengths, or one and 0, with the largest sum that is at most `room`."""
    present = np.flatnonzero(counts[: room + 1])
    if not len(present):
        return 0, 0
    partner = np.searchsorted(present, room - present, "right") - 1
    partner = _not_itself(partner, present, counts, -1)
    sums = present + np.where(partner >= 0, present[partner], 0)
    choice = rng.choice(np.flatnonzero(sums == sums.max()))
    second = present[partner[choice]] if partner[choice] >= 0 else 0
    return int(present[choice]), int(second)


def _pair_above(counts: Int[np.ndarray, " length"], room: int) -> tuple[int, int]:
    """Two present lengths, or one and 0, with the least sum that exceeds `room`; (0, 0) if none."""
    present = np.flatnonzero(counts)
    if not len(present):
        return 0, 0
    single = present[np.searchsorted(present, room) :][:1]
    partner = np.searchsorted(present, room - present, "left")
    partner = _not_itself(partner, present, counts, 1)
    possible = np.flatnonzero(partner < len(present))
    if len(possible):
        sums = present[possible] + present[partner[possible]]
        best = sums.argmin()
        if not len(single) or sums[best] < single[0]:
            return int(present[possible[best]]), int(present[partner[possible[best]]])
    return (int(single[0]), 0) if len(single) else (0, 0)


def _not_itself(partner, present, counts, step: int):
    """A length that is present once cannot be its own partner: take the next one."""
    alone = (partner == np.arange(len(present))) & (counts[present] < 2)
    return np.where(alone, partner + step, partner)


def pack_lengths(
    lengths: Int[np.ndarray, " image"],
    max_tokens: int,
    *,
    window: int,
    fill: bool,
    rng: np.random.Generator,
) -> Packing:
    """Pack images of these lengths, in this order of age, into packs of at most `max_tokens`."""
    queue = _Window(lengths.tolist(), window, max_tokens)
    closing = CLOSING * float(lengths.mean()) if len(lengths) else 0
    order: list[int] = []
    kept: list[int] = []
    offsets = [0]
    while queue.left:
        begun = len(order)
        room = max_tokens
        while queue.left and room:
            if room <= closing and (closers := _close(queue, room, fill, rng)):
                order += [position for position, _ in closers]
                kept += [length for _, length in closers]
                break
            oldest = queue.oldest()
            if queue.lengths[oldest] > room:
                for length in _pair_below(queue.counts, room, rng):
                    if length:
                        order.append(queue.take_length(length))
                        kept.append(length)
                break
            order.append(queue.take(oldest))
            kept.append(queue.lengths[oldest])
            room -= queue.lengths[oldest]
        assert len(order) > begun, "an image is longer than a pack"
        offsets.append(len(order))
    return Packing(np.array(order, np.int64), np.array(kept, np.int64), np.array(offsets))


def _close(
    queue: _Window, room: int, fill: bool, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Positions and kept lengths that fill the room exactly; nothing where there are none."""
    first, second = _pair_below(queue.counts, room, rng)
    if first + second < room:
        if not fill:
            return []
        second, first = sorted(_pair_above(queue.counts, room))
        excess = first + second - room
        if first == 0 or first - excess < first * LEAST_KEPT:
            return []
    excess = first + second - room
    closers = [(queue.take_length(first), first - excess)]
    if second:
        closers.append((queue.take_length(second), second))
    return closers
