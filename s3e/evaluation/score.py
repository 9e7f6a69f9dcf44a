"""Score one trained model: restored images, captions and tree nodes, image by image, onto disk.

Writes `scores.csv`, `samples.npz` and `samples.json` into the folder of a run and, where the data
have captions, `captions.csv` and `restored_test.npy`; notebook 07 only collects them.
"""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy import ndarray
from pandas import DataFrame
from torch import Tensor, nn

from s3e.blur import blur_batch
from s3e.captions.parser import parse_caption
from s3e.captions.tree import IGNORE
from s3e.config import Config
from s3e.data.corpus import Batch, Corpus, Split, to_images, to_tensor
from s3e.data.photos import photograph
from s3e.evaluation.images import recognised, score_batch, score_recognised
from s3e.models.build import variant_rules
from s3e.models.semantics import S3EDeblur
from s3e.models.tree import LEAVES, predicted_nodes
from s3e.utils import atomic_write, data_file, seed_everything, write_file

SCORED = ("val", "test")
PIXELS = 4_000_000  # restored at a time: four GoPro frames, or 61 images of 256 px
# sides of a restored image are padded to a multiple of it (DeblurGAN: 4, NAFNet and encoder: 16)
STRIDE = 16
SHARES = {  # kinds of nodes, counted in `scores.csv` and `captions.csv` -> their accuracies
    "leaf": "leaf_accuracy",
    "null": "null_recall",
    "relation": "relation_accuracy",
    "root": "root_accuracy",
}
COUNTS = [f"{name}_{what}" for name in SHARES for what in ("correct", "total")]


def node_counts(predicted: ndarray, target: ndarray) -> DataFrame:
    """Per image: how many leaves, NULL leaves, relations and roots there are, and are right.

    predicted, target: N x 7. Non-NULL leaves count as leaves, NULL leaves apart; out-of-vocabulary
    nodes count nowhere.
    """
    leaf, named, right = np.arange(7) < LEAVES, target > 0, predicted == target
    root = (np.arange(7) == 6) & named
    masks = leaf & named, leaf & (target == 0), ~leaf & named, root
    counts = [number for mask in masks for number in ((right & mask).sum(1), mask.sum(1))]
    return DataFrame(dict(zip(COUNTS, counts, strict=True)))


def node_shares(counts: DataFrame, by: list[str]) -> DataFrame:
    """Accuracies over all images of each group that have `node_counts`, and how many `images`."""
    groups = counts.reindex(columns=[*by, *COUNTS]).dropna().groupby(by, sort=False)
    sums = groups.sum()
    shares = {
        share: sums[f"{kind}_correct"] / sums[f"{kind}_total"].clip(lower=1)
        for kind, share in SHARES.items()
    }
    return DataFrame(shares | {"images": groups.size()})


def node_names(classes: list[int], corpus: Corpus) -> list[str]:
    """Seven class numbers -> seven labels; "?" where a label is out of vocabulary."""
    lists = [corpus.labels.entities] * LEAVES + [corpus.labels.relations] * 3
    pairs = zip(classes, lists, strict=True)
    return ["?" if number == IGNORE else names[number] for number, names in pairs]


@torch.no_grad()
def observe(
    network: nn.Module, seen: Batch | Tensor, config: Config, corpus: Corpus | None = None
) -> dict[str, Any]:
    """What a deblurrer makes of a batch, or a semantic source of images B x 3 x H x W in [-1, 1].

    Arrays, where there are such: restored (uint8 B x H x W x 3), nodes (classes B x 7), attention
    (B x 7 x h x w); and captions, where `corpus` gives the words: texts by beam search, at most as
    long as the longest of training.
    """
    network.to(config.runtime.device, torch.float32).eval()
    source, read, found = network, network(seen.to(config.runtime.device)), {}
    if isinstance(network, S3EDeblur):
        source, (restored, read) = network.semantics, read
        found["restored"] = to_images(restored)
    if read is not None and read.tree is not None:
        found["nodes"] = predicted_nodes(read.tree).cpu().numpy()
        found["attention"] = read.tree.attention.cpu().numpy()
    if corpus:
        longest, beam = corpus.train.words.shape[-1], config.evaluation.beam
        words = source.decoder.beam(read.context, read.items, longest, beam)
        found["captions"] = [corpus.words.decode(row) for row in words.tolist()]
    return found


