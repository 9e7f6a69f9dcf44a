"""Gather what the notebooks wrote into tidy frames: scores, captions, node accuracy, logs, samples.

`s3e.evaluation.gains` turns the scores into intervals and comparisons.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame

from s3e.captions.tree import IGNORE
from s3e.data.corpus import Corpus, Split, consensus
from s3e.evaluation.images import DEFINITION_IMAGES, LABELS, METRICS, SEEN_METRICS
from s3e.evaluation.score import SHARES, node_counts, node_shares
from s3e.evaluation.statistics import proportion_interval
from s3e.utils import S3EError, read_json

NODE_PLACE = ["split", "input", "when", "variant"]
CAPTION_COLUMNS = ["system", "input", "split", "seed", "id", "caption"]
TEXT = ["id", "caption"]  # columns where "", "NA" and "null" are texts like others
SEVERITIES = ("light", "moderate", "released", "severe")  # pairs have the last two, others the rest
RANDOM, HUMAN = "random training caption", "human"  # systems
GUESS, PERSON = "most frequent label", "one reference caption"  # variants beside trees


class Trained(NamedTuple):
    """One finished training: its stage, variant ("" for notebook 03), seed and folder."""

    stage: str
    variant: str
    seed: int
    path: Path


def describe(path: Path | str) -> Trained:
    """The training in `<stage>/<variant>-s<seed>` or `<stage>/s<seed>`; seed 0 in other folders."""
    path = Path(path)
    match = re.fullmatch(r"(?:(\w+)-)?s(\d+)", path.name) or ("", "", 0)
    return Trained(path.parent.name, match[1] or "", int(match[2]), path)


def severities(frame: DataFrame) -> list[str]:
    """The severities that a frame holds, mildest first."""
    return [name for name in SEVERITIES if name in set(frame.severity)]


def read(paths: Iterable[Path], *names: str) -> DataFrame:
    """The tables `names` (CSV, JSON; globs) of all runs, with stage, variant, seed and file.

    A table's own variant or seed stays.
    """
    frames = []
    for run in map(describe, paths):
        for file in (file for name in names for file in sorted(run.path.glob(name))):
            if file.suffix == ".json":
                frame = DataFrame([read_json(file)])
            else:
                columns = pd.read_csv(file, nrows=0).columns
                text = TEXT if "id" in columns else []  # in a log, "caption" is a loss
                missing = dict.fromkeys(columns.difference(text), ["", "nan"])
                kinds = dict.fromkeys(text, str)
                frame = pd.read_csv(file, dtype=kinds, keep_default_na=False, na_values=missing)
            about = {"stage": run.stage, "variant": run.variant, "seed": run.seed}
            about = {name: value for name, value in about.items() if name not in frame}
            frames.append(frame.assign(**about, file=file.stem))
    return pd.concat(frames, ignore_index=True) if frames else DataFrame()


def read_scores(paths: Iterable[Path]) -> DataFrame:
    """Every score of the deblurring runs: split, severity, variant, seed, id, video, metric, value.

    The blurred input is a variant of seed 0. `video`: what frames of pairs were cut from, else id.
    """
    wide = read(paths, "scores.csv")
    if wide.empty:
        raise S3EError("none of the chosen runs has a scores.csv: run notebooks 05 and 06 first.")
    paired = "released" in set(wide.severity)
    wide["video"] = wide.id.str.replace(r"/[^/]*$", "", regex=True) if paired else wide.id
    inputs = wide.drop_duplicates(["split", "severity", "id"]).assign(variant="blurred", seed=0)
    metrics = [name for name in (*METRICS, *SEEN_METRICS) if name in wide]
    inputs = inputs.assign(**{name: inputs[f"{name}_blurred"] for name in metrics})
    return pd.concat([inputs, wide]).melt(LABELS, metrics, "metric").dropna(subset="value")


def read_captions(paths: Iterable[Path]) -> DataFrame:
    """What every captioner says: system, input (what it read), split, seed, id, caption."""
    return read(paths, "captions.csv").reindex(columns=CAPTION_COLUMNS)


def read_logs(paths: Iterable[Path], name: str = "*") -> DataFrame:
    """What the trainings called `name` logged: training, variant, seed, step, term, value.

    Terms are weighted losses, and "score" where a training was validated.
    """
    logs = read(paths, f"log_{name}.csv", f"validation_{name}.csv")
    logs["training"] = logs.pop("file").str.partition("_")[2]
    keys = ["training", "variant", "seed", "step"]
    return logs.drop(columns="stage").melt(keys, var_name="term").dropna()


def node_accuracy(paths: Iterable[Path]) -> DataFrame:
    """Accuracy of the tree's nodes before (03) and after (05, 06) co-training, with intervals.

    `low`, `high`: `statistics.proportion_interval` over seeds and images, where the nodes of one
    image count as one.
    """
    frame = read(paths, "scores.csv", "captions.csv")
    frame["input"] = frame.input.fillna(frame.severity)
    frame["when"] = np.where(frame.variant == "", "before", "after")
    return _accuracies(frame.replace({"variant": {"": "S3-tree alone"}}))


def _accuracies(frame: DataFrame) -> DataFrame:
    shares = node_shares(frame, [*NODE_PLACE, "seed"]).reset_index()
    tall = shares.melt([*NODE_PLACE, "images"], SHARES.values(), "metric")
    keys = [*NODE_PLACE, "metric", "images"]
    return DataFrame(
        dict(zip(keys, names, strict=True))
        | proportion_interval(own.value, names[-1])._asdict()
        | {"seeds": len(own)}
        for names, own in tall.groupby(keys, sort=False)
    )


def node_landmarks(corpus: Corpus) -> DataFrame:
    """Rows for `node_accuracy` that need no training (`seeds` 0, input "none").

    `GUESS`: each node is the label that training captions have there most often, an empty slot
    never, so that their recall has no row. `PERSON`: the first caption of each image against the
    tree of the others: what people agree on.
    """
    labels = corpus.train.trees.flatten(0, 1).numpy().T
    known = [column[column > 0] for column in labels]  # 0: empty, below: out of vocabulary
    most = [np.bincount(column).argmax() if len(column) else IGNORE for column in known]
    frames = []
    for split in (corpus.val, corpus.test):
        targets = split.targets.numpy()
        guess = node_counts(np.broadcast_to(most, targets.shape), targets)
        person = node_counts(split.trees[:, 0].numpy(), other_targets(corpus, split))
        about = {"split": split.name, "input": "none", "when": "before", "seed": 0}
        frames += [guess.assign(variant=GUESS, **about), person.assign(variant=PERSON, **about)]
    found = _accuracies(pd.concat(frames)).assign(seeds=0)
    return found[(found.variant != GUESS) | (found.metric != "null_recall")]


def other_targets(corpus: Corpus, split: Split) -> ndarray:
    """Node classes N x 7 for the first caption: the scene's, or the other captions' consensus.

    An image with one caption has no others: all its nodes are ignored.
    """
    if corpus.categories:
        return split.targets.numpy()
    return np.array([corpus.labels.encode(consensus(parses[1:])) for parses in split.parses])


def read_samples(path: Path) -> tuple[dict[str, ndarray], list[dict[str, Any]]]:
    """Sample images of a run (uint8 n x S x S x 3, attention n x 7 x h x w) and their records."""
    with np.load(path / "samples.npz") as arrays:
        return dict(arrays), read_json(path / "samples.json")


def read_outputs(
    corpus: Corpus, paths: Iterable[Path], severity: str
) -> tuple[dict[str, ndarray], ndarray]:
    """The first test images of a severity: blurred, restored by each variant's first run, sharp.

    Returns ({"blurred" and variants: uint8 (N, H, W, 3)}, the sharp ones); runs that kept no images
    are left out.
    """
    test, rows = corpus.test, corpus.test.rows(severity)[:DEFINITION_IMAGES]
    outputs = {"blurred": test.blurred[severity][rows]}
    for run in map(describe, paths):
        kept = run.path / "restored_test.npy"
        if kept.is_file() and run.variant not in outputs:
            outputs[run.variant] = np.load(kept, mmap_mode="r")[rows]
    return outputs, test.sharp[rows]
