"""Caption tables, and semantic fidelity: what a judge says of restored images (specification 6.9).

The judge is a captioner that no variant knows: trained on sharp images alone, then frozen. It
attends to the grid of its encoder (soft attention, no tree) and starts from a seed of its own, so
that it shares neither weights nor batches with what the variants learned from. Choices are made on
validation images; it reads the test images once. Its captions are scored like any other, and the
tree that the parser makes of them is compared with the image's, node by node.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame
from torch import nn

from s3e.captions.parser import parse_caption
from s3e.config import Config
from s3e.data.corpus import Corpus
from s3e.evaluation.captions import NODES, CaptionSet, Pair, intervals, measure
from s3e.evaluation.collect import HUMAN, RANDOM, describe, other_targets
from s3e.evaluation.score import node_counts, read_images
from s3e.models.build import build_semantics, save_weights
from s3e.training.stages import PretrainSemantics
from s3e.utils import rng

OWN_SEED = 1000  # added to the study's seed
UNTRAINED = ("sharp", "blurred", RANDOM, HUMAN)  # systems for which no variant was trained
PROTOCOLS = ("all", "other")  # which captions of an image are references: from 0 or from 1 on
NODE_COLUMNS = [f"{name}_{what}" for name in NODES for what in ("correct", "total")]
JUDGED = "fidelity"  # the table of what the judge says
PAIRS = (  # systems whose difference is of interest in `JUDGED`
    ("full", "blurred"),
    ("full", "baseline"),
    ("full", "no_semantics_loss"),
    ("full", "shuffled"),
    ("oracle_map", "baseline"),
    ("oracle_caption", "baseline"),
)


class Group(NamedTuple):
    """Captions that are scored together, one of each image and seed: what a row is about."""

    table: str
    split: str
    references: str
    system: str
    input: str


def train_judge(folder: Path, corpus: Corpus, config: Config) -> nn.Module:
    """Train the judge on sharp images and write `judge.safetensors`; it is returned frozen."""
    encoder = config.model.encoder.replace("lite0", "lite2")
    model = config.model.model_copy(update={"encoder": encoder})
    own = config.model_copy(update={"seed": OWN_SEED, "model": model})
    judge, task = build_semantics(own, corpus.sizes, "flat"), {"tree": False, "caption": True}
    for phase in ("tree", "a1"):
        PretrainSemantics(folder, f"judge_{phase}", phase, judge, corpus, own, **task).fit()
    save_weights(judge, folder / "judge.safetensors")
    return judge.eval().requires_grad_(False)


def caption_variants(
    judge: nn.Module, paths: Iterable[Path], corpus: Corpus, config: Config
) -> DataFrame:
    """The judge's captions of test images: sharp, blurred, and restored by each run of `paths`.

    Columns of `captions.csv`; the seed is that of the run, 0 for sharp and blurred.
    """
    test, severity = corpus.test, config.blur.severity
    views = [("sharp", "sharp", 0, test.sharp), ("blurred", severity, 0, test.blurred[severity])]
    for run in map(describe, paths):
        restored = np.load(run.path / "restored_test.npy", mmap_mode="r")
        views.append((run.variant, "deblurred", run.seed, restored))
    frames = []
    for system, view, seed, images in views:
        about = {"system": system, "input": view, "seed": seed, "split": "test", "id": test.ids}
        texts = read_images(judge, images, config, corpus)["captions"]
        frames.append(DataFrame(about | {"caption": texts}))
    return pd.concat(frames, ignore_index=True)


def caption_tables(
    said: dict[str, DataFrame], corpus: Corpus, resamples: int = 2000
) -> dict[str, DataFrame]:
    """Caption metrics (fractions; CIDEr in 0..10) and accuracies of the nodes that captions name.

    `said`: table -> frame of `collect.read_captions`: "caption_scores", and `JUDGED` of the judge;
    all are measured in one go, since METEOR starts slowly. Columns of the tables: split, references
    ("all" captions of an image, or "other": all but the first; of the judge "other" where there are
    several), system, input, reference, metric, mean, low, high (`captions.intervals`), seeds (0: no
    variant was trained for it), images, reason (of a metric that was not run, whose numbers are
    NaN). Two systems are added: random training captions, the floor, and the first human caption
    against the others. A third table, `JUDGED` + "_differences", has `PAIRS`, image by image and
    seed by seed: `reference` is the system that is subtracted.
    """
    parts = [part for table, own in said.items() for part in _groups(own, corpus, table)]
    measured = measure({(group, seed): pairs for group, seed, pairs, _ in parts})
    groups: dict[Group, dict[int, CaptionSet]] = {}  # by seed
    for group, seed, _, nodes in parts:
        item = measured[group, seed]
        item = item._replace(table=np.hstack([item.table, nodes]))
        groups.setdefault(group, {})[seed] = item
    rows = []
    for group, own in groups.items():
        rows += _rows(group, "", resamples, list(own.values()))
    judged = {group.system: group for group in groups if group.table == JUDGED}
    for system, reference in PAIRS:
        if system in judged and reference in judged:
            own, minus = groups[judged[system]], groups[judged[reference]]
            if reference in UNTRAINED:
                minus = dict.fromkeys(own, minus[0])
            pairs = [(item, minus[seed]) for seed, item in own.items() if seed in minus]
            if pairs:
                group = judged[system]._replace(table=f"{JUDGED}_differences")
                rows += _rows(group, reference, resamples, *zip(*pairs, strict=True))
    tables = DataFrame(rows).groupby("table", sort=False)
    return {table: own.drop(columns="table") for table, own in tables}


def _groups(
    said: DataFrame, corpus: Corpus, table: str
) -> Iterator[tuple[Group, int, list[Pair], DataFrame]]:
    """Each group and seed of a table: captions with their references, counts of named nodes.

    Random and human captions are added; images without a reference are left out.
    """
    training = [text for texts in corpus.train.captions for text in texts]
    keys, known = ["split", "system", "input", "seed"], {}
    captions = {key: own.set_index("id").caption for key, own in said.groupby(keys, sort=False)}
    for name in said.split.unique():
        split, key = corpus.splits[name], table if table == JUDGED else name
        targets = {"target": split.targets.tolist(), "other": other_targets(corpus, split).tolist()}
        known[name] = DataFrame({"texts": split.captions, **targets}, split.ids)
        draws = [rng("random caption", key, i).integers(len(training)) for i in split.ids]
        captions[name, RANDOM, "none", 0] = pd.Series([training[i] for i in draws], split.ids)
        captions[name, HUMAN, "sharp", 0] = known[name].texts.str[0]
    tree = cache(lambda text: corpus.labels.encode(parse_caption(text)))
    for (name, system, view, seed), own in captions.items():
        several = known[name].texts.str.len().min() > 1
        images = known[name].join(own.rename("caption"), how="inner")
        for start in [int(several)] if table == JUDGED else [0, 1]:
            chosen = images[images.texts.str.len() > start]
            if chosen.empty or (system == HUMAN and start == 0):  # it is among all captions
                continue
            pairs = list(zip(chosen.caption, chosen.texts.str[start:], strict=True))
            targets = chosen.other if start else chosen.target
            named = np.array([tree(text) for text in chosen.caption])
            nodes = node_counts(named, np.array(targets.tolist()))[NODE_COLUMNS]
            yield Group(table, name, PROTOCOLS[start], system, view), seed, pairs, nodes


def _rows(
    group: Group, reference: str, resamples: int,
    sets: Sequence[CaptionSet], minus: Sequence[CaptionSet] = ()
) -> list[dict[str, str | float]]:  # fmt: skip
    """Each metric of a group, one set a seed; where there is a reference, less those of `minus`."""
    about = group._asdict() | {"reference": reference}
    count = 0 if group.system in UNTRAINED else len(sets)
    return [
        about
        | {"metric": metric, "seeds": count, "images": len(sets[0].table)}
        | interval._asdict()
        | {"reason": sets[0].reason if np.isnan(interval.mean) else ""}
        for metric, interval in intervals(sets, minus, resamples).items()
    ]
