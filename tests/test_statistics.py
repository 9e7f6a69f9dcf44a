import numpy as np
import pytest

from s3e.evaluation.statistics import mean_interval, paired_bootstrap


def coverage(seeds, seed_spread, trials=150, images=60):
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(trials):
        table = generator.normal(0, 1, (1, images)) + generator.normal(0, 0.3, (seeds, images))
        table += generator.normal(0, seed_spread, (seeds, 1)) if seed_spread else 0
        _, low, high = paired_bootstrap(table, resamples=600, seed=trial)
        hits += low <= 0 <= high
    return hits / trials


def test_interval_of_one_seed_is_the_normal_one():
    values = np.random.default_rng(1).normal(2, 1, 400)
    mean, low, high = paired_bootstrap(values)
    error = 1.96 * values.std() / 20
    assert mean == values.mean()
    assert (low, high) == pytest.approx((mean - error, mean + error), abs=0.01)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    assert 0.88 <= coverage(seeds=1, seed_spread=0) <= 0.99
    assert 0.88 <= coverage(seeds=3, seed_spread=0) <= 1
    assert 0.82 <= coverage(seeds=3, seed_spread=0.3) <= 1
    assert coverage(seeds=1, seed_spread=0.3) < 0.8  # one seed cannot know how much seeds differ


def test_variance_between_seeds_is_unbiased():
    table = np.repeat([[-1.0], [0.0], [1.0]], 50, axis=1)  # no spread between images: only seeds vary
    _, low, high = paired_bootstrap(table, level=0.95)
    assert (low, high) == (-1, 1)
    wide = paired_bootstrap(np.random.default_rng(0).normal(0, 1, (5, 1)) * np.ones((1, 40)), level=0.68)
    spread = np.random.default_rng(0).normal(0, 1, 5).std(ddof=1) / np.sqrt(5)
    assert (wide[2] - wide[1]) / 2 == pytest.approx(spread, rel=0.2)


def test_pairing_and_repetition():
    hard = np.random.default_rng(0).normal(0, 5, 200)  # images differ a lot, the arms by 0.1 only
    gain = np.random.default_rng(1).normal(0.1, 0.1, 200)
    assert paired_bootstrap(gain)[1] > 0
    first, second = mean_interval(hard + gain), mean_interval(hard)
    assert first[1] < second[2]  # the arms' own intervals overlap
    assert mean_interval(hard) == mean_interval(hard) != mean_interval(hard, seed=1)


def test_small_and_bad_input():
    assert paired_bootstrap([0.5]) == (0.5, 0.5, 0.5)
    assert paired_bootstrap(np.full((3, 4), 2.0)) == (2, 2, 2)
    for bad in ([], [[]], [1.0, np.nan], np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="finite, non-empty"):
            paired_bootstrap(bad)
    with pytest.raises(ValueError, match="level"):
        paired_bootstrap([1.0], level=95)
