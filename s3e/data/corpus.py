"""The prepared corpus: arrays on disk, batches as tensors."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from s3e.blur import SEVERITIES
from s3e.captions.tree import IGNORE, NULL, SPECIAL, CaptionTree, TreeVocabulary, Vocabulary
from s3e.data.readers import SPLITS
from s3e.utils import read_json, rng

Nodes = list[str] | None  # seven labels in node order; None where a caption names nothing


def tree_of(nodes: Nodes) -> CaptionTree | None:
    """The tree of seven labels."""
    return None if nodes is None else CaptionTree(tuple(nodes[:4]), tuple(nodes[4:]))


def read_vocabulary(folder: Path | str | None) -> tuple[Vocabulary, TreeVocabulary, int]:
    """Words, tree labels and the number of words kept of a caption; empty ones for None."""
    if folder is None:
        return Vocabulary(SPECIAL), TreeVocabulary([NULL], [NULL]), 1
    content = read_json(Path(folder) / "vocabulary.json")
    words, labels = (
        Vocabulary.from_dict(content["words"]),
        TreeVocabulary.from_dict(content["labels"]),
    )
    return words, labels, content["max_words"]


def encode(
    record: dict, words: Vocabulary, labels: TreeVocabulary, max_words: int
) -> dict[str, Tensor]:
    """Captions as word ids and trees as node classes: {"words": N x C x T, "trees": N x C x 7, "targets": N x 7}.

    `record`: `ids`, `captions`, their `parses`, true `trees` or None. Without captions: zeros, `IGNORE`, C = T = 1.
    """
    most = max(len(texts) for texts in record["captions"])
    if most == 0:
        trees = torch.full((len(record["ids"]), 1, 7), IGNORE)
        return {"words": torch.zeros_like(trees[..., :1]), "trees": trees, "targets": trees[:, 0]}
    captions, parses = (_repeat(record[name], most) for name in ("captions", "parses"))
    encoded = [[words.encode(text, max_words) for text in texts] for texts in captions]
    longest = max(len(ids) for row in encoded for ids in row)
    padded = [[ids + [0] * (longest - len(ids)) for ids in row] for row in encoded]
    parsed = [[tree_of(nodes) for nodes in row] for row in parses]
    trees = [[labels.encode(tree) for tree in row] for row in parsed]
    true = record["trees"]
    targets = [
        labels.encode(tree_of(true[i]) if true else consensus(row)) for i, row in enumerate(parsed)
    ]
    return {
        "words": torch.tensor(padded),
        "trees": torch.tensor(trees),
        "targets": torch.tensor(targets),
    }


def _repeat(rows: list[list], count: int) -> list[list]:
    """Rows of `count` items each: photos with fewer captions repeat them."""
    return [[row[i % len(row)] for i in range(count)] for row in rows]


def consensus(trees: list[CaptionTree | None]) -> CaptionTree | None:
    """The most frequent label of each node over the trees of one photo's captions (ties: the earlier caption)."""
    known = [tree.nodes for tree in trees if tree is not None]
    if not known:
        return None
    nodes = [Counter(column).most_common(1)[0][0] for column in zip(*known, strict=True)]
    return tree_of(nodes)