def read_images(
    source: nn.Module, images: ndarray, config: Config, corpus: Corpus | None = None
) -> dict[str, ndarray]:
    """What `observe` finds in uint8 images N x S x S x 3, read in batches."""
    parts = [
        observe(source, to_tensor(part), config, corpus)
        for part in np.array_split(images, -(-len(images) // config.evaluation.batch))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def score_captioner(
    source: nn.Module, system: str, corpus: Corpus, config: Config, views: Collection[str],
    trees: Collection[str] = ()
) -> DataFrame:  # fmt: skip
    """`captions.csv`: a caption of each validation and test image, with `node_counts` of its tree.

    `views`: what is captioned, "sharp" or severities; `trees`: those of them whose tree is scored.
    """
    frames = []
    for name, view in itertools.product(SCORED, views):
        split = corpus.splits[name]
        images = split.sharp if view == "sharp" else split.blurred[view]
        found = read_images(source, images, config, corpus)
        about = {"system": system, "input": view, "split": name, "id": split.ids}
        frame = DataFrame(about | {"caption": found["captions"]})
        if view in trees:
            frame = frame.join(node_counts(found["nodes"], split.targets.numpy()))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def score_deblurrer(
    folder: Path, model: S3EDeblur, variant: str, corpus: Corpus, config: Config
) -> None:
    """Write every score of a deblurring run to `folder`.

    Nodes and captions are scored where the variant trains them and reads the blurred image; an
    oracle's would mislead.
    """
    rules, trained = variant_rules(variant, corpus.captioned), config.blur.severity
    reads, tables = rules.view == "blurred", []
    for name, severity in itertools.product(SCORED, corpus.severities):
        kept = corpus.captioned and (name, severity) == ("test", trained)
        keep = folder / "restored_test.npy" if kept else None
        nodes = reads and rules.tree_loss
        tables.append(score_images(model, corpus.splits[name], severity, config, nodes, keep))
    write_file(folder / "scores.csv", pd.concat(tables))
    if reads and rules.caption_loss and not rules.shuffled:
        trees, views = ["sharp"] if rules.tree_loss else [], ("sharp", trained)
        said = score_captioner(model.semantics, variant, corpus, config, views, trees)
        write_file(folder / "captions.csv", said)
    write_samples(folder, model, corpus, config, caption=reads and rules.caption_loss)


def score_images(
    model: S3EDeblur, split: Split, severity: str, config: Config,
    nodes: bool = False, keep: Path | None = None
) -> DataFrame:  # fmt: skip
    """Rows of `scores.csv`, with `node_counts` if wanted; `keep`: where restored images go.

    Of test photographs with `SEEN_METRICS`.
    """
    tables, images, extents = [], [], np.asarray(split.extents[severity])
    photos = split.name == "test" and split.label_maps is None
    for rows, restored, predicted in restore(model, split, severity, config):
        ids = [split.ids[row] for row in rows]
        about = {"split": split.name, "severity": severity, "id": ids}
        sharp = split.sharp[rows]
        seen = recognised(sharp) if photos else None
        for image, view in ((restored, ""), (split.blurred[severity][rows], "_blurred")):
            scores = score_batch(image, sharp)
            if photos:
                scores |= score_recognised(recognised(image), seen)
            about |= {f"{name}{view}": values for name, values in scores.items()}
        table = DataFrame(about | {"extent": extents[rows]})
        if nodes:
            table = table.join(node_counts(predicted, split.targets[rows].numpy()))
        tables.append(table.set_index(rows))
        images += [restored] if keep else []
    table = pd.concat(tables)
    if keep:
        write_file(keep, np.concatenate(images)[np.argsort(table.index)])
    return table.sort_index()


def restore(
    model: S3EDeblur, split: Split, severity: str, config: Config
) -> Iterator[tuple[ndarray, ndarray, ndarray | None]]:
    """Restore what a split has of a severity, in parts that fit into memory.

    Yields row numbers n, restored images uint8 n x H x W x 3 and predicted nodes n x 7 (None
    without a tree). Rows come in the order of `Split.apart`, so that the tree of "another image"
    is not that of the frame before.
    """
    seed_everything(config.seed, "evaluation", split.name, severity)
    height, width = split.sharp.shape[1:3]
    size = max(3, min(config.evaluation.batch, PIXELS // (height * width)))
    order = split.apart(split.rows(severity))
    for rows in np.array_split(order, max(1, -(-len(order) // size))):
        found = observe(model, padded(split.batch(rows, severity)), config)
        yield rows, found["restored"][:, :height, :width], found.get("nodes")


def padded(batch: Batch) -> Batch:
    """The images, continued by reflection to sides (right and below) that networks can halve."""
    height, width = batch.blurred.shape[2:]
    sides = (0, -width % STRIDE, 0, -height % STRIDE)
    if not any(sides):
        return batch
    sharp, blurred = (F.pad(images, sides, "reflect") for images in (batch.sharp, batch.blurred))
    return replace(batch, sharp=sharp, blurred=blurred)


def shown(corpus: Corpus, config: Config) -> Split:
    """The photos in figures: validation's, or public-domain ones if the data must not be published.

    No network was trained on these, and none is scored on them; true trees are unknown (IGNORE).
    """
    if config.pictures == "data" or corpus.val.label_maps is not None:
        return corpus.val
    wordings, blur = data_file("evaluation/wordings.toml"), config.blur
    names, captions = list(wordings), list(wordings.values())
    sharp = np.stack([photograph(name, config.data.size) for name in names])
    blurred = blur_batch(sharp, names, blur.severity, blur.seed, blur.gamma, blur.noise)[0]
    trees = [[corpus.labels.encode(parse_caption(texts[0]))] for texts in captions]
    unknown = torch.full((len(names), 1, 7), IGNORE)
    return replace(
        corpus.val, name="public", ids=names, captions=captions, parses=[],
        sharp=sharp, blurred={blur.severity: blurred}, psnr={},
        words=unknown, trees=torch.tensor(trees), targets=unknown[:, 0]
    )  # fmt: skip


def write_samples(
    folder: Path, network: nn.Module, corpus: Corpus, config: Config, *, caption: bool = True
) -> None:
    """What a network makes of the first images of `shown`, for figures; of pairs each severity."""
    split = shown(corpus, config)
    views = corpus.severities if "released" in split.blurred else (config.blur.severity,)
    rows = split.apart(split.rows(*views))[: config.evaluation.samples]
    seed_everything(config.seed, "samples")
    parts = []
    for severity in views:
        batch = split.batch(rows, severity)
        seen = batch if isinstance(network, S3EDeblur) else batch.blurred
        found = observe(network, seen, config, corpus if caption else None)
        about = {"ids": np.array(batch.ids), "severity": np.full(len(rows), severity)}
        images = {"sharp": to_images(batch.sharp), "blurred": to_images(batch.blurred)}
        parts.append(about | images | found)
    order = np.arange(len(views) * len(rows)).reshape(len(views), -1).T.ravel()  # image by image
    arrays = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    texts, nodes = arrays.pop("captions", None), arrays.pop("nodes", None)
    records = [
        {
            "id": split.ids[row],
            "references": split.captions[row],
            "caption": None if texts is None else str(texts[i]),
            "predicted": None if nodes is None else node_names(nodes[i], corpus),
            "target": node_names(split.targets[row].tolist(), corpus),
        }
        for i, row in enumerate(np.repeat(rows, len(views)))
    ]
    with atomic_write(folder / "samples.npz") as temporary:
        np.savez_compressed(temporary, **arrays)
    write_file(folder / "samples.json", records)
