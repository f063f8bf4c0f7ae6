"""From an image's size to its grid: how many patches it becomes, high and wide.

Every rule sees sizes only, for all images at once, so the plan knows each token count before a
pixel is read. Grids keep the image's aspect as nearly as whole patches allow; only `Square` does
not: it is what a plain ViT does to images.

Axes: image. Sizes in pixels, grids (h, w) in patches. "Side" is √area: the paper's resolution R.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from patchpack.data.packing.truncated_normal import truncated_normal

MAX_SIDE = 128  # longest side of a grid in patches; what the learned positions reach

Sizes = Int[np.ndarray, " image"]
Grids = Int[np.ndarray, "image 2"]


def fit_grids(
    heights: Sizes,
    widths: Sizes,
    tokens: Float[np.ndarray, " image"],
    *,
    max_side: int = MAX_SIDE,
) -> Grids:
    """The grid of least aspect error within a budget of tokens, for each image.

    The ideal grid has the image's aspect and exactly `tokens` cells, fewer where a side would pass
    `max_side`; its sides are no whole numbers. Of the four ways to round them down or up, those
    within the budget are candidates, and the one whose log aspect is nearest the image's wins. The
    least grid is 1 x 1; of an image so thin that one side ends at 1, the other gets all the tokens.
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
    """As many patches as an image has pixels for, parts of a patch included."""
    return heights.astype(np.float64) * widths / patch_size**2


@dataclass(frozen=True, kw_only=True)
class Native:
    """Each image at its own size; larger ones are shrunk to `max_tokens`, none is enlarged."""

    max_tokens: int | None = None

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
        """Of an image; None where only the pack bounds it."""
        return self.max_tokens

    def for_evaluation(self, tokens: int) -> "Native":
        """The rule to evaluate with, at most `tokens` an image."""
        return Native(max_tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class FixedArea:
    """Every image resized to the same area, its aspect kept."""

    side: int  # √area in pixels
    upscale: bool = True  # whether smaller images are enlarged

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
        """The rule to evaluate with: `tokens` an image, small ones enlarged as in training."""
        return FitTokens(tokens=tokens) if self.upscale else Native(max_tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class SampledArea:
    """A size drawn anew for each image and epoch (arXiv 2307.06304, §3.2 and Fig. 7).

    The draw u in [-1, 1] is uniform, or normal around `mean` with standard deviation 1 and
    truncated, and is rescaled linearly to [low, high] in side or in area.
    """

    low: int  # px, side
    high: int  # px, side
    by: Literal["side", "area"] = "side"
    mean: float | None = None  # of the truncated normal; None for uniform
    upscale: bool = True  # whether images smaller than the draw are enlarged

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"sizes must rise from at least 1 px, not {self.low} to {self.high}")
        if self.by not in ("side", "area"):
            raise ValueError(f"by must be 'side' or 'area', not {self.by!r}")
        if self.mean is not None and not -3 <= self.mean <= 3:
            raise ValueError(f"mean must lie in [-3, 3], in standard deviations, not {self.mean}")

    def sides(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, " image"]:
        """Sides in pixels, one per image."""
        share = rng.random(count)
        if self.mean is not None:
            share = (truncated_normal(share, self.mean, -1, 1) + 1) / 2
        if self.by == "side":
            return self.low + share * (self.high - self.low)
        return np.sqrt(self.low**2 + share * (self.high**2 - self.low**2))

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
        """The rule to evaluate with: `tokens` an image, small ones enlarged as in training."""
        return FitTokens(tokens=tokens) if self.upscale else Native(max_tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class FitTokens:
    """Every image enlarged or shrunk to as near `tokens` as its aspect allows."""

    tokens: int

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
        """The rule to evaluate with: `tokens` an image."""
        return FitTokens(tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class SquareResize:
    """Every image squashed or stretched to one square: the plain ViT."""

    grid: int  # patches on a side

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"grid must be at least 1 patch, not {self.grid}")

    def grids(
        self, heights: Sizes, widths: Sizes, *, patch_size: int, max_tokens: int,
        rng: np.random.Generator, max_side: int = MAX_SIDE,
    ) -> Grids:  # fmt: skip
        if self.grid**2 > max_tokens or self.grid > max_side:
            raise ValueError(
                f"a square of {self.grid} x {self.grid} patches passes the limit of "
                f"{max_tokens} tokens and {max_side} patches a side"
            )
        return np.full((len(heights), 2), self.grid, np.int32)

    def max_tokens_per_image(self, patch_size: int) -> int:
        return self.grid**2

    def for_evaluation(self, tokens: int) -> "SquareResize":
        """The rule to evaluate with: the largest square of at most `tokens`."""
        return SquareResize(grid=isqrt(tokens))


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Each image by one of two rules, drawn anew each epoch: some native, say, and some sampled."""

    first: "Native | FixedArea | SampledArea | FitTokens"
    second: "Native | FixedArea | SampledArea | FitTokens"
    share: float = 0.5  # of images that the first rule decides

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
        """The first rule's."""
        return self.first.for_evaluation(tokens)


Resolution = Native | FixedArea | SampledArea | FitTokens | SquareResize | Mixed
