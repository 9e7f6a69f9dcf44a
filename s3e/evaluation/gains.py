"""What each variant gains per image: means, paired differences, share of the gap closed.

`scores` is always the long frame of `collect.read_scores`; a table is one split, severity and
metric of it, (variant, seed) x (id, video). Results share the columns `mean low high seeds images
clusters`: the mean over images and seeds, its 95 % interval (`s3e.evaluation.statistics.compare`),
and how many independent units stand behind it: images, or the videos of pairs. Specification 6.9,
"Statistics".
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from s3e.evaluation.collect import SUSPECTS, read
from s3e.evaluation.statistics import compare, holm, share_of_gap
from s3e.utils import S3EError

UNTRAINED = ("blurred", "wiener", "richardson_lucy")  # variants without a training
ORACLES = ("oracle", "oracle_silhouette", "oracle_map")  # know what no deblurrer can
PARTS = ("pretrained_only", "vector_nodes", "flat_spatial", "frozen")  # `full` without one part
REFERENCES = {  # beside input and baseline
    "full": ("no_semantics_loss", "shuffled", *PARTS),
    "no_semantics_loss": ("shuffled",),
    "oracle_map": ("oracle_silhouette",),
}
LEAKAGE_PAIRS = (("full", "baseline"), ("full", "no_semantics_loss"))
TEXTURE_PAIRS = (
    *LEAKAGE_PAIRS,
    ("oracle_map", "baseline"),
    ("oracle_map", "oracle_silhouette"),
)
CELL = ["split", "severity", "metric"]
ALPHA = 0.05
P_VALUES = ["p_interval", "p_wilcoxon"]
ONLY = "all others (on the suspected alone)"
Tables = Iterator[tuple[dict[str, str], pd.DataFrame]]


def image_scores(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Mean PSNR (dB) and SSIM: split, severity, metric, variant, mean, low, high, ..."""
    rows = []
    for cell, table in _tables(scores):
        for variant in table.index.unique("variant"):
            own = table.loc[variant].dropna(axis=1, how="all")  # the classical see some images only
            rows.append(_row(cell | {"variant": variant}, own, resamples))
    return pd.DataFrame(rows).drop(columns=P_VALUES)