@dataclass(frozen=True)
class Batch:
    """What one update sees, or an equal part of it.

    Images float32 B x 3 x S x S in [-1, 1]; words B x T; tree B x 7; labels B x S x S. `key`: what its random draws
    hang on (training and update). `all_words`, `all_trees`: those of the whole update's images, by which losses divide.
    """

    ids: list[str]
    sharp: Tensor
    blurred: Tensor
    words: Tensor
    tree: Tensor
    labels: Tensor | None
    key: tuple[object, ...] = ()
    all_words: Tensor | None = None
    all_trees: Tensor | None = None

    def to(
        self,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> "Batch":
        """The same batch on another device, its images in another precision or memory layout."""
        layout = torch.channels_last if channels_last else torch.preserve_format
        images = {name: getattr(self, name) for name in ("sharp", "blurred")}
        images = {
            name: item.to(device, dtype, memory_format=layout) for name, item in images.items()
        }
        others = {
            name: getattr(self, name)
            for name in ("words", "tree", "labels", "all_words", "all_trees")
        }
        return replace(
            self, **images, **{name: v if v is None else v.to(device) for name, v in others.items()}
        )

    def uniform(self, name: str) -> Tensor:
        """One number in [0, 1) an image, keyed by its id and the update: the same however the batch is cut."""
        draws = [rng(name, *self.key, photo).random() for photo in self.ids]
        return torch.tensor(draws, dtype=self.sharp.dtype, device=self.sharp.device)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers B x shape, keyed like `uniform`."""
        draws = np.stack([rng(name, *self.key, photo).standard_normal(shape) for photo in self.ids])
        return torch.from_numpy(draws).to(self.sharp.device, self.sharp.dtype)


@dataclass
class Split:
    """One split in memory-mapped arrays, with its captions as word ids and its trees as node classes.

    A severity may be missing for some photos (frames at the end of a video have no window): `rows` knows which have it.
    Without captions, `captions` are empty lists, `words` zeros (N x 1 x 1), `trees` and `targets` IGNORE.
    """

    name: str
    ids: list[str]
    captions: list[list[str]]
    parses: list[list[CaptionTree | None]]  # the tree of each caption; None where it names nothing
    sharp: np.ndarray  # N x H x W x 3, like every array of `blurred`
    blurred: dict[str, np.ndarray]
    extents: dict[
        str, list[float]
    ]  # kernel extent in pixels; NaN where no kernel was drawn (pairs)
    psnr: dict[
        str, list[float]
    ]  # of the blurred photo against the sharp one, in dB; NaN where it is missing
    words: Tensor  # N x C x T, C captions a photo
    trees: Tensor  # N x C x 7, IGNORE where a label is out of vocabulary
    targets: (
        Tensor  # N x 7: the true tree (scenes) or the most frequent label of each node (photos)
    )
    labels: np.ndarray | None
    missing: dict[str, list[int]] = field(default_factory=dict)  # rows without a severity

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, *severities: str) -> np.ndarray:
        """Numbers of the photos that have all of `severities`; all photos where none is given, or "sharp"."""
        have = np.ones(len(self), dtype=bool)
        have[[row for name in severities for row in self.missing.get(name, ())]] = False
        return np.flatnonzero(have)

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """The same rows, those of one video or sub-folder (ids up to the last "/") as far from each other as can be."""
        groups = [self.ids[row].rpartition("/")[0] for row in rows]
        sizes, seen, place = Counter(groups), Counter(), []
        for group in groups:
            place.append((seen[group] + 0.5) / sizes[group])
            seen[group] += 1
        return rows[np.argsort(place, kind="stable")]

    def batch(self, index: np.ndarray, severity: str, choice: np.ndarray | None = None) -> Batch:
        """The photos at `index`; `choice` says which of its captions (default: the first).

        Raises ValueError for a photo that does not have the severity.
        """
        if not set(self.missing.get(severity, ())).isdisjoint(np.asarray(index).tolist()):
            raise ValueError(
                f"{self.name}: some of these photos have no '{severity}': choose from rows('{severity}')."
            )
        rows = torch.as_tensor(index)
        pick = (
            torch.zeros(len(index), dtype=torch.long) if choice is None else torch.as_tensor(choice)
        )
        labels = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[index]))
        sharp = to_tensor(self.sharp[index])
        blurred = sharp if severity == "sharp" else to_tensor(self.blurred[severity][index])
        words, trees = self.words[rows, pick], self.trees[rows, pick]
        ids = [self.ids[i] for i in index]
        return Batch(ids, sharp, blurred, words, trees, labels, (self.name,), words, trees)

    def draw(
        self, batch: int, severity: str, step: int, *key: object, part: int = 0, parts: int = 1
    ) -> Batch:
        """Batch number `step` of an endless reshuffled pass, or one of `parts` equal parts of it.

        A pure function of `key` and `step`; all that is random is drawn for the whole batch.
        """
        start, rows = step * batch, self.rows(severity)
        places = np.arange(start, start + batch)
        index = np.empty(batch, dtype=np.int64)
        for epoch in np.unique(places // len(rows)):
            order = rows[rng("epoch", *key, int(epoch)).permutation(len(rows))]
            here = places // len(rows) == epoch
            index[here] = order[places[here] % len(rows)]
        choice = rng("caption", *key, step).integers(0, self.words.shape[1], size=batch)
        mine = slice(part * batch // parts, (part + 1) * batch // parts)
        whole = {"all_words": self.words[index, choice], "all_trees": self.trees[index, choice]}
        return replace(self.batch(index[mine], severity, choice[mine]), key=(*key, step), **whole)

    def batches(self, batch: int, severity: str) -> Iterator[Batch]:
        """Every photo that has the severity once, in order."""
        for rows in self.chunks(batch, severity):
            yield self.batch(rows, severity)

    def chunks(
        self, batch: int, severity: str = "sharp", most: int | None = None
    ) -> list[np.ndarray]:
        """`rows(severity)`, or the first `most` of them, in nearly equal parts of at most `batch`.

        From a `batch` of 3 on, none has one photo (of several).
        """
        rows = self.rows(severity)[:most]
        return np.array_split(rows, max(1, -(-len(rows) // batch)))


@dataclass
class Corpus:
    """All splits with the vocabularies of words and of tree labels (training captions only).

    `severities`: what validation and test come in, mildest first: light, moderate, severe (photos and scenes) or
    released, severe (pairs). `protocol`: for tables, the whole of it in one sentence without a full stop: where the
    splits come from and, for pairs, which subset and frames, how the severe ones were made, crops or whole frames.
    `left_out` (broken files and records) and `notes` (e.g. near-duplicates that were moved): to be shown once.
    """

    folder: Path
    splits: dict[str, Split]
    words: Vocabulary
    labels: TreeVocabulary
    severities: tuple[str, ...]
    protocol: str
    captioned: bool
    categories: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    vocabulary: Path | None = (
        None  # the folder whose vocabularies it uses, where that is not its own
    )

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def val(self) -> Split:
        return self.splits["val"]

    @property
    def test(self) -> Split:
        return self.splits["test"]


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 N x H x W x 3 -> float32 N x 3 x H x W in [-1, 1]."""
    return (
        torch.from_numpy(np.ascontiguousarray(images))
        .permute(0, 3, 1, 2)
        .float()
        .div_(127.5)
        .sub_(1.0)
    )


def to_images(image: Tensor) -> np.ndarray:
    """float N x 3 x H x W in [-1, 1] -> uint8 N x H x W x 3, clamped and rounded; ValueError for NaN."""
    if image.isnan().any():
        raise ValueError("to_images: an image contains NaN; the network that made it has diverged.")
    levels = (image.double().clamp(-1, 1) + 1) * 127.5
    return levels.round().byte().permute(0, 2, 3, 1).cpu().numpy()


def load_corpus(folder: Path | str, vocabulary: Path | str | None = None) -> Corpus:
    """Open a prepared corpus; photos stay on disk (memory-mapped) until a batch needs them.

    `vocabulary`: the folder of a captioned corpus whose words and labels to use; without it, a corpus without captions
    has empty vocabularies.
    """
    folder = Path(folder)
    about = read_json(folder / "corpus.json")
    words, labels, max_words = read_vocabulary(
        vocabulary or folder if vocabulary or about["captioned"] else None
    )
    splits = {name: _load_split(folder, name, words, labels, max_words) for name in SPLITS}
    about |= {
        "severities": tuple(about["severities"]),
        "vocabulary": Path(vocabulary) if vocabulary else None,
    }
    return Corpus(folder, splits, words, labels, **about)


def _load_split(
    folder: Path, name: str, words: Vocabulary, labels: TreeVocabulary, max_words: int
) -> Split:
    record = read_json(folder / f"{name}.json")
    path = folder / f"{name}_labels.npy"
    return Split(
        name=name,
        ids=record["ids"],
        captions=record["captions"],
        parses=[[tree_of(nodes) for nodes in row] for row in record["parses"]],
        sharp=np.load(folder / f"{name}_sharp.npy", mmap_mode="r"),
        blurred={
            key: np.load(folder / f"{name}_{key}.npy", mmap_mode="r") for key in record["psnr"]
        },
        extents=_numbers(record["extents"]),
        psnr=_numbers(record["psnr"]),
        missing=record["missing"],
        labels=np.load(path, mmap_mode="r") if path.exists() else None,
        **encode(record, words, labels, max_words),
    )


def _numbers(columns: dict[str, list[float | None]]) -> dict[str, list[float]]:
    return {
        name: [math.nan if value is None else value for value in column]
        for name, column in columns.items()
    }


def severity_table(corpus: Corpus) -> pd.DataFrame:
    """One row a photo of val and test and a severity: kernel extent in pixels (pairs: none), input PSNR in dB."""
    parts = []
    for split in (corpus.val, corpus.test):
        for severity in corpus.severities:
            columns = {
                "id": split.ids,
                "extent": split.extents[severity],
                "psnr_blurred": split.psnr[severity],
            }
            rows = split.rows(severity)
            parts.append(
                pd.DataFrame({"split": split.name, "severity": severity, **columns}).iloc[rows]
            )
    return pd.concat(parts, ignore_index=True)


def label_coverage(corpus: Corpus) -> pd.DataFrame:
    """Per split: captions, share with a tree, share of entity and relation nodes in the vocabulary (captioned data)."""
    rows = []
    for split in corpus.splits.values():
        parses = [tree for row in split.parses for tree in row]
        trees = [tree for tree in parses if tree]
        share = len(trees) / max(len(parses), 1)
        rows.append(
            {"captions": len(parses), "with a tree": share, **corpus.labels.coverage(trees)}
        )
    return pd.DataFrame(rows, index=pd.Index(list(corpus.splits), name="split"))


def synthetic(corpus: Corpus) -> tuple[str, ...]:
    """The severities of a corpus that were made with kernels; none of pairs."""
    return (
        ()
        if "released" in corpus.severities
        else tuple(name for name in corpus.severities if name in SEVERITIES)
    )
