"""Semantic fidelity: what captioners say of restored photos (specification 6.9).

What the frozen judge (`s3e.evaluation.fidelity`) says of sharp, blurred and restored test photos is scored like any other
captions, and the tree that the parser makes of it is compared with the photo's, node by node.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from s3e.captions.parser import parse_caption
from s3e.config import Config
from s3e.data.corpus import Corpus, to_tensor
from s3e.evaluation import captions
from s3e.evaluation.collect import HUMAN, RANDOM, describe, others
from s3e.evaluation.score import node_counts, read_split, say
from s3e.models.build import build_semantics, load_weights, save_weights
from s3e.training.stages import PretrainSemantics, new_source
from s3e.utils import rng

DEBLURRED_BY = ("baseline", "full", "oracle_map")
NODES = ("leaf", "relation", "root")
UNTRAINED = ("sharp", "blurred", RANDOM, HUMAN)  # systems for which no arm was trained
PAIRS = (
    ("full", "blurred"),
    ("full", "baseline"),
    ("full", "no_semantics_loss"),
    ("oracle_map", "baseline"),
)


def caption_deblurred(
    captioners: list[Path], arms: list[Path], corpus: Corpus, config: Config
) -> pd.DataFrame:
    """ "Deblur first, then caption": what the tree captioner of notebook 03 (same seed) says of restored test photos.

    `captioners`, `arms`: folders of finished runs of 03 and of 05 and 06. Columns as `collect.read_captions`.
    """
    rows = []
    weights = {describe(path).seed: path / "tree_captioner.safetensors" for path in captioners}
    for arm in map(describe, arms):
        if arm.variant in DEBLURRED_BY and arm.seed in weights:
            source = load_weights(build_semantics(config, corpus, "tree"), weights[arm.seed])
            restored = np.load(arm.path / "restored_test.npy")
            said = read_split(
                source, corpus.test, "sharp", corpus, config, caption=True, images=restored
            )["captions"]
            about = {
                "system": f"{arm.variant} -> tree",
                "input": "deblurred",
                "split": "test",
                "seed": arm.seed,
            }
            rows.append({**about, "captions": said})
    return pd.DataFrame(rows, columns=["system", "input", "split", "seed", "captions"])


@dataclass(frozen=True)
class Judged:
    """A caption set measured by words and by nodes; `nodes` float (images, 6): right and all leaves, relations, roots.

    `ids`: of the photos, sorted, as in `words`.
    """

    words: captions.Statistics
    nodes: np.ndarray

    @property
    def ids(self) -> list[str]:
        return self.words.ids

    def resample(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Caption metrics and node accuracies of resampled sets, each (resamples,); counts (resamples, images)."""
        totals = counts @ self.nodes
        shares = totals[:, 0::2] / np.maximum(totals[:, 1::2], 1)
        return self.words.resample(counts) | {
            f"{name}_accuracy": shares[:, i] for i, name in enumerate(NODES)
        }


