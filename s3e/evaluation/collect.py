"""Gather what the training notebooks wrote into tidy frames: one row a fact, intervals over images and seeds.

Frames share the columns `mean low high seeds images`: the mean over images and seeds and its 95 % bootstrap interval
(`s3e.evaluation.statistics`). Specification 6.9, "Statistics".
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from s3e.evaluation.caption import METRICS as CAPTION_METRICS
from s3e.evaluation.caption import score_captions
from s3e.evaluation.runs import describe
from s3e.evaluation.statistics import paired_bootstrap
from s3e.paths import S3EError, read_json
from s3e.seeds import rng

METRICS = ("psnr", "ssim")
NODE_MEASURES = ("leaf_accuracy", "null_recall", "relation_accuracy", "root_accuracy")
SEVERITIES = ("light", "moderate", "released", "severe")  # photos have all but released, pairs the last two
REFERENCES = ("blurred", "baseline", "no_semantics_loss", "shuffled")
RANDOM, HUMAN = "random training caption", "human"
PROTOCOLS = ("all", "other")  # references of an image that count


def severities(frame: pd.DataFrame) -> list[str]:
    """The severities that a frame holds, mildest first."""
    return [name for name in SEVERITIES if name in set(frame.severity)]


def _read_all(paths: Iterable[Path], name: str) -> pd.DataFrame:
    """`name` of every run that has it, stacked, with the columns stage, variant and seed in front."""
    frames = []
    for run in map(describe, paths):
        if (run.path / name).exists():
            frame = pd.read_csv(run.path / name, dtype={"id": str})
            for place, column in enumerate(("stage", "variant", "seed")):
                frame.insert(place, f"run_{column}", getattr(run, column))
            frames.append(frame)
    if not frames:
        raise S3EError(f"none of the chosen runs has a {name}: run notebooks 03, 05 and 06 first.")
    return pd.concat(frames, ignore_index=True)


def read_scores(paths: Iterable[Path]) -> pd.DataFrame:
    """Per-image scores of the deblurring runs: variant, seed, split, severity, id, psnr (dB), ssim and the input's."""
    frame = _read_all(paths, "scores.csv").rename(columns={"run_variant": "variant", "run_seed": "seed"})
    return frame.dropna(subset=["psnr"]) if "psnr" in frame else frame.iloc[:0]


