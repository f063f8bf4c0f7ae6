"""Mean corruption error against hand-computed values."""

import pytest

from patchpack.evaluation.robustness import mean_corruption_error


def test_mean_corruption_error():
    baseline = {"fog": {"1": 0.8, "2": 0.6}, "snow": {"1": 0.5, "2": 0.5}}
    assert mean_corruption_error(baseline, baseline) == 1
    better = {"fog": {"1": 0.9, "2": 0.8}, "snow": {"1": 0.5, "2": 0.5}}
    assert mean_corruption_error(better, baseline) == pytest.approx((0.5 + 1) / 2)


def test_a_baseline_without_errors_has_no_mean_corruption_error():
    perfect = {"fog": {"1": 1.0}}
    assert mean_corruption_error({"fog": {"1": 0.5}}, perfect) is None
