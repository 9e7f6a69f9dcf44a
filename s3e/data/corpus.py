"""The prepared corpus: photos decoded and blurred once, captions and trees encoded, all on disk as plain arrays.

Notebook 01 writes it (`prepare_corpus`), every other notebook reads it (`load_corpus`). Layout of the folder:
`<split>_sharp.npy`, `<split>_<severity>.npy` (uint8 N x H x W x 3; links to the cache of `s3e.data.cache` for photos),
`<split>_labels.npy` (scenes: uint8 N x S x S), `<split>.json` (ids, captions, their parses, true trees, kernel extents,
input PSNR), `corpus.json` (severities, protocol, what was left out) and, for captioned data, `vocabulary.json`.
"""

import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3e.blur import SEVERITIES
from s3e.config import Config
from s3e.data.cache import prepare_arrays
from s3e.data.encode import encode, parse_all, read_vocabulary, tree_of, write_vocabulary
from s3e.data.plan import protocol, read_data
from s3e.data.scenes import CATEGORIES, make_split
from s3e.data.sources import SPLITS
from s3e.data.text import Vocabulary
from s3e.data.views import blurred_views
from s3e.trees import CaptionTree, TreeVocabulary
from s3e.utils import atomic_write, read_json, rng, write_array, write_json


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


def prepare_corpus(
    config: Config, folder: Path, progress: Callable = lambda items, **_: items
) -> Corpus:
    """Draw or decode every photo, blur it, encode captions and trees, and write all of it to `folder`.

    Photos come from the cache of their folder, which is made first where it is not there. `progress` wraps an iterable
    (tqdm). Training photos have the configured severity, validation and test photos all of them. Raises `S3EError` for
    a data folder that cannot be used, and for broken photos unless `data.skip_broken` leaves them out.
    """
    prepare = _prepare_scenes if config.data.source == "scenes" else _prepare_photos
    about, records = prepare(config, folder, progress)
    for split, record in records.items():
        record["parses"] = parse_all(record["captions"], config.text.parser)
        write_json(folder / f"{split}.json", record)
    if about["captioned"]:
        write_vocabulary(config, records["train"], folder)
    write_json(folder / "corpus.json", about)
    return load_corpus(folder)


def _prepare_scenes(
    config: Config, folder: Path, progress: Callable
) -> tuple[dict, dict[str, dict]]:
    data, blur, records = config.data, config.blur, {}
    for split in progress(SPLITS, desc="splits"):
        scenes = make_split(
            split, getattr(data, split), size=data.size, texture=data.texture, seed=data.seed
        )
        sharp, ids = np.stack([scene.image for scene in scenes]), [scene.id for scene in scenes]
        views = {}
        for severity in (blur.severity,) if split == "train" else tuple(SEVERITIES):
            views[severity] = blurred_views(sharp, ids, severity, blur)
            write_array(folder / f"{split}_{severity}.npy", views[severity].images)
        write_array(folder / f"{split}_sharp.npy", sharp)
        write_array(folder / f"{split}_labels.npy", np.stack([scene.label_map for scene in scenes]))
        records[split] = {
            "ids": ids,
            "captions": [list(scene.captions) for scene in scenes],
            "trees": [list(scene.tree.nodes) for scene in scenes],
            "extents": {name: view.extents for name, view in views.items()},
            "psnr": {name: view.psnr for name, view in views.items()},
            "missing": {},
        }
    about = {
        "severities": list(SEVERITIES),
        "protocol": "generated scenes",
        "categories": list(CATEGORIES),
    }
    return {**about, "captioned": True, "left_out": [], "notes": []}, records


def _prepare_photos(
    config: Config, folder: Path, progress: Callable
) -> tuple[dict, dict[str, dict]]:
    source = read_data(config, progress=progress)
    cache = prepare_arrays(source, config, progress=progress)
    captions = {
        photo.id: list(photo.captions) for photos in source.splits.values() for photo in photos
    }
    records = {}
    for split in SPLITS:
        record = read_json(cache / f"{split}.json")
        for view in ("sharp", *record["psnr"]):
            _link(cache / f"{split}_{view}.npy", folder / f"{split}_{view}.npy")
        records[split] = {
            **record,
            "captions": [captions[photo] for photo in record["ids"]],
            "trees": None,
        }
    severities = list(records["test"]["psnr"])  # by name, which is mildest first
    about = {
        "severities": severities,
        "protocol": protocol(source, config, severities),
        "categories": [],
    }
    notes = [
        *source.notes,
        *(_told_missing(split, record) for split, record in records.items() if record["missing"]),
    ]
    told = {"left_out": [str(problem) for problem in source.problems], "notes": notes}
    return {**about, **told, "captioned": source.captioned}, records


def _told_missing(split: str, record: dict) -> str:
    counts = ", ".join(
        f"{len(rows)} have no {name} view" for name, rows in record["missing"].items()
    )
    return f"of {len(record['ids'])} {split} pairs {counts} (too few neighbours in their video)"


def _link(source: Path, target: Path) -> None:
    """Put a hard link to `source` at `target`: no second copy on the disk (a copy where links are not possible)."""
    with atomic_write(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


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
