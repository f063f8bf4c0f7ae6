"""A grid keeps its image's aspect ratio as closely as possible and never exceeds its budget.

Expected grids are computed from the definition in exact fractions, or by hand.
"""

from fractions import Fraction
from itertools import product
from math import ceil, isqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchpack.data.packing.resolution import (
    FitTokens,
    FixedArea,
    Mixed,
    NaFlex,
    Native,
    Resolution,
    SampledArea,
    SquareResize,
    fit_grids,
)

RNG = np.random.default_rng(0)
sides = st.integers(1, 6000)


def grids(rule: Resolution, *sizes: tuple[int, int], patch_size=16, max_tokens=8192, max_side=128):
    """Return the grids of images of the given (height, width), as lists."""
    heights, widths = np.array(sizes).T
    return rule.grids(
        heights,
        widths,
        patch_size=patch_size,
        max_tokens=max_tokens,
        rng=np.random.default_rng(0),
        max_side=max_side,
    ).tolist()


def score(h: int, w: int, aspect: Fraction) -> tuple[Fraction, int]:
    """Return (aspect error, -tokens); smaller is better."""
    ratio = Fraction(h, w) / aspect
    return max(ratio, 1 / ratio), -h * w


def best_score(aspect: Fraction, tokens: Fraction, max_side: int) -> tuple[Fraction, int]:
    """Return the score of the best grid by the definition."""
    tokens = max(tokens, Fraction(1))
    squares = [tokens * aspect, tokens / aspect]
    shrink = min(Fraction(1), Fraction(max_side) ** 2 / max(squares))
    neighbors = []
    for square in squares:
        square = min(max(square * shrink, Fraction(1)), tokens**2)
        floor = isqrt(int(square))
        neighbors.append({floor, floor if floor**2 == square else floor + 1})
    return min(score(h, w, aspect) for h, w in product(*neighbors) if h * w <= tokens)


@settings(max_examples=400, deadline=None)
@given(sides, sides, st.integers(1, 9000), st.sampled_from([5, 40, 128]))
def test_grids_match_the_definition(height, width, tokens, max_side):
    ((h, w),) = fit_grids(
        np.array([height]), np.array([width]), np.array([float(tokens)]), max_side=max_side
    ).tolist()
    aspect = Fraction(height, width)
    assert score(h, w, aspect) == best_score(aspect, Fraction(tokens), max_side)
    assert 1 <= min(h, w) and max(h, w) <= max_side and h * w <= tokens


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.sampled_from([8, 14, 16]))
def test_native_grids_match_the_definition(height, width, patch):
    ((h, w),) = grids(Native(), (height, width), patch_size=patch, max_tokens=10**6)
    aspect, tokens = Fraction(height, width), Fraction(height * width, patch**2)
    assert score(h, w, aspect) == best_score(aspect, tokens, 128)


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.integers(1, 500))
def test_transposing_an_image_transposes_its_grid(height, width, tokens):
    rule = FitTokens(tokens=tokens)
    (tall,), (wide,) = grids(rule, (height, width)), grids(rule, (width, height))
    aspect = Fraction(height, width)
    assert score(*tall, aspect) == score(*wide[::-1], aspect)