def differences(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Paired differences per image to the input, the baseline and controls, with intervals.

    `p_interval`, `p_wilcoxon`: see `statistics.compare`; `p_holm`: the larger of both after Holm's
    correction over its `family`, the comparisons of one split, severity and metric that ask the
    same: "full" (against the baseline and its controls), "parts" (`full` against itself without a
    part), "variants" (the others), "oracles", "input". One seed has no `p_holm`: no claim.
    """
    frame = pd.DataFrame(
        _row(cell | pair, gain, resamples)
        for cell, table in _tables(scores)
        for pair, gain in _gains(table)
    )
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


def bins(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """`differences` in PSNR per third of the images by the input's PSNR: bin 1 is hurt worst.

    `input_low` and `input_high` are the bin's ends in dB; p-values are not corrected.
    """
    rows = []
    for cell, table in _tables(scores[scores.metric == "psnr"]):
        quality = table.loc["blurred"].iloc[0].sort_values(kind="stable")
        for number, third in enumerate(np.array_split(np.arange(len(quality)), 3), 1):
            own = quality.iloc[third]
            ends = {"bin": number, "input_low": own.min(), "input_high": own.max()}
            for pair, gain in _gains(table[own.index]):
                rows.append(_row(cell | pair | ends, gain, resamples))
    return pd.DataFrame(rows)


def by_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """Each seed's mean difference: split, severity, metric, variant, reference, seed, mean."""
    return pd.DataFrame(
        {**cell, **pair, "seed": seed, "mean": mean}
        for cell, table in _tables(scores)
        for pair, gain in _gains(table)
        for seed, mean in gain.mean(axis=1).items()
    )


def closing(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Share of the PSNR gap from baseline to true label maps that each variant closes.

    Empty where the data have no label maps; no rows where the gap's interval reaches zero.
    """
    rows = []
    for cell, table in _tables(scores[scores.metric == "psnr"]):
        known = {p["variant"]: g for p, g in _gains(table) if p["reference"] == "baseline"}
        gap = known.pop("oracle_map", None)
        if gap is None or not _row(cell, gap, resamples)["low"] > 0:
            continue
        for variant, gain in known.items():
            shared = gain.index.intersection(gap.index)
            if len(shared):
                share = share_of_gap(gain.loc[shared], gap.loc[shared])
                rows.append(_row(cell | {"variant": variant}, share, resamples))
    return pd.DataFrame(rows).drop(columns=P_VALUES, errors="ignore").assign(metric="share")


def closing_by_step(paths: Iterable[Path]) -> pd.DataFrame:
    """PSNR gained over the baseline during co-training: seed, step, variant, gain (dB).

    From `validation_cotrain.csv` (step, score), which runs have that were validated on the way.
    """
    logs = read(paths, "validation_cotrain.csv")
    if logs.empty or "baseline" not in set(logs.variant):
        return pd.DataFrame()
    wide = logs.pivot(index=["seed", "step"], columns="variant", values="score")
    gains = wide.sub(wide.pop("baseline"), axis=0)
    return gains.stack().dropna().rename("gain").reset_index()


def texture_control(category: pd.DataFrame, random: pd.DataFrame) -> pd.DataFrame:
    """The decisive `differences` of two studies, with the column texture: "category" or "random".

    Where the texture does not follow from the category, semantics have little to say: a gain that
    stays is owed to other things.
    """
    both = [category.assign(texture="category"), random.assign(texture="random")]
    return _only(pd.concat(both), TEXTURE_PAIRS)


def without_suspects(
    scores: pd.DataFrame, found: pd.DataFrame, severity: str, resamples: int = 2000
) -> pd.DataFrame:
    """`LEAKAGE_PAIRS` in test PSNR of all images, without suspects, and on them alone.

    `found`: `collect.leakage_suspects`. Columns as there, and `left_out`, `photos`.
    """
    test = scores.query("split == 'test' and severity == @severity and metric == 'psnr'")
    out = {"nothing": [], **{name: found.id[found[name]] for name in SUSPECTS}}
    out["any of these"] = found.id[found[list(SUSPECTS)].any(axis=1)]
    out[ONLY] = found.id[~found.id.isin(out["any of these"])]
    frames = []
    for name, ids in out.items():
        left = test[~test.id.isin(ids)]
        if left.id.nunique() > 1:
            own = _only(differences(left, resamples), LEAKAGE_PAIRS)
            frames.append(own.assign(left_out=name, photos=len(ids)))
    return pd.concat(frames, ignore_index=True)


def _only(frame: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """The differences of these (variant, reference)."""
    found = pd.MultiIndex.from_frame(frame[["variant", "reference"]]).isin(pairs)
    return frame[found].reset_index(drop=True)


def _tables(scores: pd.DataFrame) -> Tables:
    """Split, severity and metric, and the table of their values, (variant, seed) x (id, video)."""
    for cell, part in scores.groupby(CELL):
        rows, columns = ["variant", "seed"], ["id", "video"]
        table = part.pivot(index=rows, columns=columns, values="value")
        yield dict(zip(CELL, cell, strict=True)), table


def _gains(table: pd.DataFrame) -> Tables:
    """Variant, reference and their differences, seeds x images, of all comparisons asked for."""
    names = table.index.unique("variant")
    for variant in names.drop(list(UNTRAINED), errors="ignore"):
        for reference in ("blurred", "baseline", *REFERENCES.get(variant, ())):
            if reference in names and reference != variant:
                other = table.loc[reference]
                other = other.iloc[0] if reference in UNTRAINED else other
                gain = (table.loc[variant] - other).dropna(how="all")
                if len(gain):
                    yield {"variant": variant, "reference": reference}, gain


def _row(labels: dict[str, Any], values: pd.DataFrame, resamples: int) -> dict[str, Any]:
    """What `compare` finds in values seeds x (id, video), and how much stands behind it."""
    if values.isna().any(axis=None):
        names = ", ".join(map(str, labels.values()))
        raise S3EError(f"{names}: not all saw the same images; run them again with one --data.")
    videos = values.columns.get_level_values("video")
    clusters = None if videos.is_unique else videos.to_numpy()
    counts = {"seeds": len(values), "images": values.shape[1], "clusters": videos.nunique()}
    return labels | compare(values.to_numpy(), clusters, resamples)._asdict() | counts
