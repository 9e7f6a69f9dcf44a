"""What each variant gains per image: means and paired differences.

`scores` is always the long frame of `collect.read_scores`; a table is one split, severity and
metric of it, (variant, seed) x (id, video). Results share the columns `mean low high seeds images
clusters`: the mean over images and seeds, its 95 % interval (`s3e.evaluation.statistics.compare`),
and how many independent units stand behind it: images, or the videos of pairs. Specification 6.9,
"Statistics".
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from s3e.evaluation.statistics import compare, holm

UNTRAINED = ("blurred", "public")  # variants without a training
# know what no deblurrer can
ORACLES = ("oracle", "oracle_silhouette", "oracle_map", "oracle_caption")
PARTS = ("pretrained_only", "vector_nodes", "flat_spatial", "frozen")  # `full` without one part
REFERENCES = {  # beside input and baseline
    "full": ("no_semantics_loss", "shuffled", *PARTS),
    "no_semantics_loss": ("shuffled",),
    "oracle_map": ("oracle_silhouette",),
    "oracle_caption": ("full",),
}
TEXTURE_PAIRS = DataFrame(
    {
        "variant": ["full", "full", "oracle_map", "oracle_map"],
        "reference": ["baseline", "no_semantics_loss", "baseline", "oracle_silhouette"],
    }
)
CELL = ["split", "severity", "metric"]
ALPHA = 0.05
P_VALUES = ["p_interval", "p_wilcoxon"]
Labels = dict[str, Any]
Labelled = Iterator[tuple[Labels, DataFrame]]


def image_scores(scores: DataFrame, resamples: int = 2000) -> DataFrame:
    """Mean PSNR (dB) and SSIM: split, severity, metric, variant, mean, low, high, ..."""
    own = (
        (cell | {"variant": variant}, table.loc[variant])
        for cell, table in _tables(scores)
        for variant in table.index.unique("variant")
    )
    return _frame(own, resamples).drop(columns=P_VALUES)


def differences(scores: DataFrame, resamples: int = 2000) -> DataFrame:
    """Paired differences per image to the input, the baseline and controls, with intervals.

    `p_interval`, `p_wilcoxon`: see `statistics.compare`; `p_holm`: the larger of both after Holm's
    correction over its `family`, the comparisons of one split, severity and metric that ask the
    same: "full" (against the baseline and its controls), "parts" (`full` against itself without a
    part), "variants" (the others), "oracles", "input". One seed has no `p_holm`: no claim.
    """
    frame = _frame(_comparisons(scores), resamples)
    if frame.empty:
        return frame
    full = frame.variant == "full"
    kinds = {
        "input": frame.reference == "blurred",
        "parts": full & frame.reference.isin(PARTS),
        "full": full,
        "oracles": frame.variant.isin(ORACLES),
    }
    frame["family"] = np.select(list(kinds.values()), list(kinds), "variants")
    p_values = frame[P_VALUES].max(axis=1)[frame.seeds > 1]
    groups = p_values.groupby([frame[name] for name in (*CELL, "family")])
    return frame.assign(p_holm=groups.transform(holm) if len(p_values) else np.nan)


def significant(row: pd.Series) -> int:
    """1 or -1: a difference of that sign by `p_holm`, or of one seed by the interval; else 0."""
    different = row.p_holm < ALPHA if row.seeds > 1 else row.low > 0 or row.high < 0
    return int(np.sign(row["mean"])) if different else 0


def by_seed(scores: DataFrame) -> DataFrame:
    """Each seed's mean difference: split, severity, metric, variant, reference, seed, mean."""
    return DataFrame(
        labels | {"seed": seed, "mean": mean}
        for labels, gain in _comparisons(scores)
        for seed, mean in gain.mean(axis=1).items()
    )


def texture_control(category: DataFrame, random: DataFrame) -> DataFrame:
    """The decisive `differences` of two studies, with the column texture: "category" or "random".

    Where the texture does not follow from the category, semantics have little to say: a gain that
    stays is owed to other things.
    """
    both = [category.assign(texture="category"), random.assign(texture="random")]
    return pd.concat(both).merge(TEXTURE_PAIRS)


def _tables(scores: DataFrame) -> Labelled:
    """Split, severity and metric, and the table of their values, (variant, seed) x (id, video)."""
    for cell, part in scores.groupby(CELL):
        rows, columns = ["variant", "seed"], ["id", "video"]
        table = part.pivot(index=rows, columns=columns, values="value")
        yield dict(zip(CELL, cell, strict=True)), table


def _comparisons(scores: DataFrame) -> Labelled:
    """Cell, variant, reference and their differences, seeds x images, of all comparisons wanted."""
    for cell, table in _tables(scores):
        names = table.index.unique("variant")
        for variant in names.drop(list(UNTRAINED), errors="ignore"):
            for reference in ("blurred", "baseline", *REFERENCES.get(variant, ())):
                if reference in names and reference != variant:
                    other = table.loc[reference]
                    other = other.iloc[0] if reference in UNTRAINED else other
                    gain = (table.loc[variant] - other).dropna(how="all")
                    if len(gain):
                        yield cell | {"variant": variant, "reference": reference}, gain


def _frame(found: Iterable[tuple[Labels, DataFrame]], resamples: int) -> DataFrame:
    """What `compare` finds in values seeds x (id, video), and how much stands behind it: rows."""
    rows = []
    for labels, values in found:
        videos = values.columns.get_level_values("video")
        clusters = None if videos.is_unique else videos.to_numpy()
        interval = compare(values.to_numpy(), clusters, resamples)._asdict()
        counts = {"seeds": len(values), "images": values.shape[1], "clusters": videos.nunique()}
        rows.append(labels | interval | counts)
    return DataFrame(rows)
