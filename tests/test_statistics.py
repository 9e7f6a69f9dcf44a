"""Intervals and tests, validated by simulation: 2,000 studies at once, whose true difference is known."""

import numpy as np
import pytest
from scipy import stats

from s3e.evaluation.statistics import (
    compare,
    holm,
    paired_bootstrap,
    paired_interval,
    proportion_interval,
    share_of_gap,
)

STUDIES, IMAGES, RESAMPLES = 2_000, 200, 400
IMAGE_DEVIATION = 0.28  # dB, of paired differences as measured in studies of this suite


def studies(
    seeds: int,
    seed_deviation: float,
    effect: float = 0.0,
    shared: float = 0.5,
    count: int = STUDIES,
):
    """Differences of simulated studies: count x seeds x images; `shared`: of the images' variance, over all seeds."""
    generator = np.random.default_rng(seeds)
    same = generator.normal(0, IMAGE_DEVIATION * np.sqrt(shared), (count, 1, IMAGES))
    own = generator.normal(0, IMAGE_DEVIATION * np.sqrt(1 - shared), (count, seeds, IMAGES))
    return effect + same + own + generator.normal(0, 1, (count, seeds, 1)) * seed_deviation


def covered(interval, truth: float = 0.0) -> float:
    return np.mean((interval.low <= truth) & (interval.high >= truth))


def rejected(result) -> np.ndarray:
    return np.maximum(result.p_interval, result.p_wilcoxon) < 0.05


@pytest.mark.parametrize("seed_deviation", [0.0, 0.02, 0.05, 0.1, 0.15])
@pytest.mark.parametrize("shared", [1.0, 0.5])
def test_intervals_of_three_seeds_cover_and_nothing_is_found_where_nothing_is(
    seed_deviation, shared
):
    result = compare(studies(3, seed_deviation, shared=shared), resamples=RESAMPLES)
    assert covered(result) >= 0.93
    assert rejected(result).mean() <= 0.06


def test_a_plain_bootstrap_of_three_seeds_is_too_short():
    assert covered(paired_bootstrap(studies(3, 0.1), resamples=RESAMPLES)) < 0.88


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_other_numbers_of_seeds_cover_too(seeds):
    result = compare(studies(seeds, 0.1 * (seeds > 1)), resamples=RESAMPLES)
    assert covered(result) >= 0.93 and rejected(result).mean() <= 0.06


def test_one_seed_cannot_know_how_much_seeds_differ():
    assert covered(paired_interval(studies(1, 0.1), resamples=RESAMPLES)) < 0.6


@pytest.mark.parametrize(
    ("effect", "seed_deviation", "power"), [(0.1, 0.0, 0.99), (0.2, 0.03, 0.97), (0.4, 0.05, 0.99)]
)
def test_known_effects_are_found(effect, seed_deviation, power):
    result = compare(studies(3, seed_deviation, effect), resamples=RESAMPLES)
    assert (rejected(result) & (result.mean > 0)).mean() >= power and covered(
        result, effect
    ) >= 0.93


def test_holm_keeps_a_family_without_effects_quiet():
    families = compare(studies(3, 0.05, count=5 * STUDIES), resamples=RESAMPLES)
    p_values = np.maximum(families.p_interval, families.p_wilcoxon).reshape(-1, 5)
    assert (
        np.mean(p_values.min(1) < 0.05) > 0.1
    )  # without correction one in eight families finds something
    assert np.mean([holm(family).min() < 0.05 for family in p_values]) <= 0.06


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]


@pytest.mark.parametrize("videos", [5, 11, 30])
@pytest.mark.parametrize("within", [0.1, 0.5])
def test_frames_of_one_video_count_as_one(videos, within):
    generator = np.random.default_rng(videos)
    member = np.repeat(np.arange(videos), generator.integers(10, 60, videos))
    frames = generator.normal(0, 0.3, (STUDIES, 1, videos))[:, :, member]
    frames = frames + generator.normal(0, within, (STUDIES, 1, len(member)))
    clustered = compare(frames, [f"video {number}" for number in member], RESAMPLES)
    assert covered(clustered) >= 0.93 and rejected(clustered).mean() <= 0.06
    assert (
        covered(paired_interval(frames[:200], resamples=RESAMPLES)) < 0.7
    )  # as if frames were independent