@pytest.mark.parametrize(
    ("rule", "size", "grid"),
    [
        (Native(), (224, 160), [14, 10]),
        (Native(), (100, 100), [6, 6]),  # 6.25 patches per side
        (Native(), (3, 5), [1, 1]),
        (Native(), (1, 5000), [1, 19]),  # 19.5 patches of pixels
        (Native(), (5000, 1), [19, 1]),
        (Native(), (300, 4000), [10, 128]),  # shrunk to the maximum side at the same aspect ratio
        (Native(max_tokens=64), (512, 512), [8, 8]),
        (Native(max_tokens=10**6), (2048, 2048), [90, 90]),  # limited by the pack's budget too
        (FixedArea(side=128), (32, 32), [8, 8]),
        (FixedArea(side=128), (64, 256), [4, 16]),
        (FixedArea(side=128, upscale=False), (32, 32), [2, 2]),
        (FixedArea(side=128, upscale=False), (512, 512), [8, 8]),
        (SampledArea(low=96, high=96), (600, 600), [6, 6]),
        (SampledArea(low=96, high=96, upscale=False), (32, 64), [2, 4]),
        (FitTokens(tokens=256), (10, 10), [16, 16]),
        (FitTokens(tokens=256), (640, 480), [18, 14]),
        (FitTokens(tokens=256), (1, 5000), [1, 128]),
        (SquareResize(grid=14), (31, 977), [14, 14]),
    ],
)
def test_hand_computed_grids(rule, size, grid):
    assert grids(rule, size) == [grid]


def test_native_images_are_never_enlarged():
    sizes = RNG.integers(16, 900, (2000, 2))
    areas = np.array(grids(Native(), *map(tuple, sizes))).prod(1) * 16**2
    assert (areas <= sizes.prod(1)).all()


@pytest.mark.parametrize("rule", [Native(), FixedArea(side=400), SampledArea(low=64, high=999)])
def test_no_grid_exceeds_the_limits(rule):
    sizes = RNG.integers(1, 3000, (2000, 2))
    result = np.array(grids(rule, *map(tuple, sizes), max_tokens=300, max_side=40))
    assert result.prod(1).max() <= 300 and result.max() <= 40 and result.min() >= 1


def test_fit_tokens_uses_nearly_all_tokens_at_common_aspects():
    widths = RNG.integers(200, 800, 2000)
    used = np.array(grids(FitTokens(tokens=256), *((400, w) for w in widths))).prod(1)
    assert used.mean() > 0.93 * 256


def test_sampled_sides_are_uniform_in_side_or_in_area():
    by_side = SampledArea(low=64, high=256).sides(100_000, np.random.default_rng(0))
    by_area = SampledArea(low=64, high=256, by="area").sides(100_000, np.random.default_rng(0))
    for values, low, high in ((by_side, 64, 256), (by_area**2, 64**2, 256**2)):
        deciles = np.quantile((values - low) / (high - low), np.linspace(0, 1, 11))
        np.testing.assert_allclose(deciles, np.linspace(0, 1, 11), atol=0.01)


@pytest.mark.parametrize("mean", [-0.5, 0.0, 0.5, 3.0])
def test_sampled_normal_is_truncated_at_one_deviation(mean):
    sides = SampledArea(low=64, high=384, mean=mean).sides(100_000, np.random.default_rng(0))
    u = (sides - 64) / 160 - 1
    normal = NormalDist(mean)
    for x in (-0.9, -0.5, 0.0, 0.5, 0.9):
        within = normal.cdf(1) - normal.cdf(-1)
        assert (u < x).mean() == pytest.approx((normal.cdf(x) - normal.cdf(-1)) / within, abs=0.01)
    assert -1 <= u.min() < -0.9 and 0.99 < u.max() <= 1


def test_repeated_samples_differ():
    rule, rng, sizes = SampledArea(low=64, high=256), np.random.default_rng(0), np.full(50, 500)
    first, second = (
        rule.grids(sizes, sizes, patch_size=16, max_tokens=8192, rng=rng) for _ in range(2)
    )
    assert (first != second).any()


