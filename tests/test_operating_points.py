"""Cascades match a loop over images; frontiers and choices match hand-computed ones."""

import numpy as np
import pytest

from patchpack.metrics.operating_points import (
    MeasuredPoint,
    best_cascade_over_line,
    cascade_points,
    choose,
    frontier,
    single_points,
)
from patchpack.metrics.outputs import Predictions


def outputs(sharpness: float, gflops: float, images: int = 200, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 5, images)
    noise = np.random.default_rng(seed).normal(size=(images, 5))
    logits = sharpness * np.eye(5)[labels] + noise
    keys = tuple(map(str, range(images)))
    return Predictions(logits, labels, keys, None, gflops, 10 * gflops)


def test_a_cascade_matches_a_loop_over_images():
    first, second = outputs(1.0, 0.1), outputs(2.5, 0.4, seed=1)
    for point in cascade_points(16, first, 64, second, shares=[0.0, 0.13, 0.5, 1.0]):
        rerun = first.confidence < point.threshold
        if point.second_pass_share == 1:
            rerun[:] = True
        assert rerun.mean() == pytest.approx(point.second_pass_share)
        accuracy = np.where(rerun, second.correct, first.correct).mean()
        assert accuracy == pytest.approx(point.accuracy)
        assert point.gflops == pytest.approx(0.1 + point.second_pass_share * 0.4)
    assert point.accuracy == second.top1


def test_a_cascade_of_different_images_raises():
    with pytest.raises(ValueError, match="the same images"):
        cascade_points(16, outputs(1, 1), 64, outputs(1, 1, images=100))


def test_a_second_pass_for_low_confidence_images_beats_random_images():
    first, second = outputs(1.5, 0.1), outputs(4.0, 0.4, seed=1)
    singles = single_points({16: first, 64: second})
    best = best_cascade_over_line(singles, cascade_points(16, first, 64, second))
    assert best is not None and 0 < best.second_pass_share < 1
    same = cascade_points(16, first, 64, first)  # the second pass changes nothing
    assert best_cascade_over_line(single_points({16: first, 64: first}), same) is None


def point(accuracy: float, gflops: float, ms: float = 1.0) -> MeasuredPoint:
    return MeasuredPoint(tokens=1, accuracy=accuracy, gflops=gflops, ms=ms)


def test_the_frontier_omits_dominated_points():
    points = [point(0.5, 1), point(0.7, 2), point(0.6, 3), point(0.7, 4), point(0.4, 1)]
    assert frontier(points) == [points[0], points[1]]


def test_choose_respects_each_limit():
    points = [point(0.5, 1, 9), point(0.7, 2, 5), point(0.8, 3, 20)]
    assert choose(points, max_gflops=2.5) == points[1]
    assert choose(points, max_ms=10, max_gflops=9) == points[1]
    assert choose(points, min_accuracy=0.45) == points[0]
    with pytest.raises(ValueError, match=r"the cheapest takes 5 ms"):
        choose(points, max_ms=1)
    with pytest.raises(ValueError, match=r"reaches 90.0%: the best has 80.0%"):
        choose(points, min_accuracy=0.9)
