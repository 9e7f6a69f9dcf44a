"""Score one trained model: restored photos, captions and tree nodes, per photo and per severity, onto disk.

Writes `scores.csv`, `samples.npz` and `samples.json` into the folder of a run and, where the data have captions,
`nodes.csv`, `captions.json` and `restored_test.npy`; notebook 07 only collects them.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.captions.tree import IGNORE
from s3e.config import Config, Variant
from s3e.data.corpus import Batch, Corpus, Split, to_images, to_tensor
from s3e.evaluation.images import score_batch
from s3e.models.build import variant_rules
from s3e.models.semantics import S3EDeblur, Semantics
from s3e.models.tree import LEAVES, predicted_nodes
from s3e.utils import atomic_write, seed_everything, write_array, write_json

SCORED = ("val", "test")


def node_counts(predicted: np.ndarray, target: np.ndarray) -> pd.DataFrame:
    """Per photo: how many leaves, NULL leaves, relations (5-7) and roots there are, and how many are right.

    predicted, target: N x 7. Non-NULL leaves count as leaves, NULL leaves apart; out-of-vocabulary nodes count nowhere.
    """
    right = predicted == target
    leaf = np.zeros_like(target, dtype=bool)
    leaf[:, :LEAVES] = True
    named, null = target > 0, target == 0
    root = np.zeros_like(leaf)
    root[:, -1] = True
    groups = {
        "leaf": leaf & named,
        "null": leaf & null,
        "relation": ~leaf & named,
        "root": root & named,
    }
    columns = {}
    for name, mask in groups.items():
        columns[f"{name}_correct"] = (right & mask).sum(1)
        columns[f"{name}_total"] = mask.sum(1)
    return pd.DataFrame(columns)


def node_row(counts: pd.DataFrame, **labels: str) -> dict[str, object]:
    """Accuracies over all photos of `counts`, in one row of `nodes.csv`."""
    total = counts.sum()
    share = {
        name: total[f"{name}_correct"] / max(total[f"{name}_total"], 1)
        for name in ("leaf", "relation", "root")
    }
    return {
        **labels,
        "leaf_accuracy": share["leaf"],
        "null_recall": total["null_correct"] / max(total["null_total"], 1),
        "relation_accuracy": share["relation"],
        "root_accuracy": share["root"],
        "n": len(counts),
    }


@torch.no_grad()
def read_split(
    source: nn.Module,
    split: Split,
    view: str,
    corpus: Corpus,
    config: Config,
    *,
    caption: bool,
    images=None,
) -> dict[str, object]:
    """What a semantic source says of every photo of a split: node classes N x 7 (or None) and captions {id: text}.

    `view`: "sharp" or a severity; `images` (uint8 N x S x S x 3) replaces the photos, e.g. by deblurred ones.
    """
    source.to(config.runtime.device).eval()
    nodes, texts = [], {}
    for rows in split.chunks(config.evaluation.batch):
        shown = split.batch(rows, view).blurred if images is None else to_tensor(images[rows])
        semantics = source(shown.to(config.runtime.device))
        if semantics.tree is not None:
            nodes.append(predicted_nodes(semantics.tree).cpu().numpy())
        if caption:
            texts |= dict(
                zip(
                    [split.ids[i] for i in rows],
                    say(source, semantics, corpus, config),
                    strict=True,
                )
            )
    return {"nodes": np.concatenate(nodes) if nodes else None, "captions": texts}


def say(source: nn.Module, semantics: Semantics, corpus: Corpus, config: Config) -> list[str]:
    """Captions by beam search."""
    return [corpus.words.decode(row) for row in _spoken(source, semantics, corpus, config).tolist()]


def _spoken(source: nn.Module, semantics: Semantics, corpus: Corpus, config: Config) -> Tensor:
    """Word ids by beam search, B x the longest training caption."""
    longest = corpus.train.words.shape[-1]
    return source.decoder.beam(semantics.context, semantics.items, longest, config.evaluation.beam)


def _said(
    source: nn.Module, semantics: Semantics, corpus: Corpus, config: Config
) -> tuple[list[str], dict]:
    """Captions, and as an array for `samples.npz` where each word looks: N x T x K (nothing without attention)."""
    words = _spoken(source, semantics, corpus, config)
    texts = [corpus.words.decode(row) for row in words.tolist()]
    if not source.decoder.item_width:
        return texts, {}
    attention = source.decoder.attend(words, semantics.context, semantics.items)
    return texts, {"word_attention": attention.cpu().numpy()}


def score_captioner(
    source: nn.Module, system: str, corpus: Corpus, config: Config, *, tree: bool
) -> tuple[list[dict], list[dict]]:
    """Captions (for `captions.json`) and node accuracies (for `nodes.csv`) of a captioner on every kind of input."""
    captions, nodes = [], []
    for split in (corpus.splits[name] for name in SCORED):
        for view in ("sharp", *corpus.severities):
            said = read_split(source, split, view, corpus, config, caption=True)
            captions.append(
                {"system": system, "input": view, "split": split.name, "captions": said["captions"]}
            )
            if tree:
                counts = node_counts(said["nodes"], split.targets.numpy())
                nodes.append(node_row(counts, system="before", input=view, split=split.name))
    return captions, nodes


def score_deblurrer(
    folder: Path, model: S3EDeblur, variant: str, corpus: Corpus, config: Config
) -> dict[str, float]:
    """Write every score of a deblurring run to `folder`; returns its summary (for `metrics.json`).

    Nodes and captions are scored where the arm trains them and reads the blurred photo; an oracle's would mislead.
    """
    arm = variant_rules(variant, corpus.captioned)
    reads = arm.view == "blurred"
    images, nodes, captions = [], [], []
    for split in (corpus.splits[name] for name in SCORED):
        for severity in corpus.severities:
            kept = corpus.captioned and split.name == "test" and severity == config.blur.severity
            keep = folder / "restored_test.npy" if kept else None
            table, counts = _score_images(model, split, severity, arm, config, keep)
            images.append(table)
            if counts is not None:
                nodes.append(node_row(counts, system="after", input=severity, split=split.name))
        if reads and arm.caption_loss and not arm.shuffled:
            said, read = _score_language(
                model.semantics, variant, split, corpus, config, tree=arm.tree_loss
            )
            captions, nodes = captions + said, nodes + read
    scores = pd.concat(images, ignore_index=True)
    _write_csv(folder / "scores.csv", scores)
    if nodes:
        _write_csv(folder / "nodes.csv", pd.DataFrame(nodes))
    if corpus.captioned:
        write_json(folder / "captions.json", captions)
    write_samples(folder, model, corpus, config, caption=reads and arm.caption_loss)
    return summarise(scores, nodes)


def _score_images(
    model: S3EDeblur, split: Split, severity: str, arm: Variant, config: Config, keep: Path | None
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Rows for `scores.csv`, and the node counts where the arm is judged by them; `keep`: where restored photos go."""
    tables, counted, images, seen = [], [], [], []
    for rows, restored, predicted in restore_chunks(model, split, severity, config):
        seen.append(rows)
        tables.append(image_table(split, severity, rows, restored))
        if arm.view == "blurred" and arm.tree_loss and predicted is not None:
            counted.append(node_counts(predicted, split.targets[rows].numpy()))
        if keep:
            images.append(restored)
    order = np.argsort(np.concatenate(seen))
    if keep:
        write_array(keep, np.concatenate(images)[order])
    table = pd.concat(tables).iloc[order].reset_index(drop=True)
    if not counted:
        return table, None
    counts = pd.concat(counted).iloc[order].reset_index(drop=True)
    return pd.concat([table, counts.drop(columns=["root_correct", "root_total"])], axis=1), counts


