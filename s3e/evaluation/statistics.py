"""Intervals, tests and corrections for tables and figures (specification 6.9, "Statistics").

Two arms are compared image by image and seed by seed. `paired_bootstrap` resamples the images (of GoPro: the videos,
whose frames are no independent images) and, with more than one training seed, the seeds, independently of the images:
its interval speaks of new images *and* new trainings. Of n seeds or images n - 1 are drawn, which keeps the variance
between few of them unbiased (the rescaling bootstrap of Rao and Wu, 1988). Percentiles of few seeds are still too close
together, so `paired_interval` takes the wider of the bootstrap and of t intervals over the means of seeds and of images
or videos. Simulated with 3 seeds (200 images of deviation 0.28 dB, seeds of 0 to 0.15 dB) the bootstrap alone covers
the truth in 80 to 99 % of cases, less the more seeds differ, the wider one in 94 to 99 % (tests/test_statistics.py).
With one seed every interval is silent about training: tables must say so.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

CHUNK_CELLS = 4_000_000  # resampled means held in memory at once


class Interval(NamedTuple):
    """Mean and ends of an interval; the ends are NaN where one image or one video says nothing about others."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """An interval of paired differences and two p-values of "no difference" (see `compare`)."""

    mean: float
    low: float
    high: float
    p_interval: float
    p_wilcoxon: float


def paired_bootstrap(
    differences: np.ndarray,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    clusters: Sequence[str] | None = None,
) -> Interval:
    """Mean and percentile interval of paired differences, float (..., seeds, images) or (images,).

    Row s, column i is arm A minus arm B at seed s on image i; leading axes hold tables of their own, for which the
    fields of the result are arrays. `clusters`: the video of each image. The same input and `seed` give the same
    interval. Raises `ValueError` on other shapes, on values that are not finite, and on senseless settings.
    """
    sums, sizes = _by_cluster(_table(differences), clusters)
    means = _resampled_means(sums, sizes, _checked(resamples, level), seed)
    return _percentiles(sums, sizes, means, level)


def paired_interval(
    differences: np.ndarray,
    clusters: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The wider of `paired_bootstrap` and of the t intervals over the means of seeds and of images or videos."""
    return Interval(*compare(differences, clusters, resamples, seed, level)[:3])


