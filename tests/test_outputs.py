"""Predictions are collected from any model and any batches with labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from patchpack.metrics.outputs import ModelOutput, Predictions, collect_predictions


def test_collect_predictions_accepts_any_callable_and_skips_unlabeled_images():
    batches = [
        SimpleNamespace(x=torch.eye(3), targets={"label": torch.tensor([0, -1, 2])}),
        SimpleNamespace(x=torch.empty(0, 3), targets={"label": torch.empty(0)}),
        SimpleNamespace(x=torch.eye(3)[:1], targets={"label": [1]}),
    ]
    predictions = collect_predictions(
        lambda batch: ModelOutput(batch.x * 9, batch.x), batches, flops=lambda b: 2e9
    )
    assert predictions.labels.tolist() == [0, 2, 1]
    assert predictions.correct.tolist() == [True, True, False]
    assert predictions.features.shape == (3, 3) and predictions.gflops == 1.0
    assert predictions.top1 == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="needs labeled images"):
        collect_predictions(lambda batch: batch.x, [])


def test_predictions_are_sorted_by_key():
    one = Predictions(np.eye(3), np.array([0, 1, 0]), ("c", "a", "b"))
    assert one.sorted().keys == ("a", "b", "c")
    assert one.sorted().correct.tolist() == [True, False, True]
