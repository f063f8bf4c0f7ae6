"""Token dropping: how many tokens of an image are left out of training, and which.

Rates are drawn for all images at once, from token counts and from how many images were seen before
each, so they are part of the plan; which tokens go is uniform without replacement, and those that
stay keep their coordinates (arXiv 2307.06304, §3.3 and App. A.4).

Axes: image. `seen` counts the images that a run has trained on before each one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from patchpack.data.packing.truncated_normal import truncated_normal

Counts = Int[np.ndarray, " image"]
Rates = Float[np.ndarray, " image"]


@dataclass(frozen=True, kw_only=True)
class NoDrop:
    """Every token is kept."""

    def rates(self, tokens: Counts, images_seen: Counts, rng: np.random.Generator) -> Rates:
        return np.zeros(len(tokens))


@dataclass(frozen=True, kw_only=True)
class ConstantDrop:
    """The same share of every image is dropped."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must lie in [0, 1), not {self.rate}")

    def rates(self, tokens: Counts, images_seen: Counts, rng: np.random.Generator) -> Rates:
        return np.full(len(tokens), self.rate)


@dataclass(frozen=True, kw_only=True)
class BetaDrop:
    """A rate drawn for each image: d = u · max, u ~ Beta with mean u_μ = mean / max.

    The variance of u is 0.3 · u_μ (1 - u_μ), so α = (7/3) u_μ and β = (7/3)(1 - u_μ) (App. A.4).
    """

    mean: float
    max: float

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
    """The more tokens an image has, the more of them are dropped.

    The rate is normal with standard deviation 0.02, draws beyond two of them rejected, around a
    mean that is linear in the image's tokens: `low` at `min_tokens`, `high` at `max_tokens`
    (App. A.4; the printed 0.02 is read as the standard deviation: as the variance, the window
    around a mean of 0.1 would leave [0, 1]).
    """

    low: float
    high: float
    min_tokens: int
    max_tokens: int

    def __post_init__(self) -> None:
        if not 0.04 <= self.low <= self.high <= 0.96:
            raise ValueError(
                f"rates need 0.04 <= low <= high <= 0.96, not {self.low} and {self.high}"
            )
        if not 1 <= self.min_tokens < self.max_tokens:
            raise ValueError(
                f"tokens must rise from at least 1, not {self.min_tokens} to {self.max_tokens}"
            )

    def rates(self, tokens: Counts, images_seen: Counts, rng: np.random.Generator) -> Rates:
        share = (tokens - self.min_tokens) / (self.max_tokens - self.min_tokens)
        mean = self.low + (self.high - self.low) * share.clip(0, 1)
        return mean + 0.02 * truncated_normal(rng.random(len(tokens)), 0.0, -2, 2)


@dataclass(frozen=True, kw_only=True)
class ScheduledDrop:
    """One rate for all images, which changes as training goes on.

    low + (high - low) · sigmoid((seen - midpoint) / timescale): a positive timescale rises, a
    negative one falls (App. A.5, where 0.2 and 0.8 are the rates).
    """

    midpoint: float  # images seen when the rate is half way
    timescale: float  # images; the rate changes most within ± three of them
    low: float = 0.2
    high: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 1:
            raise ValueError(f"rates need 0 <= low <= high < 1, not {self.low} and {self.high}")
        if not self.timescale:
            raise ValueError("timescale must not be 0: positive for a rising rate, else negative")

    def rates(self, tokens: Counts, images_seen: Counts, rng: np.random.Generator) -> Rates:
        sigmoid = 0.5 * (1 + np.tanh((images_seen - self.midpoint) / (2 * self.timescale)))
        return self.low + (self.high - self.low) * sigmoid


Dropping = NoDrop | ConstantDrop | BetaDrop | ResolutionDrop | ScheduledDrop


def kept_counts(tokens: Counts, rates: Rates) -> Counts:
    """Tokens kept of each image, at least one."""
    return np.maximum(1, np.rint(tokens * (1 - rates)).astype(np.int32))


def kept_tokens(total: int, kept: int, rng: np.random.Generator) -> Int[np.ndarray, " token"]:
    """Which of an image's tokens are kept, in row-major order."""
    if kept >= total:
        return np.arange(total)
    return np.sort(rng.permutation(total)[:kept])
