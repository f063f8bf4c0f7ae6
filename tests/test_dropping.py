"""Drop rates follow their distributions, and kept tokens are uniformly sampled."""

import numpy as np
import pytest

from patchpack.data.packing.dropping import (
    BetaDrop,
    ConstantDrop,
    NoDrop,
    ResolutionDrop,
    ScheduledDrop,
    kept_counts,
    kept_tokens,
)

# P(d < 0.1) in percent by (max, mean), as printed in arXiv 2307.06304, Fig. 14a and 15a.
PRINTED = {
    (0.4, 0.10): 60.3,
    (0.4, 0.25): 11.5,
    (0.4, 0.35): 1.3,
    (0.7, 0.10): 66.9,
    (0.7, 0.25): 27.3,
    (0.7, 0.50): 2.3,
    (0.7, 0.65): 0.1,
    (0.9, 0.10): 70.4,
    (0.9, 0.25): 33.5,
    (0.9, 0.50): 5.9,
    (0.9, 0.70): 0.9,
    (0.9, 0.85): 0.1,
}


@pytest.mark.parametrize(("maximum", "mean"), PRINTED)
def test_beta_rates_match_the_paper(maximum, mean):
    tokens = np.full(400_000, 256)
    rates = BetaDrop(mean=mean, max=maximum).rates(tokens, tokens, np.random.default_rng(0))
    assert 100 * (rates < 0.1).mean() == pytest.approx(PRINTED[maximum, mean], abs=0.7)
    assert rates.mean() == pytest.approx(mean, abs=0.002)
    assert 0 <= rates.min() and rates.max() <= maximum


def test_constant_and_no_drop():
    tokens, rng = np.array([1, 4, 100]), np.random.default_rng(0)
    assert NoDrop().rates(tokens, tokens, rng).tolist() == [0, 0, 0]
    assert ConstantDrop(rate=0.25).rates(tokens, tokens, rng).tolist() == [0.25, 0.25, 0.25]


def test_resolution_drop_rises_with_the_tokens():
    """R ~ U(64, 384) px in patches of 16: 16 to 576 tokens, rates 0.25 to 0.75 (Fig. 14b)."""
    rule = ResolutionDrop(low=0.25, high=0.75, min_tokens=16, max_tokens=576)
    for tokens, mean in ((16, 0.25), (296, 0.5), (576, 0.75), (4, 0.25), (9999, 0.75)):
        counts = np.full(50_000, tokens)
        rates = rule.rates(counts, counts, np.random.default_rng(0))
        assert rates.mean() == pytest.approx(mean, abs=0.001)
        assert np.abs(rates - mean).max() <= 0.04 + 1e-12
        # A normal truncated at two standard deviations has 0.88 of its standard deviation.
        assert rates.std() == pytest.approx(0.02 * 0.8796, rel=0.02)


def test_scheduled_drop_follows_the_images_seen():
    """Fig. 16: rising around N/2 in N/10, falling slowly around 2N/3 in N/5."""
    n, rng = 1000, np.random.default_rng(0)
    images_seen = np.array([0, 500, 1000])
    rising = ScheduledDrop(midpoint=n / 2, timescale=n / 10).rates(images_seen, images_seen, rng)
    np.testing.assert_allclose(rising, [0.204, 0.5, 0.796], atol=1e-3)
    falling = ScheduledDrop(midpoint=2 * n / 3, timescale=-n / 5).rates(
        images_seen, images_seen, rng
    )
    expected = 0.2 + 0.6 / (1 + np.exp((images_seen - 2 * n / 3) / (n / 5)))
    np.testing.assert_allclose(falling, expected)
    ended = ScheduledDrop(midpoint=0, timescale=1).rates(images_seen, np.array([10**9] * 3), rng)
    assert ended.tolist() == [0.8] * 3


def test_counts_are_rounded_and_at_least_one():
    tokens, rates = np.array([100, 100, 10, 3, 1]), np.array([0.0, 0.304, 0.26, 0.99, 0.5])
    assert kept_counts(tokens, rates).tolist() == [100, 70, 7, 1, 1]


def test_kept_tokens_are_sorted_and_distinct():
    kept = kept_tokens(50, 20, np.random.default_rng(0))
    assert len(kept) == 20 and (np.diff(kept) > 0).all()
    assert kept.min() >= 0 and kept.max() < 50


def test_keeping_all_tokens_gives_row_major_order():
    assert kept_tokens(5, 5, np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4]


def test_all_tokens_are_kept_with_equal_frequency():
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([kept_tokens(20, 5, rng) for _ in range(8000)]))
    np.testing.assert_allclose(counts / 8000, 0.25, atol=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConstantDrop(rate=1.0),
        lambda: ConstantDrop(rate=-0.1),
        lambda: BetaDrop(mean=0.0, max=0.5),
        lambda: BetaDrop(mean=0.5, max=0.5),
        lambda: BetaDrop(mean=0.5, max=1.1),
        lambda: ResolutionDrop(low=0.0, high=0.5, min_tokens=1, max_tokens=9),
        lambda: ResolutionDrop(low=0.6, high=0.5, min_tokens=1, max_tokens=9),
        lambda: ResolutionDrop(low=0.1, high=0.5, min_tokens=9, max_tokens=9),
        lambda: ScheduledDrop(midpoint=10, timescale=0),
        lambda: ScheduledDrop(midpoint=10, timescale=1, low=0.9, high=0.1),
    ],
)
def test_invalid_rates_raise(make):
    with pytest.raises(ValueError):
        make()