def _score_language(
    source: nn.Module, system: str, split: Split, corpus: Corpus, config: Config, *, tree: bool
) -> tuple[list[dict], list[dict]]:
    """Captions of sharp and of trained-severity photos, and what the tree reads in sharp ones."""
    captions, nodes = [], []
    for view in ("sharp", config.blur.severity):
        said = read_split(source, split, view, corpus, config, caption=True)
        captions.append(
            {"system": system, "input": view, "split": split.name, "captions": said["captions"]}
        )
        if tree and view == "sharp" and said["nodes"] is not None:
            counts = node_counts(said["nodes"], split.targets.numpy())
            nodes.append(node_row(counts, system="after", input=view, split=split.name))
    return captions, nodes


def summarise(scores: pd.DataFrame, nodes: list[dict]) -> dict[str, float]:
    """Means by split and severity, flat, for `metrics.json`."""
    means = scores.groupby(["split", "severity"])[["psnr", "ssim", "psnr_blurred"]].mean()
    flat = means.stack()
    metrics = {"_".join(key): float(value) for key, value in flat.items()}
    leaves = {
        f"{row['split']}_{row['input']}_leaf_accuracy": float(row["leaf_accuracy"]) for row in nodes
    }
    return metrics | leaves


@torch.no_grad()
def write_samples(
    folder: Path, model: S3EDeblur, corpus: Corpus, config: Config, *, caption: bool
) -> None:
    """The first validation photos with what the model made of them, for the figures; pairs under every severity."""
    rows = _sample_rows(corpus, config)
    batch = _sample_batch(rows, config.blur.severity, corpus, config)
    model.eval()
    seed_everything(config.seed, "samples")
    restored, semantics = model(batch)
    arrays = {"restored": to_images(restored)}
    for severity in (
        set(corpus.severities) - {config.blur.severity} if "released" in corpus.severities else ()
    ):
        other = _sample_batch(rows, severity, corpus, config)
        arrays |= {
            f"blurred_{severity}": to_images(other.blurred),
            f"restored_{severity}": to_images(model(other)[0]),
        }
    texts, attention = _said(model.semantics, semantics, corpus, config) if caption else (None, {})
    arrays |= attention
    _write_sample_files(folder, rows, batch, semantics, texts, corpus, **arrays)


