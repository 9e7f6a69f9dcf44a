"""Gather what the training notebooks wrote into tidy frames: scores, captions, node accuracy, cost, logs, samples.

`s3e.evaluation.gains` turns the per-image scores into intervals and comparisons.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from s3e.captions.tree import IGNORE, SPECIAL, tokenize
from s3e.data.corpus import Corpus, Split, consensus
from s3e.evaluation import captions as caption
from s3e.evaluation.images import DEFINITION_IMAGES
from s3e.evaluation.score import node_counts, node_row
from s3e.evaluation.statistics import proportion_interval
from s3e.utils import S3EError, read_json, rng

NODE_MEASURES = ("leaf_accuracy", "null_recall", "relation_accuracy", "root_accuracy")
SEVERITIES = (
    "light",
    "moderate",
    "released",
    "severe",
)  # photos have all but released, pairs the last two
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
    frame = _read_all(paths, "scores.csv").rename(
        columns={"run_variant": "variant", "run_seed": "seed"}
    )
    return frame.dropna(subset=["psnr"]) if "psnr" in frame else frame.iloc[:0]


def read_captions(paths: Iterable[Path]) -> pd.DataFrame:
    """Every caption set: system, input, split, seed, captions (dict id -> text)."""
    rows = []
    for run in map(describe, paths):
        if (run.path / "captions.json").exists():
            rows += [{**item, "seed": run.seed} for item in read_json(run.path / "captions.json")]
    frame = pd.DataFrame(rows, columns=["system", "input", "split", "seed", "captions"])
    twice = frame[frame.duplicated(["system", "input", "split", "seed"])]
    if len(twice):
        raise S3EError(
            f"two runs call their captions '{twice.system.iloc[0]}': give each system a name of its own."
        )
    return frame


def _with_controls(
    captions: pd.DataFrame, references: Mapping[str, Any], training: list[str]
) -> pd.DataFrame:
    """Add the row of random training captions (the floor) and of one human against the others (a landmark)."""
    rows = []
    for split, texts in references.items():
        lots = {
            name: rng("random caption", split, name).integers(len(training))
            for name in sorted(texts)
        }
        draw = {name: training[int(lot)] for name, lot in lots.items()}
        rows.append(
            {"system": RANDOM, "input": "none", "split": split, "seed": 0, "captions": draw}
        )
        first = {name: item[0] for name, item in texts.items()}
        rows.append(
            {"system": HUMAN, "input": "sharp", "split": split, "seed": 0, "captions": first}
        )
    return pd.concat([captions, pd.DataFrame(rows)], ignore_index=True)


def _jobs(captions: pd.DataFrame, references: Mapping[str, Any]) -> tuple[list[dict], dict, dict]:
    """One job per caption set and protocol, under ids that keep splits and protocols apart in one scoring call."""
    jobs, texts, systems = [], {}, {}
    for row in captions.to_dict("records"):
        for protocol in PROTOCOLS[row["system"] == HUMAN :]:
            own = {
                key: list(said)[protocol == "other" :]
                for key, said in references[row["split"]].items()
            }
            own = {key: said for key, said in own.items() if said}
            if own:
                name = {key: f"{row['split']}/{protocol}/{key}" for key in own}
                texts.update({name[key]: said for key, said in own.items()})
                systems[str(len(jobs))] = {name[key]: row["captions"][key] for key in own}
                jobs.append({**row, "references": protocol})
    return jobs, texts, systems


def caption_scores(
    captions: pd.DataFrame,
    references: Mapping[str, Mapping[str, list[str]]],
    training: list[str],
    resamples: int = 2000,
) -> pd.DataFrame:
    """The seven caption metrics (fractions; CIDEr in 0..10) per split, system and input: mean over seeds.

    `references`: split -> id -> captions; `training`: captions to draw the random row from. Column `references`: "all"
    captions of an image, or "other" = all but the first, the protocol under which the first human caption competes with
    every system. `<metric>_low`, `<metric>_high`: the 95 % interval over images and seeds. A missing metric could not
    run; `reason` says why.
    """
    jobs, texts, systems = _jobs(_with_controls(captions, references, training), references)
    found = caption.statistics(texts, systems)
    frame = pd.DataFrame(
        [{**job, "statistics": found[str(number)]} for number, job in enumerate(jobs)]
    )
    keys, rows = ["split", "references", "system", "input"], []
    for names, group in frame.groupby(keys, sort=False):
        own = list(group.statistics)
        about = {"seeds": group.seed.nunique(), "images": own[0].images, "reason": own[0].reason}
        rows.append(
            {**dict(zip(keys, names, strict=True)), **_caption_cells(own, resamples), **about}
        )
    return pd.DataFrame(rows)


def _caption_cells(own: list, resamples: int) -> dict[str, float]:
    """Mean and ends of every metric in one row; NaN where it did not run."""
    intervals = caption.intervals(own, resamples=resamples)
    ends = {metric: intervals[metric] or (np.nan,) * 3 for metric in caption.METRICS}
    means = {metric: ends[metric][0] for metric in ends}
    spread = {
        f"{metric}_{name}": ends[metric][place]
        for metric in ends
        for place, name in ((1, "low"), (2, "high"))
    }
    return {**means, **spread}


def node_accuracy(paths: Iterable[Path]) -> pd.DataFrame:
    """Accuracy of the tree's classifiers (fractions) before (03) and after (05, 06) co-training, with intervals.

    `low`, `high`: `statistics.proportion_interval` over seeds and photos, where the nodes of one photo count as one.
    """
    frame = _read_all(paths, "nodes.csv")
    frame["when"] = np.where(frame.run_stage.str.startswith("03"), "before", "after")
    frame["variant"] = frame.run_variant.where(frame.run_variant != "", "S3-tree alone")
    keys = ["split", "input", "when", "variant", "system"]
    tall = frame.melt([*keys, "run_seed", "n"], list(NODE_MEASURES), "measure", "value").dropna(
        subset=["value"]
    )
    rows = []
    for names, own in tall.groupby([*keys, "measure"], sort=False):
        count = int(own.n.iloc[0])
        ends = proportion_interval(own.value, count)._asdict()
        rows.append(
            {
                **dict(zip([*keys, "measure"], names, strict=True)),
                **ends,
                "seeds": len(own),
                "n": count,
            }
        )
    return pd.DataFrame(rows)


def costs(paths: Iterable[Path]) -> pd.DataFrame:
    """Parameters and milliseconds an update of every deblurring run: variant, seed, and the fields of cost.json."""
    runs = [run for run in map(describe, paths) if (run.path / "cost.json").exists()]
    rows = [
        {"variant": run.variant, "seed": run.seed, **read_json(run.path / "cost.json")}
        for run in runs
    ]
    names = ["parameters_generator", "parameters_semantics", "milliseconds_per_step"]
    return pd.DataFrame(rows, columns=["variant", "seed", *names])


def read_logs(paths: Iterable[Path]) -> pd.DataFrame:
    """Training curves: training (from `log_<training>.csv`), variant, seed, step, term, value."""
    frames = []
    for run in map(describe, paths):
        for path in sorted(run.path.glob("log_*.csv")):
            tall = (
                pd.read_csv(path)
                .melt("step", var_name="term", value_name="value")
                .dropna(subset=["value"])
            )
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


def summary(
    images: pd.DataFrame, differences: pd.DataFrame, captions: pd.DataFrame | None = None
) -> dict[str, float]:
    """The study in flat numbers (for `metrics.json`): PSNR of every arm, paired gains in dB, and CIDEr."""
    psnr = images[images.metric == "psnr"]
    numbers = {
        f"{row['split']}_{row['severity']}_{row['variant']}_psnr": row["mean"]
        for row in psnr.to_dict("records")
    }
    for row in differences[differences.metric == "psnr"].to_dict("records"):
        numbers[f"{row['split']}_{row['severity']}_{row['variant']}_over_{row['reference']}"] = row[
            "mean"
        ]
    for row in (
        [] if captions is None else captions[captions.references == "all"].to_dict("records")
    ):
        system = re.sub(r"\W+", "_", row["system"])
        numbers[f"{row['split']}_{system}_{row['input']}_cider"] = row["CIDEr"]
    return numbers


@dataclass(frozen=True)
class Run:
    """One finished run directory: its stage, variant ("" for notebook 03), seed and path."""

    stage: str
    variant: str
    seed: int
    path: Path


def describe(path: Path | str) -> Run:
    """Read stage, variant and seed off `<stage>/<variant>-s<seed>` or `<stage>/s<seed>` (05 is the variant `full`)."""
    path = Path(path)
    match = re.fullmatch(r"(?:(\w+)-)?s(\d+)", path.name)
    if not match:
        raise S3EError(f"{path} is not the directory of one run: its name should end in s<seed>.")
    variant = match[1] or ("full" if path.parent.name.startswith("05") else "")
    return Run(path.parent.name, variant, int(match[2]), path)


GUESS, PERSON = "most frequent label", "one reference caption"  # in the column `variant`


def guessed_nodes(corpus: Corpus) -> pd.DataFrame:
    """Rows for `collect.node_accuracy`: each node names the label that training captions have there most often.

    Empty slots are never guessed, so their recall has no row; `input` is "none", `seeds` 0. No rows without captions.
    """
    seen = corpus.train.trees.flatten(0, 1).numpy()
    named = [
        column[column > 0] for column in seen.T
    ]  # 0 is an empty slot, below are labels out of vocabulary
    most = [np.bincount(column).argmax() if len(column) else IGNORE for column in named]
    rows = []
    for split in (corpus.val, corpus.test) if corpus.captioned else ():
        targets = split.targets.numpy()
        counts = node_counts(np.broadcast_to(most, targets.shape), targets)
        rows += [
            row for row in _frame_rows(counts, split, GUESS) if row["measure"] != "null_recall"
        ]
    return pd.DataFrame(rows)


def human_nodes(corpus: Corpus) -> pd.DataFrame:
    """The same for the first caption of each photo, scored against the tree of the others: what people agree on."""
    rows = []
    for split in (corpus.val, corpus.test) if corpus.captioned else ():
        rows += _frame_rows(
            node_counts(split.trees[:, 0].numpy(), others(corpus, split)), split, PERSON
        )
    return pd.DataFrame(rows)


def others(corpus: Corpus, split: Split) -> np.ndarray:
    """Node classes N x 7 that the first caption is scored against: the scene's, or the consensus of the other captions.

    A photo with one caption has no others: all its nodes are ignored.
    """
    if corpus.categories:
        return split.targets.numpy()
    return np.array([corpus.labels.encode(consensus(parses[1:])) for parses in split.parses])


def _frame_rows(counts: pd.DataFrame, split: Split, variant: str) -> list[dict[str, object]]:
    names = {
        "split": split.name,
        "input": "none",
        "when": "before",
        "variant": variant,
        "system": "frame",
    }
    shares = node_row(counts)
    return [
        {
            **names,
            "measure": measure,
            **proportion_interval([shares[measure]], len(split))._asdict(),
            "seeds": 0,
        }
        | {"n": len(split)}
        for measure in NODE_MEASURES
    ]


THUMB = 16  # side of the grey thumbnails that are compared
LIKENESS = 0.9  # correlation of thumbnails from which on a photo is suspected
SERIES = 1000  # photos whose numbers lie closer may be of one series, where numbers are given in the order of upload
SPARSE = 20  # times as far apart must training photos' numbers be at the median, or closeness says nothing (MSCOCO)
SUSPECTS = {
    "alike": f"alike a training photo, mirrored or not (correlation of thumbnails of at least {LIKENESS:g})",
    "series": f"number within {SERIES} of a training photo's (may be of one series)",
    "said": "a caption stands word by word among those of training",
}


def leakage_suspects(corpus: Corpus) -> pd.DataFrame:
    """For every test photo: id, likeness to the most alike training photo, distance of their numbers, and `SUSPECTS`.

    `distance` is missing where ids are no numbers, or numbers that lie so close that it would tell nothing.
    """
    likeness = _likeness(corpus.test, corpus.train)
    distance = _distance(corpus.test.ids, corpus.train.ids)
    known = {_plain(text) for texts in corpus.train.captions for text in texts}
    said = [any(_plain(text) in known for text in texts) for texts in corpus.test.captions]
    found = pd.DataFrame({"id": corpus.test.ids, "likeness": likeness, "distance": distance})
    return found.assign(alike=likeness >= LIKENESS, series=distance <= SERIES, said=said)


def unknown_words(corpus: Corpus) -> list[str]:
    """Words of the vocabulary that no training caption has: there must be none."""
    known = {word for texts in corpus.train.captions for text in texts for word in tokenize(text)}
    return sorted(set(corpus.words.words) - known - set(SPECIAL))


def _likeness(split: Split, others: Split) -> np.ndarray:
    """The highest correlation of each photo's thumbnail, or its mirror image, with those of the others: (N,)."""
    mine, theirs = thumbnails(split.sharp), thumbnails(others.sharp).reshape(len(others), -1).T
    views = (mine, mine[:, :, ::-1])
    return np.max([(view.reshape(len(split), -1) @ theirs).max(1) for view in views], axis=0)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """uint8 N x S x S x 3 -> grey thumbnails without their mean and of length 1: float32 N x THUMB x THUMB."""
    side = images.shape[1] // THUMB
    grey = np.asarray(images).mean(-1, dtype=np.float32)
    small = grey.reshape(len(grey), THUMB, side, THUMB, side).mean((2, 4))
    small -= small.mean((1, 2), keepdims=True)
    return small / np.maximum(np.linalg.norm(small, axis=(1, 2), keepdims=True), 1e-6)


def _distance(ids: list[str], others: list[str]) -> np.ndarray:
    """How far each id is, as a number, from the nearest of the others; NaN where one is no number or all are close."""
    known = np.sort([int(name) if name.isdecimal() else 0 for name in others])
    if not all(map(str.isdecimal, (*ids, *others))) or np.median(np.diff(known)) < SPARSE * SERIES:
        return np.full(len(ids), np.nan)
    return np.array([float(np.abs(known - int(name)).min()) for name in ids])


def _plain(text: str) -> str:
    return " ".join(tokenize(text))


def read_outputs(
    corpus: Corpus, arms: Iterable[Path], severity: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The first test photos of a severity, as they were blurred and as each arm (folder of a run) restored them.

    Returns ({"blurred" and variants: uint8 (N, H, W, 3)}, the sharp ones); arms that kept no photos are left out.
    """
    test, rows = corpus.test, corpus.test.rows(severity)[:DEFINITION_IMAGES]
    outputs = {"blurred": test.blurred[severity][rows]}
    for run in map(describe, arms):
        if (run.path / "restored_test.npy").is_file():
            outputs[run.variant] = np.load(run.path / "restored_test.npy", mmap_mode="r")[rows]
    return outputs, test.sharp[rows]
