"""Operating points: accuracy and cost of single token budgets and of cascades of two budgets.

A cascade evaluates every image with few tokens, and the images with the lowest confidence again
with more tokens (arXiv 2307.06304, App. E). The mean cost per image is c₁ + α · c₂, where α is the
share of images in the second pass.

Axes: image, point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from patchpack.metrics.outputs import Predictions
from patchpack.metrics.undefined import defined

SHARES = tuple(number / 20 for number in range(1, 20))  # second-pass shares α of a cascade


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """One operating point of a model with its measured accuracy and cost."""

    tokens: int  # maximum tokens per image in the first pass
    accuracy: float  # top-1, in [0, 1]; higher is better
    gflops: float  # mean GFLOP per image; lower is better
    ms: float  # mean milliseconds per image; lower is better
    second_pass_tokens: int | None = None  # maximum tokens in the second pass; None: no cascade
    threshold: float = 0.0  # confidence below which an image takes the second pass
    second_pass_share: float = 0.0  # share of images that take the second pass

    @property
    def name(self) -> str:
        """Short description for tables."""
        if self.second_pass_tokens is None:
            return f"{self.tokens} tokens"
        return (
            f"{self.tokens}, then {self.second_pass_tokens} tokens for {self.second_pass_share:.0%}"
        )


def single_points(outputs: Mapping[int, Predictions]) -> list[MeasuredPoint]:
    """Return one point per token budget, in ascending order of tokens."""
    return [
        MeasuredPoint(tokens=tokens, accuracy=o.top1, gflops=o.gflops, ms=o.ms)
        for tokens, o in sorted(outputs.items())
    ]


def cascade_points(
    tokens: int,
    first: Predictions,
    second_pass_tokens: int,
    second: Predictions,
    shares: Sequence[float] = SHARES,
) -> list[MeasuredPoint]:
    """Return the points of a cascade of two budgets, one per second-pass share.

    first, second  predictions for the same images in the same order
    shares         shares of images in the second pass, lowest confidence first

    Cumulative sums over images sorted by first-pass confidence give the accuracy of all shares in
    one pass. Raise ValueError if the images differ, and without images.
    """
    if first.keys != second.keys or len(first) != len(second):
        raise ValueError("both passes of a cascade must predict the same images")
    if not len(first):
        raise ValueError("a cascade needs labeled images")
    images = len(first)
    order = np.argsort(first.confidence, kind="stable")
    confidence = first.confidence[order]
    # Correct images if the n lowest-confidence images take the second pass, n = 0 … images.
    second_correct = np.concatenate([[0], np.cumsum(second.correct[order])])
    first_correct = np.concatenate([np.cumsum(first.correct[order][::-1])[::-1], [0]])
    points = []
    for second_pass_share in shares:
        rerun = round(second_pass_share * images)
        points.append(
            MeasuredPoint(
                tokens=tokens,
                second_pass_tokens=second_pass_tokens,
                second_pass_share=rerun / images,
                threshold=float(confidence[rerun]) if rerun < images else 1.0,
                accuracy=float(second_correct[rerun] + first_correct[rerun]) / images,
                gflops=first.gflops + rerun / images * second.gflops,
                ms=first.ms + rerun / images * second.ms,
            )
        )
    return points


def all_cascades(outputs: Mapping[int, Predictions]) -> list[MeasuredPoint]:
    """Return the cascades of each pair of token budgets; the first pass has the smaller budget."""
    return [
        point
        for a, b in combinations(sorted(outputs), 2)
        for point in cascade_points(a, outputs[a], b, outputs[b])
    ]


def frontier(points: Sequence[MeasuredPoint], cost: str = "gflops") -> list[MeasuredPoint]:
    """Return the Pareto frontier of accuracy over cost, in ascending order of cost.

    cost  "gflops" or "ms"

    No other point is at least as cheap and more accurate than a point of the frontier. Points whose
    accuracy is undefined are left out.
    """
    best: list[MeasuredPoint] = []
    measured = [point for point in points if defined(point.accuracy)]
    for point in sorted(measured, key=lambda p: (getattr(p, cost), -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def choose(
    points: Sequence[MeasuredPoint],
    *,
    max_ms: float | None = None,
    max_gflops: float | None = None,
    min_accuracy: float | None = None,
) -> MeasuredPoint:
    """Return the most accurate point within the limits.

    max_ms, max_gflops  maximum mean cost per image
    min_accuracy        top-1, in [0, 1]; if set, return the cheapest point (GFLOP) that reaches it

    Raise ValueError, with the closest value, if no point satisfies the limits, and where no point
    has an accuracy.
    """
    points = [point for point in points if defined(point.accuracy)]
    if not points:
        raise ValueError("no token budget has an accuracy to choose by")
    limits = {"ms": max_ms, "gflops": max_gflops}
    within = [
        p for p in points
        if all(limit is None or getattr(p, name) <= limit for name, limit in limits.items())
    ]  # fmt: skip
    if not within:
        lowest = {
            name: min(getattr(p, name) for p in points) for name, limit in limits.items() if limit
        }
        costs = " and ".join(f"{value:.3g} {name}" for name, value in lowest.items())
        raise ValueError(f"no token budget is within the limits: the cheapest takes {costs}")
    if min_accuracy is None:
        return max(within, key=lambda p: (p.accuracy, -p.gflops))
    accurate = [p for p in within if p.accuracy >= min_accuracy]
    if not accurate:
        best = max(p.accuracy for p in within)
        raise ValueError(f"no token budget reaches {min_accuracy:.1%}: the best has {best:.1%}")
    return min(accurate, key=lambda p: (p.gflops, -p.accuracy))


def best_cascade_over_line(
    singles: Sequence[MeasuredPoint], cascades: Sequence[MeasuredPoint]
) -> MeasuredPoint | None:
    """Return the cascade with the largest accuracy gain over single budgets at equal GFLOP.

    The baseline interpolates linearly between single budgets: part of the images at one budget, the
    rest at the other. None if no cascade is above it.
    """
    line = frontier(singles)
    if not line:
        return None
    costs, accuracies = [p.gflops for p in line], [p.accuracy for p in line]
    best, best_gain = None, 0.0
    for point in cascades:
        gain = point.accuracy - float(np.interp(point.gflops, costs, accuracies))
        if point.gflops >= costs[0] and gain > best_gain:
            best, best_gain = point, gain
    return best
