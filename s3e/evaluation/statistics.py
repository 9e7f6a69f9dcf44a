"""Intervals, tests and corrections for tables and figures (specification 6.9, "Statistics").

Two variants are compared image by image and seed by seed. `crossed_bootstrap` resamples the images
(of GoPro: the videos, whose frames are no independent images) and, with more than one training
seed, the seeds, independently of the images: it speaks of new images *and* new trainings. Of n
seeds or images n - 1 are drawn, which keeps the variance between few of them unbiased (the
rescaling bootstrap of Rao and Wu, 1988). Percentiles of few seeds are still too close together, so
every interval is the wider of the bootstrap's and of t intervals over the means of seeds and of
images or videos. Simulated with 3 seeds (200 images of deviation 0.28 dB, seeds of 0 to 0.15 dB)
the bootstrap alone covers the truth in 80 to 99 % of cases, less the more seeds differ, the wider
one in 94 to 99 % (tests/test_statistics.py). With one seed every interval is silent about training:
tables must say so.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy  # `scipy.stats` is loaded by its first use
from numpy import ndarray

LEVEL = 0.95
ENDS = (1 - LEVEL) / 2, (1 + LEVEL) / 2
CHUNK_CELLS = 2_000_000  # resampling counts held in memory at once


class Interval(NamedTuple):
    """Mean and ends of an interval; NaN ends where one image or video says nothing of others."""

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


def compare(
    differences: ndarray, clusters: Sequence[str] | None = None, resamples: int = 10_000
) -> Comparison:
    """Mean, 95 % interval and p-values of paired differences, float (seeds, images) or (images,).

    Row s, column i is variant A minus variant B at seed s on image i; `clusters`: the video of each
    image. `p_interval` belongs to the interval: below 0.05 where it leaves out zero. `p_wilcoxon`:
    signed ranks of the images' (videos') means over seeds (Wilcoxon, 1945), which speaks of these
    trainings alone. The same input gives the same result. Raises `ValueError` without values, and
    where one is not finite.
    """
    table = np.atleast_2d(np.asarray(differences, float))
    if not (table.size and np.isfinite(table).all()):
        raise ValueError("Bootstrap: values must be finite, and at least one.")
    units = range(table.shape[1]) if clusters is None else clusters
    member = np.unique(units, return_inverse=True)[1]  # the unit of each image: itself or its video
    sums, sizes = np.array([np.bincount(member, row) for row in table]), np.bincount(member)
    seeds, units = sums.shape
    means = crossed_bootstrap(
        lambda counts: sums @ counts.T / (counts @ sizes), seeds, units, resamples
    )
    mean, each = sums.mean(0).sum() / sizes.sum(), sums.mean(0) / sizes
    errors, p_interval = seed_error(sums.sum(1) / sizes.sum()), 1.0
    if units > 1:  # the mean's move when one is left out (jackknife): videos differ in length
        moves = (sums.mean(0) - mean * sizes) / (sizes.sum() - sizes)
        errors.append((np.sqrt((moves**2).sum() * (units - 1) / units), units - 1))
        p_interval = 2 * (min((means <= 0).sum(), (means >= 0).sum()) + 1) / (resamples + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            tails = [2 * scipy.stats.t.sf(abs(mean) / error, freedom) for error, freedom in errors]
        p_interval = min(1.0, float(np.fmax.reduce([p_interval, *tails])))
    p_wilcoxon = 1.0  # exact up to 50 images; 1 where nothing differs
    if each.any():
        method = "exact" if units <= 50 else "approx"
        p_wilcoxon = float(scipy.stats.wilcoxon(each, method=method).pvalue)
    interval = widest(mean, *percentiles(means, units), errors)
    return Comparison(*interval, p_interval, p_wilcoxon)


def crossed_bootstrap(
    measure: Callable[[ndarray], ndarray], seeds: int, units: int, resamples: int
) -> ndarray:
    """Means over resampled seeds of what `measure` finds on resampled units: (..., resamples).

    `measure`: how often each unit (image or video) is drawn (resamples, units) -> values (...,
    seeds, resamples).
    """
    drawn = draws(units, resamples, 0)
    chunks = np.array_split(drawn, -(-drawn.size // CHUNK_CELLS))
    parts = [measure(counts.astype(float)) for counts in chunks]
    weights = draws(seeds, resamples, 1).T / max(1, seeds - 1)
    return (np.concatenate(parts, axis=-1) * weights).sum(-2)


@lru_cache(maxsize=4)  # the same draws serve every comparison of a study
def draws(units: int, resamples: int, seed: int) -> ndarray:
    """How often each unit is drawn, uint8 (resamples, units): n - 1 of n units, or the one."""
    generator = np.random.default_rng([seed, units])
    counts = generator.multinomial(max(1, units - 1), np.full(units, 1 / units), resamples)
    return counts.astype(np.uint8)


def percentiles(means: ndarray, units: int) -> tuple[float, float]:
    """Ends of the bootstrap's interval; NaN for one unit."""
    return tuple(np.quantile(means, ENDS)) if units > 1 else (np.nan, np.nan)


def widest(mean: float, low: float, high: float, errors: Iterable[tuple[float, int]]) -> Interval:
    """The wider of an interval and of t intervals by standard errors and degrees of freedom."""
    for error, freedom in errors:
        half = scipy.stats.t.ppf(ENDS[1], freedom) * error
        low, high = min(low, mean - half), max(high, mean + half)
    return Interval(float(mean), float(low), float(high))


def seed_error(values: Sequence[float]) -> list[tuple[float, int]]:
    """Standard error of the seeds' mean and its degrees of freedom; empty for one seed."""
    return [(scipy.stats.sem(values), len(values) - 1)] if len(values) > 1 else []


def holm(p_values: pd.Series) -> pd.Series:
    """p-values of a family, corrected for their number (Holm, 1979): same order, at most 1."""
    ranked = p_values.sort_values(kind="stable") * np.arange(len(p_values), 0, -1)
    return ranked.cummax().clip(upper=1)[p_values.index]


def proportion_interval(shares: Sequence[float], trials: int) -> Interval:
    """Mean and interval of a share that each seed measured on the same `trials` images.

    The wider of Wilson's score interval and, of several seeds, their t interval, cut to 0..1.
    """
    mean = float(np.mean(shares))
    wilson = scipy.stats.binomtest(round(mean * trials), trials).proportion_ci(LEVEL, "wilson")
    ends = min(wilson.low, mean), max(wilson.high, mean)
    _, low, high = widest(mean, *ends, seed_error(shares))
    return Interval(mean, max(0.0, low), min(1.0, high))
