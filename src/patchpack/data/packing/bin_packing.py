"""Bin packing over a sliding window: group image lengths into full packs.

A pack starts with the oldest images in the window, so its composition stays random. When a few
images can fill the remaining capacity, one or two images from anywhere in the window close it:

    capacity   ├──────────────── max_tokens ────────────────┤
    pack       │ oldest │ next oldest │ next │ first │second│      first + second = remaining

Closing is tried before and after each of the next oldest images; the try with the fewest empty
slots is used. With `fill`, if no exact fit exists, the closing images may exceed the remaining
capacity and the longer one is trimmed: no slot stays empty, and the try that trims the fewest
tokens is used. The paper packs first-fit and stops at "< 2 %" padding (arXiv 2307.06304, App. A.3).

Axes: image, pack, length (entry n counts images of n tokens), present (a length that occurs,
sorted). Lengths in tokens.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

CLOSING_LENGTHS = 4  # closing starts at this remaining capacity, in mean image lengths
MAX_TRIES = 8  # maximum oldest images that are tried before closing a pack
MIN_KEPT_FRACTION = 0.5  # minimum fraction of an image's length that trimming keeps

Counts = Int[np.ndarray, " length"]
LengthsPresent = Int[np.ndarray, " present"]


class Packing(NamedTuple):
    """Images in pack order."""

    order: Int[np.ndarray, " image"]  # indices into the given lengths
    lengths: Int[np.ndarray, " image"]  # length of each image after trimming, in the same order
    offsets: Int[np.ndarray, " pack_plus_1"]  # start of each pack, and the end of the last


class _PackEnd(NamedTuple):
    """A choice of the last images of a pack; smaller is better."""

    empty: int  # empty slots
    trimmed: int  # trimmed tokens
    lengths: tuple[int, int]  # lengths in the window, longer first; 0: no image


def pack_lengths(
    lengths: Int[np.ndarray, " image"],
    max_tokens: int,
    *,
    window: int,
    fill: bool,
    rng: np.random.Generator,
) -> Packing:
    """Pack images of 1 to `max_tokens` tokens, oldest first, into packs of `max_tokens`.

    window  number of images to choose from
    fill    trim one image to close a pack exactly, to MIN_KEPT_FRACTION of its length or more
    """
    queue = _Window(lengths.tolist(), window, max_tokens)
    closing_capacity = CLOSING_LENGTHS * float(lengths.mean()) if len(lengths) else 0.0
    order: list[int] = []
    kept: list[int] = []
    offsets = [0]
    while queue.remaining:
        capacity = max_tokens
        start = len(order)
        while queue.remaining and (capacity > closing_capacity or len(order) == start):
            oldest = next(queue.waiting())
            if queue.lengths[oldest] > capacity:
                break
            order.append(queue.take(oldest))
            capacity -= queue.lengths[oldest]
        taken, end = _best_end(queue, capacity, fill, rng)
        order += [queue.take(index) for index in taken]
        order += [queue.pop_length(length) for length in end.lengths if length]
        kept += [queue.lengths[index] for index in order[start:]]
        if end.trimmed:
            kept[-1 if end.lengths[1] == 0 else -2] -= end.trimmed
        offsets.append(len(order))
    return Packing(np.array(order, np.int64), np.array(kept, np.int32), np.array(offsets, np.int64))


class _Window:
    """A sliding window over the images that are not packed yet, by age and by length."""

    def __init__(self, lengths: list[int], size: int, max_tokens: int) -> None:
        self.lengths = lengths
        self.remaining = len(lengths)
        # Images present of each length. Length 0 means no image and is always available.
        self.counts = np.zeros(max_tokens + 1, np.int32)
        self.counts[0] = 2
        self._taken = bytearray(len(lengths))
        self._stacks: dict[int, list[int]] = {}  # indices by length, including taken ones
        self._head = self._tail = 0
        for _ in range(min(size, len(lengths))):
            self._admit()

    def waiting(self) -> Iterator[int]:
        """Yield the indices in the window, oldest first."""
        while self._head < self._tail and self._taken[self._head]:
            self._head += 1
        return (i for i in range(self._head, self._tail) if not self._taken[i])

    def take(self, index: int) -> int:
        """Remove an image and admit the next one."""
        self._taken[index] = 1
        self.counts[self.lengths[index]] -= 1
        self.remaining -= 1
        self._admit()
        return index

    def pop_length(self, length: int) -> int:
        """Remove an image of this length, which must be present."""
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


def _best_end(
    queue: _Window, capacity: int, fill: bool, rng: np.random.Generator
) -> tuple[list[int], _PackEnd]:
    """Return the indices of the oldest images to take first, and the pack's end after them."""
    counts = queue.counts.copy()
    tried: list[int] = []
    best_after, best = 0, _pack_end(counts, capacity, fill, rng)
    for index in islice(queue.waiting(), MAX_TRIES):
        length = queue.lengths[index]
        if length > capacity or not (best.empty or best.trimmed):
            break
        tried.append(index)
        counts[length] -= 1
        capacity -= length
        end = _pack_end(counts, capacity, fill, rng)
        if end[:2] < best[:2]:
            best_after, best = len(tried), end
    return tried[:best_after], best


def _pack_end(counts: Counts, capacity: int, fill: bool, rng: np.random.Generator) -> _PackEnd:
    """Return the best fill of the capacity with at most two of the lengths present."""
    present = counts.nonzero()[0]
    shorter, longer = _pair_below(present, counts, capacity, rng)
    empty = capacity - longer - shorter
    if fill and empty and (pair := _pair_above(present, counts, capacity, rng)):
        shorter_above, longer_above = sorted(pair)
        excess = longer_above + shorter_above - capacity
        if longer_above - excess >= longer_above * MIN_KEPT_FRACTION:
            return _PackEnd(0, excess, (longer_above, shorter_above))
    return _PackEnd(empty, 0, (longer, shorter))


def _pair_below(
    present: LengthsPresent, counts: Counts, capacity: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Return the two lengths, shorter first, with the largest sum that fits the capacity."""
    # The shorter length is at most half of the capacity.
    first = present[: present.searchsorted(capacity // 2, "right")]
    partner = present.searchsorted(capacity - first, "right") - 1
    partner -= _single_copy(present, counts, partner)
    sums = first + present[partner]
    choice = _random_choice((sums == sums.max()).nonzero()[0], rng)
    shorter, longer = sorted((int(first[choice]), int(present[partner[choice]])))
    return shorter, longer


def _pair_above(
    present: LengthsPresent, counts: Counts, capacity: int, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Return the two lengths with the smallest sum that reaches the capacity, or None."""
    # Of the lengths over half of the capacity, only the smallest can be the shorter of the pair.
    first = present[: present.searchsorted(capacity // 2, "right") + 1]
    partner = present.searchsorted(capacity - first)
    partner += _single_copy(present, counts, partner)
    valid = partner < len(present)
    first, partner = first[valid], partner[valid]
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
    """Return whether each length is its own partner although only one image has it."""
    same = partner == np.arange(len(partner))
    return same & (counts[present[: len(partner)]] < 2)