def fidelity_scores(
    said: list[dict[str, Any]], corpus: Corpus, config: Config
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Caption metrics and node accuracies of what the judge said, and their paired differences.

    `said`: from `judge.read_arms`. First frame: system, metric, mean, low, high, seeds (0: no arm was trained for it),
    images, reason (of a metric that was not run, whose numbers are NaN). Second: the same with `reference`. Two systems
    are added: random training captions and, where every photo has several captions, "human", its first one, which then
    is no reference of any system. Intervals: `captions.intervals`.
    """
    groups = _measure(said, corpus, config)
    scores = [
        row for name, sets in groups.items() for row in _rows({"system": name}, sets, {}, config)
    ]
    differences = []
    for name, reference in PAIRS:
        own, other = groups.get(name, {}), groups.get(reference, {})
        shared = {
            seed: own[seed] for seed in own if seed in other or reference in UNTRAINED and other
        }
        if shared:
            differences += _rows({"system": name, "reference": reference}, shared, other, config)
    return pd.DataFrame(scores), pd.DataFrame(differences)


def _rows(
    labels: dict[str, str], own: dict[int, Judged], other: dict[int, Judged], config: Config
) -> list[dict]:
    """A row a metric of the caption sets `own`, by seed, or of their differences to `other`."""
    minus = [other.get(seed) or other[0] for seed in own] if other else []
    found = captions.intervals([*own.values()], minus, config.evaluation.resamples)
    some = next(iter(own.values()))
    about = {"seeds": 0 if labels["system"] in UNTRAINED else len(own), "images": len(some.ids)}
    missing = dict.fromkeys(("mean", "low", "high"), np.nan) | {"reason": some.words.reason}
    return [
        {
            **labels,
            "metric": name,
            **({**item._asdict(), "reason": ""} if item else missing),
            **about,
        }
        for name, item in found.items()
    ]


def _measure(
    said: list[dict[str, Any]], corpus: Corpus, config: Config
) -> dict[str, dict[int, Judged]]:
    """System -> seed -> its measured captions, with the two rows that frame them; all captions in one call."""
    split, training = corpus.test, [text for texts in corpus.train.captions for text in texts]
    texts = dict(zip(split.ids, split.captions, strict=True))
    spare = min(map(len, texts.values())) > 1
    sets = {(row["system"], row["seed"]): row["captions"] for row in said}
    lots = {
        key: int(rng("random caption", "fidelity", key).integers(len(training))) for key in texts
    }
    sets[RANDOM, 0] = {key: training[lot] for key, lot in lots.items()}
    if spare:
        sets[HUMAN, 0] = {key: group[0] for key, group in texts.items()}
    found = captions.statistics({key: group[spare:] for key, group in texts.items()}, sets)
    groups: dict[str, dict[int, Judged]] = {}
    for (system, seed), words in found.items():
        nodes = _nodes(sets[system, seed], words.ids, corpus, config, human=system == HUMAN)
        groups.setdefault(system, {})[seed] = Judged(words, nodes)
    return groups


def _nodes(
    captions: Mapping[str, str],
    ids: Sequence[str],
    corpus: Corpus,
    config: Config,
    human: bool = False,
) -> np.ndarray:
    """Right and all leaves, relations and roots of the trees that the parser makes of captions: (images, 6).

    `human`: they are the first captions, which must not be among those that the target tree is made of.
    """
    place = {key: row for row, key in enumerate(corpus.test.ids)}
    trees = [corpus.labels.encode(parse_caption(captions[key])) for key in ids]
    targets = others(corpus, corpus.test) if human else corpus.test.targets.numpy()
    counts = node_counts(np.array(trees), targets[[place[key] for key in ids]])
    return counts[[f"{name}_{what}" for name in NODES for what in ("correct", "total")]].to_numpy(
        float
    )


OWN_SEED = 1000  # added to the study's seed


def train_judge(
    folder: Path, corpus: Corpus, config: Config, watch: Callable[[int], None] = lambda step: None
) -> nn.Module:
    """Train the judge on sharp photos and write `judge.safetensors`; it is returned frozen.

    `watch`: called with the steps of both phases, as in `Trainer.fit`.
    """
    own = config.model_copy(update={"seed": config.seed + OWN_SEED})
    judge = new_source(own, corpus, "flat")
    for phase in ("tree", "a1"):
        PretrainSemantics(
            folder, f"judge_{phase}", phase, judge, corpus, own, tree=False, caption=True
        ).fit(watch)
    save_weights(judge, folder / "judge.safetensors")
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def read_photos(judge: nn.Module, images: np.ndarray, corpus: Corpus, config: Config) -> list[str]:
    """The judge's caption of each photo, uint8 N x S x S x 3."""
    judge.to(config.runtime.device).eval()
    said = []
    for rows in np.array_split(np.arange(len(images)), -(-len(images) // config.evaluation.batch)):
        semantics = judge(to_tensor(images[rows]).to(config.runtime.device))
        said += say(judge, semantics, corpus, config)
    return said


def read_arms(
    judge: nn.Module, arms: list[Path], corpus: Corpus, config: Config
) -> list[dict[str, Any]]:
    """What the judge says of the test photos: sharp, blurred as in training, and restored by each arm.

    For `fidelity_captions.json`: system, input, split, seed (of the arm; 0 for sharp and blurred), captions {id: text}.
    """
    severity = config.blur.severity
    views = [
        ("sharp", "sharp", 0, corpus.test.sharp),
        ("blurred", severity, 0, corpus.test.blurred[severity]),
    ]
    for arm in map(describe, arms):
        views.append(
            (
                arm.variant,
                "deblurred",
                arm.seed,
                np.load(arm.path / "restored_test.npy", mmap_mode="r"),
            )
        )
    rows = []
    for system, kind, seed, images in views:
        said = dict(zip(corpus.test.ids, read_photos(judge, images, corpus, config), strict=True))
        rows.append(
            {"system": system, "input": kind, "split": "test", "seed": seed, "captions": said}
        )
    return rows
