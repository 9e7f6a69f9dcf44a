"""What each arm gains, from the per-image scores of the runs: means, paired differences, closed gap, falsifier.

Frames share the columns `mean low high seeds images clusters`: the mean over images and seeds, its 95 % interval
(`s3e.evaluation.statistics.paired_interval`), and how many independent units stand behind it: images, or the videos of
pairs. Specification 6.9, "Statistics".
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from s3e.evaluation.collect import SUSPECTS, describe
from s3e.evaluation.statistics import compare, holm, paired_interval, share_of_gap
from s3e.utils import S3EError

METRICS = ("psnr", "ssim")
UNTRAINED = ("blurred", "wiener", "richardson_lucy")  # rows without a training
ORACLES = (
    "oracle",
    "oracle_silhouette",
    "oracle_map",
)  # told what a deblurrer does not know: never the best
PARTS = (
    "pretrained_only",
    "vector_nodes",
    "flat_spatial",
    "frozen",
)  # `full` without one part of the method
REFERENCES = {  # beside input and baseline
    "full": ("no_semantics_loss", "shuffled", *PARTS),
    "no_semantics_loss": ("shuffled",),
    "oracle_map": ("oracle_silhouette",),
}
TEXTURE_PAIRS = (
    ("full", "baseline"), ("full", "no_semantics_loss"),
    ("oracle_map", "baseline"), ("oracle_map", "oracle_silhouette"),
)  # fmt: skip
SMALLEST_GAP = 0.05  # dB; of a smaller gap a share is noise
ALPHA = 0.05
ONLY = "all others (on the suspected alone)"
LEAKAGE_PAIRS = (("full", "baseline"), ("full", "no_semantics_loss"))


def image_scores(
    scores: pd.DataFrame, resamples: int = 2000, classical: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Mean PSNR (dB) and SSIM: split, severity, variant (also "blurred", the input), metric, mean, low, high, ...

    `classical`: scores of restorations with the true kernel (split, severity, id, variant, psnr, ssim). `best`: the arm
    of the highest mean among those of several seeds, oracles apart, if it is told from each of them and from the input;
    `best_p` is the largest of its corrected p-values.
    """
    rows = []
    for cell, part in _cells(scores):
        inputs = part.drop_duplicates("id").assign(seed=0)
        known = _of_cell(classical, cell)
        for metric in METRICS:
            tables = {"blurred": _matrix(inputs, f"{metric}_blurred")}
            tables |= {
                name: _matrix(own.assign(seed=0), metric) for name, own in known.groupby("variant")
            }
            tables |= {name: _matrix(own, metric) for name, own in part.groupby("variant")}
            marks = _best(part, metric, resamples)
            for name, table in tables.items():
                ends = paired_interval(table.to_numpy(), _videos(table), resamples)._asdict()
                best = {"best": name in marks, "best_p": marks.get(name, np.nan)}
                rows.append(
                    {**cell, "variant": name, "metric": metric, **ends, **_counts(table), **best}
                )
    return pd.DataFrame(rows)


