"""Caption tables, and semantic fidelity: what a judge says of restored images (specification 6.9).

The judge is a captioner that no variant knows: trained on sharp images alone, then frozen. It
attends to the grid of its encoder (soft attention, no tree) and starts from a seed of its own, so
that it shares neither weights nor batches with what the variants learned from. Choices are made on
validation images; it reads the test images once. Its captions are scored like any other, and the
tree that the parser makes of them is compared with the image's, node by node.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from s3e.captions.parser import parse_caption
from s3e.config import Config
from s3e.data.corpus import Corpus
from s3e.evaluation.captions import NODES, intervals, measure
from s3e.evaluation.collect import HUMAN, RANDOM, describe, other_targets
from s3e.evaluation.score import caption_images, node_counts
from s3e.models.build import build_semantics, load_weights, save_weights
from s3e.training.stages import PretrainSemantics
from s3e.utils import rng

OWN_SEED = 1000  # added to the study's seed
DEBLURRED_BY = ("baseline", "full", "oracle_map")
UNTRAINED = ("sharp", "blurred", RANDOM, HUMAN)  # systems for which no variant was trained
PROTOCOLS = {"all": 0, "other": 1}  # from which one on the references of an image count
NODE_COLUMNS = [f"{name}_{what}" for name in NODES for what in ("correct", "total")]
JUDGED = "fidelity"  # the table of what the judge says
PAIRS = (  # systems whose difference is of interest in `JUDGED`
    ("full", "blurred"),
    ("full", "baseline"),
    ("full", "no_semantics_loss"),
    ("oracle_map", "baseline"),
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
    own = config.model_copy(update={"seed": config.seed + OWN_SEED})
    judge, task = build_semantics(own, corpus.sizes, "flat"), {"tree": False, "caption": True}
    for phase in ("tree", "a1"):
        PretrainSemantics(folder, f"judge_{phase}", phase, judge, corpus, own, **task).fit()
    save_weights(judge, folder / "judge.safetensors")
    return judge.eval().requires_grad_(False)


def caption_variants(
    judge: nn.Module, paths: Iterable[Path], corpus: Corpus, config: Config
) -> pd.DataFrame:
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
        about = {"system": system, "input": view, "seed": seed}
        frames.append(caption_images(judge, images, test, corpus, config, **about))
    return pd.concat(frames, ignore_index=True)


def caption_deblurred(
    captioners: Iterable[Path], paths: Iterable[Path], corpus: Corpus, config: Config
) -> Iterator[pd.DataFrame]:
    """ "Deblur first, then caption": the tree captioner of that seed reads restored test images.

    `captioners`, `paths`: folders of finished runs of 03 and of 05 and 06. Frames with the columns
    of `collect.read_captions`, one for each run of `DEBLURRED_BY`.
    """
    weights = {describe(path).seed: path / "tree_captioner.safetensors" for path in captioners}
    for run in map(describe, paths):
        if run.variant in DEBLURRED_BY and run.seed in weights:
            source = load_weights(build_semantics(config, corpus.sizes, "tree"), weights[run.seed])
            restored = np.load(run.path / "restored_test.npy")
            about = {"system": f"{run.variant} -> tree", "input": "deblurred", "seed": run.seed}
            yield caption_images(source, restored, corpus.test, corpus, config, **about)


def caption_tables(
    said: dict[str, pd.DataFrame], corpus: Corpus, resamples: int = 2000
) -> dict[str, pd.DataFrame]:
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
    frame = pd.concat([_beside(own, corpus, table) for table, own in said.items()])
    pairs, nodes, groups, rows = {}, {}, {}, []
    for place, own in frame.groupby([*Group._fields, "seed"], sort=False):
        pairs[place] = list(zip(own.caption, own.group, strict=True))
        nodes[place] = own[NODE_COLUMNS]
    for (*about, seed), item in measure(pairs).items():
        table = np.hstack([item.table, nodes[*about, seed]])
        groups.setdefault(Group(*about), {})[seed] = item._replace(table=table)
    heard = {group.system: own for group, own in groups.items() if group.table == JUDGED}
    for group, own in groups.items():
        others = {"": own}  # the system that is subtracted -> seed -> its captions
        if group.table == JUDGED:
            others |= {b: heard[b] for a, b in PAIRS if a == group.system and b in heard}
        for reference, other in others.items():
            if reference in UNTRAINED:
                other = dict.fromkeys(own, other[0])
            seeds = [seed for seed in own if seed in other]
            sets, minus = ([part[seed] for seed in seeds] for part in (own, other))
            found = intervals(sets, minus if reference else [], resamples) if seeds else {}
            for metric, interval in found.items():
                count = 0 if group.system in UNTRAINED else len(seeds)
                about = {"reference": reference, "metric": metric, "seeds": count}
                about |= {"images": len(sets[0].table), **interval._asdict()}
                about["reason"] = sets[0].reason if np.isnan(interval.mean) else ""
                rows.append(group._asdict() | about)
    found = pd.DataFrame(rows)
    names = found.pop("table") + np.where(found.reference == "", "", "_differences")
    return dict(list(found.groupby(names, sort=False)))


def _beside(said: pd.DataFrame, corpus: Corpus, table: str) -> pd.DataFrame:
    """The captions of a table, random and human ones, with references and counts of named nodes."""
    training = [text for texts in corpus.train.captions for text in texts]
    frames, known = [said], []
    for name in said.split.unique():
        split, key, protocols = corpus.splits[name], name, list(PROTOCOLS)
        if table == JUDGED:
            several = min(map(len, split.captions)) > 1
            key, protocols = table, ["other" if several else "all"]
        draws = [rng("random caption", key, i).integers(len(training)) for i in split.ids]
        both = {
            (RANDOM, "none"): [training[draw] for draw in draws],
            (HUMAN, "sharp"): [texts[0] for texts in split.captions],
        }
        for (system, view), texts in both.items():
            about = {"system": system, "input": view, "split": name, "seed": 0}
            frames.append(pd.DataFrame(about | {"id": split.ids, "caption": texts}))
        targets = split.targets.numpy(), other_targets(corpus, split)
        about = dict(zip(("target", "other"), map(list, targets), strict=True))
        about |= {"split": name, "id": split.ids, "place": range(len(split.ids))}
        for protocol in protocols:
            group = [texts[PROTOCOLS[protocol] :] for texts in split.captions]
            known.append(pd.DataFrame(about | {"references": protocol, "group": group}))
    frame = pd.concat(frames).merge(pd.concat(known), on=["split", "id"])
    human = frame.system == HUMAN
    frame["target"] = frame.target.where(~human, frame.other)
    frame = frame[frame.group.astype(bool) & ~(human & (frame.references == "all"))]
    frame = frame.sort_values("place", kind="stable", ignore_index=True).assign(table=table)
    trees = {text: corpus.labels.encode(parse_caption(text)) for text in frame.caption.unique()}
    named = np.stack(frame.caption.map(trees).tolist())
    return frame.join(node_counts(named, np.stack(frame.target.tolist())))
