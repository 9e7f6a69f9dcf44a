"""What each variant gains, from the per-image scores of the runs: means, paired differences, share
of the gap closed.

Frames share the columns `mean low high seeds images clusters`: the mean over images and seeds, its
95 % interval (`s3e.evaluation.statistics.compare`), and how many independent units stand behind it:
images, or the videos of pairs. Specification 6.9, "Statistics".
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from s3e.evaluation.collect import SUSPECTS, runs_with
from s3e.evaluation.statistics import compare, holm, share_of_gap
from s3e.utils import S3EError

METRICS = ("psnr", "ssim")
UNTRAINED = ("blurred", "wiener", "richardson_lucy")  # rows without a training
ORACLES = (
    "oracle",
    "oracle_silhouette",
    "oracle_map",
)  # know what no deblurrer can: never the best
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
SMALLEST_GAP = 0.05  # dB; of a smaller gap a share is noise
ALPHA = 0.05
P_VALUES = ("p_interval", "p_wilcoxon")
ONLY = "all others (on the suspected alone)"


def image_scores(
    scores: pd.DataFrame, resamples: int = 2000, classical: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Mean PSNR (dB) and SSIM: split, severity, variant (also "blurred", the input), metric, mean,
    low, high, ...

    `classical`: scores of restorations with the true kernel (split, severity, id, variant, psnr,
    ssim). `best`: the variant of the highest mean among those of several seeds, oracles apart, if
    it differs significantly from each of them and from the input; `best_p` is the largest of its
    corrected p-values.
    """
    rows = []
    for cell, part in _cells(scores):
        inputs = part.drop_duplicates("id").assign(variant="blurred", seed=0)
        inputs = inputs.assign(psnr=inputs.psnr_blurred, ssim=inputs.ssim_blurred)
        known = part.iloc[:0] if classical is None else classical
        known = known[(known.split == cell["split"]) & (known.severity == cell["severity"])]
        frames = [inputs, known.assign(seed=0, video=known.id), part]
        ordered = pd.concat(frame.sort_values("variant", kind="stable") for frame in frames)
        for metric in METRICS:
            best = _best(part, metric, resamples)
            for name, own in ordered.groupby("variant", sort=False):
                found = _compared(_matrix(own, metric), resamples)
                labels = {**cell, "variant": name, "metric": metric}
                marks = {"best": name in best, "best_p": best.get(name, np.nan)}
                rows.append(labels | found | marks)
    return pd.DataFrame(rows).drop(columns=list(P_VALUES))


