"""Packs are closed by the best one or two lengths in the window."""

import numpy as np
import pytest

from patchpack.data.packing.bin_packing import _pair_above, _pair_below, pack_lengths


def test_pairs_are_optimal():
    draw, rng = np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(3000):
        longest = int(draw.integers(3, 30))
        counts = np.bincount(draw.integers(1, longest + 1, draw.integers(8)), minlength=longest + 1)
        counts[0] = 2  # length 0 means no image and is always available
        present = counts.nonzero()[0]
        pairs = {(a, b) for a in present for b in present if a < b or (a == b and counts[a] > 1)}
        capacity = int(draw.integers(longest + 1))
        below = _pair_below(present, counts, capacity, rng)
        assert below in pairs
        assert sum(below) == max(a + b for a, b in pairs if a + b <= capacity)
        sums = [a + b for a, b in pairs if a + b >= capacity]
        above = _pair_above(present, counts, capacity, rng)
        if above is None:
            assert not sums
        else:
            assert tuple(sorted(above)) in pairs and sum(above) == min(sums)


@pytest.mark.parametrize(
    ("lengths", "fill", "packs"),
    [
        ([6, 3, 1, 5, 5], False, [[6, 3, 1], [5, 5]]),
        ([6, 5, 4], False, [[6, 4], [5]]),  # 4, further back in the window, closes the first pack
        ([6, 5], True, [[6, 4]]),  # 5 is trimmed to 4
        ([3, 6, 2], True, [[3, 5, 2]]),  # the longer of the two closing images is trimmed
        ([9, 4], True, [[9], [4]]),  # 4 cannot be trimmed to 1
    ],
)
def test_hand_computed_packs(lengths, fill, packs):
    packing = pack_lengths(
        np.array(lengths), 10, window=99, fill=fill, rng=np.random.default_rng(0)
    )
    result = np.split(packing.lengths, packing.offsets[1:-1])
    assert [pack.tolist() for pack in result] == packs
