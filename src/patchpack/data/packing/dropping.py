"""Token dropping: drop rates per image, and the choice of kept tokens.

Rates are sampled for all images at once, from token counts and the number of images seen before, so
they are part of the plan. Dropped tokens are sampled uniformly without replacement; kept tokens
keep their coordinates (arXiv 2307.06304, §3.3 and App. A.4).

Axes: image. `images_seen` counts the images a run has trained on before each image.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from patchpack.data.packing.truncated_normal import truncated_normal

Counts = Int[np.ndarray, " image"]
Rates = Float[np.ndarray, " image"]


@dataclass(frozen=True, kw_only=True)
class NoDrop:
    """Keep every token."""

    def rates(self, tokens: Counts, images_seen: Counts, rng: np.random.Generator) -> Rates:
        return np.zeros(len(tokens))


@dataclass(frozen=True, kw_only=True)
class ConstantDrop:
    """Drop the same fraction of every image."""

    rate: float  # fraction of tokens to drop, in [0, 1)

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must lie in [0, 1), not {self.rate}")

    def rates(self, tokens: Counts, images_seen: Counts, rng: np.random.Generator) -> Rates:
        return np.full(len(tokens), self.rate)


@dataclass(frozen=True, kw_only=True)
class BetaDrop:
    """Sample a rate for each image: d = u · max, u ~ Beta with mean u_μ = mean / max.

    The variance of u is 0.3 · u_μ (1 - u_μ), so α = (7/3) u_μ and β = (7/3)(1 - u_μ) (App. A.4).
    """

    mean: float  # mean drop rate, above 0 and below the maximum
    max: float  # maximum drop rate, at most 1

    def __post_init__(self) -> None:
        if not 0 < self.mean < self.max <= 1:
            raise ValueError(
                f"rates need 0 < mean < max <= 1, not mean {self.mean} and max {self.max}"
            )

    def rates(self, tokens: Counts, images_seen: Counts, rng: np.random.Generator) -> Rates:
        u_mean = self.mean / self.max
        concentration = 1 / 0.3 - 1
        alpha, beta = concentration * u_mean, concentration * (1 - u_mean)
        return rng.beta(alpha, beta, len(tokens)) * self.max


@dataclass(frozen=True, kw_only=True)
class ResolutionDrop:
    """Drop a larger fraction of images with more tokens.

    The rate is normal with standard deviation 0.02, truncated at two standard deviations, around a
    mean that is linear in the image's tokens: `low` at `min_tokens`, `high` at `max_tokens`
    (App. A.4; the printed 0.02 is read as the standard deviation: as the variance, the window
    around a mean of 0.1 would leave [0, 1]).
    """

    low: float  # mean drop rate of images with the minimum tokens or fewer, at least 0.04
    high: float  # mean drop rate of images with the maximum tokens or more, at most 0.96
    min_tokens: int  # tokens per image at and below which the low rate applies
    max_tokens: int  # tokens per image at and above which the high rate applies

    def __post_init__(self) -> None:
        if not 0.04 <= self.low <= self.high <= 0.96:
            raise ValueError(
                f"rates need 0.04 <= low <= high <= 0.96, not {self.low} and {self.high}"
            )
        if not 1 <= self.min_tokens < self.max_tokens:
            raise ValueError(
                f"tokens need 1 <= min_tokens < max_tokens, not {self.min_tokens} and "
                f"{self.max_tokens}"
            )

    def rates(self, tokens: Counts, images_seen: Counts, rng: np.random.Generator) -> Rates:
        fraction = (tokens - self.min_tokens) / (self.max_tokens - self.min_tokens)
        mean = self.low + (self.high - self.low) * fraction.clip(0, 1)
        return mean + 0.02 * truncated_normal(rng.random(len(tokens)), 0.0, -2, 2)


@dataclass(frozen=True, kw_only=True)
class ScheduledDrop:
    """Use the same rate for all images and change it during training.

    The rate is low + (high - low) · sigmoid((images seen - midpoint) / timescale). It rises for a
    positive timescale and falls for a negative one (App. A.5, with rates 0.2 and 0.8).
    """

    midpoint: float  # number of images seen when the rate is halfway between low and high
    # width of the transition in images, mostly within 3 timescales around the midpoint; positive:
    # rising rate, negative: falling rate
    timescale: float
    low: float = 0.2  # minimum drop rate, at least 0
    high: float = 0.8  # maximum drop rate, below 1

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 1:
            raise ValueError(f"rates need 0 <= low <= high < 1, not {self.low} and {self.high}")
        if not self.timescale:
            raise ValueError("timescale must not be 0; positive: rising rate, negative: falling")

    def rates(self, tokens: Counts, images_seen: Counts, rng: np.random.Generator) -> Rates:
        sigmoid = 0.5 * (1 + np.tanh((images_seen - self.midpoint) / (2 * self.timescale)))
        return self.low + (self.high - self.low) * sigmoid


Dropping = NoDrop | ConstantDrop | BetaDrop | ResolutionDrop | ScheduledDrop


def kept_counts(tokens: Counts, rates: Rates) -> Counts:
    """Return the number of kept tokens of each image, at least 1."""
    return np.maximum(1, np.rint(tokens * (1 - rates)).astype(np.int32))


def kept_tokens(total: int, kept: int, rng: np.random.Generator) -> Int[np.ndarray, " token"]:
    """Sample the indices of an image's kept tokens, in row-major order."""
    if kept >= total:
        return np.arange(total)
    return np.sort(rng.permutation(total)[:kept])