def differences(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Paired differences per image to the input, the baseline and (for `full`, `oracle_map`)
    controls, with intervals.

    `p_interval`, `p_wilcoxon`: see `statistics.compare`; `p_holm`: the larger of both after Holm's
    correction over its `family`, the comparisons of one split, severity and metric that ask the
    same: "full" (against the baseline and its controls), "parts" (`full` against itself without a
    part), "variants" (the others), "oracles", "input". One seed has no `p_holm`: no claim.
    """
    frame = pd.DataFrame(
        [labels | _compared(gain, resamples) for labels, gain, _ in _comparisons(scores)]
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
    p_values = frame[list(P_VALUES)].max(axis=1)[frame.seeds > 1]
    groups = p_values.groupby([frame[name] for name in ("split", "severity", "metric", "family")])
    return frame.assign(p_holm=groups.transform(holm) if len(p_values) else np.nan)


def significant(row: pd.Series) -> int:
    """1 or -1 where a comparison shows a difference of that sign, else 0: by `p_holm`; of one seed,
    by the interval.
    """
    different = row.p_holm < ALPHA if row.seeds > 1 else row.low > 0 or row.high < 0
    return int(np.sign(row["mean"])) if different else 0


def bins(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """`differences` in PSNR per third of the images, sorted by the input's PSNR: bin 1 is the
    worst-hurt third.

    `input_low` and `input_high` are the bin's ends in dB; p-values are not corrected.
    """
    rows = []
    for labels, gain, part in _comparisons(scores, ("psnr",)):
        quality = part.drop_duplicates("id").sort_values(["psnr_blurred", "id"])
        for number, third in enumerate(np.array_split(np.arange(len(quality)), 3), 1):
            if len(third):
                own = quality.iloc[third]
                low, high = own.psnr_blurred.min(), own.psnr_blurred.max()
                ends = {"bin": number, "input_low": low, "input_high": high}
                rows.append(labels | ends | _compared(gain[list(own.id)], resamples))
    return pd.DataFrame(rows)


def by_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """Each seed's mean difference: split, severity, variant, reference, metric, seed, mean."""
    return pd.DataFrame(
        {**labels, "seed": seed, "mean": mean}
        for labels, gain, _ in _comparisons(scores)
        for seed, mean in gain.mean(axis=1).items()
    )


def closing(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Share of the PSNR gap from baseline to true label maps that a variant closes: split,
    severity, variant, mean, ...

    Empty where the data have no label maps; no rows where the gap's interval reaches zero (nothing
    to close).
    """
    rows = []
    for cell, part in _cells(scores):
        gap = _gain(part, "oracle_map", "baseline", "psnr")
        if gap is None or not _compared(gap, resamples)["low"] > 0:
            continue
        for variant in sorted(set(part.variant) - {"baseline", "oracle_map"}):
            gain = _gain(part, variant, "baseline", "psnr")
            shared = [] if gain is None else gain.index.intersection(gap.index)
            if len(shared):
                own = gain.loc[shared]
                share = own * 0 + share_of_gap(
                    own.to_numpy(), gap.loc[shared, own.columns].to_numpy()
                )
                rows.append({**cell, "variant": variant} | _compared(share, resamples))
    return pd.DataFrame(rows).drop(columns=list(P_VALUES), errors="ignore")


def closing_by_step(paths: Iterable[Path]) -> pd.DataFrame:
    """How the gap closes during co-training, on a fixed part of validation: variant, seed, step,
    gain (dB), share.

    From `validation_cotrain.csv` (step, score: PSNR), which runs have that were validated on the
    way. Oracles have no share: they know what the others must find out.
    """
    name, columns = "validation_cotrain.csv", ["variant", "seed", "step", "gain", "share"]
    logs = [
        pd.read_csv(run.path / name).assign(variant=run.variant, seed=run.seed)
        for run in runs_with(paths, name)
    ]
    if not any("baseline" in set(log.variant) for log in logs):
        return pd.DataFrame(columns=columns)
    wide = pd.concat(logs).pivot(index=["seed", "step"], columns="variant", values="score")
    gains = wide.sub(wide.baseline, axis=0).drop(columns="baseline")
    gap = gains.get("oracle_map", pd.Series(np.nan, gains.index))
    share = gains.div(gap.where(gap > SMALLEST_GAP), axis=0)
    share[[name for name in ORACLES if name in share]] = np.nan
    tall = pd.DataFrame({"gain": gains.stack(), "share": share.stack()}).dropna(subset=["gain"])
    return tall.reset_index()[columns].sort_values(columns[:3], ignore_index=True)


def texture_control(category: pd.DataFrame, random: pd.DataFrame) -> pd.DataFrame:
    """The decisive `differences` of two studies with the column texture: that of the "category", or
    "random".

    Where the texture does not follow from the category, semantics have little to say: a gain that
    stays is owed to other things.
    """
    both = pd.concat([category.assign(texture="category"), random.assign(texture="random")])
    pairs = pd.MultiIndex.from_frame(both[["variant", "reference"]])
    return both[pairs.isin(TEXTURE_PAIRS)].reset_index(drop=True)


def without_suspects(
    scores: pd.DataFrame, found: pd.DataFrame, severity: str, resamples: int = 2000
) -> pd.DataFrame:
    """`differences` of `LEAKAGE_PAIRS` in test PSNR at one severity: of all images, without
    suspects, on them alone.

    `scores`: per-image scores of the variants; `found`: `collect.leakage_suspects`. Columns as
    there, and `left_out`, `photos`.
    """
    test = scores[(scores.split == "test") & (scores.severity == severity)]
    suspected = found[list(SUSPECTS)].any(axis=1)
    out = {"nothing": found.id.iloc[:0]} | {name: found.id[found[name]] for name in SUSPECTS}
    out |= {"any of these": found.id[suspected], ONLY: found.id[~suspected]}
    frames = []
    for name, ids in out.items():
        left = test[~test.id.isin(ids)]
        if left.id.nunique() > 1:
            frame = differences(left, resamples).query("metric == 'psnr'")
            pairs = pd.MultiIndex.from_frame(frame[["variant", "reference"]])
            frames.append(frame[pairs.isin(LEAKAGE_PAIRS)].assign(left_out=name, photos=len(ids)))
    return pd.concat(frames, ignore_index=True)


def _cells(scores: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Scores of each split and severity with the video of each frame (pairs alone are scored as
    released), else image.
    """
    paired = (scores.severity == "released").any()
    scores = scores.assign(video=scores.id.str.rpartition("/")[0] if paired else scores.id)
    for (split, severity), part in scores.groupby(["split", "severity"]):
        yield {"split": split, "severity": severity}, part


def _comparisons(
    scores: pd.DataFrame, metrics: Iterable[str] = METRICS
) -> Iterator[tuple[dict[str, str], pd.DataFrame, pd.DataFrame]]:
    """Labels, differences (seeds x images) and the scores of the cell of every comparison that is
    asked for.
    """
    for cell, part in _cells(scores):
        for variant in sorted(set(part.variant)):
            for reference in ("blurred", "baseline", *REFERENCES.get(variant, ())):
                for metric in metrics:
                    gain = _gain(part, variant, reference, metric)
                    if gain is not None:
                        labels = {"variant": variant, "reference": reference, "metric": metric}
                        yield cell | labels, gain, part


def _gain(part: pd.DataFrame, variant: str, reference: str, metric: str) -> pd.DataFrame | None:
    """`variant` - `reference`, seeds x images, on the seeds that both have; None if there is
    nothing to compare.
    """
    own, other = part[part.variant == variant], part[part.variant == reference]
    if reference == "blurred":
        return _matrix(own, metric) - _matrix(own, f"{metric}_blurred")
    shared = sorted(set(own.seed) & set(other.seed))
    if not shared or variant == reference:
        return None
    gain = _matrix(own, metric).loc[shared] - _matrix(other, metric).loc[shared]
    return _complete(gain, f"'{variant}' and '{reference}'")


def _matrix(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Seeds x images (id, video); every seed must have scored every image."""
    table = frame.pivot(index="seed", columns=["id", "video"], values=column)
    return _complete(table, f"the runs of '{', '.join(sorted(set(frame.variant)))}'")


def _complete(table: pd.DataFrame, names: str) -> pd.DataFrame:
    if table.isna().any(axis=None):
        raise S3EError(f"{names} did not score the same images: run them again with one --data.")
    return table


def _compared(table: pd.DataFrame, resamples: int) -> dict[str, float]:
    """What `compare` finds in a table seeds x images (id, video), and how much stands behind it."""
    videos = table.columns.get_level_values("video")
    clusters = None if videos.is_unique else videos.to_numpy()
    found = compare(table.to_numpy(), clusters, resamples)._asdict()
    ends = {name: found.pop(name) for name in ("mean", "low", "high")}
    counts = {"seeds": len(table), "images": table.shape[1], "clusters": videos.nunique()}
    return ends | counts | found


def _best(part: pd.DataFrame, metric: str, resamples: int) -> dict[str, float]:
    """The variant that is better than every other of several seeds and than the input, with its
    p-value; or nothing.
    """
    known = part[~part.variant.isin(ORACLES)]
    means = known.groupby("variant").agg(mean=(metric, "mean"), seeds=("seed", "nunique"))
    means = means[means.seeds > 1]["mean"].sort_values(ascending=False)
    if len(means) < 2:
        return {}
    first, *others = means.index
    gains = [_gain(known, first, other, metric) for other in (*others, "blurred")]
    if any(gain is None or len(gain) < 2 for gain in gains):
        return {}
    found = [_compared(gain, resamples) for gain in gains]
    largest = holm([max(item[name] for name in P_VALUES) for item in found]).max()
    return {first: largest} if largest < ALPHA and min(item["mean"] for item in found) > 0 else {}
