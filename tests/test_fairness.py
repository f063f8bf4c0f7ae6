"""Probes, groups and gaps match scikit-learn, SciPy and hand-computed values."""

import numpy as np
import pytest
from scipy.stats import binom, wilcoxon
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from patchpack.metrics.fairness import bootstrap, gap, groups, probe, signed_rank


def features(images: int = 300, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, images)
    return np.eye(3)[labels] @ np.ones((3, 5)) * 0 + np.eye(5)[labels] * 2 + rng.normal(
        size=(images, 5)
    ), labels  # fmt: skip


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_probes_recover_separable_labels(kind):
    train, labels = features()
    test, truth = features(seed=1)
    predicted = probe(train, labels, test, kind)
    assert (predicted == truth).mean() > 0.7
    if kind == "logistic":
        scaler = StandardScaler().fit(train)
        model = LogisticRegression(C=0.1, max_iter=2000).fit(scaler.transform(train), labels)
        assert (predicted == model.predict(scaler.transform(test))).all()


def test_a_probe_of_a_constant_attribute_raises():
    with pytest.raises(ValueError, match="two values"):
        probe(np.ones((4, 2)), np.zeros(4, int), np.ones((1, 2)), "ridge")


def test_bootstrap_intervals_match_the_binomial():
    correct = np.arange(200) % 4 > 0
    low, high = bootstrap(correct, resamples=20_000)
    expected = binom(200, 0.75).ppf([0.025, 0.975]) / 200
    assert [low, high] == pytest.approx(expected.tolist(), abs=0.01)
    assert bootstrap(np.ones(5, bool)) == (1.0, 1.0)


def test_groups_include_intersections():
    correct = np.array([True] * 30 + [False] * 10)
    sex = ["f"] * 20 + ["m"] * 20
    age = (["old"] * 10 + ["young"] * 10) * 2
    result = groups(correct, {"sex": sex, "age": age}, min_group_size=10)
    assert result["sex f"].accuracy == 1 and result["sex m"].accuracy == 0.5
    assert result["m, old"].accuracy == 1 and result["m, young"].accuracy == 0
    assert "m, young" not in groups(correct, {"sex": sex, "age": age}, min_group_size=11)


def test_gap_between_best_and_worst_group():
    correct = np.array([True] * 30 + [False] * 10)
    result = gap(correct, ["f"] * 20 + ["m"] * 20)
    assert (result.best, result.worst, result.points) == ("f", "m", 0.5)
    assert result.low < 0.5 < result.high
    assert gap(correct, ["f"] * 40) is None


def test_signed_rank_matches_scipy():
    a, b = [0.5, 0.6, 0.7, 0.81, 0.9, 0.33], [0.48, 0.61, 0.65, 0.7, 0.8, 0.2]
    assert signed_rank(a, b) == pytest.approx(wilcoxon(a, b).pvalue)
    assert signed_rank(a, a) == 1
    with pytest.raises(ValueError, match="cannot be paired"):
        signed_rank(a, b[:3])
