"""Accuracy against what it costs: token budgets, cascades of two of them, and the choice of one.

A cascade shows every image with few tokens, and those that the model is least sure of again with
more (arXiv 2307.06304, App. E): an image costs c₁ + α · c₂ on average, α the share shown again.

Axes: image, alpha (shares shown again), point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from patchpack.metrics.outputs import Predictions

SHARES = tuple(number / 20 for number in range(1, 20))


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """One way to use a model, and what comes of it."""

    tokens: int  # most tokens of an image, in the first pass
    accuracy: float
    gflops: float  # of an image, the mean
    ms: float  # of an image, the mean
    second_pass_tokens: int | None = (
        None  # most tokens of an image that is shown again; None: none is
    )
    threshold: float = 0.0  # of confidence, below which it is
    second_pass_share: float = 0.0  # share of images that are

    @property
    def name(self) -> str:
        if self.second_pass_tokens is None:
            return f"{self.tokens} tokens"
        return (
            f"{self.tokens}, then {self.second_pass_tokens} tokens for {self.second_pass_share:.0%}"
        )


def single_points(outputs: Mapping[int, Predictions]) -> list[MeasuredPoint]:
    """Each budget by itself."""
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
    """A cascade of two budgets, at every share of images shown again.

    All shares at once: images sorted by the first pass's confidence, right answers added up from
    both ends. Both outputs must be of the same images in the same order.
    """
    if first.keys != second.keys or len(first) != len(second):
        raise ValueError("a cascade needs both passes to be of the same images")
    images = len(first)
    order = np.argsort(first.confidence, kind="stable")
    confidence = first.confidence[order]
    again_right = np.concatenate([[0], np.cumsum(second.correct[order])])  # of the least sure
    kept_right = np.concatenate([np.cumsum(first.correct[order][::-1])[::-1], [0]])  # of the rest
    points = []
    for second_pass_share in shares:
        shown = round(second_pass_share * images)
        points.append(
            MeasuredPoint(
                tokens=tokens,
                second_pass_tokens=second_pass_tokens,
                second_pass_share=shown / images,
                threshold=float(confidence[shown]) if shown < images else 1.0,
                accuracy=float(again_right[shown] + kept_right[shown]) / images,
                gflops=first.gflops + shown / images * second.gflops,
                ms=first.ms + shown / images * second.ms,
            )
        )
    return points


def all_cascades(outputs: Mapping[int, Predictions]) -> list[MeasuredPoint]:
    """Cascades of every two budgets, the smaller first."""
    return [
        point
        for a, b in combinations(sorted(outputs), 2)
        for point in cascade_points(a, outputs[a], b, outputs[b])
    ]


def frontier(points: Sequence[MeasuredPoint], cost: str = "gflops") -> list[MeasuredPoint]:
    """The points that no other beats: none is as cheap and more accurate; the cheapest first.

    cost  "gflops" or "ms"
    """
    best: list[MeasuredPoint] = []
    for point in sorted(points, key=lambda p: (getattr(p, cost), -p.accuracy)):
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
    """The most accurate point within the limits, or, of those accurate enough, the cheapest.

    Raises ValueError where none is within the limits, saying how near the nearest comes.
    """
    limits = {"ms": max_ms, "gflops": max_gflops}
    within = [
        p for p in points
        if all(most is None or getattr(p, name) <= most for name, most in limits.items())
    ]  # fmt: skip
    if not within:
        least = {
            name: min(getattr(p, name) for p in points) for name, most in limits.items() if most
        }
        said = " and ".join(f"{value:.3g} {name}" for name, value in least.items())
        raise ValueError(f"no token budget is within the limits: the cheapest takes {said}")
    if min_accuracy is None:
        return max(within, key=lambda p: (p.accuracy, -p.gflops))
    enough = [p for p in within if p.accuracy >= min_accuracy]
    if not enough:
        best = max(p.accuracy for p in within)
        raise ValueError(f"no token budget reaches {min_accuracy:.1%}: the best has {best:.1%}")
    return min(enough, key=lambda p: (p.gflops, -p.accuracy))


def best_cascade_over_line(
    singles: Sequence[MeasuredPoint], cascades: Sequence[MeasuredPoint]
) -> MeasuredPoint | None:
    """The cascade that is most above what single budgets reach for its operations, if any is.

    Between two budgets the straight line counts: some images at one, the rest at the other.
    """
    line = frontier(singles)
    costs, reached = [p.gflops for p in line], [p.accuracy for p in line]
    best, most = None, 0.0
    for point in cascades:
        above = point.accuracy - float(np.interp(point.gflops, costs, reached))
        if point.gflops >= costs[0] and above > most:
            best, most = point, above
    return best
