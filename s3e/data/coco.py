"""MSCOCO captions in the official layout or with Karpathy's file, and any folder that is laid out likewise.

Official: `annotations/captions_{train,val}{2014,2017,}.json` (and `captions_test*.json` if there is one). Karpathy:
`dataset_coco.json` (or `dataset_flickr8k.json`, `dataset_flickr30k.json`) in the folder or in `annotations/`. Photos
lie in `images/`, `train2014/`, `val2014/` and the like.
"""

import contextlib
import io
import re
from collections import Counter
from pathlib import Path
from typing import Literal

from pycocotools.coco import COCO

from s3e.data.captions import clean_caption
from s3e.data.records import Record, Shelf, load_lists, sound_records
from s3e.data.sources import SPLITS, Photo, Problem, Source, check_splits
from s3e.utils import S3EError, stable_hash

YEARS = ("2014", "2017", "")  # the first that has train and val is used
KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}
CAPTIONS = 5  # a photo; MSCOCO has 5 to 7
Part = tuple[
    Path, list[Record], list[Record]
]  # file, images {id, file_name}, annotations {id, image_id, caption}


def kind(root: Path) -> Literal["karpathy", "coco"] | None:
    """Whether the folder holds Karpathy's or MSCOCO's caption files, told by their names."""
    karpathy, official = caption_files(Shelf(root))
    return "karpathy" if karpathy else "coco" if official else None


def caption_files(shelf: Shelf) -> tuple[list[str], list[str]]:
    """Karpathy's and MSCOCO's caption files in a folder, relative paths."""
    files = sorted(
        f"{place}/{name}" for place in (".", "annotations") for name in shelf.names(place)
    )
    karpathy = [
        file
        for file in files
        if re.fullmatch(r"(\.|annotations)/dataset_(coco|flickr\d+k)\.json", file)
    ]
    return karpathy, [
        file for file in files if re.fullmatch(r"annotations/captions_.+\.json", file)
    ]


def read(root: Path) -> Source | None:
    """The folder's captioned photos, or None if it holds no caption file; Karpathy's split is preferred."""
    reader = _Reader(root)
    karpathy, official = caption_files(reader.shelf)
    if not karpathy and not official:
        return None
    if karpathy:
        file = min(karpathy, key=lambda name: not name.endswith("dataset_coco.json"))
        parts, protocol = reader.karpathy(root / file), f"Karpathy's split ({Path(file).name})"
    else:
        year = _year(root, official)
        parts, protocol = reader.official(year), f"COCO captions {year}".strip()
        protocol += ", splits as given" if "test" in parts else ", val split halved by id"
    splits = {
        split: reader.photos(split, *parts[split])
        for split in ("test", "val", "train")
        if split in parts
    }
    if "test" not in parts:
        splits["val"], splits["test"] = _halves(splits["val"])
    check_splits(root, splits, reader.problems, "add photos with captions")
    used = {file for file, _, _ in parts.values()}
    unused = [file.removeprefix("./") for file in (*karpathy, *official) if root / file not in used]
    notes = [
        f"{what}: {count} (first: {reader.first[what]})" for what, count in reader.counts.items()
    ]
    notes += [f"caption files that are not used: {', '.join(unused)}"] if unused else []
    return Source(
        kind="karpathy" if karpathy else "coco",
        root=root,
        splits={split: splits[split] for split in SPLITS},
        rule="given" if "test" in parts else "halved",
        protocol=protocol,
        problems=tuple(reader.problems),
        notes=tuple(notes),
    )


def _year(root: Path, official: list[str]) -> str:
    starts = ("annotations/captions_train", "annotations/captions_val")
    train, val = (
        {file[len(start) : -5] for file in official if file.startswith(start)} for start in starts
    )
    for year in (*YEARS, *sorted(train & val)):
        if year in train & val:
            return year
    raise S3EError(
        f"{root}/annotations: captions_train*.json and captions_val*.json of the same year are both needed; see the "
        "README for the layout."
    )


def _halves(photos: list[Photo]) -> tuple[list[Photo], list[Photo]]:
    """Validation and test from one val split: the photos whose hashed id is even, and the others."""
    halves: tuple[list[Photo], list[Photo]] = ([], [])
    for photo in photos:
        halves[stable_hash("split", photo.id) % 2].append(photo)
    return halves


def _places(split: str) -> list[str]:
    """The sub-folders where photos of a split may lie, likely ones first."""
    names = [
        f"{part}{year}" for part in sorted(SPLITS, key=lambda part: part != split) for year in YEARS
    ]
    nested = [f"{above}{name}" for name in names for above in ("", "images/")]
    own = 2 * len(YEARS)
    return [*nested[:own], "images", ".", *nested[own:]]


PLACES = {split: _places(split) for split in SPLITS}


