"""Resolution rules: compute each image's grid, its height and width in patches, from its size.

A rule uses only sizes, for all images at once, so every token count is known before any pixel is
read. Grids keep the aspect ratio as closely as whole patches allow, except those of `SquareResize`,
the plain ViT's.

Axes: image. Sizes in pixels, grids (h, w) in patches. "Side" is √area: the paper's resolution R.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from patchpack.data.packing.truncated_normal import truncated_normal

MAX_SIDE = 128  # default maximum side of a grid, in patches; learned positions support it

NAFLEX_EPS = 1e-5  # width of the interval at which the search for a scale ends
NAFLEX_STEPS = 24  # halvings of [NAFLEX_EPS / 10, 100] until it is narrower than NAFLEX_EPS

Sizes = Int[np.ndarray, " image"]
Grids = Int[np.ndarray, "image 2"]


def fit_grids(
    heights: Sizes,
    widths: Sizes,
    tokens: Float[np.ndarray, " image"],
    *,
    max_side: int = MAX_SIDE,
) -> Grids:
    """Return each image's grid with the smallest aspect error within its token budget.

    The ideal grid has the image's aspect ratio and exactly `tokens` cells, or fewer if a side would
    exceed `max_side`; its sides are fractional. Each side is rounded down or up. Of the four
    results, those within the budget are candidates, and the closest in log aspect is returned. The
    smallest grid is 1 x 1. If one side of a thin image is 1, the other side gets all tokens.
    """
    tokens = np.maximum(tokens, 1.0)
    log_aspect = np.log(heights / widths)
    ideal = np.sqrt(tokens) * np.exp(np.stack([log_aspect, -log_aspect]) / 2)
    ideal *= np.minimum(1, max_side / ideal.max(0))
    # Rounded, so that 13.9999999999 is 14 and 196.0000000001 cells are within 196 tokens.
    ideal_h, ideal_w = np.round(np.clip(ideal, 1, tokens), 9)
    best = np.ones((len(tokens), 2), np.int32)
    best_error = np.full(len(tokens), np.inf)
    for round_h in (np.floor, np.ceil):
        for round_w in (np.floor, np.ceil):
            h, w = round_h(ideal_h), round_w(ideal_w)
            error = np.abs(np.log(h / w) - log_aspect)
            better = (error < best_error - 1e-9) & (h * w <= tokens + 1e-6)
            best[better] = np.stack([h, w], axis=-1)[better]
            best_error[better] = error[better]
    return best


def _native_tokens(heights: Sizes, widths: Sizes, patch_size: int) -> Float[np.ndarray, " image"]:
    """Return the image area in patches, fractions included."""
    return heights.astype(np.float64) * widths / patch_size**2


@dataclass(frozen=True, kw_only=True)
class Native:
    """Keep each image's own size; shrink images above `max_tokens`, enlarge none."""

    max_tokens: int | None = None  # maximum tokens per image; None: limited only by the pack

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")

    def grids(
        self, heights: Sizes, widths: Sizes, *, patch_size: int, max_tokens: int,
        rng: np.random.Generator, max_side: int = MAX_SIDE,
    ) -> Grids:  # fmt: skip
        cap = min(max_tokens, self.max_tokens or max_tokens)
        tokens = np.minimum(_native_tokens(heights, widths, patch_size), cap)
        return fit_grids(heights, widths, tokens, max_side=max_side)

    def max_tokens_per_image(self, patch_size: int) -> int | None:
        """The maximum tokens of an image; None if only the pack limits it."""
        return self.max_tokens

    def for_evaluation(self, tokens: int) -> "Native":
        """The rule for evaluation, with at most `tokens` per image."""
        return Native(max_tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class FixedArea:
    """Resize every image to the same area at its own aspect ratio."""

    side: int  # square root of the image area, in pixels
    upscale: bool = True  # whether to enlarge smaller images

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side must be at least 1 px, not {self.side}")

    def grids(
        self, heights: Sizes, widths: Sizes, *, patch_size: int, max_tokens: int,
        rng: np.random.Generator, max_side: int = MAX_SIDE,
    ) -> Grids:  # fmt: skip
        tokens = np.full(len(heights), (self.side / patch_size) ** 2)
        if not self.upscale:
            tokens = np.minimum(tokens, _native_tokens(heights, widths, patch_size))
        return fit_grids(heights, widths, np.minimum(tokens, max_tokens), max_side=max_side)

    def max_tokens_per_image(self, patch_size: int) -> int:
        return max(1, int((self.side / patch_size) ** 2))

    def for_evaluation(self, tokens: int) -> "Resolution":
        """The rule for evaluation, `tokens` per image; small images are enlarged as in training."""
        return FitTokens(tokens=tokens) if self.upscale else Native(max_tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class SampledArea:
    """Sample an area for each image and epoch (arXiv 2307.06304, §3.2 and Fig. 7).

    The sample u in [-1, 1] is uniform, or normal around `mean` with standard deviation 1 and
    truncated, and is rescaled linearly to [low, high] in side or in area.
    """

    low: int  # minimum square root of the image area, in pixels
    high: int  # maximum square root of the image area, in pixels
    by: Literal["side", "area"] = "side"  # quantity to sample: side is the square root of the area
    # mean of the normal distribution to sample from, in standard deviations, -1 for low and 1 for
    # high; None: sample uniformly
    mean: float | None = None
    upscale: bool = True  # whether to enlarge images that are smaller than the sampled area

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"sizes need 1 <= low <= high px, not {self.low} and {self.high}")
        if self.by not in ("side", "area"):
            raise ValueError(f"by must be 'side' or 'area', not {self.by!r}")
        if self.mean is not None and not -3 <= self.mean <= 3:
            raise ValueError(f"mean must lie in [-3, 3], in standard deviations, not {self.mean}")

    def sides(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, " image"]:
        """Sample sides in pixels, one per image."""
        fraction = rng.random(count)
        if self.mean is not None:
            fraction = (truncated_normal(fraction, self.mean, -1, 1) + 1) / 2
        if self.by == "side":
            return self.low + fraction * (self.high - self.low)
        return np.sqrt(self.low**2 + fraction * (self.high**2 - self.low**2))

    def grids(
        self, heights: Sizes, widths: Sizes, *, patch_size: int, max_tokens: int,
        rng: np.random.Generator, max_side: int = MAX_SIDE,
    ) -> Grids:  # fmt: skip
        tokens = (self.sides(len(heights), rng) / patch_size) ** 2
        if not self.upscale:
            tokens = np.minimum(tokens, _native_tokens(heights, widths, patch_size))
        return fit_grids(heights, widths, np.minimum(tokens, max_tokens), max_side=max_side)

    def max_tokens_per_image(self, patch_size: int) -> int:
        return max(1, int((self.high / patch_size) ** 2))

    def for_evaluation(self, tokens: int) -> "Resolution":
        """The rule for evaluation, `tokens` per image; small images are enlarged as in training."""
        return FitTokens(tokens=tokens) if self.upscale else Native(max_tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class FitTokens:
    """Resize every image to as close to `tokens` tokens as its aspect ratio allows."""

    tokens: int  # target and maximum tokens per image

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, not {self.tokens}")

    def grids(
        self, heights: Sizes, widths: Sizes, *, patch_size: int, max_tokens: int,
        rng: np.random.Generator, max_side: int = MAX_SIDE,
    ) -> Grids:  # fmt: skip
        tokens = np.full(len(heights), float(min(self.tokens, max_tokens)))
        return fit_grids(heights, widths, tokens, max_side=max_side)

    def max_tokens_per_image(self, patch_size: int) -> int:
        return self.tokens

    def for_evaluation(self, tokens: int) -> "FitTokens":
        """The rule for evaluation, `tokens` per image."""
        return FitTokens(tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class NaFlex:
    """Resize to the largest grid of at most `tokens`, as NaFlex models do (arXiv 2502.14786).

    Both sides of the scaled image are rounded up to whole patches, so aspect ratios are less exact
    than those of the other rules. Small images are enlarged, at most 100 times.
    """

    tokens: int = 256  # maximum tokens per image

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, not {self.tokens}")

    def grids(
        self, heights: Sizes, widths: Sizes, *, patch_size: int, max_tokens: int,
        rng: np.random.Generator, max_side: int = MAX_SIDE,
    ) -> Grids:  # fmt: skip
        budget, sizes = min(self.tokens, max_tokens), np.stack([heights, widths], axis=-1)
        low = np.full(len(heights), NAFLEX_EPS / 10)  # scales that fit the budget
        high = np.full(len(heights), 100.0)
        for _ in range(NAFLEX_STEPS):
            scale = (low + high) / 2
            fits = _scaled_up(sizes, scale, patch_size).prod(-1) <= budget
            low, high = np.where(fits, scale, low), np.where(fits, high, scale)
        return np.minimum(_scaled_up(sizes, low, patch_size), max_side).astype(np.int32)

    def max_tokens_per_image(self, patch_size: int) -> int:
        return self.tokens

    def for_evaluation(self, tokens: int) -> "NaFlex":
        """The rule for evaluation, with at most `tokens` per image."""
        return NaFlex(tokens=tokens)


def _scaled_up(sizes: Grids, scale: Float[np.ndarray, " image"], patch_size: int) -> Grids:
    """Sides of scaled images in patches, rounded up, at least 1."""
    return np.maximum(1, np.ceil(sizes * scale[:, None] / patch_size)).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class SquareResize:
    """Resize every image to the same square, ignoring its aspect ratio, as a plain ViT does."""

    grid: int  # side of the square, in patches

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"grid must be at least 1 patch, not {self.grid}")

    def grids(
        self, heights: Sizes, widths: Sizes, *, patch_size: int, max_tokens: int,
        rng: np.random.Generator, max_side: int = MAX_SIDE,
    ) -> Grids:  # fmt: skip
        if self.grid**2 > max_tokens or self.grid > max_side:
            raise ValueError(
                f"a square of {self.grid} x {self.grid} patches exceeds the limit of "
                f"{max_tokens} tokens and {max_side} patches per side"
            )
        return np.full((len(heights), 2), self.grid, np.int32)

    def max_tokens_per_image(self, patch_size: int) -> int:
        return self.grid**2

    def for_evaluation(self, tokens: int) -> "SquareResize":
        """The rule for evaluation: the largest square of at most `tokens`."""
        return SquareResize(grid=isqrt(tokens))


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Apply one of two rules to each image, sampled every epoch."""

    first: "Native | FixedArea | SampledArea | FitTokens"  # first rule, also for evaluation
    second: "Native | FixedArea | SampledArea | FitTokens"  # second rule, for training only
    share: float = 0.5  # fraction of images resized by the first rule, between 0 and 1

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie in (0, 1), not {self.share}")

    def grids(
        self, heights: Sizes, widths: Sizes, *, patch_size: int, max_tokens: int,
        rng: np.random.Generator, max_side: int = MAX_SIDE,
    ) -> Grids:  # fmt: skip
        by_first = rng.random(len(heights)) < self.share
        first, second = (
            rule.grids(heights, widths, patch_size=patch_size, max_tokens=max_tokens, rng=rng,
                       max_side=max_side)
            for rule in (self.first, self.second)
        )  # fmt: skip
        return np.where(by_first[:, None], first, second)

    def max_tokens_per_image(self, patch_size: int) -> int | None:
        first, second = (
            rule.max_tokens_per_image(patch_size) for rule in (self.first, self.second)
        )
        return None if first is None or second is None else max(first, second)

    def for_evaluation(self, tokens: int) -> "Resolution":
        """The first rule's rule for evaluation."""
        return self.first.for_evaluation(tokens)


Resolution = Native | FixedArea | SampledArea | FitTokens | NaFlex | SquareResize | Mixed
