"""The prepared corpus: photos decoded and blurred once, captions and trees encoded, all on disk as plain arrays.

Notebook 01 writes it (`prepare_corpus`), every other notebook reads it (`load_corpus`). Layout of the folder:
`<split>_sharp.npy`, `<split>_<severity>.npy` (uint8 N x S x S x 3), `<split>_labels.npy` (scenes: uint8 N x S x S),
`<split>.json` (ids, captions, true trees, kernel extents) and `vocabulary.json`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3e.blur import SEVERITIES, blur_batch
from s3e.config import Config
from s3e.data.coco import load_photo, read_folder
from s3e.data.scenes import CATEGORIES, make_split
from s3e.data.text import Vocabulary
from s3e.parsing import IGNORE, CaptionTree, TreeVocabulary, parse_caption
from s3e.paths import S3EError, atomic_write, read_json, write_json
from s3e.seeds import rng

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Batch:
    """What one update sees. Images float32 B x 3 x S x S in [-1, 1]; words B x T; tree B x 7; labels B x S x S."""

    ids: list[str]
    sharp: Tensor
    blurred: Tensor
    words: Tensor
    tree: Tensor
    labels: Tensor | None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        tensors = (item.to(device) for item in (self.sharp, self.blurred, self.words, self.tree))
        return Batch(self.ids, *tensors, labels)


@dataclass
class Split:
    """One split in memory-mapped arrays, with its captions as word ids and its trees as node classes."""

    name: str
    ids: list[str]
    captions: list[list[str]]
    sharp: np.ndarray
    blurred: dict[str, np.ndarray]
    extents: dict[str, list[float]]
    words: Tensor  # N x C x T, C captions a photo
    trees: Tensor  # N x C x 7, IGNORE where a label is out of vocabulary
    targets: Tensor  # N x 7: the true tree (scenes) or the most frequent label of each node (photos)
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, index: np.ndarray, severity: str, choice: np.ndarray | None = None) -> Batch:
        """The photos at `index`; `choice` says which of its captions (default: the first)."""
        rows = torch.as_tensor(index)
        pick = torch.zeros(len(index), dtype=torch.long) if choice is None else torch.as_tensor(choice)
        labels = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[index]))
        sharp = to_tensor(self.sharp[index])
        blurred = sharp if severity == "sharp" else to_tensor(self.blurred[severity][index])
        trees = self.trees[rows, pick]
        return Batch([self.ids[i] for i in index], sharp, blurred, self.words[rows, pick], trees, labels)

    def draw(self, batch: int, severity: str, step: int, *key: object) -> Batch:
        """Batch number `step` of an endless reshuffled pass; a pure function of `key` and `step`."""
        start = step * batch
        places = np.arange(start, start + batch)
        index = np.empty(batch, dtype=np.int64)
        for epoch in np.unique(places // len(self)):
            order = rng("epoch", *key, int(epoch)).permutation(len(self))
            here = places // len(self) == epoch
            index[here] = order[places[here] % len(self)]
        choice = rng("caption", *key, step).integers(0, self.words.shape[1], size=batch)
        return self.batch(index, severity, choice)

    def batches(self, batch: int, severity: str) -> Iterator[Batch]:
        """Every photo once, in order."""
        for rows in self.chunks(batch):
            yield self.batch(rows, severity)

    def chunks(self, batch: int) -> list[np.ndarray]:
        """Row numbers in nearly equal parts of at most `batch`; from 3 on, none has a single photo (of several)."""
        return np.array_split(np.arange(len(self)), -(-len(self) // batch))


@dataclass
class Corpus:
    """All splits with the vocabularies of words and of tree labels (training captions only)."""

    folder: Path
    splits: dict[str, Split]
    words: Vocabulary
    labels: TreeVocabulary
    categories: list[str] = field(default_factory=list)

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
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def prepare_corpus(config: Config, folder: Path, progress: Callable = lambda items, **_: items) -> Corpus:
    """Draw or decode every photo, blur it, encode captions and trees, and write all of it to `folder`.

    `progress` wraps an iterable (tqdm). Training photos are blurred with the configured severity, validation and test
    photos with all three. Raises `S3EError` for an unreadable folder or photo.
    """
    sources = _scenes(config) if config.data.source == "scenes" else _photos(config)
    captions = {}
    for split in progress(SPLITS, desc="splits"):
        item = sources(split)
        severities = [config.blur.severity] if split == "train" else list(SEVERITIES)
        extents = {}
        for severity in severities:
            blurred, extents[severity] = blur_batch(
                item["sharp"], item["ids"], severity, seed=config.blur.seed,
                gamma=config.blur.gamma, sigma=config.blur.noise,
            )  # fmt: skip
            _save(folder / f"{split}_{severity}.npy", blurred)
        _save(folder / f"{split}_sharp.npy", item["sharp"])
        if item["labels"] is not None:
            _save(folder / f"{split}_labels.npy", item["labels"])
        captions[split] = item["captions"]
        record = {
            "ids": item["ids"],
            "captions": item["captions"],
            "trees": item["trees"],
            "extents": {name: [round(float(value), 3) for value in values] for name, values in extents.items()},
        }
        write_json(folder / f"{split}.json", record)
    _write_vocabulary(config, captions["train"], folder)
    return load_corpus(folder)


def _scenes(config: Config) -> Callable:
    def read(split: str) -> dict:
        data = config.data
        scenes = make_split(split, getattr(data, split), size=data.size, texture=data.texture, seed=data.seed)
        return {
            "ids": [scene.id for scene in scenes],
            "captions": [list(scene.captions) for scene in scenes],
            "trees": [list(scene.tree.nodes) for scene in scenes],
            "sharp": np.stack([scene.image for scene in scenes]),
            "labels": np.stack([scene.label_map for scene in scenes]),
        }

    return read


def _photos(config: Config) -> Callable:
    splits = read_folder(config.data.source)

    def read(split: str) -> dict:
        photos = splits[split][: getattr(config.data, split) or None]
        captions = [list(photo.captions) for photo in photos]
        return {
            "ids": [photo.id for photo in photos],
            "captions": captions,
            "trees": None,
            "sharp": np.stack([load_photo(photo.path, config.data.size) for photo in photos]),
            "labels": None,
        }

    return read


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        np.save(temporary, array)


def _write_vocabulary(config: Config, captions: list[list[str]], folder: Path) -> None:
    flat = [text for texts in captions for text in texts]
    trees = [tree for text in flat if (tree := parse_caption(text))]
    if not trees:
        raise S3EError("no training caption names anything that can be seen: are the captions English sentences?")
    text = config.text
    words = Vocabulary.build(flat, min_count=text.min_count)
    labels = TreeVocabulary.build(
        trees, max_entities=text.entities, max_relations=text.relations, min_count=text.label_min_count
    )
    content = {"words": words.to_dict(), "labels": labels.to_dict(), "max_words": text.max_words}
    content["categories"] = list(CATEGORIES) if config.data.source == "scenes" else []
    write_json(folder / "vocabulary.json", content)


def load_corpus(folder: Path | str) -> Corpus:
    """Open a prepared corpus; photos stay on disk (memory-mapped) until a batch needs them."""
    folder = Path(folder)
    content = read_json(folder / "vocabulary.json")
    words, labels = Vocabulary.from_dict(content["words"]), TreeVocabulary.from_dict(content["labels"])
    splits = {name: _load_split(folder, name, words, labels, content["max_words"]) for name in SPLITS}
    return Corpus(folder, splits, words, labels, content["categories"])


def _load_split(folder: Path, name: str, words: Vocabulary, labels: TreeVocabulary, max_words: int) -> Split:
    record = read_json(folder / f"{name}.json")
    most = max(len(texts) for texts in record["captions"])  # a photo with fewer captions repeats them
    captions = [[texts[i % len(texts)] for i in range(most)] for texts in record["captions"]]
    encoded = [[words.encode(text, max_words) for text in texts] for texts in captions]
    longest = max(len(ids) for row in encoded for ids in row)
    padded = [[ids + [0] * (longest - len(ids)) for ids in row] for row in encoded]
    parsed = [[parse_caption(text) for text in texts] for texts in captions]
    trees = [[labels.encode(tree) if tree else [IGNORE] * 7 for tree in row] for row in parsed]
    if record["trees"] is None:
        targets = [labels.encode(consensus(row)) if consensus(row) else [IGNORE] * 7 for row in parsed]
    else:
        targets = [labels.encode(CaptionTree(tuple(row[:4]), tuple(row[4:]))) for row in record["trees"]]
    path = folder / f"{name}_labels.npy"
    return Split(
        name=name,
        ids=record["ids"],
        captions=record["captions"],
        sharp=np.load(folder / f"{name}_sharp.npy", mmap_mode="r"),
        blurred={key: np.load(folder / f"{name}_{key}.npy", mmap_mode="r") for key in record["extents"]},
        extents=record["extents"],
        words=torch.tensor(padded),
        trees=torch.tensor(trees),
        targets=torch.tensor(targets),
        labels=np.load(path, mmap_mode="r") if path.exists() else None,
    )


def consensus(trees: list[CaptionTree | None]) -> CaptionTree | None:
    """The most frequent label of each node over the trees of one photo's captions (ties: the earlier caption)."""
    known = [tree.nodes for tree in trees if tree is not None]
    if not known:
        return None
    nodes = [Counter(column).most_common(1)[0][0] for column in zip(*known, strict=True)]
    return CaptionTree(tuple(nodes[:4]), tuple(nodes[4:]))
