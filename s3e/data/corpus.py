"""The corpus of a study as training and evaluation read it: batches are functions of their number.

`s3e.data.prepare` writes it. Layout of the folder: `<split>_sharp.npy`, `<split>_<severity>.npy`
(uint8 N x H x W x 3), `<split>_extent_<severity>.npy`, `<split>_psnr_<severity>.npy` (N),
`<split>_labels.npy` (scenes: uint8 N x S x S), `<split>.json` (ids, captions, their parses, true
trees), `corpus.json` (severities, protocol, what was left out) and, for captioned data,
`vocabulary.json`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mode
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from s3e.captions.tree import NULL, SPECIAL, CaptionTree, TreeVocabulary, Vocabulary
from s3e.data.readers import SPLITS
from s3e.utils import read_json, rng, to_uint8


@dataclass(frozen=True)
class Batch:
    """What one step sees, or an equal part of it.

    Images float32 B x 3 x S x S in [-1, 1]; words B x T; tree B x 7, of the caption; told B x 7:
    the scene's true tree, or that of the caption; label_map B x S x S. `key`: what its random draws
    hang on (training and step). `all_words`, `all_trees`: those of the whole
    step's images, by which losses divide.
    """

    ids: list[str]
    sharp: Tensor
    blurred: Tensor
    words: Tensor
    tree: Tensor
    told: Tensor
    label_map: Tensor | None
    key: tuple[object, ...] = ()
    all_words: Tensor | None = None
    all_trees: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """The same batch on another device, its images in another precision."""
        moved = {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def uniform(self, name: str) -> Tensor:
        """A random number of [0, 1) for each image (and step), however the batch is cut: B."""
        draws = [rng(name, *self.key, photo).random() for photo in self.ids]
        return self.sharp.new_tensor(draws)


@dataclass
class Split:
    """One split in memory-mapped arrays, its captions as word ids and its trees as node classes.

    A severity may be missing for some photos (frames at the end of a video have no window): `rows`
    knows which have it. Without captions, `captions` are empty lists, `words` zeros (N x 1 x 1),
    `trees` and `targets` IGNORE.
    """

    name: str
    ids: list[str]
    captions: list[list[str]]
    parses: list[list[CaptionTree | None]]  # the tree of each caption; None where it names nothing
    sharp: ndarray  # N x H x W x 3, like every array of `blurred`
    blurred: dict[str, ndarray]
    extents: dict[str, ndarray]  # N, of kernels, in pixels; NaN where none was drawn (pairs)
    psnr: dict[str, ndarray]  # N, of the blurred photo in dB; NaN where it is missing
    words: Tensor  # N x C x T, C captions a photo
    trees: Tensor  # N x C x 7, IGNORE where a label is out of vocabulary
    targets: Tensor  # N x 7: the true tree (scenes), or the most frequent label of each node
    label_maps: ndarray | None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, *severities: str) -> ndarray:
        """Numbers of the photos that have all of `severities`; "sharp", or none given: all."""
        have = np.ones(len(self), dtype=bool)
        for severity in severities:
            have &= ~np.isnan(self.psnr.get(severity, 0.0))
        return np.flatnonzero(have)

    def apart(self, rows: ndarray) -> ndarray:
        """The same rows, those of one video or sub-folder (ids up to the last "/") far apart."""
        videos = pd.Series([self.ids[row].rpartition("/")[0] for row in rows])
        groups = videos.groupby(videos)
        places = (groups.cumcount() + 0.5) / groups.transform("size")
        return rows[np.argsort(places.to_numpy(), kind="stable")]

    def batch(self, index: ndarray, severity: str, choice: ndarray | int = 0) -> Batch:
        """The photos at `index`; `choice` says which of its captions (default: the first).

        Raises ValueError for a photo that does not have the severity.
        """
        if not np.isin(index, self.rows(severity)).all():
            raise ValueError(f"{self.name}: choose from rows('{severity}'), others do not have it.")
        maps = None if self.label_maps is None else torch.from_numpy(self.label_maps[index])
        sharp = to_tensor(self.sharp[index])
        blurred = sharp if severity == "sharp" else to_tensor(self.blurred[severity][index])
        words, trees = self.words[index, choice], self.trees[index, choice]
        told = trees if maps is None else self.targets[index]
        ids = [self.ids[i] for i in index]
        return Batch(ids, sharp, blurred, words, trees, told, maps, (self.name,), words, trees)

    def draw(
        self, batch: int, severity: str, step: int, *key: object, part: int = 0, parts: int = 1
    ) -> Batch:
        """Batch number `step` of an endless reshuffled pass, or one of `parts` equal parts of it.

        A pure function of `key` and `step`; all that is random is drawn for the whole batch.
        """
        rows = self.rows(severity)
        epochs, places = np.divmod(np.arange(step * batch, (step + 1) * batch), len(rows))
        orders = {n: rng("epoch", *key, n).permutation(rows) for n in {*epochs.tolist()}}
        index = np.array([orders[n][k] for n, k in zip(epochs, places, strict=True)])
        choice = rng("caption", *key, step).integers(0, self.words.shape[1], size=batch)
        mine = slice(part * batch // parts, (part + 1) * batch // parts)
        drawn = self.batch(index[mine], severity, choice[mine])
        words, trees = self.words[index, choice], self.trees[index, choice]
        return replace(drawn, key=(*key, step), all_words=words, all_trees=trees)

    def chunks(self, batch: int, severity: str = "sharp", most: int | None = None) -> list[ndarray]:
        """`rows(severity)`, or the first `most` of them, in nearly equal parts of at most `batch`.

        From a `batch` of 3 on, none has one photo (of several).
        """
        rows = self.rows(severity)[:most]
        return np.array_split(rows, max(1, -(-len(rows) // batch)))


class Sizes(NamedTuple):
    """What data decide of the networks: how many words, labels (NULL included) and categories."""

    words: int
    entities: int
    relations: int
    categories: int = 0  # of true label maps, the background not included; 0 where there are none


@dataclass
class Corpus:
    """All splits with the vocabularies of words and of tree labels (training captions only).

    `severities`: what validation and test come in, mildest first: light, moderate, severe (photos
    and scenes) or released, severe (pairs). `protocol`: for tables, the whole of it in one sentence
    without a full stop: where the splits come from and, for pairs, which subset and frames, how the
    severe ones were made, crops or whole frames. `left_out` (broken files and records) and `notes`
    (e.g. near-duplicates that were moved): to be shown once.
    """

    folder: Path
    train: Split
    val: Split
    test: Split
    words: Vocabulary
    labels: TreeVocabulary
    severities: tuple[str, ...]
    protocol: str
    captioned: bool
    categories: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    vocabulary: Path | str | None = None  # the folder whose vocabularies it uses, if not its own

    @property
    def synthetic(self) -> tuple[str, ...]:
        """The severities that were made with kernels; none of pairs."""
        return () if "released" in self.severities else self.severities

    @property
    def sizes(self) -> Sizes:
        """What `s3e.models.build` needs to know of these data."""
        labels = len(self.labels.entities), len(self.labels.relations)
        return Sizes(len(self.words), *labels, len(self.categories))

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {split.name: split for split in (self.train, self.val, self.test)}


def to_tensor(images: ndarray) -> Tensor:
    """uint8 N x H x W x 3 -> float32 N x 3 x H x W in [-1, 1]."""
    tensor = torch.from_numpy(np.require(images, requirements="CW")).permute(0, 3, 1, 2)
    return tensor.float().div_(127.5).sub_(1.0)


def to_images(image: Tensor) -> ndarray:
    """float N x 3 x H x W in [-1, 1] -> uint8 N x H x W x 3, clamped and rounded."""
    return to_uint8(image.permute(0, 2, 3, 1).cpu().numpy(), low=-1.0)


def load_corpus(folder: Path | str, vocabulary: Path | str | None = None) -> Corpus:
    """Open a prepared corpus; photos stay on disk (memory-mapped) until a batch needs them.

    `vocabulary`: the folder of a captioned corpus whose words and labels to use; without it, a
    corpus without captions has empty vocabularies.
    """
    folder = Path(folder)
    about = read_json(folder / "corpus.json")
    words, labels, max_words = Vocabulary(SPECIAL), TreeVocabulary([NULL], [NULL]), 1
    if vocabulary or about["captioned"]:
        words, labels, max_words = read_vocabulary(vocabulary or folder)
    splits = [_load_split(folder, name, words, labels, max_words) for name in SPLITS]
    about["severities"] = tuple(about["severities"])
    return Corpus(folder, *splits, words, labels, vocabulary=vocabulary, **about)


def read_vocabulary(folder: Path | str) -> tuple[Vocabulary, TreeVocabulary, int]:
    """Words, tree labels and the number of words kept of a caption."""
    content = read_json(Path(folder) / "vocabulary.json")
    words, labels = Vocabulary(content["words"]), TreeVocabulary(**content["labels"])
    return words, labels, content["max_words"]


def _load_split(
    folder: Path, name: str, words: Vocabulary, labels: TreeVocabulary, max_words: int
) -> Split:
    """A split, its captions encoded; photos with fewer captions than others repeat them."""

    def array(view: str) -> ndarray:
        return np.load(folder / f"{name}_{view}.npy", mmap_mode="r")

    record = read_json(folder / f"{name}.json")
    captions, severities = record["captions"], record["severities"]
    parses = [[tree_of(nodes) for nodes in row] for row in record["parses"]]
    true = map(tree_of, record["trees"]) if record["trees"] else map(consensus, parses)
    count = max(1, *map(len, captions))
    texts = [row[i % len(row)] if row else "" for row in captions for i in range(count)]
    trees = [row[i % len(row)] if row else None for row in parses for i in range(count)]
    encoded = [torch.tensor(words.encode(text, max_words) if text else [0]) for text in texts]
    return Split(
        name=name,
        ids=record["ids"],
        captions=captions,
        parses=parses,
        sharp=array("sharp"),
        blurred={severity: array(severity) for severity in severities},
        extents={severity: array(f"extent_{severity}") for severity in severities},
        psnr={severity: array(f"psnr_{severity}") for severity in severities},
        words=pad_sequence(encoded, batch_first=True).unflatten(0, (-1, count)),
        trees=torch.tensor([labels.encode(tree) for tree in trees]).unflatten(0, (-1, count)),
        targets=torch.tensor([labels.encode(tree) for tree in true]),
        label_maps=array("labels") if (folder / f"{name}_labels.npy").exists() else None,
    )


def tree_of(nodes: list[str] | None) -> CaptionTree | None:
    """The tree of seven labels in node order; None where a caption names nothing."""
    return None if nodes is None else CaptionTree(tuple(nodes[:4]), tuple(nodes[4:]))


def consensus(trees: list[CaptionTree | None]) -> CaptionTree | None:
    """The most frequent label of each node over one photo's captions (ties: the earlier one)."""
    columns = list(zip(*(tree.nodes for tree in trees if tree), strict=True))
    return tree_of([mode(column) for column in columns] or None)
