"""Caption tables, and semantic fidelity: what captioners say of restored images (specification
6.9).

The judge is a captioner that no variant knows: trained on sharp images alone, then frozen. It
attends to the grid of its encoder (soft attention, no tree) and starts from a seed of its own, so
that it shares neither weights nor batches with what the variants learned from. Choices are made on
validation images; it reads the test images once. Its captions are scored like any other, and the
tree that the parser makes of them is compared with the image's, node by node.
"""

import itertools
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from s3e.captions.parser import parse_caption
from s3e.config import Config
from s3e.data.corpus import Corpus
from s3e.evaluation.captions import NODES, CaptionSet, intervals, measure
from s3e.evaluation.collect import CAPTION_COLUMNS, HUMAN, RANDOM, describe, other_targets
from s3e.evaluation.score import node_counts, read_images
from s3e.models.build import build_semantics, load_weights, save_weights
from s3e.training.stages import PretrainSemantics, new_source
from s3e.utils import rng

OWN_SEED = 1000  # added to the study's seed
DEBLURRED_BY = ("baseline", "full", "oracle_map")
UNTRAINED = ("sharp", "blurred", RANDOM, HUMAN)  # systems for which no variant was trained
PROTOCOLS = {"all": 0, "other": 1}  # from which one on the references of an image count
PLACE = ("split", "references", "system", "input", "reference")
PAIRS = (
    ("full", "blurred"),
    ("full", "baseline"),
    ("full", "no_semantics_loss"),
    ("oracle_map", "baseline"),
)


def train_judge(folder: Path, corpus: Corpus, config: Config) -> nn.Module:
    """Train the judge on sharp images and write `judge.safetensors`; it is returned frozen."""
    own = config.model_copy(update={"seed": config.seed + OWN_SEED})
    judge, task = new_source(own, corpus, "flat"), {"tree": False, "caption": True}
    for phase in ("tree", "a1"):
        PretrainSemantics(folder, f"judge_{phase}", phase, judge, corpus, own, **task).fit()
    save_weights(judge, folder / "judge.safetensors")
    return judge.eval().requires_grad_(False)


def caption_variants(
    judge: nn.Module, paths: Iterable[Path], corpus: Corpus, config: Config
) -> list[dict[str, Any]]:
    """The judge's captions of test images: sharp, blurred, and restored by each run of `paths`.

    For `fidelity_captions.json`: system, input, split, seed (of the run; 0 for sharp and blurred),
    captions {id: text}.
    """
    test, severity = corpus.test, config.blur.severity
    views = [("sharp", "sharp", 0, test.sharp), ("blurred", severity, 0, test.blurred[severity])]
    for run in map(describe, paths):
        restored = np.load(run.path / "restored_test.npy", mmap_mode="r")
        views.append((run.variant, "deblurred", run.seed, restored))
    return [_captions(judge, *view, corpus, config) for view in views]


def _captions(
    source: nn.Module, system: str, view: str, seed: int, images: np.ndarray, corpus: Corpus,
    config: Config,
) -> dict[str, Any]:  # fmt: skip
    texts = dict(zip(corpus.test.ids, read_images(source, images, corpus, config)[1], strict=True))
    values = system, view, "test", seed, texts
    return dict(zip(CAPTION_COLUMNS, values, strict=True))


def caption_deblurred(
    captioners: Iterable[Path], paths: Iterable[Path], corpus: Corpus, config: Config
) -> pd.DataFrame:
    """ "Deblur first, then caption": the tree captioner of notebook 03 (same seed) reads restored
    test images.

    `captioners`, `paths`: folders of finished runs of 03 and of 05 and 06. Columns as
    `collect.read_captions`.
    """
    rows = []
    weights = {describe(path).seed: path / "tree_captioner.safetensors" for path in captioners}
    for run in map(describe, paths):
        if run.variant in DEBLURRED_BY and run.seed in weights:
            source = load_weights(build_semantics(config, corpus.sizes, "tree"), weights[run.seed])
            restored = np.load(run.path / "restored_test.npy")
            about = f"{run.variant} -> tree", "deblurred", run.seed
            rows.append(_captions(source, *about, restored, corpus, config))
    return pd.DataFrame(rows, columns=CAPTION_COLUMNS)


