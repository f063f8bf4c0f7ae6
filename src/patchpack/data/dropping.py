"""Token dropping: how many tokens of an image are left out of training, and which.

Rates are drawn for all images at once from token counts alone, so they are part of the plan; which
tokens go is uniform without replacement, and those that stay keep their coordinates
(arXiv 2307.06304, §3.3 and App. A.4).

Axes: image.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Counts = Int[np.ndarray, " image"]
Rates = Float[np.ndarray, " image"]


@dataclass(frozen=True, kw_only=True)
class NoDrop:
    """Every token is kept."""

    def rates(self, tokens: Counts, rng: np.random.Generator) -> Rates:
        return np.zeros(len(tokens))


@dataclass(frozen=True, kw_only=True)
class ConstantDrop:
    """The same share of every image is dropped."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must lie in [0, 1), not {self.rate}")

    def rates(self, tokens: Counts, rng: np.random.Generator) -> Rates:
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

    def rates(self, tokens: Counts, rng: np.random.Generator) -> Rates:
        u_mean = self.mean / self.max
        concentration = 1 / 0.3 - 1
        alpha, beta = concentration * u_mean, concentration * (1 - u_mean)
        return rng.beta(alpha, beta, len(tokens)) * self.max


Dropping = NoDrop | ConstantDrop | BetaDrop


def kept_counts(tokens: Counts, rates: Rates) -> Counts:
    """Tokens kept of each image, at least one."""
    return np.maximum(1, np.rint(tokens * (1 - rates)).astype(np.int32))


def kept_tokens(total: int, kept: int, rng: np.random.Generator) -> Int[np.ndarray, " token"]:
    """Which of an image's tokens are kept, in row-major order."""
    if kept >= total:
        return np.arange(total)
    return np.sort(rng.permutation(total)[:kept])
