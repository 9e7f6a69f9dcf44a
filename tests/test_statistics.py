"""Intervals and tests, validated by a small seeded simulation whose true difference is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from s3e.evaluation.statistics import (
    Interval,
    compare,
    crossed_bootstrap,
    holm,
    percentiles,
    proportion_interval,
)

STUDIES, IMAGES, RESAMPLES = 300, 100, 300
IMAGE_DEVIATION = 0.28  # dB, of paired differences as measured in studies of this suite


def studies(seeds: int, seed_deviation: float, effect: float = 0.0) -> np.ndarray:
    """Differences, studies x seeds x images; seeds share half of the images' variance."""
    generator = np.random.default_rng(seeds)
    spread = IMAGE_DEVIATION * np.sqrt(0.5)
    same = generator.normal(0, spread, (STUDIES, 1, IMAGES))
    own = generator.normal(0, spread, (STUDIES, seeds, IMAGES))
    return effect + same + own + generator.normal(0, 1, (STUDIES, seeds, 1)) * seed_deviation


def shares(results, truth: float = 0.0) -> tuple[float, float]:
    """How often intervals hold the truth, and how often a difference is claimed."""
    covered = np.mean([item.low <= truth <= item.high for item in results])
    return covered, np.mean([max(item.p_interval, item.p_wilcoxon) < 0.05 for item in results])


@pytest.mark.parametrize(("seeds", "deviation"), [(1, 0.0), (2, 0.1), (3, 0.0), (3, 0.1), (5, 0.1)])
def test_intervals_cover_and_nothing_is_found_where_nothing_is(seeds, deviation):
    results = [compare(table, resamples=RESAMPLES) for table in studies(seeds, deviation)]
    covered, claimed = shares(results)
    assert covered >= 0.92 and claimed <= 0.08


def test_a_plain_bootstrap_of_three_seeds_and_one_seed_alone_are_too_sure():
    narrow = []
    for table in studies(3, 0.1):
        means = crossed_bootstrap(lambda n, t=table: t @ n.T / n.sum(1), 3, IMAGES, RESAMPLES)
        low, high = percentiles(means, IMAGES)
        narrow.append(low <= 0 <= high)
    assert np.mean(narrow) < 0.88
    assert shares([compare(table, resamples=RESAMPLES) for table in studies(1, 0.1)])[0] < 0.6


def test_known_effects_are_found():
    results = [compare(table, resamples=RESAMPLES) for table in studies(3, 0.03, 0.2)]
    covered, claimed = shares(results, 0.2)
    assert covered >= 0.92 and claimed >= 0.9


def test_frames_of_one_video_count_as_one():
    generator = np.random.default_rng(0)
    member = np.repeat(np.arange(11), generator.integers(10, 60, 11))
    results, free = [], []
    for _ in range(STUDIES):
        frames = generator.normal(0, 0.3, 11)[member] + generator.normal(0, 0.1, len(member))
        results.append(compare(frames, [f"video {number}" for number in member], RESAMPLES))
        free.append(compare(frames, resamples=RESAMPLES))
    covered, claimed = shares(results)
    assert covered >= 0.91 and claimed <= 0.09
    assert shares(free)[0] < 0.7  # as if frames were independent


def test_holm_by_hand():
    found = holm(pd.Series([0.01, 0.04, 0.03, 0.005]))
    assert found.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(pd.Series([0.9, 0.8])).tolist() == [1, 1]


def test_interval_of_one_seed_is_the_normal_one():
    values = np.random.default_rng(1).normal(2, 1, 400)
    mean, low, high, *_ = compare(values)
    assert compare(values)[:3] == (mean, low, high)
    error = 1.966 * values.std(ddof=1) / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - error, mean + error), abs=0.01)


def test_interval_and_p_value_agree():
    results = [compare(table, resamples=1000) for table in studies(3, 0.05, 0.1)]
    agree = [(item.low > 0 or item.high < 0) == (item.p_interval < 0.05) for item in results]
    assert np.mean(agree) > 0.98


def test_with_few_seeds_the_wider_interval_counts():
    table = np.array([[-1.0], [0.0], [1.0]]) * np.ones((1, 50))  # only seeds vary
    half = stats.t.ppf(0.975, 2) / np.sqrt(3)
    assert compare(table)[1:3] == pytest.approx((-half, half))
    images = np.random.default_rng(0).normal(0, 1, (1, 400)) * np.ones((3, 1))  # only images vary
    assert compare(images)[1:3] == pytest.approx(compare(images[:1])[1:3], abs=0.01)


def test_wilcoxon_is_that_of_the_means_over_seeds():
    table = studies(3, 0.0, 0.02)[0]
    assert compare(table).p_wilcoxon == pytest.approx(stats.wilcoxon(table.mean(0)).pvalue)
    assert compare(np.zeros((3, 9))) == (0, 0, 0, 1, 1)


def test_share_of_images_is_wilsons_or_wider():
    known = stats.binomtest(45, 50).proportion_ci(0.95, method="wilson")
    assert proportion_interval([0.9], 50) == pytest.approx((0.9, known.low, known.high))
    wide = proportion_interval([0.7, 0.9, 0.8], 10_000)
    assert wide == pytest.approx(Interval(0.8, 0.8 - 4.3027 * 0.1 / 3**0.5, 1.0), abs=1e-3)


def test_one_image_or_one_video_has_no_interval():
    for result in (compare([0.5]), compare([[0.5, 0.7], [0.6, 0.4]], ["a", "a"])):
        assert np.isnan([result.low, result.high]).all() and result.p_interval == 1


def test_small_and_bad_input():
    assert compare(np.full((3, 4), 2.0))[:3] == (2, 2, 2)
    for bad in ([], [[]], [1.0, np.nan]):
        with pytest.raises(ValueError, match="must be finite"):
            compare(bad)
    with pytest.raises(ValueError, match="same length"):
        compare([1.0, 2.0, 3.0], ["a", "b"])