def differences(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Paired differences per image to the input, the baseline and (for `full`, `oracle_map`) controls, with intervals.

    `p_interval`, `p_wilcoxon`: see `statistics.compare`; `p_holm`: the larger of both after Holm's correction over its
    `family`, the comparisons of one split, severity and metric that ask the same: "full" (against the baseline and its
    controls), "parts" (`full` against itself without a part), "arms" (the others), "told" (oracles), "input". One seed
    has no `p_holm`: no claim.
    """
    rows = []
    for cell, part in _cells(scores):
        for variant, reference, metric, gain in _comparisons(part):
            names = {"variant": variant, "reference": reference, "metric": metric}
            rows.append({**cell, **names, **_compared(gain, resamples)})
    frame = pd.DataFrame(rows)
    return frame.assign(family=_families(frame)).pipe(_corrected) if len(frame) else frame


def significant(row: pd.Series) -> int:
    """1 or -1 where a comparison shows a difference of that sign, else 0: by `p_holm`; of one seed, by the interval."""
    different = row.p_holm < ALPHA if row.seeds > 1 else row.low > 0 or row.high < 0
    return int(np.sign(row["mean"])) if different else 0


def bins(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """`differences` in PSNR per third of the images, sorted by the input's PSNR: bin 1 is the worst-hurt third.

    `input_low` and `input_high` are the bin's ends in dB; p-values are not corrected.
    """
    rows = []
    for cell, part in _cells(scores):
        thirds = list(_thirds(part))
        for variant, reference, metric, gain in _comparisons(part, ("psnr",)):
            for ends, ids in thirds:
                names = {"variant": variant, "reference": reference, "metric": metric}
                rows.append({**cell, **ends, **names, **_compared(gain[ids], resamples)})
    return pd.DataFrame(rows)


def by_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """Each seed's mean difference: split, severity, variant, reference, metric, seed, mean."""
    rows = []
    for cell, part in _cells(scores):
        for variant, reference, metric, gain in _comparisons(part):
            names = {"variant": variant, "reference": reference, "metric": metric}
            rows += [
                {**cell, **names, "seed": seed, "mean": mean}
                for seed, mean in gain.mean(axis=1).items()
            ]
    return pd.DataFrame(rows)


def closing(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Share of the PSNR gap from baseline to true label maps that an arm closes: split, severity, variant, mean, ...

    Empty where the data have no label maps; no rows where the gap's interval reaches zero (nothing to close).
    """
    rows = []
    for cell, part in _cells(scores):
        gap = _gain(part, "oracle_map", "baseline", "psnr")
        if gap is None or not paired_interval(gap.to_numpy(), _videos(gap), resamples).low > 0:
            continue
        for variant in sorted(set(part.variant) - {"baseline", "oracle_map"}):
            gain = _gain(part, variant, "baseline", "psnr")
            shared = [] if gain is None else sorted(set(gain.index) & set(gap.index))
            if shared:
                own, whole = gain.loc[shared], gap.loc[shared, gain.columns]
                share = share_of_gap(own.to_numpy(), whole.to_numpy())
                ends = paired_interval(share, _videos(own), resamples)._asdict()
                rows.append({**cell, "variant": variant, **ends, **_counts(own)})
    return pd.DataFrame(rows)


def closing_by_step(paths: Iterable[Path]) -> pd.DataFrame:
    """How the gap closes during co-training, on a fixed part of validation: variant, seed, step, gain (dB), share.

    From `validation_cotrain.csv` (step, score: PSNR), which runs have that were validated on the way. Oracles have no
    share: they are told what the others must find out.
    """
    runs = [run for run in map(describe, paths) if (run.path / "validation_cotrain.csv").exists()]
    logs = [
        pd.read_csv(run.path / "validation_cotrain.csv").assign(variant=run.variant, seed=run.seed)
        for run in runs
    ]
    columns = ["variant", "seed", "step", "gain", "share"]
    if not logs:
        return pd.DataFrame(columns=columns)
    wide = pd.concat(logs).pivot(index=["seed", "step"], columns="variant", values="score")
    if "baseline" not in wide:
        return pd.DataFrame(columns=columns)
    gains = wide.sub(wide.baseline, axis=0).drop(columns="baseline")
    gap = gains.get("oracle_map", pd.Series(np.nan, gains.index))
    tall = gains.stack().rename("gain").dropna().reset_index()
    gaps = tall.merge(gap.rename("gap").reset_index(), "left", on=["seed", "step"]).gap
    share = (tall.gain / gaps.where(gaps > SMALLEST_GAP)).where(~tall.variant.isin(ORACLES))
    return tall.assign(share=share)[columns].sort_values(columns[:3], ignore_index=True)


def texture_control(category: pd.DataFrame, random: pd.DataFrame) -> pd.DataFrame:
    """The decisive `differences` of two studies with the column texture: bound to categories, or drawn by lot.

    Where a category does not tell its texture, semantics have little to say: a gain that stays is owed to other things.
    """
    frames = [
        frame.assign(texture=name)
        for name, frame in (("category", category), ("random", random))
        if len(frame)
    ]
    both = pd.concat(frames, ignore_index=True)
    pairs = pd.MultiIndex.from_frame(both[["variant", "reference"]])
    return both[pairs.isin(TEXTURE_PAIRS)].reset_index(drop=True)


def _cells(scores: pd.DataFrame) -> Iterable[tuple[dict[str, str], pd.DataFrame]]:
    for (split, severity), part in scores.groupby(["split", "severity"], sort=True):
        yield (
            {"split": split, "severity": severity},
            part.assign(video=_video_names(part.id, scores)),
        )


def _video_names(ids: pd.Series, scores: pd.DataFrame) -> pd.Series:
    """The video of each frame where the scores are of pairs (those alone are scored as released), else the image."""
    return ids.str.rpartition("/")[0] if (scores.severity == "released").any() else ids


def _of_cell(classical: pd.DataFrame | None, cell: dict[str, str]) -> pd.DataFrame:
    if classical is None:
        return pd.DataFrame(columns=["variant"])
    return classical[(classical.split == cell["split"]) & (classical.severity == cell["severity"])]


def _matrix(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Seeds x images (id, video); every seed must have scored every image."""
    frame = frame if "video" in frame else frame.assign(video=frame.id)
    table = frame.pivot(index="seed", columns=["id", "video"], values=column)
    if table.isna().any(axis=None):
        names = ", ".join(sorted(set(frame.variant)))
        raise S3EError(
            f"the runs of '{names}' did not score the same images: run them again with one --data."
        )
    return table


def _videos(table: pd.DataFrame) -> np.ndarray | None:
    """The video of each column; None where each image is one of its own."""
    videos = table.columns.get_level_values("video")
    return None if videos.is_unique else videos.to_numpy()


def _counts(table: pd.DataFrame) -> dict[str, int]:
    videos = table.columns.get_level_values("video")
    return {"seeds": len(table), "images": table.shape[1], "clusters": videos.nunique()}


def _compared(gain: pd.DataFrame, resamples: int) -> dict[str, float]:
    result = compare(gain.to_numpy(), _videos(gain), resamples)._asdict()
    p_values = {name: result.pop(name) for name in ("p_interval", "p_wilcoxon")}
    return {**result, **_counts(gain), **p_values}


def _gain(part: pd.DataFrame, variant: str, reference: str, metric: str) -> pd.DataFrame | None:
    """`variant` - `reference`, seeds x images, on the seeds that both have; None if there is nothing to compare."""
    own = part[part.variant == variant]
    if reference == "blurred":
        return _matrix(own, metric) - _matrix(own, f"{metric}_blurred")
    other = part[part.variant == reference]
    shared = sorted(set(own.seed) & set(other.seed))
    if not shared or variant == reference:
        return None
    gain = _matrix(own, metric).loc[shared] - _matrix(other, metric).loc[shared]
    if gain.isna().any(axis=None):
        raise S3EError(
            f"'{variant}' and '{reference}' did not score the same images: run them again with one --data."
        )
    return gain


def _comparisons(
    part: pd.DataFrame, metrics: Iterable[str] = METRICS
) -> Iterable[tuple[str, str, str, pd.DataFrame]]:
    for variant in sorted(set(part.variant)):
        for reference in ("blurred", "baseline", *REFERENCES.get(variant, ())):
            for metric in metrics:
                gain = _gain(part, variant, reference, metric)
                if gain is not None:
                    yield variant, reference, metric, gain


def _families(frame: pd.DataFrame) -> np.ndarray:
    full = frame.variant == "full"
    parts = full & frame.reference.isin(PARTS)
    kinds = [frame.reference == "blurred", parts, full, frame.variant.isin(ORACLES)]
    return np.select(kinds, ["input", "parts", "full", "told"], "arms")


def _corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `p_holm`: the larger p-value of each claim, corrected within its family."""
    p_values = frame[["p_interval", "p_wilcoxon"]].max(axis=1)[frame.seeds > 1]
    groups = p_values.groupby([frame[name] for name in ("split", "severity", "metric", "family")])
    return frame.assign(p_holm=groups.transform(holm) if len(p_values) else np.nan)


def _best(part: pd.DataFrame, metric: str, resamples: int) -> dict[str, float]:
    """The arm that is better than every other of several seeds and than the input, with its p-value; or nothing."""
    arms = part[~part.variant.isin(ORACLES)]
    means = arms.groupby("variant").agg(mean=(metric, "mean"), seeds=("seed", "nunique"))
    means = means[means.seeds > 1]["mean"].sort_values(ascending=False)
    if len(means) < 2:
        return {}
    first, *others = means.index
    gains = [_gain(arms, first, other, metric) for other in (*others, "blurred")]
    if any(gain is None or len(gain) < 2 for gain in gains):
        return {}
    found = [_compared(gain, resamples) for gain in gains]
    largest = holm([max(item["p_interval"], item["p_wilcoxon"]) for item in found]).max()
    return {first: largest} if largest < ALPHA and min(item["mean"] for item in found) > 0 else {}


def _thirds(part: pd.DataFrame) -> Iterable[tuple[dict[str, float], list[str]]]:
    """Each third's number and ends (dB) with its image ids; worst-hurt images first, ties in order of the ids."""
    quality = (
        part.drop_duplicates("id").sort_values(["psnr_blurred", "id"]).set_index("id").psnr_blurred
    )
    for number, places in enumerate(np.array_split(np.arange(len(quality)), 3), 1):
        if len(places):
            third = quality.iloc[places]
            yield (
                {"bin": number, "input_low": third.min(), "input_high": third.max()},
                list(third.index),
            )


def without_suspects(
    scores: pd.DataFrame, found: pd.DataFrame, severity: str, resamples: int = 2000
) -> pd.DataFrame:
    """`differences` of `LEAKAGE_PAIRS` in test PSNR at one severity: of all photos, without suspects, on them alone.

    `scores`: per-image scores of the arms; `found`: `suspects`. Columns as there, and `left_out`, `photos`.
    """
    test = scores[(scores.split == "test") & (scores.severity == severity)]
    out = {"nothing": found.id.iloc[:0]} | {name: found.id[found[name]] for name in SUSPECTS}
    suspected = found[list(SUSPECTS)].any(axis=1)
    out |= {"any of these": found.id[suspected], ONLY: found.id[~suspected]}
    frames = []
    for name, ids in out.items():
        left = test[~test.id.isin(ids)]
        if left.id.nunique() > 1:
            frame = differences(left, resamples)
            asked = pd.Series(
                zip(frame.variant, frame.reference, strict=True), index=frame.index
            ).isin(LEAKAGE_PAIRS)
            frames.append(
                frame[asked & (frame.metric == "psnr")].assign(left_out=name, photos=len(ids))
            )
    return pd.concat(frames, ignore_index=True)
