"""Semantic fidelity: what captioners say of restored images (specification 6.9).

The judge is a captioner that no variant knows: trained on sharp images alone, then frozen. It
attends to the grid of its encoder (soft attention, no tree) and starts from a seed of its own, so
that it shares neither weights nor batches with what the variants learned from. Choices are made on
validation images; it reads the test images once. Its captions are scored like any other, and the
tree that the parser makes of them is compared with the image's, node by node.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from s3e.captions.parser import parse_caption
from s3e.config import Config
from s3e.data.corpus import Corpus
from s3e.evaluation.captions import NODES, CaptionSet, intervals, measure
from s3e.evaluation.collect import HUMAN, RANDOM, describe, other_targets, random_captions
from s3e.evaluation.score import node_counts, read_images
from s3e.models.build import build_semantics, load_weights, save_weights
from s3e.training.stages import PretrainSemantics, new_source

OWN_SEED = 1000  # added to the study's seed
DEBLURRED_BY = ("baseline", "full", "oracle_map")
UNTRAINED = ("sharp", "blurred", RANDOM, HUMAN)  # systems for which no variant was trained
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
    """The judge's captions of the test images: sharp, blurred as in training, and restored by each
    run of `paths`.

    For `fidelity_captions.json`: system, input, split, seed (of the run; 0 for sharp and blurred),
    captions {id: text}.
    """
    severity = config.blur.severity
    inputs = {"sharp": corpus.test.sharp, "blurred": corpus.test.blurred[severity]}
    rows = [_captions(judge, name, 0, images, corpus, config) for name, images in inputs.items()]
    rows[0]["input"], rows[1]["input"] = "sharp", severity
    for run in map(describe, paths):
        restored = np.load(run.path / "restored_test.npy", mmap_mode="r")
        rows.append(_captions(judge, run.variant, run.seed, restored, corpus, config))
    return rows


def _captions(
    source: nn.Module, system: str, seed: int, images: np.ndarray, corpus: Corpus, config: Config
) -> dict[str, Any]:
    texts = dict(zip(corpus.test.ids, read_images(source, images, corpus, config)[1], strict=True))
    about = {"system": system, "input": "deblurred", "split": "test", "seed": seed}
    return about | {"captions": texts}


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
            source = load_weights(build_semantics(config, corpus, "tree"), weights[run.seed])
            restored, system = np.load(run.path / "restored_test.npy"), f"{run.variant} -> tree"
            rows.append(_captions(source, system, run.seed, restored, corpus, config))
    return pd.DataFrame(rows, columns=["system", "input", "split", "seed", "captions"])


def fidelity_scores(
    said: list[dict[str, Any]], corpus: Corpus, config: Config
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Caption metrics and node accuracies of the judge's captions, and their paired differences.

    `said`: from `caption_variants`. First frame: system, metric, mean, low, high, seeds (0: no
    variant was trained for it), images, reason (of a metric that was not run, whose numbers are
    NaN). Second: the same with `reference`. Two systems are added: random training captions and,
    where every image has several captions, "human", its first one, which then is no reference of
    any system. Intervals: `captions.intervals`.
    """
    groups = _read(said, corpus)
    resamples, scores, differences = config.evaluation.resamples, [], []
    for name, own in groups.items():
        scores += _rows({"system": name}, own, [], resamples)
    for name, reference in PAIRS:
        own, other = groups.get(name, {}), groups.get(reference, {})
        if other and reference in UNTRAINED:
            other = dict.fromkeys(own, other[0])
        own = {seed: own[seed] for seed in own if seed in other}
        if own:
            labels = {"system": name, "reference": reference}
            differences += _rows(labels, own, [other[seed] for seed in own], resamples)
    return pd.DataFrame(scores), pd.DataFrame(differences)


def _rows(
    labels: dict[str, str], own: dict[int, CaptionSet], minus: list[CaptionSet], resamples: int
) -> list[dict]:
    """A row a metric of the caption sets `own`, by seed, or of their differences to `minus`."""
    some = next(iter(own.values()))
    about = {"seeds": 0 if labels["system"] in UNTRAINED else len(own), "images": len(some.ids)}
    missing = dict.fromkeys(("mean", "low", "high"), np.nan) | {"reason": some.reason}
    rows = []
    for name, item in intervals([*own.values()], minus, resamples).items():
        ends = missing if item is None else item._asdict() | {"reason": ""}
        rows.append(labels | {"metric": name} | ends | about)
    return rows


def _read(said: list[dict[str, Any]], corpus: Corpus) -> dict[str, dict[int, CaptionSet]]:
    """System -> seed -> its measured captions, with the two rows that frame them; all captions in
    one call.
    """
    test, training = corpus.test, [text for texts in corpus.train.captions for text in texts]
    texts = dict(zip(test.ids, test.captions, strict=True))
    spare = min(map(len, texts.values())) > 1
    sets = {(row["system"], row["seed"]): row["captions"] for row in said}
    sets[RANDOM, 0] = random_captions(texts, training, "fidelity")
    if spare:
        sets[HUMAN, 0] = {key: group[0] for key, group in texts.items()}
    place = {key: row for row, key in enumerate(test.ids)}
    groups: dict[str, dict[int, CaptionSet]] = {}
    references = {key: group[spare:] for key, group in texts.items()}
    for (system, seed), words in measure(references, sets).items():
        targets = other_targets(corpus, test) if system == HUMAN else test.targets.numpy()
        trees = [corpus.labels.encode(parse_caption(sets[system, seed][key])) for key in words.ids]
        counts = node_counts(np.array(trees), targets[[place[key] for key in words.ids]])
        columns = [f"{name}_{what}" for name in NODES for what in ("correct", "total")]
        nodes = counts[columns].to_numpy(float)
        groups.setdefault(system, {})[seed] = replace(words, nodes=nodes)
    return groups