class _Reader:
    """Reads the caption files of one folder; `problems` takes what is left out, `counts` what is worth a note."""

    def __init__(self, root: Path):
        self.root = root
        self.shelf = Shelf(root)
        self.problems: list[Problem] = []
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # where each of them was met first
        self.known: dict[str, Path] = {}

    def official(self, year: str) -> dict[str, Part]:
        """The parts of `annotations/captions_*.json` by split."""
        parts = {}
        for split in SPLITS:
            file = self.root / "annotations" / f"captions_{split}{year}.json"
            if file.name in self.shelf.names("annotations"):
                content = load_lists(file, "images", "annotations")
                keys = {"id": int | str, "file_name": str}
                images = sound_records(f"{file}: images", content["images"], keys, self.problems)
                keys = {"id": int | str, "image_id": int | str, "caption": str}
                texts = sound_records(
                    f"{file}: annotations", content["annotations"], keys, self.problems
                )
                parts[split] = file, list(images.values()), list(texts.values())
        return parts

    def karpathy(self, file: Path) -> dict[str, Part]:
        """The parts of a `dataset_*.json` by split; photos are numbered by `cocoid`, in Flickr's files by `imgid`."""
        records = load_lists(file, "images")["images"]
        keys = {"imgid": int | str, "filename": str, "split": str, "sentences": list}
        if any(isinstance(record, dict) and "cocoid" in record for record in records):
            keys = {"cocoid": int | str, "filepath": str, **keys}
        parts: dict[str, Part] = {split: (file, [], []) for split in SPLITS}
        for key, item in sound_records(f"{file}: images", records, keys, self.problems).items():
            where = f"{file}: image {key}"
            if item["split"] not in KARPATHY:
                self.problem(
                    where,
                    f"the split '{item['split']}' is unknown",
                    f"use one of {', '.join(KARPATHY)}",
                )
                continue
            _, images, captions = parts[KARPATHY[item["split"]]]
            images.append(
                {
                    "id": key,
                    "file_name": "/".join(filter(None, (item.get("filepath"), item["filename"]))),
                }
            )
            inner = {"sentid": int | str, "raw": str}
            for name, sentence in sound_records(
                f"{where}, sentences", item["sentences"], inner, self.problems
            ).items():
                captions.append({"id": name, "image_id": key, "caption": sentence["raw"]})
        return parts

    def note(self, what: str, where: str) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, where)

    def problem(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(where, what, remedy))

    def photos(
        self, split: str, file: Path, images: list[Record], captions: list[Record]
    ) -> list[Photo]:
        """The photos of a split that are there and have captions, in the order of the file."""
        names = {str(image["id"]): image["file_name"] for image in images}
        paths = {key: self.shelf.find(name, PLACES[split]) for key, name in names.items()}
        if paths and not any(paths.values()):
            raise S3EError(
                f"{file}: none of its {len(paths)} photos is there; unpack them into {self.root}/images."
            )
        index = _index(images, self.texts(file, captions))
        for key in sorted(index.imgToAnns.keys() - paths.keys()):
            annotation = index.imgToAnns[key][0]["id"]
            self.problem(
                f"{file}: annotation {annotation}",
                f"its image {key} is not listed",
                "list it or remove both",
            )
        photos = []
        for key, path in paths.items():
            texts = [item["caption"] for item in index.imgToAnns.get(key, ())]
            if path is None:
                remedy = "restore it or remove its entry"
                self.problem(
                    f"{file}: image {key}",
                    f"its photo {names[key]} is in none of the image folders",
                    remedy,
                )
            elif not texts:
                self.problem(
                    f"{file}: image {key}",
                    "it has no usable caption",
                    "add one or remove the image",
                )
            elif self.known.get(key) == path:
                self.problem(
                    f"{file}: image {key}",
                    "it is in another split as well",
                    "remove one of its entries",
                )
            else:
                photos.append(Photo(self.identity(key, split, path), path, tuple(texts[:CAPTIONS])))
                if len(texts) > CAPTIONS:
                    self.note(
                        f"photos with more than {CAPTIONS} captions, cut",
                        f"image {key} of {file.name}",
                    )
        return photos

    def texts(self, file: Path, captions: list[Record]) -> list[Record]:
        """The captions that can be used, cleaned, with ids as text."""
        result = []
        for item in captions:
            text, fault = clean_caption(item["caption"])
            if fault:
                self.problem(f"{file}: annotation {item['id']}", fault, "correct or remove it")
            else:
                result.append(
                    {"id": str(item["id"]), "image_id": str(item["image_id"]), "caption": text}
                )
                if not item["caption"].isprintable():
                    where = f"annotation {item['id']} of {file.name}"
                    self.note("captions with characters that do not print, cleaned", where)
        return result

    def identity(self, key: str, split: str, path: Path) -> str:
        """The photo's id in its source: files that number their photos separately get the split's name before it."""
        if key in self.known:
            key = f"{split}/{key}"
            self.note("photos that are called split/id, as another split has their id", key)
        self.known[key] = path
        return key


def _index(images: list[Record], annotations: list[Record]) -> COCO:
    """pycocotools' index of sound records."""
    index = COCO()
    index.dataset = {"images": images, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    return index
