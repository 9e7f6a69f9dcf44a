"""Gather what the notebooks wrote into tidy frames: scores, captions, node accuracy, cost, logs,
samples, suspects.

`s3e.evaluation.gains` turns the per-image scores into intervals and comparisons.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from s3e.captions.tree import IGNORE, tokenize
from s3e.data.corpus import Corpus, Split, consensus
from s3e.evaluation.captions import intervals, measure
from s3e.evaluation.images import DEFINITION_IMAGES
from s3e.evaluation.score import node_counts, node_row
from s3e.evaluation.statistics import proportion_interval
from s3e.utils import S3EError, read_json, rng

NODE_MEASURES = ("leaf_accuracy", "null_recall", "relation_accuracy", "root_accuracy")
NODE_KEYS = ["split", "input", "when", "variant", "system"]
SEVERITIES = ("light", "moderate", "released", "severe")  # pairs have the last two, others the rest
RANDOM, HUMAN = "random training caption", "human"  # systems
PROTOCOLS = ("all", "other")  # references of an image that count
GUESS, PERSON = "most frequent label", "one reference caption"  # variants beside trees
COSTS = ["parameters_generator", "parameters_semantics", "milliseconds_per_step"]
THUMB = 16  # side of the grey thumbnails that are compared
LIKENESS = 0.9  # correlation of thumbnails from which on an image is suspected
# images whose numbers lie closer may be of one series, where numbers are given in the order of
# upload
SERIES = 1000
# times as far apart must training images' numbers be at the median, or closeness says nothing
# (MSCOCO)
SPARSE = 20
SUSPECTS = {
    "alike": (
        "alike a training photo, mirrored or not (correlation of thumbnails of at least"
        f" {LIKENESS:g})"
    ),
    "series": f"number within {SERIES} of a training photo's (may be of one series)",
    "said": "a caption stands word by word among those of training",
}


class Run(NamedTuple):
    """One finished run directory: its stage, variant ("" for notebook 03), seed and path."""

    stage: str
    variant: str
    seed: int
    path: Path


def describe(path: Path | str) -> Run:
    """Read stage, variant and seed off `<stage>/<variant>-s<seed>` or `<stage>/s<seed>` (05 is the
    variant `full`).
    """
    path = Path(path)
    match = re.fullmatch(r"(?:(\w+)-)?s(\d+)", path.name)
    if not match:
        raise S3EError(f"{path} is not the directory of one run: its name should end in s<seed>.")
    variant = match[1] or ("full" if path.parent.name.startswith("05") else "")
    return Run(path.parent.name, variant, int(match[2]), path)


def runs_with(paths: Iterable[Path], name: str) -> list[Run]:
    """The runs whose folder holds the file `name`."""
    return [run for run in map(describe, paths) if (run.path / name).exists()]


def severities(frame: pd.DataFrame) -> list[str]:
    """The severities that a frame holds, mildest first."""
    return [name for name in SEVERITIES if name in set(frame.severity)]


def _read_all(paths: Iterable[Path], name: str) -> pd.DataFrame:
    """`name` of every run that has it, stacked, with the columns stage, variant and seed."""
    frames = [
        pd.read_csv(run.path / name, dtype={"id": str}).assign(**run._asdict())
        for run in runs_with(paths, name)
    ]
    if not frames:
        raise S3EError(f"none of the chosen runs has a {name}: run notebooks 03, 05 and 06 first.")
    return pd.concat(frames, ignore_index=True).drop(columns="path")


def read_scores(paths: Iterable[Path]) -> pd.DataFrame:
    """Per-image scores of the deblurring runs: variant, seed, split, severity, id, psnr (dB), ssim
    and the input's.
    """
    return _read_all(paths, "scores.csv")


def read_captions(paths: Iterable[Path]) -> pd.DataFrame:
    """Every caption set: system, input, split, seed, captions (dict id -> text)."""
    rows = [
        {**item, "seed": run.seed}
        for run in runs_with(paths, "captions.json")
        for item in read_json(run.path / "captions.json")
    ]
    frame = pd.DataFrame(rows, columns=["system", "input", "split", "seed", "captions"])
    twice = frame[frame.duplicated(["system", "input", "split", "seed"])]
    if len(twice):
        raise S3EError(
            f"two runs call their captions '{twice.system.iloc[0]}': give each system a name of its"
            " own."
        )
    return frame


def random_captions(ids: Iterable[str], training: list[str], key: str) -> dict[str, str]:
    """A training caption for each id, drawn by `key`: what a system scores that sees nothing."""
    draws = {name: rng("random caption", key, name).integers(len(training)) for name in ids}
    return {name: training[int(draw)] for name, draw in draws.items()}


def caption_scores(
    captions: pd.DataFrame,
    references: Mapping[str, Mapping[str, list[str]]],
    training: list[str],
    resamples: int = 2000,
) -> pd.DataFrame:
    """The seven caption metrics (fractions; CIDEr in 0..10) per split, system and input: mean over
    seeds.

    `references`: split -> id -> captions; `training`: captions to draw the random row (the floor)
    from; the first human caption against the others is a landmark. Column `references`: "all"
    captions of an image, or "other" = all but the first, the protocol under which the first human
    caption competes with every system. `<metric>_low`, `<metric>_high`: the 95 % interval over
    images and seeds. A missing metric could not run; `reason` says why.
    """
    rows = captions.to_dict("records")
    for split, known in references.items():
        random, first = random_captions(known, training, split), {k: v[0] for k, v in known.items()}
        rows.append({"system": RANDOM, "input": "none", "split": split, "captions": random})
        rows.append({"system": HUMAN, "input": "sharp", "split": split, "captions": first})
    texts = {  # ids keep splits and protocols apart in one call
        f"{split}/{protocol}/{key}": said[start:]
        for split, known in references.items()
        for start, protocol in enumerate(PROTOCOLS)
        for key, said in known.items()
        if said[start:]
    }
    systems, groups = {}, {}
    for row in rows:
        for protocol in PROTOCOLS[row["system"] == HUMAN :]:
            said = {f"{row['split']}/{protocol}/{k}": v for k, v in row["captions"].items()}
            name, own = str(len(systems)), {key: said[key] for key in said if key in texts}
            if own:
                systems[name] = own
                cell = row["split"], protocol, row["system"], row["input"]
                groups.setdefault(cell, []).append(name)
    found, table = measure(texts, systems), []
    for cell, names in groups.items():
        own, ends = [found[name] for name in names], {}
        record = dict(zip(("split", "references", "system", "input"), cell, strict=True))
        for metric, interval in intervals(own, resamples=resamples).items():
            record[metric], ends[f"{metric}_low"], ends[f"{metric}_high"] = interval or [np.nan] * 3
        about = {"seeds": len(own), "images": len(own[0].ids), "reason": own[0].reason}
        table.append(record | ends | about)
    return pd.DataFrame(table)


def node_accuracy(paths: Iterable[Path]) -> pd.DataFrame:
    """Accuracy of the tree's classifiers (fractions) before (03) and after (05, 06) co-training,
    with intervals.

    `low`, `high`: `statistics.proportion_interval` over seeds and images, where the nodes of one
    image count as one.
    """
    frame = _read_all(paths, "nodes.csv")
    frame["when"] = np.where(frame.stage.str.startswith("03"), "before", "after")
    frame["variant"] = frame.variant.where(frame.variant != "", "S3-tree alone")
    return _accuracies(frame)


def _accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    tall = frame.melt([*NODE_KEYS, "n"], list(NODE_MEASURES), "measure", "value").dropna()
    rows = []
    for names, own in tall.groupby([*NODE_KEYS, "measure"], sort=False):
        ends = proportion_interval(own.value, int(own.n.iloc[0]))._asdict()
        about = {"seeds": len(own), "n": int(own.n.iloc[0])}
        rows.append(dict(zip([*NODE_KEYS, "measure"], names, strict=True)) | ends | about)
    return pd.DataFrame(rows)


def node_landmarks(corpus: Corpus) -> pd.DataFrame:
    """Rows for `node_accuracy` that need no training (`seeds` 0, input "none"); none without
    captions.

    `GUESS`: each node is the label that training captions have there most often, an empty slot
    never, so that their recall has no row. `PERSON`: the first caption of each image against the
    tree of the others: what people agree on.
    """
    if not corpus.captioned:
        return pd.DataFrame()
    seen = corpus.train.trees.flatten(0, 1).numpy().T
    known = [
        column[column > 0] for column in seen
    ]  # 0 is an empty slot, below is out of vocabulary
    most = [np.bincount(column).argmax() if len(column) else IGNORE for column in known]
    rows = []
    for split in (corpus.val, corpus.test):
        targets = split.targets.numpy()
        guess = node_counts(np.broadcast_to(most, targets.shape), targets)
        person = node_counts(split.trees[:, 0].numpy(), other_targets(corpus, split))
        about = {"split": split.name, "input": "none", "when": "before", "system": "frame"}
        rows.append(node_row(guess, variant=GUESS, **about) | {"null_recall": np.nan})
        rows.append(node_row(person, variant=PERSON, **about))
    return _accuracies(pd.DataFrame(rows)).assign(seeds=0)


def other_targets(corpus: Corpus, split: Split) -> np.ndarray:
    """Node classes N x 7 that the first caption is scored against: the scene's, or the consensus of
    the other captions.

    An image with one caption has no others: all its nodes are ignored.
    """
    if corpus.categories:
        return split.targets.numpy()
    return np.array([corpus.labels.encode(consensus(parses[1:])) for parses in split.parses])


def costs(paths: Iterable[Path]) -> pd.DataFrame:
    """Parameters and milliseconds a step of every deblurring run: variant, seed, and the fields of
    cost.json.
    """
    rows = [
        {"variant": run.variant, "seed": run.seed, **read_json(run.path / "cost.json")}
        for run in runs_with(paths, "cost.json")
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", *COSTS])


def read_log(folder: Path, name: str = "*") -> pd.DataFrame:
    """What the trainings called `name` in a run's folder logged: training, step, term, value.

    Terms are weighted losses, and "score" where a training was validated.
    """
    paths = sorted([*folder.glob(f"log_{name}.csv"), *folder.glob(f"validation_{name}.csv")])
    frames = [
        pd.read_csv(path)
        .melt("step", var_name="term")
        .assign(training=path.stem.partition("_")[2])
        .dropna()
        for path in paths
    ]
    return pd.concat(frames or [pd.DataFrame(columns=["training", "step", "term", "value"])])


def read_logs(paths: Iterable[Path]) -> pd.DataFrame:
    """`read_log` of many runs, with the columns variant and seed."""
    found = [read_log(r.path).assign(variant=r.variant, seed=r.seed) for r in map(describe, paths)]
    return pd.concat(found, ignore_index=True)


def read_samples(path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The sample images of a run (uint8 n x S x S x 3 by name, attention n x 7 x h x w) and what
    was said of them.
    """
    with np.load(path / "samples.npz") as arrays:
        return dict(arrays), read_json(path / "samples.json")