def test_share_of_a_gap_covers_its_truth():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        hard = generator.normal(0, 0.3, (1, 200))
        gap = 1.5 + hard + generator.normal(0, 0.2, (3, 200)) + generator.normal(0, 0.05, (3, 1))
        gain = (
            0.4
            + 0.3 * hard
            + generator.normal(0, 0.2, (3, 200))
            + generator.normal(0, 0.03, (3, 1))
        )
        share = share_of_gap(gain, gap)
        assert share.mean() == pytest.approx(gain.mean() / gap.mean())
        _, low, high = paired_interval(share, resamples=RESAMPLES)
        hits += low <= 0.4 / 1.5 <= high
    assert hits / 500 >= 0.93


def test_interval_of_one_seed_is_the_normal_one():
    values = np.random.default_rng(1).normal(2, 1, 400)
    mean, low, high = paired_bootstrap(values)
    error = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - error, mean + error), abs=0.01)


def test_interval_and_p_value_say_the_same():
    result = compare(studies(3, 0.05, 0.1), resamples=2000)
    outside = (result.low > 0) | (result.high < 0)
    assert np.mean(outside == (result.p_interval < 0.05)) > 0.995


def test_with_few_seeds_the_wider_interval_counts():
    table = np.array([[-1.0], [0.0], [1.0]]) * np.ones(
        (1, 50)
    )  # no spread between images: only seeds vary
    assert paired_bootstrap(table)[1:] == (-1, 1)
    half = stats.t.ppf(0.975, 2) / np.sqrt(3)
    assert paired_interval(table)[1:] == pytest.approx((-half, half))
    images = np.random.default_rng(0).normal(0, 1, (1, 400)) * np.ones((3, 1))  # only images vary
    assert paired_interval(images)[1:] == pytest.approx(paired_interval(images[:1])[1:], abs=0.01)


def test_variance_between_seeds_is_unbiased():
    wide = paired_bootstrap(
        np.random.default_rng(0).normal(0, 1, (5, 1)) * np.ones((1, 40)), level=0.68
    )
    spread = np.random.default_rng(0).normal(0, 1, 5).std(ddof=1) / np.sqrt(5)
    assert (wide[2] - wide[1]) / 2 == pytest.approx(spread, rel=0.2)


def test_pairing_and_repetition():
    hard = np.random.default_rng(0).normal(0, 5, 200)  # images differ a lot, the arms by 0.1 only
    gain = np.random.default_rng(1).normal(0.1, 0.1, 200)
    assert paired_interval(gain).low > 0
    first, second = paired_interval(hard + gain), paired_interval(hard)
    assert first.low < second.high  # the arms' own intervals overlap
    assert paired_interval(hard) == paired_interval(hard) != paired_interval(hard, seed=1)


def test_many_tables_at_once_are_each_their_own():
    table = studies(3, 0.1, count=4)
    stacked, alone = compare(table, resamples=300), compare(table[2], resamples=300)
    assert [field[2] for field in stacked] == pytest.approx(list(alone))


def test_wilcoxon_is_that_of_the_means_over_seeds():
    table = studies(3, 0.0, 0.02, count=1)[0]
    assert compare(table).p_wilcoxon == pytest.approx(stats.wilcoxon(table.mean(0)).pvalue)
    assert compare(np.zeros((3, 9))) == (0, 0, 0, 1, 1)


def test_share_of_photos_is_wilsons_or_wider():
    known = stats.binomtest(45, 50).proportion_ci(0.95, method="wilson")
    assert proportion_interval([0.9], 50) == pytest.approx((0.9, known.low, known.high))
    wide = proportion_interval([0.7, 0.9, 0.8], 10_000)
    assert (wide.low, wide.high) == pytest.approx((0.8 - 4.3027 * 0.1 / 3**0.5, 1.0), abs=1e-3)


def test_one_image_or_one_video_has_no_interval():
    for result in (compare([0.5]), compare([[0.5, 0.7], [0.6, 0.4]], ["a", "a"])):
        assert np.isnan([result.low, result.high]).all() and result.p_interval == 1


def test_small_and_bad_input():
    assert paired_interval(np.full((3, 4), 2.0)) == (2, 2, 2)
    for bad in ([], [[]], [1.0, np.nan]):
        with pytest.raises(ValueError, match="finite, non-empty"):
            paired_interval(bad)
    with pytest.raises(ValueError, match="level"):
        paired_interval([1.0], level=95)
    with pytest.raises(ValueError, match="2 cluster labels for 3 images"):
        paired_interval([1.0, 2.0, 3.0], ["a", "b"])
