"""Cascades against a loop over images, frontiers by hand, and choices within limits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from patchpack.metrics.operating_points import (
    MeasuredPoint,
    best_cascade_over_line,
    cascade_points,
    choose,
    frontier,
    single_points,
)
from patchpack.metrics.outputs import ModelOutput, Predictions, collect_predictions


def outputs(sharpness: float, gflops: float, images: int = 200, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 5, images)
    noise = np.random.default_rng(seed).normal(size=(images, 5))
    logits = sharpness * np.eye(5)[labels] + noise
    keys = tuple(map(str, range(images)))
    return Predictions(logits, labels, keys, None, gflops, 10 * gflops)


def test_a_cascade_is_what_a_loop_over_images_says():
    first, second = outputs(1.0, 0.1), outputs(2.5, 0.4, seed=1)
    for point in cascade_points(16, first, 64, second, shares=[0.0, 0.13, 0.5, 1.0]):
        second_pass_tokens = first.confidence < point.threshold
        if point.second_pass_share == 1:
            second_pass_tokens[:] = True
        assert second_pass_tokens.mean() == pytest.approx(point.second_pass_share)
        assert np.where(second_pass_tokens, second.correct, first.correct).mean() == pytest.approx(
            point.accuracy
        )
        assert point.gflops == pytest.approx(0.1 + point.second_pass_share * 0.4)
    assert point.accuracy == second.top1


def test_a_cascade_of_other_images_is_refused():
    with pytest.raises(ValueError, match="the same images"):
        cascade_points(16, outputs(1, 1), 64, outputs(1, 1, images=100))


def test_asking_the_least_sure_again_beats_asking_any():
    first, second = outputs(1.5, 0.1), outputs(4.0, 0.4, seed=1)
    singles = single_points({16: first, 64: second})
    best = best_cascade_over_line(singles, cascade_points(16, first, 64, second))
    assert best is not None and 0 < best.second_pass_share < 1
    same = cascade_points(16, first, 64, first)  # shown again in vain
    assert best_cascade_over_line(single_points({16: first, 64: first}), same) is None


def point(accuracy: float, gflops: float, ms: float = 1.0) -> MeasuredPoint:
    return MeasuredPoint(tokens=1, accuracy=accuracy, gflops=gflops, ms=ms)


def test_the_frontier_leaves_out_what_is_beaten():
    points = [point(0.5, 1), point(0.7, 2), point(0.6, 3), point(0.7, 4), point(0.4, 1)]
    assert frontier(points) == [points[0], points[1]]


def test_choices():
    points = [point(0.5, 1, 9), point(0.7, 2, 5), point(0.8, 3, 20)]
    assert choose(points, max_gflops=2.5) == points[1]
    assert choose(points, max_ms=10, max_gflops=9) == points[1]
    assert choose(points, min_accuracy=0.45) == points[0]
    with pytest.raises(ValueError, match=r"the cheapest takes 5 ms"):
        choose(points, max_ms=1)
    with pytest.raises(ValueError, match=r"reaches 90.0%: the best has 80.0%"):
        choose(points, min_accuracy=0.9)


def test_collect_asks_models_that_are_not_ours():
    """Any batches with targets, any callable; unlabelled images are left out."""
    batches = [
        SimpleNamespace(x=torch.eye(3), targets={"label": torch.tensor([0, -1, 2])}),
        SimpleNamespace(x=torch.empty(0, 3), targets={"label": torch.empty(0)}),
        SimpleNamespace(x=torch.eye(3)[:1], targets={"label": [1]}),
    ]
    found = collect_predictions(
        lambda batch: ModelOutput(batch.x * 9, batch.x), batches, flops=lambda b: 2e9
    )
    assert found.labels.tolist() == [0, 2, 1] and found.correct.tolist() == [True, True, False]
    assert (
        found.features.shape == (3, 3)
        and found.gflops == 1.0
        and found.top1 == pytest.approx(2 / 3)
    )
    with pytest.raises(ValueError, match="no labelled images"):
        collect_predictions(lambda batch: batch.x, [])


def test_outputs_can_be_put_in_the_order_of_their_keys():
    one = Predictions(np.eye(3), np.array([0, 1, 0]), ("c", "a", "b"))
    assert one.sorted().keys == ("a", "b", "c") and one.sorted().correct.tolist() == [
        True,
        False,
        True,
    ]