def fidelity_scores(said: list[dict[str, Any]], corpus: Corpus, config: Config) -> pd.DataFrame:
    """`caption_table` of the judge, with `PAIRS`; of several captions the first is left out."""
    several = min(map(len, corpus.test.captions)) > 1
    how = {"protocols": ["other" if several else "all"], "pairs": PAIRS, "key": "fidelity"}
    return caption_table(pd.DataFrame(said), corpus, config.evaluation.resamples, **how)


def caption_table(
    said: pd.DataFrame,
    corpus: Corpus,
    resamples: int = 2000,
    protocols: Collection[str] = PROTOCOLS,
    pairs: Collection[tuple[str, str]] = (),
    key: str = "",
) -> pd.DataFrame:
    """Caption metrics (fractions; CIDEr in 0..10) and accuracies of the nodes that captions name.

    `said`: frame of `collect.read_captions`. Columns: split, references ("all" captions of an
    image, or "other": all but the first), system, input, reference ("", or the system of `pairs`
    that is subtracted, image by image and seed by seed), metric, mean, low, high
    (`captions.intervals`), seeds (0: no variant was trained for it), images, reason (of a metric
    that was not run, whose numbers are NaN). Two systems are added: random training captions (drawn
    by `key`, else by the split), the floor, and the first human caption against the others.
    """
    groups, rows = _caption_sets(said, corpus, protocols, key), []
    for place, own in groups.items():
        others = {"": own}  # the system that is subtracted -> seed -> its captions
        for (*where, name, _), other in groups.items():
            if where == [*place[:2]] and (place[2], name) in pairs:
                others[name] = dict.fromkeys(own, other[0]) if name in UNTRAINED else other
        for reference, other in others.items():
            labels = dict(zip(PLACE, (*place, reference), strict=True))
            seeds = [seed for seed in own if seed in other]
            sets, minus = ([part[seed] for seed in seeds] for part in (own, other))
            found = intervals(sets, minus if reference else [], resamples) if seeds else {}
            for metric, interval in found.items():
                count = 0 if place[2] in UNTRAINED else len(seeds)
                about = {"metric": metric, "seeds": count, "images": len(sets[0].table)}
                reason = sets[0].reason if np.isnan(interval.mean) else ""
                rows.append(labels | about | interval._asdict() | {"reason": reason})
    return pd.DataFrame(rows)


def _caption_sets(
    said: pd.DataFrame, corpus: Corpus, protocols: Collection[str], key: str
) -> dict[tuple[str, ...], dict[int, CaptionSet]]:
    """(split, protocol, system, input) -> seed -> measured captions with the nodes they name."""
    training = [text for texts in corpus.train.captions for text in texts]
    rows = list(said[CAPTION_COLUMNS].itertuples(index=False, name=None))
    for name in said.split.unique():
        known = dict(zip(corpus.splits[name].ids, corpus.splits[name].captions, strict=True))
        draws = {i: rng("random caption", key or name, i).integers(len(training)) for i in known}
        rows.append((RANDOM, "none", name, 0, {i: training[draw] for i, draw in draws.items()}))
        rows.append((HUMAN, "sharp", name, 0, {i: texts[0] for i, texts in known.items()}))
    pairs, nodes, groups = {}, {}, {}
    encode = cache(lambda text: corpus.labels.encode(parse_caption(text)))
    for (system, view, name, seed, texts), protocol in itertools.product(rows, protocols):
        split, human = corpus.splits[name], system == HUMAN
        targets = other_targets(corpus, split) if human else split.targets.numpy()
        known = [
            (texts[i], captions[PROTOCOLS[protocol] :], encode(texts[i]), target)
            for i, captions, target in zip(split.ids, split.captions, targets, strict=True)
            if i in texts and captions[PROTOCOLS[protocol] :]
        ]
        if known and (system, protocol) != (HUMAN, "all"):
            place = name, protocol, system, view, seed
            *columns, trees, true = zip(*known, strict=True)
            pairs[place] = list(zip(*columns, strict=True))
            nodes[place] = node_counts(np.array(trees), np.array(true))
    columns = [f"{name}_{what}" for name in NODES for what in ("correct", "total")]
    for (*place, seed), item in measure(pairs).items():
        table = np.hstack([item.table, nodes[*place, seed][columns]])
        groups.setdefault(tuple(place), {})[seed] = replace(item, table=table)
    return groups