def compare(
    differences: np.ndarray,
    clusters: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """`paired_interval`, and how surprising the differences would be if the arms did not differ.

    `p_interval` belongs to the interval: below 1 - level where the interval leaves out zero. `p_wilcoxon`: signed ranks
    of the images' (videos') means over seeds (Wilcoxon, 1945), which speaks of these trainings alone.
    """
    sums, sizes = _by_cluster(_table(differences), clusters)
    means = _resampled_means(sums, sizes, _checked(resamples, level), seed)
    mean, low, high = _percentiles(sums, sizes, means, level)
    more = len(means) + 1
    p = 2 * np.minimum((means <= 0).sum(0) + 1, (means >= 0).sum(0) + 1) / more
    for error, freedom in _errors(sums, sizes):
        half = stats.t.ppf((1 + level) / 2, freedom) * error
        low, high = np.minimum(low, mean - half), np.maximum(high, mean + half)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = np.fmax(p, 2 * stats.t.sf(np.abs(mean) / error, freedom))
    known = sums.shape[-1] > 1
    p = np.where(known, np.minimum(p, 1), 1.0)
    return Comparison(
        *(item[()] for item in (mean, low, high, p, _wilcoxon(sums.mean(-2) / sizes)))
    )


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values of a family of comparisons, corrected for their number (Holm, 1979); same order, at most 1."""
    values = np.asarray(p_values, float)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(raised, 1)
    return corrected


def share_of_gap(gain: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Differences whose mean is mean(gain) / mean(gap) and whose interval is that of the ratio; both (seeds, images).

    Each is the ratio plus what it does to the ratio (the delta method), so that `paired_interval` applies; good while
    the error of the gap is small beside the gap, as it is where the interval of the gap stays far from zero.
    """
    whole = gap.mean()
    ratio = gain.mean() / whole
    return ratio + (gain - ratio * gap) / whole


def proportion_interval(shares: Sequence[float], trials: int, level: float = 0.95) -> Interval:
    """Mean and interval of a share that each seed measured on the same `trials` photos.

    The wider of Wilson's score interval and, with several seeds, the t interval over their shares, cut to 0..1.
    """
    mean = float(np.mean(shares))
    wilson = stats.binomtest(round(mean * trials), trials).proportion_ci(level, method="wilson")
    low, high = min(wilson.low, mean), max(wilson.high, mean)
    if len(shares) > 1:
        half = stats.t.ppf((1 + level) / 2, len(shares) - 1) * stats.sem(shares)
        low, high = min(low, mean - half), max(high, mean + half)
    return Interval(mean, max(0.0, float(low)), min(1.0, float(high)))


def _table(values: np.ndarray) -> np.ndarray:
    table = np.atleast_2d(np.asarray(values, float))
    if table.size == 0 or not np.isfinite(table).all():
        raise ValueError(
            "Bootstrap: values must be a finite, non-empty array (..., seeds, images) or (images,)."
        )
    return table


def _checked(resamples: int, level: float) -> int:
    if resamples < 1 or not 0 < level < 1:
        raise ValueError("Bootstrap: need resamples >= 1 and 0 < level < 1.")
    return resamples


def _by_cluster(table: np.ndarray, clusters: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the images of each cluster (..., seeds, clusters), and its number of images; alone: one image each."""
    if clusters is None:
        return table, np.ones(table.shape[-1])
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    if len(member) != table.shape[-1]:
        raise ValueError(f"Bootstrap: {len(member)} cluster labels for {table.shape[-1]} images.")
    belongs = np.eye(len(names))[member]  # images x clusters
    return table @ belongs, belongs.sum(0)


@lru_cache(maxsize=4)  # the same draws serve every comparison of a study
def _draws(units: int, resamples: int, seed: int) -> np.ndarray:
    """How often each unit is drawn: uint8 (resamples, units); of n units n - 1 are drawn, of one itself."""
    generator = np.random.default_rng([seed, units])
    return generator.multinomial(max(1, units - 1), np.full(units, 1 / units), resamples).astype(
        np.uint8
    )


def _resampled_means(sums: np.ndarray, sizes: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of bootstrap tables (resamples, ...): counts times the tables, so that no table is copied."""
    *stack, seeds, units = sums.shape
    flat = sums.reshape(-1, units).T  # units x (tables x seeds)
    drawn, chosen = _draws(units, resamples, seed), _draws(seeds, resamples, seed + 1)
    step = max(1, CHUNK_CELLS // max(units, flat.shape[1]))
    means = []
    for start in range(0, resamples, step):
        counts = drawn[start : start + step].astype(float)
        weights = chosen[start : start + step] / max(1, seeds - 1)
        by_seed = (counts @ flat / (counts @ sizes)[:, None]).reshape(len(counts), -1, seeds)
        means.append(np.einsum("rts,rs->rt", by_seed, weights))
    return np.concatenate(means).reshape(resamples, *stack)


def _percentiles(sums: np.ndarray, sizes: np.ndarray, means: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if len(sizes) < 2:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    return Interval(*(np.asarray(item)[()] for item in (_mean(sums, sizes), low, high)))


def _mean(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return sums.mean(-2).sum(-1) / sizes.sum()


def _errors(sums: np.ndarray, sizes: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Standard error and degrees of freedom of the mean as told by its spread over seeds, and over images or videos."""
    seeds, units = sums.shape[-2:]
    found = []
    if seeds > 1:
        found.append((stats.sem(sums.sum(-1) / sizes.sum(), axis=-1), seeds - 1))
    if units > 1:
        residual = sums.mean(-2) - _mean(sums, sizes)[..., None] * sizes
        without = residual / (
            sizes.sum() - sizes
        )  # the mean's move when one is left out (jackknife): lengths differ
        found.append((np.sqrt((without**2).sum(-1) * (units - 1) / units), units - 1))
    return found


def _wilcoxon(means: np.ndarray) -> np.ndarray:
    """Two-sided p-values of the signed-rank test over the last axis, exact up to 50; 1 where nothing differs."""
    same = (means == 0).all(-1)
    filled = np.where(same[..., None], np.arange(1, means.shape[-1] + 1), means)
    method = "exact" if means.shape[-1] <= 50 else "approx"
    return np.where(same, 1.0, stats.wilcoxon(filled, axis=-1, method=method).pvalue)