def _matrix(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Seeds x images; every seed must have scored every image."""
    table = frame.pivot(index="seed", columns="id", values=column)
    if table.isna().any(axis=None):
        names = ", ".join(sorted(set(frame.variant)))
        raise S3EError(f"the runs of '{names}' did not score the same images: run them again with one --data.")
    return table


def _interval(values: pd.DataFrame, resamples: int) -> dict[str, float]:
    mean, low, high = paired_bootstrap(values.to_numpy(), resamples=resamples)
    return {"mean": mean, "low": low, "high": high, "seeds": len(values), "images": values.shape[1]}


def _cells(scores: pd.DataFrame) -> Iterable[tuple[dict[str, str], pd.DataFrame]]:
    for (split, severity), part in scores.groupby(["split", "severity"], sort=True):
        yield {"split": split, "severity": severity}, part


def image_scores(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Mean PSNR (dB) and SSIM: split, severity, variant (also "blurred", the input), metric, mean, low, high, ..."""
    rows = []
    for cell, part in _cells(scores):
        inputs = part.drop_duplicates("id").assign(seed=0)
        for metric in METRICS:
            tables = {"blurred": _matrix(inputs, f"{metric}_blurred")}
            tables |= {variant: _matrix(own, metric) for variant, own in part.groupby("variant")}
            for variant, table in tables.items():
                rows.append({**cell, "variant": variant, "metric": metric, **_interval(table, resamples)})
    return pd.DataFrame(rows)


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
        raise S3EError(f"'{variant}' and '{reference}' did not score the same images: run them again with one --data.")
    return gain


def _comparisons(part: pd.DataFrame, metrics: Iterable[str] = METRICS) -> Iterable[tuple[str, str, str, pd.DataFrame]]:
    for variant in sorted(set(part.variant)):
        for reference in REFERENCES if variant == "full" else REFERENCES[:2]:
            for metric in metrics:
                gain = _gain(part, variant, reference, metric)
                if gain is not None:
                    yield variant, reference, metric, gain


def differences(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Paired differences per image to the input, the baseline and (for `full`) its controls, with intervals."""
    rows = []
    for cell, part in _cells(scores):
        for variant, reference, metric, gain in _comparisons(part):
            names = {"variant": variant, "reference": reference, "metric": metric}
            rows.append({**cell, **names, **_interval(gain, resamples)})
    return pd.DataFrame(rows)


def _thirds(part: pd.DataFrame) -> Iterable[tuple[dict[str, float], list[str]]]:
    """Each third's number and ends (dB) with its image ids; worst-hurt images first, ties in order of the ids."""
    quality = part.drop_duplicates("id").sort_values(["psnr_blurred", "id"]).set_index("id").psnr_blurred
    for number, places in enumerate(np.array_split(np.arange(len(quality)), 3), 1):
        if len(places):
            third = quality.iloc[places]
            yield {"bin": number, "input_low": third.min(), "input_high": third.max()}, list(third.index)


def bins(scores: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """`differences` in PSNR per third of the images, sorted by the input's PSNR: bin 1 is the worst-hurt third.

    `input_low` and `input_high` are the bin's ends in dB.
    """
    rows = []
    for cell, part in _cells(scores):
        thirds = list(_thirds(part))
        for variant, reference, metric, gain in _comparisons(part, ("psnr",)):
            for ends, ids in thirds:
                names = {"variant": variant, "reference": reference, "metric": metric}
                rows.append({**cell, **ends, **names, **_interval(gain[ids], resamples)})
    return pd.DataFrame(rows)


def read_captions(paths: Iterable[Path]) -> pd.DataFrame:
    """Every caption set: system, input, split, seed, captions (dict id -> text)."""
    rows = []
    for run in map(describe, paths):
        if (run.path / "captions.json").exists():
            rows += [{**item, "seed": run.seed} for item in read_json(run.path / "captions.json")]
    frame = pd.DataFrame(rows, columns=["system", "input", "split", "seed", "captions"])
    twice = frame[frame.duplicated(["system", "input", "split", "seed"])]
    if len(twice):
        raise S3EError(f"two runs call their captions '{twice.system.iloc[0]}': give each system a name of its own.")
    return frame


def _with_controls(captions: pd.DataFrame, references: Mapping[str, Any], training: list[str]) -> pd.DataFrame:
    """Add the row of random training captions (the floor) and of one human against the others (a landmark)."""
    rows = []
    for split, texts in references.items():
        lots = {name: rng("random caption", split, name).integers(len(training)) for name in sorted(texts)}
        draw = {name: training[int(lot)] for name, lot in lots.items()}
        rows.append({"system": RANDOM, "input": "none", "split": split, "seed": 0, "captions": draw})
        first = {name: item[0] for name, item in texts.items()}
        rows.append({"system": HUMAN, "input": "sharp", "split": split, "seed": 0, "captions": first})
    return pd.concat([captions, pd.DataFrame(rows)], ignore_index=True)


def _jobs(captions: pd.DataFrame, references: Mapping[str, Any]) -> tuple[list[dict], dict, dict]:
    """One job per caption set and protocol, under ids that keep splits and protocols apart in one scoring call."""
    jobs, texts, systems = [], {}, {}
    for row in captions.to_dict("records"):
        for protocol in PROTOCOLS[row["system"] == HUMAN :]:
            own = {key: list(said)[protocol == "other" :] for key, said in references[row["split"]].items()}
            own = {key: said for key, said in own.items() if said}
            if own:
                name = {key: f"{row['split']}/{protocol}/{key}" for key in own}
                texts.update({name[key]: said for key, said in own.items()})
                systems[str(len(jobs))] = {name[key]: row["captions"][key] for key in own}
                jobs.append({**row, "references": protocol})
    return jobs, texts, systems


def caption_scores(
    captions: pd.DataFrame, references: Mapping[str, Mapping[str, list[str]]], training: list[str]
) -> pd.DataFrame:
    """The seven caption metrics (fractions; CIDEr in 0..10) per split, system and input: mean over seeds.

    `references`: split -> id -> captions; `training`: captions to draw the random row from. Column `references`: "all"
    captions of an image, or "other" = all but the first, the protocol under which the first human caption competes with
    every system. `CIDEr_low`, `CIDEr_high`: the worst and best seed. A missing metric could not run; `reason` says why.
    """
    jobs, texts, systems = _jobs(_with_controls(captions, references, training), references)
    scored = score_captions(texts, systems)
    frame = pd.DataFrame([{**job, **scored[str(number)]} for number, job in enumerate(jobs)])
    frame[list(CAPTION_METRICS)] = frame[list(CAPTION_METRICS)].astype(float)
    groups = frame.groupby(["split", "references", "system", "input"], sort=False)
    spread = groups["CIDEr"].agg(CIDEr_low="min", CIDEr_high="max")
    about = groups.agg(seeds=("seed", "nunique"), images=("images", "first"), reason=("reason", "first"))
    return groups[list(CAPTION_METRICS)].mean().join(spread).join(about).reset_index()


def node_accuracy(paths: Iterable[Path]) -> pd.DataFrame:
    """Accuracy of the tree's classifiers (fractions) before (03) and after (05, 06) co-training; low, high: seeds."""
    frame = _read_all(paths, "nodes.csv")
    frame["when"] = np.where(frame.run_stage.str.startswith("03"), "before", "after")
    frame["variant"] = frame.run_variant.where(frame.run_variant != "", "S3-tree alone")
    keys = ["split", "input", "when", "variant", "system"]
    tall = frame.melt([*keys, "run_seed", "n"], list(NODE_MEASURES), "measure", "value").dropna(subset=["value"])
    group = tall.groupby([*keys, "measure"], sort=False)
    return group.agg(
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        seeds=("run_seed", "nunique"),
        n=("n", "first"),
    ).reset_index()


def costs(paths: Iterable[Path]) -> pd.DataFrame:
    """Parameters and milliseconds an update of every deblurring run: variant, seed, and the fields of cost.json."""
    runs = [run for run in map(describe, paths) if (run.path / "cost.json").exists()]
    rows = [{"variant": run.variant, "seed": run.seed, **read_json(run.path / "cost.json")} for run in runs]
    names = ["parameters_generator", "parameters_semantics", "milliseconds_per_update"]
    return pd.DataFrame(rows, columns=["variant", "seed", *names])


def read_logs(paths: Iterable[Path]) -> pd.DataFrame:
    """Training curves: training (from `log_<training>.csv`), variant, seed, step, term, value."""
    frames = []
    for run in map(describe, paths):
        for path in sorted(run.path.glob("log_*.csv")):
            tall = pd.read_csv(path).melt("step", var_name="term", value_name="value").dropna(subset=["value"])
            frames.append(tall.assign(training=path.stem[4:], variant=run.variant, seed=run.seed))
    empty = pd.DataFrame(columns=["step", "term", "value", "training", "variant", "seed"])
    return pd.concat(frames, ignore_index=True) if frames else empty


def read_samples(path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The sample pictures of a run (uint8 n x S x S x 3 by name, attention n x 7 x h x w) and what was said of them."""
    with np.load(path / "samples.npz") as arrays:
        return dict(arrays), read_json(path / "samples.json")


def severity_samples(
    arms: Mapping[str, Path], trained: str, count: int = 2
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """For figure 5: `count` frames under each severity, blurred and restored by each arm; sharp; the rows' severities.

    `arms`: variant -> folder of a run on pairs; `trained`: the severity of its samples "blurred" and "restored".
    """
    samples = {name: read_samples(path)[0] for name, path in arms.items()}
    some = next(iter(samples.values()))
    names = [name for name in SEVERITIES if name == trained or f"blurred_{name}" in some]

    def stacked(arrays: dict[str, np.ndarray], kind: str) -> np.ndarray:
        parts = [arrays[kind if name == trained else f"{kind}_{name}"][:count] for name in names]
        return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])

    columns = {"blurred": stacked(some, "blurred")} | {
        name: stacked(item, "restored") for name, item in samples.items()
    }
    sharp = some["sharp"][:count]
    return columns, np.repeat(sharp, len(names), axis=0), names * len(sharp)


def summary(images: pd.DataFrame, differences: pd.DataFrame, captions: pd.DataFrame | None = None) -> dict[str, float]:
    """The study in flat numbers (for `metrics.json`): PSNR of every arm, paired gains in dB, and CIDEr."""
    psnr = images[images.metric == "psnr"]
    numbers = {
        f"{row['split']}_{row['severity']}_{row['variant']}_psnr": row["mean"] for row in psnr.to_dict("records")
    }
    for row in differences[differences.metric == "psnr"].to_dict("records"):
        numbers[f"{row['split']}_{row['severity']}_{row['variant']}_over_{row['reference']}"] = row["mean"]
    for row in [] if captions is None else captions[captions.references == "all"].to_dict("records"):
        system = re.sub(r"\W+", "_", row["system"])
        numbers[f"{row['split']}_{system}_{row['input']}_cider"] = row["CIDEr"]
    return numbers