def test_evaluation_rules():
    """Small images are enlarged in evaluation if and only if they are in training."""
    for rule in (
        Native(),
        FixedArea(side=99, upscale=False),
        SampledArea(low=64, high=99, upscale=False),
    ):
        assert rule.for_evaluation(200) == Native(max_tokens=200)
    for rule in (FitTokens(tokens=9), FixedArea(side=99), SampledArea(low=64, high=99)):
        assert rule.for_evaluation(200) == FitTokens(tokens=200)
    assert SquareResize(grid=14).for_evaluation(200) == SquareResize(grid=14)
    assert SquareResize(grid=14).for_evaluation(195) == SquareResize(grid=13)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Native(max_tokens=0),
        lambda: FixedArea(side=0),
        lambda: SampledArea(low=0, high=9),
        lambda: SampledArea(low=9, high=8),
        lambda: SampledArea(low=8, high=9, mean=50.0),
        lambda: FitTokens(tokens=0),
        lambda: SquareResize(grid=0),
        lambda: SquareResize(grid=14).for_evaluation(0),
        lambda: grids(SquareResize(grid=14), (8, 8), max_tokens=195),
        lambda: grids(SquareResize(grid=14), (8, 8), max_side=13),
    ],
)
def test_invalid_rules_raise(make):
    with pytest.raises(ValueError):
        make()


def test_sizes_are_sampled_by_side_or_area():
    with pytest.raises((ValueError, TypeError), match="volume"):  # TypeError: types are checked
        SampledArea(low=8, high=9, by="volume")  # pyrefly: ignore


@pytest.mark.parametrize(
    ("rule", "max_tokens"),
    [(Native(), None), (Native(max_tokens=9), 9), (FixedArea(side=70), 19),
     (FitTokens(tokens=5), 5), (SampledArea(low=16, high=160), 100), (SquareResize(grid=3), 9)],
)  # fmt: skip
def test_max_tokens_per_image_is_never_exceeded(rule, max_tokens):
    heights, widths = np.array([16, 300, 1000, 30]), np.array([500, 300, 20, 40])
    assert rule.max_tokens_per_image(16) == max_tokens
    if max_tokens:
        grids = rule.grids(
            heights, widths, patch_size=16, max_tokens=10_000, rng=np.random.default_rng(0)
        )
        assert grids.prod(1).max() <= max_tokens


def test_mixed_applies_each_rule_to_its_share():
    rule = Mixed(first=Native(max_tokens=64), second=FixedArea(side=160), share=0.25)
    result = np.array(grids(rule, *[(64, 48)] * 4000))
    native = (result == [4, 3]).all(1)
    assert (result[~native].prod(1) > 80).all()
    assert native.mean() == pytest.approx(0.25, abs=0.02)
    assert rule.max_tokens_per_image(16) == 100 and rule.for_evaluation(36) == Native(max_tokens=36)
    with pytest.raises(ValueError, match="share"):
        Mixed(first=Native(), second=Native(), share=1.0)


def naflex_grid(height: int, width: int, patch_size: int, tokens: int) -> tuple[int, int]:
    """The image processor of SigLIP 2 in transformers, for one image."""

    def sides(scale: float) -> tuple[int, int]:
        h, w = (max(patch_size, ceil(s * scale / patch_size) * patch_size) for s in (height, width))
        return h // patch_size, w // patch_size

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        scale = (low + high) / 2
        h, w = sides(scale)
        low, high = (scale, high) if h * w <= tokens else (low, scale)
    return sides(low)


@given(sides, sides, st.integers(1, 2000), st.sampled_from([4, 14, 16]))
@settings(deadline=None)
def test_naflex_gives_the_grids_of_the_original(height, width, tokens, patch_size):
    expected = naflex_grid(height, width, patch_size, tokens)
    rule = NaFlex(tokens=tokens)
    actual = grids(rule, (height, width), (30, 40), patch_size=patch_size, max_side=10**6)
    assert actual[0] == list(expected) and expected[0] * expected[1] <= tokens


def test_naflex_obeys_the_budget_of_evaluation_and_the_longest_side():
    assert grids(NaFlex(tokens=256), (480, 640)) == [[14, 18]]
    assert grids(NaFlex(tokens=256).for_evaluation(64), (480, 640)) == [[7, 9]]
    assert grids(NaFlex(tokens=256), (480, 640), max_tokens=64) == [[7, 9]]
    assert grids(NaFlex(tokens=1000), (10, 6000), max_side=128) == [[1, 128]]