@torch.no_grad()
def write_captioner_samples(
    folder: Path, source: nn.Module, corpus: Corpus, config: Config
) -> None:
    """The same photos, blurred, as a captioner reads them before co-training."""
    rows = _sample_rows(corpus, config)
    batch = _sample_batch(rows, config.blur.severity, corpus, config)
    semantics = source.to(config.runtime.device).eval()(batch.blurred)
    texts, attention = _said(source, semantics, corpus, config)
    _write_sample_files(folder, rows, batch, semantics, texts, corpus, **attention)


def _sample_rows(corpus: Corpus, config: Config) -> np.ndarray:
    return corpus.val.spread(corpus.val.rows(*corpus.severities))[: config.evaluation.samples]


def _sample_batch(rows: np.ndarray, severity: str, corpus: Corpus, config: Config) -> Batch:
    return corpus.val.batch(rows, severity).to(config.runtime.device)


def _write_sample_files(
    folder: Path, rows: np.ndarray, batch: Batch, semantics: Semantics | None, texts: list[str] | None,
    corpus: Corpus, **arrays: np.ndarray,
) -> None:  # fmt: skip
    arrays |= {
        "ids": np.array(batch.ids),
        "sharp": to_images(batch.sharp),
        "blurred": to_images(batch.blurred),
    }
    predicted = None
    if semantics is not None and semantics.tree is not None:
        arrays["attention"] = semantics.tree.attention.cpu().numpy()
        predicted = predicted_nodes(semantics.tree).tolist()
    records = [
        {
            "id": photo,
            "references": corpus.val.captions[rows[i]],
            "caption": texts[i] if texts else None,
            "predicted": node_names(predicted[i], corpus) if predicted else None,
            "target": node_names(corpus.val.targets[rows[i]].tolist(), corpus),
        }
        for i, photo in enumerate(batch.ids)
    ]
    with atomic_write(folder / "samples.npz") as temporary:
        np.savez_compressed(temporary, **arrays)
    write_json(folder / "samples.json", records)


def node_names(classes: list[int], corpus: Corpus) -> list[str]:
    """Seven class numbers -> seven labels; "?" where a label is out of vocabulary."""
    lists = [corpus.labels.entities] * LEAVES + [corpus.labels.relations] * 3
    return [
        "?" if number == IGNORE else names[number]
        for number, names in zip(classes, lists, strict=True)
    ]


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False)


PIXELS = 4_000_000  # restored at a time: four GoPro frames, or 61 photos of 256 px
STRIDE = 16  # sides of a restored picture are padded to a multiple of it (DeblurGAN: 4, NAFNet and encoder: 16)
Restored = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@torch.no_grad()
def restore_chunks(
    model: S3EDeblur, split: Split, severity: str, config: Config
) -> Iterator[Restored]:
    """Restore what a split has of a severity, in parts that fit into memory.

    Yields row numbers n, restored photos uint8 n x H x W x 3 and predicted nodes n x 7 (None without a tree). Rows come
    in the order of `Split.spread`, so that the tree of "another photo" is not that of the frame before.
    """
    model.to(config.runtime.device).eval()
    seed_everything(config.seed, "evaluation", split.name, severity)
    height, width = split.sharp.shape[1:3]
    size = max(3, min(config.evaluation.batch, PIXELS // (height * width)))
    order = split.spread(split.rows(severity))
    for rows in np.array_split(order, max(1, -(-len(order) // size))):
        image, semantics = model(padded(split.batch(rows, severity).to(config.runtime.device)))
        tree = None if semantics is None else semantics.tree
        nodes = None if tree is None else predicted_nodes(tree).cpu().numpy()
        yield rows, to_images(image[:, :, :height, :width]), nodes


def padded(batch: Batch) -> Batch:
    """Photos of any size, continued by reflection on the right and below to sides that the networks can halve."""
    height, width = batch.blurred.shape[2:]
    sides = (0, -width % STRIDE, 0, -height % STRIDE)
    if not any(sides):
        return batch
    return replace(
        batch,
        **{name: F.pad(getattr(batch, name), sides, "reflect") for name in ("sharp", "blurred")},
    )


def restore_split(model: S3EDeblur, split: Split, severity: str, config: Config) -> np.ndarray:
    """Restored photos uint8 N x H x W x 3 of `split.rows(severity)`."""
    parts = [part[:2] for part in restore_chunks(model, split, severity, config)]
    rows, restored = (np.concatenate(column) for column in zip(*parts, strict=True))
    return restored[np.argsort(rows)]


def image_table(
    split: Split, severity: str, rows: np.ndarray, restored: np.ndarray
) -> pd.DataFrame:
    """PSNR and SSIM of the photos `rows` (n), restored (uint8 n x H x W x 3) and blurred."""
    scores = score_batch(restored, split.sharp[rows])
    blurred = score_batch(split.blurred[severity][rows], split.sharp[rows])
    return pd.DataFrame(
        {
            "split": split.name,
            "severity": severity,
            "id": [split.ids[row] for row in rows],
            "psnr": scores["psnr"],
            "ssim": scores["ssim"],
            "psnr_blurred": blurred["psnr"],
            "ssim_blurred": blurred["ssim"],
            "extent": [split.extents[severity][row] for row in rows],
        }
    )