def severity_samples(
    paths: Mapping[str, Path], trained: str, count: int = 2
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """For figure 5: `count` frames under each severity, blurred and restored by each variant;
    sharp; rows' severities.

    `paths`: variant -> folder of a run on pairs; `trained`: the severity of its samples "blurred"
    and "restored".
    """
    samples = {name: read_samples(path)[0] for name, path in paths.items()}
    some = next(iter(samples.values()))
    names = [name for name in SEVERITIES if name == trained or f"blurred_{name}" in some]

    def stacked(arrays: dict[str, np.ndarray], kind: str) -> np.ndarray:
        parts = [arrays[kind if name == trained else f"{kind}_{name}"][:count] for name in names]
        return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])

    columns = {name: stacked(item, "restored") for name, item in samples.items()}
    sharp = np.repeat(some["sharp"][:count], len(names), axis=0)
    return (
        {"blurred": stacked(some, "blurred")} | columns,
        sharp,
        names * (len(sharp) // len(names)),
    )


def read_outputs(
    corpus: Corpus, paths: Iterable[Path], severity: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The first test images of a severity, as they were blurred and as each variant (folder of a
    run) restored them.

    Returns ({"blurred" and variants: uint8 (N, H, W, 3)}, the sharp ones); runs that kept no images
    are left out.
    """
    test, rows = corpus.test, corpus.test.rows(severity)[:DEFINITION_IMAGES]
    outputs = {"blurred": test.blurred[severity][rows]}
    for run in runs_with(paths, "restored_test.npy"):
        outputs[run.variant] = np.load(run.path / "restored_test.npy", mmap_mode="r")[rows]
    return outputs, test.sharp[rows]


def summary(
    images: pd.DataFrame, differences: pd.DataFrame, captions: pd.DataFrame | None = None
) -> dict[str, float]:
    """The study in flat numbers (for `metrics.json`): PSNR of every variant, paired gains in dB,
    and CIDEr.
    """
    numbers = {}
    for row in images[images.metric == "psnr"].itertuples():
        numbers[f"{row.split}_{row.severity}_{row.variant}_psnr"] = row.mean
    for row in differences[differences.metric == "psnr"].itertuples():
        numbers[f"{row.split}_{row.severity}_{row.variant}_over_{row.reference}"] = row.mean
    if captions is not None:
        for row in captions[captions.references == "all"].itertuples():
            system = re.sub(r"\W+", "_", row.system)
            numbers[f"{row.split}_{system}_{row.input}_cider"] = row.CIDEr
    return numbers


# ------------------------------------------------------------------------------- train/test leakage
# Near-duplicates are kept apart before training (`s3e.data.readers`); this looks afterwards, in
# other ways, for what
# that may have missed. `gains.without_suspects` scores again without these images.


def leakage_suspects(corpus: Corpus) -> pd.DataFrame:
    """For every test image: id, likeness to the most alike training image, distance of their
    numbers, and `SUSPECTS`.

    `distance` is missing where ids are no numbers, or numbers that lie so close that it would tell
    nothing.
    """
    test, train = corpus.test, corpus.train
    mine, theirs = thumbnails(test.sharp), thumbnails(train.sharp).reshape(len(train), -1)
    views = [view.reshape(len(test), -1) @ theirs.T for view in (mine, mine[:, :, ::-1])]
    likeness, distance = np.max(views, axis=(0, 2)), np.full(len(test), np.nan)
    if all(map(str.isdecimal, (*test.ids, *train.ids))):
        numbers, known = (np.array(ids, float) for ids in (test.ids, sorted(train.ids, key=int)))
        if np.median(np.diff(known)) >= SPARSE * SERIES:
            distance = np.abs(numbers[:, None] - known).min(1)
    seen = {" ".join(tokenize(text)) for texts in train.captions for text in texts}
    said = [any(" ".join(tokenize(text)) in seen for text in texts) for texts in test.captions]
    found = pd.DataFrame({"id": test.ids, "likeness": likeness, "distance": distance})
    return found.assign(alike=likeness >= LIKENESS, series=distance <= SERIES, said=said)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """uint8 N x S x S x 3 -> grey thumbnails without their mean and of length 1: float32 N x THUMB
    x THUMB.
    """
    side = images.shape[1] // THUMB
    grey = np.asarray(images).mean(-1, dtype=np.float32)
    small = grey.reshape(len(grey), THUMB, side, THUMB, side).mean((2, 4))
    small -= small.mean((1, 2), keepdims=True)
    return small / np.maximum(np.linalg.norm(small, axis=(1, 2), keepdims=True), 1e-6)
