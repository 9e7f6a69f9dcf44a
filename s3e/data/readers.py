"""What a data source is: photos with ids, captions or blurred partners, in fixed splits; readers for what lies on disk."""

import contextlib
import io
import json
import os
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools.coco import COCO
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from s3e.data.photos import Problem, load_whole
from s3e.utils import S3EError, stable_hash

SPLITS = ("train", "val", "test")
Kind = Literal["coco", "karpathy", "gopro", "folder"]
Rule = Literal["given", "halved", "hashed", "sequence"]
Subset = Literal["blur", "blur_gamma"]


@dataclass(frozen=True)
class Photo:
    """One photo on disk. `id` is unique in its source: splits, blur and tables are keyed by it."""

    id: str
    path: Path  # the sharp photo
    captions: tuple[str, ...] = ()
    blurred: Path | None = None  # pairs: the released blurred frame
    sequence: str = ""  # pairs: the video it comes from
    frame: int = -1  # pairs: its number in the video


@dataclass(frozen=True)
class Source:
    """A data set as it lies on disk.

    `rule` says who made the splits: "given" by its files, "halved" (val split in two by id), "hashed" (all by id) or
    "sequence" (validation videos taken from train). `protocol` is one sentence for tables; `problems` what was skipped.
    """

    kind: Kind
    root: Path
    splits: dict[str, list[Photo]]
    rule: Rule
    protocol: str
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def captioned(self) -> bool:
        return self.kind in ("coco", "karpathy")

    @property
    def paired(self) -> bool:
        return self.kind == "gopro"


def read_source(root: Path | str, subset: Subset = "blur") -> Source:
    """Find out what the folder `root` holds and read it; broken records are left out and told in `problems`.

    Tried in this order: Karpathy's `dataset_*.json`, MSCOCO's `annotations/captions_*.json`, GoPro's sequences (of
    which `subset` names the blurred frames), any photos. Raises `S3EError` if the folder cannot be used at all.
    """
    root = Path(root)
    if subset not in get_args(Subset):
        raise S3EError(
            f"data.subset is '{subset}'; it must be one of {', '.join(get_args(Subset))}."
        )
    if not root.is_dir():
        raise S3EError(f"{root}: there is no such folder; give the folder that holds the photos.")
    captions = read_coco(root)
    if captions:
        return captions
    tree = walk(root)
    return read_gopro(root, tree, subset) if gopro_found(tree) else read_folder(root, tree)


def open_source(root: Path | str, subset: Subset = "blur", skip_broken: bool = False) -> Source:
    """`read_source`, but a folder with broken records raises `S3EError` unless `skip_broken`."""
    source = read_source(root, subset)
    if not skip_broken:
        refuse(source.problems, source.root)
    return source


def refuse(problems: Sequence[Problem], root: Path) -> None:
    """Raise `S3EError` if there is any problem: it names the first, and how to see or skip the others."""
    if problems:
        more = f"... and {len(problems) - 1} more; " if len(problems) > 1 else ""
        raise S3EError(
            f"{str(problems[0])[:-1]} ({more}`python -m s3e data check {root}` lists them; --skip-broken, "
            "or --set data.skip_broken=true for run_all.py, leaves them out)."
        )


def check_splits(
    root: Path, splits: dict[str, list[Photo]], problems: Sequence[Problem], remedy: str
) -> None:
    """Raise `S3EError` if a split holds fewer than 2 photos; the first problem may be the reason and is named."""
    for name in SPLITS:
        if (count := len(splits[name])) < 2:
            why = (
                f" ({len(problems)} left out, the first: {str(problems[0])[:-1]})"
                if problems
                else ""
            )
            raise S3EError(
                f"{root}: the {name} split has fewer than 2 usable photos ({count}); {remedy}{why}."
            )


PAIRED = ("released", "severe")  # severities of pairs, mildest first


class Look(NamedTuple):
    """What one photo shows: upright size (width, height), notes, and its `duplicates.fingerprint`."""

    size: tuple[int, int]
    notes: tuple[str, ...]
    hash: int
    thumb: bytes


@dataclass(frozen=True)
class Survey:
    """The looks of the photos that can be decoded, and what is wrong with the others, by photo id."""

    looks: dict[str, Look]
    broken: dict[str, Problem]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self.broken.values())


MAX_WORDS = 100
MAX_CHARACTERS = 1000
_LATIN = re.compile("[A-Za-zÀ-ÖØ-öø-ɏ]")


def clean_caption(text: str) -> tuple[str, str | None]:
    """The caption on one line, and what is wrong with it if it must be left out (else None).

    Characters that do not print (line and page breaks of every kind, tabs, zero-width and control characters, half
    surrogates) become blanks, soft hyphens vanish, accents are composed (NFC), blanks are joined. Emoji stay. Left out
    are captions that are empty, hold no Latin letter, or are longer than 100 words or 1000 characters.
    """
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else " " for letter in text.replace("\xad", "")
        )
    cleaned = " ".join(unicodedata.normalize("NFC", text).split())
    return cleaned, _caption_fault(cleaned)


def _caption_fault(text: str) -> str | None:
    if not text:
        return "the caption is empty"
    if len(text) > MAX_CHARACTERS or text.count(" ") >= MAX_WORDS:
        return f"the caption is enormous ({text.count(' ') + 1} words, {len(text)} characters)"
    if not _LATIN.search(text):
        return "the caption holds no Latin letter"
    return None


EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


@dataclass
class Tree:
    """All that lies under a folder: names of files and sub-folders by folder, sorted; hidden ones are left out."""

    files: dict[Path, list[str]] = field(default_factory=dict)
    folders: dict[Path, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def is_photo(name: str) -> bool:
    """Whether the file name has a photo's extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def walk(root: Path) -> Tree:
    """List `root` recursively, links followed once; what cannot be listed or named in UTF-8 becomes a problem."""
    tree, seen = Tree(), set()

    def unreadable(error: OSError) -> None:
        tree.problems.append(denied(Path(error.filename), error))

    for place, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _visible(tree, place, name))
        tree.folders[Path(place)] = list(folders)
        tree.files[Path(place)] = sorted(name for name in files if _visible(tree, place, name))
    return tree


def denied(folder: Path, error: OSError) -> Problem:
    """The problem that a folder cannot be listed."""
    reason = error.strerror or str(error)
    return Problem(
        str(folder),
        f"the folder cannot be listed ({reason})",
        "give yourself permission with chmod u+rx",
    )


def _visible(tree: Tree, place: str, name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.path.join(place, name).encode(errors="replace").decode()
        tree.problems.append(Problem(shown, "the name is not valid UTF-8", "rename it"))
        return False
    return not name.startswith(".")


def read_folder(root: Path, tree: Tree) -> Source:
    """All photos below `root`; a photo's id is its relative path, with the extension only where that is ambiguous."""
    names = [
        (folder / name).relative_to(root) for folder, files in tree.files.items() for name in files
    ]
    paths = [name for name in names if is_photo(name.name)]
    if not paths:
        listed = ", ".join(sorted(EXTENSIONS))
        raise S3EError(f"{root}: holds no photos; give a folder with files that end in {listed}.")
    stems = Counter(path.with_suffix("") for path in paths)
    splits: dict[str, list[Photo]] = {name: [] for name in SPLITS}
    for path in paths:
        stem = path.with_suffix("")
        photo = Photo((path if stems[stem] > 1 else stem).as_posix(), root / path)
        splits[_hashed_split(photo.id)].append(photo)
    check_splits(
        root,
        splits,
        tree.problems,
        f"{len(paths)} photos are too few, add some (100 are surely enough)",
    )
    others = Counter(name.suffix.lower() or name.name for name in names if not is_photo(name.name))
    notes = (
        [f"other files, left alone: {sum(others.values())} ({', '.join(sorted(others)[:8])})"]
        if others
        else []
    )
    if (root / "annotations").is_dir():
        notes.append(
            "annotations/ holds no captions_*.json, so the photos are read without captions"
        )
    protocol = "photos without captions, split 80/10/10 by id"
    return Source("folder", root, splits, "hashed", protocol, tuple(tree.problems), tuple(notes))


def _hashed_split(identity: str) -> str:
    part = stable_hash("split", identity) % 10
    return "train" if part < 8 else "val" if part == 8 else "test"


Record = dict[str, Any]
Keys = dict[str, type | UnionType]
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def load_lists(file: Path, *names: str) -> Record:
    """A JSON file's content, which must be an object with these lists; else `S3EError`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise S3EError(
            f"{file}: cannot be read ({error.strerror}); give yourself read permission."
        ) from None
    except (ValueError, RecursionError) as error:
        raise S3EError(f"{file} is not valid JSON ({error}); fetch or write it again.") from None
    for name in names:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise S3EError(
                f"{file}: not in COCO-captions layout (no list '{name}'); see the README for the layout."
            )
    return content


def sound_records(
    where: str, records: list, keys: Keys, problems: list[Problem]
) -> dict[str, Record]:
    """The records that hold all `keys` in their types, by the value of the first key as text.

    The others, and those that repeat the first key's value, become problems.
    """
    first, result = next(iter(keys)), {}
    for i, record in enumerate(records):
        fault = _record_fault(record, keys)
        if not fault and str(record[first]) in result:
            fault = f"the {first} {record[first]} occurs twice"
        if fault:
            problems.append(Problem(f"{where}[{i}]", fault, "correct or remove the record"))
        else:
            result[str(record[first])] = record
    return result


def _record_fault(record: Any, keys: Keys) -> str | None:
    if not isinstance(record, dict):
        return "the record is not an object"
    for key, kind in keys.items():
        if key not in record:
            return f"the key '{key}' is missing"
        value = record[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"the key '{key}' has a value of the wrong type"
        if isinstance(value, str) and key not in ("caption", "raw") and _UNPRINTABLE.search(value):
            return f"the key '{key}' holds characters that do not print"
    return None


class Shelf:
    """The photos of a data set, which may lie in several sub-folders; each folder is listed once."""

    def __init__(self, root: Path):
        self.root = root
        self.listed: dict[str, set[str]] = {}
        for folder in (
            ".",
            "images",
        ):  # before those in them: of two that cannot be listed the outer one is named
            self.names(folder)

    def names(self, folder: str) -> set[str]:
        """The names of the files in a sub-folder, none if it does not exist; `S3EError` without permission."""
        if folder not in self.listed:
            try:
                with os.scandir(self.root / folder) as entries:
                    self.listed[folder] = {entry.name for entry in entries if entry.is_file()}
            except PermissionError as error:
                raise S3EError(str(denied(self.root / folder, error))) from None
            except OSError:
                self.listed[folder] = set()
        return self.listed[folder]

    def find(self, name: str, folders: list[str]) -> Path | None:
        """The photo `name`, a file name or a path, in the first of `folders` that has it; never outside of the root."""
        inner = PurePosixPath(name)
        nested = len(inner.parts) > 1 and ".." not in inner.parts
        for folder in folders:
            for place in [f"{folder}/{inner.parent}", folder] if nested else [folder]:
                if inner.name in self.names(place):
                    return self.root / place / inner.name
        return None


YEARS = ("2014", "2017", "")  # the first that has train and val is used
KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}
CAPTIONS = 5  # a photo; MSCOCO has 5 to 7
_Entries = tuple[
    Path, list[Record], list[Record]
]  # file, images {id, file_name}, annotations {id, image_id, caption}


def coco_kind(root: Path) -> Literal["karpathy", "coco"] | None:
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


def read_coco(root: Path) -> Source | None:
    """The folder's captioned photos, or None if it holds no caption file; Karpathy's split is preferred."""
    reader = _Reader(root)
    karpathy, official = caption_files(reader.shelf)
    if not karpathy and not official:
        return None
    if karpathy:
        file = min(karpathy, key=lambda name: not name.endswith("dataset_coco.json"))
        parts, protocol = reader.karpathy(root / file), f"Karpathy's split ({Path(file).name})"
    else:
        year = _coco_year(root, official)
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


def _coco_year(root: Path, official: list[str]) -> str:
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

    def official(self, year: str) -> dict[str, _Entries]:
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

    def karpathy(self, file: Path) -> dict[str, _Entries]:
        """The parts of a `dataset_*.json` by split; photos are numbered by `cocoid`, in Flickr's files by `imgid`."""
        records = load_lists(file, "images")["images"]
        keys = {"imgid": int | str, "filename": str, "split": str, "sentences": list}
        if any(isinstance(record, dict) and "cocoid" in record for record in records):
            keys = {"cocoid": int | str, "filepath": str, **keys}
        parts: dict[str, _Entries] = {split: (file, [], []) for split in SPLITS}
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


VIEWS = {"sharp", "blur", "blur_gamma"}
RAW = "GOPRO_Large_all"
_SEQUENCE = re.compile(
    r"GOPR\d+_(\d+)_\d+"
)  # GOPRxxxx_yy_zz: yy frames of 240 a second are averaged


def gopro_found(tree: Tree) -> bool:
    """Whether there is any sequence: sub-folders `sharp` and `blur` or `blur_gamma` beside each other."""
    return any("sharp" in inner and len(VIEWS & {*inner}) > 1 for inner in tree.folders.values())


def read_gopro(root: Path, tree: Tree, subset: str) -> Source:
    """All pairs of `subset`, sequences kept together; validation sequences are taken from train (see `validation`)."""
    problems = list(tree.problems)
    parts: dict[str, dict[str, list[Photo]]] = {"train": {}, "test": {}}
    for split, folder in _sequences(root, tree, subset, problems):
        if pairs := _pairs(folder, tree, subset, problems):
            parts[split][folder.name] = pairs
    chosen = validation({name: len(pairs) for name, pairs in parts["train"].items()})
    splits = {
        "train": [
            pair for name, pairs in parts["train"].items() if name not in chosen for pair in pairs
        ],
        "val": [pair for name in sorted(chosen) for pair in parts["train"][name]],
        "test": [pair for pairs in parts["test"].values() for pair in pairs],
    }
    check_splits(
        root, splits, problems, "give at least 2 train sequences and 1 test sequence of 2 pairs"
    )
    protocol = f"GoPro, subset {subset}, validation = {len(chosen)} of {len(parts['train'])} train sequences"
    return Source("gopro", root, splits, "sequence", protocol, tuple(problems))


def _sequences(
    root: Path, tree: Tree, subset: str, problems: list[Problem]
) -> list[tuple[str, Path]]:
    """(split, folder) of each usable sequence, by name."""
    folders = sorted(
        (place for place, inner in tree.folders.items() if VIEWS & {*inner}),
        key=lambda p: (p.name, p),
    )
    if not any(subset in tree.folders[place] for place in folders):
        other = "blur" if subset == "blur_gamma" else "blur_gamma"
        raise S3EError(
            f"{root}: no sequence has the folder {subset}/; --set data.subset={other} (--subset {other})."
        )
    result: dict[str, tuple[str, Path]] = {}
    for place in folders:
        split = next(
            (
                part
                for part in reversed(place.relative_to(root).parts[:-1])
                if part in ("train", "test")
            ),
            None,
        )
        if split is None and root.name in ("train", "test"):
            raise S3EError(
                f"{root}: is one half of GoPro; give the folder that holds train/ and test/."
            )
        if split is None:
            problems.append(
                Problem(
                    str(place), "the sequence is neither in train/ nor in test/", "move it into one"
                )
            )
        elif missing := next(
            (view for view in (subset, "sharp") if view not in tree.folders[place]), None
        ):
            problems.append(
                Problem(
                    str(place), f"the sequence has no folder {missing}/", "restore or remove it"
                )
            )
        elif place.name in result:
            other = result[place.name][1]
            problems.append(
                Problem(
                    str(place), f"the sequence's name is that of {other}", "remove or rename one"
                )
            )
        else:
            result[place.name] = (split, place)
    return list(result.values())


def _pairs(folder: Path, tree: Tree, subset: str, problems: list[Problem]) -> list[Photo]:
    """The pairs of a sequence in the order of their numbers; incomplete and unequal ones are problems."""
    blurred, sharp = (_frames(folder / view, tree, problems) for view in (subset, "sharp"))
    pairs = []
    for number in sorted(blurred.keys() | sharp.keys()):
        if number not in blurred or number not in sharp:
            there, missing = (sharp, subset) if number in sharp else (blurred, "sharp")
            what = f"has no partner in {missing}/"
            problems.append(
                Problem(str(there[number]), what, "restore the partner or remove this file")
            )
        elif problem := _unequal(blurred[number], sharp[number]):
            problems.append(problem)
        else:
            name = f"{folder.name}/{sharp[number].stem}"
            pairs.append(Photo(name, sharp[number], (), blurred[number], folder.name, number))
    return pairs


def _frames(folder: Path, tree: Tree, problems: list[Problem]) -> dict[int, Path]:
    frames: dict[int, Path] = {}
    for path in (folder / name for name in tree.files.get(folder, ()) if is_photo(name)):
        if re.fullmatch("[0-9]+", path.stem) and int(path.stem) not in frames:
            frames[int(path.stem)] = path
        else:
            what = "the name is not a frame number of its own"
            problems.append(Problem(str(path), what, "name it like 000001.png or remove it"))
    return frames


def _unequal(blurred: Path, sharp: Path) -> Problem | None:
    sizes = []
    for path in (blurred, sharp):
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            return Problem(
                str(path),
                f"cannot be read as a photo ({error})",
                "replace the file or remove the pair",
            )
    if sizes[0] == sizes[1]:
        return None
    shown = " and ".join(f"{width}x{height}" for width, height in sizes)
    return Problem(
        str(blurred),
        f"blurred and sharp frame differ in size ({shown})",
        "replace or remove the pair",
    )


def validation(pairs: dict[str, int]) -> set[str]:
    """The train sequences (name -> number of pairs) that are used for validation.

    Whole recordings: the clips GOPRxxxx_yy_zz of one xxxx stay together. Ranked by hashed name, those of fewer than 5
    pairs last, as many as make 10 % of all pairs and at least 2 pairs; one recording always stays in train.
    """
    recordings: dict[str, list[str]] = {}
    for name in pairs:
        recordings.setdefault(name.split("_")[0] if _SEQUENCE.fullmatch(name) else name, []).append(
            name
        )
    sizes = {key: sum(pairs[name] for name in names) for key, names in recordings.items()}
    ranked = sorted(sizes, key=lambda key: (sizes[key] < 5, stable_hash("validation", key)))
    chosen: list[str] = []
    for key in ranked[:-1]:
        if sum(pairs[name] for name in chosen) >= max(2, 0.1 * sum(pairs.values())):
            break
        chosen += recordings[key]
    return set(chosen)


def windows(photos: list[Photo], frames: int) -> list[list[Photo] | None]:
    """For each pair the `frames` (odd) consecutive released pairs around it, or None where the sequence has too few."""
    known = {(photo.sequence, photo.frame): photo for photo in photos}
    reach = range(-(frames // 2), frames // 2 + 1)
    around = [
        [known.get((photo.sequence, photo.frame + step)) for step in reach] for photo in photos
    ]
    return [None if None in window else window for window in around]


def find_raw(root: Path) -> Path:
    """The folder of the raw video frames, in `root` or beside it; raises `S3EError` if there is none."""
    for folder in (root / RAW, root.resolve().parent / RAW):
        if folder.is_dir():
            return folder
    raise S3EError(
        f"{root}: blur.average=raw needs the raw frames {RAW}/ in this folder or beside it; fetch them or "
        "--set blur.average=released."
    )


def raw_shift(pairs: list[Photo], all_root: Path) -> int:
    """By how many frames the raw numbers of a sequence differ from what `raw_window` expects, told by a sharp frame.

    `pairs`: some of one sequence. A sharp frame is the middle raw frame of its window up to coding (less than a grey
    level); users report clips whose numbers are off (SeungjunNah/DeepDeblur_release issue 66). Raises `S3EError` if it
    is found nowhere near.
    """
    average, folder = _raw_sequence(pairs[0], all_root)
    probe = pairs[len(pairs) // 2]
    sharp, middle = load_whole(probe.path), (probe.frame - 1) * average + average // 2 + 1
    for shift in sorted(range(-average, average + 1), key=abs):
        path = folder / f"{middle + shift:06}.png"
        if not path.is_file():
            continue
        image = load_whole(path)
        if image.shape != sharp.shape:
            return 0  # whoever stacks the frames names the odd one
        if np.abs(image.astype(np.int16) - sharp).mean() < 1:
            return 0 if average % 2 == 0 and abs(shift) <= 1 else shift
    raise S3EError(
        f"{probe.path}: is not among the raw frames of {folder} around number {middle}; fetch both again or "
        "--set blur.average=released."
    )


def _raw_sequence(photo: Photo, all_root: Path) -> tuple[int, Path]:
    """How many raw frames a released one is the mean of, and the folder of the sequence's raw frames."""
    name = _SEQUENCE.fullmatch(photo.sequence)
    if not name or not (average := int(name[1])):
        raise S3EError(
            f"{photo.sequence}: blur.average=raw needs sequences that are named GOPRxxxx_yy_zz, yy frames averaged; "
            "--set blur.average=released."
        )
    places = (all_root / part / photo.sequence for part in ("train", "test", "."))
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise S3EError(
            f"{all_root}: has no sequence {photo.sequence}; fetch it or --set blur.average=released."
        )
    return average, folder


def raw_window(photo: Photo, frames: int, all_root: Path, shift: int = 0) -> list[Path] | None:
    """The `frames`·yy raw frames around a pair of sequence GOPRxxxx_yy_zz; None where the video is too short.

    Released frame n is the mean of the raw frames (n-1)·yy+1 ... n·yy (specification 4.2), plus `shift` where a clip's
    numbers are off. Raises `S3EError` if the name gives no yy, or if raw frames are missing.
    """
    average, folder = _raw_sequence(photo, all_root)
    before, after = photo.frame - 1 - frames // 2, photo.frame + frames // 2
    first = before * average + 1 + shift
    paths = [folder / f"{number:06}.png" for number in range(first, after * average + 1 + shift)]
    there = [path.is_file() for path in paths]
    if first < 1 or not there[-1]:
        return None
    if not all(there):
        raise S3EError(
            f"{paths[there.index(False)]}: the raw frame is missing; fetch the sequence again."
        )
    return paths


THUMB = 16  # side of the grey thumbnail
# Of 12.5 million pairs of 5,000 photos (Flickr8k), 12 are near by hash alone, and only the one true pair by both.
# Found of copies: all that are compressed, resized or grey, 97 % of brightened ones, 94 % of those cut by 5 %.
DISTANCE = 8  # differing bits of 64 up to which two difference hashes are near
LIKENESS = 0.8  # correlation of the thumbnails from which on two near photos count as duplicates
FLAT = 2.0  # grey levels of deviation below which a thumbnail shows nothing that could be compared
BLOCK = 4_000_000  # comparisons at a time


@dataclass(frozen=True)
class Signatures:
    """Of N photos: hashes uint64 (N,), thumbnails without mean and of length 1, float32 (N, THUMB^2).

    Thumbnails that show nothing have length 0; they are alike only if equal, which `exact` (N,) numbers.
    """

    hashes: np.ndarray
    thumbs: np.ndarray
    exact: np.ndarray


def separate(source: Source, survey: Survey) -> Source:
    """Keep near-duplicates in one split; every photo moved or left out is said in `notes`.

    Splits made by id ("halved": val and test, "hashed": all three): a group goes where its smallest id is. "given"
    splits: validation photos that look like a test photo are left out. In both: training photos that look like a
    validation or test photo are left out. Videos ("sequence") stay as they are.
    """
    if source.rule == "sequence":
        return source
    splits, notes = dict(source.splits), list(source.notes)
    if source.rule == "given":
        splits["val"] = _without(splits, "val", ("test",), survey, notes)
    else:
        names = SPLITS if source.rule == "hashed" else ("val", "test")
        splits |= _gathered({name: splits[name] for name in names}, survey, notes)
    splits["train"] = _without(splits, "train", ("val", "test"), survey, notes)
    return replace(source, splits=splits, notes=tuple(notes))


def fingerprint(image: Image.Image) -> tuple[int, bytes]:
    """What near-duplicates share: the 64-bit difference hash, and a grey thumbnail of THUMB x THUMB bytes.

    The hash says of 8 x 8 places whether the next place to the right is brighter (N. Krawetz's dHash).
    """
    grey = image.convert("L")
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS))
    bits = np.packbits(steps[:, 1:] > steps[:, :-1])
    thumb = grey.resize((THUMB, THUMB), Image.Resampling.LANCZOS)
    return int.from_bytes(bits.tobytes(), "big"), thumb.tobytes()


def alike(a: Signatures, b: Signatures) -> np.ndarray:
    """Index pairs (n, 2) of near-duplicates: photo i of `a` and photo j of `b`."""
    found, rows = [np.empty((0, 2), dtype=np.int64)], max(1, BLOCK // max(1, len(b.hashes)))
    for start in range(0, len(a.hashes), rows):
        near = np.bitwise_count(a.hashes[start : start + rows, None] ^ b.hashes) <= DISTANCE
        i, j = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        same = (a.thumbs[start + i] @ b.thumbs[j].T >= LIKENESS) | (
            a.exact[start + i, None] == b.exact[j]
        )
        same &= near[np.ix_(i, j)]
        row, column = np.nonzero(same)
        found.append(np.stack([start + i[row], j[column]], axis=1))
    return np.concatenate(found)


def signatures(photos: list[Photo], survey: Survey) -> Signatures:
    """The surveyed photos' hashes and thumbnails as arrays."""
    looks = [survey.looks[photo.id] for photo in photos]
    bytes_ = np.frombuffer(b"".join(seen.thumb for seen in looks), dtype=np.uint8)
    thumbs = bytes_.reshape(len(looks), THUMB**2).astype(np.float32)
    thumbs -= thumbs.mean(1, keepdims=True)
    length = np.sqrt((thumbs**2).sum(1, keepdims=True))
    flat = length < FLAT * THUMB
    hashes = np.array([seen.hash for seen in looks], dtype=np.uint64)
    exact = np.array([zlib.crc32(seen.thumb) for seen in looks], dtype=np.int64)
    return Signatures(hashes, np.where(flat, 0, thumbs / np.where(flat, 1, length)), exact)


def _without(
    splits: dict, name: str, others: tuple[str, ...], survey: Survey, notes: list[str]
) -> list[Photo]:
    """The photos of one split that look like none of the `others`."""
    kept = [photo for other in others for photo in splits[other]]
    twins = set(alike(signatures(splits[name], survey), signatures(kept, survey))[:, 0].tolist())
    if twins:
        ids = [splits[name][k].id for k in sorted(twins)]
        notes.append(
            f"{_count(ids, name)} left out, alike a photo of {' or '.join(others)}: {_few(ids)}"
        )
    return [photo for k, photo in enumerate(splits[name]) if k not in twins]


def without_lent(
    splits: dict[str, list[Photo]], survey: Survey, known: list[Photo], lent: Survey
) -> tuple[dict[str, list[Photo]], list[str]]:
    """The splits without the validation and test photos that look like a `known` one, and what to say about it."""
    result, notes, theirs = dict(splits), [], signatures(known, lent)
    for name in ("val", "test"):
        twins = set(alike(signatures(splits[name], survey), theirs)[:, 0].tolist())
        result[name] = [photo for k, photo in enumerate(splits[name]) if k not in twins]
        if ids := [splits[name][k].id for k in sorted(twins)]:
            notes.append(
                f"{_count(ids, name)} left out, the borrowed tree was trained on alike ones: {_few(ids)}"
            )
    return result, notes


def _gathered(
    splits: dict[str, list[Photo]], survey: Survey, notes: list[str]
) -> dict[str, list[Photo]]:
    """The splits with each group of near-duplicates where its smallest id is; movers come last."""
    photos = [photo for part in splits.values() for photo in part]
    home = [name for name, part in splits.items() for _ in part]
    signs = signatures(photos, survey)
    i, j = alike(signs, signs).T
    _, group = connected_components(
        coo_array((np.ones(len(i)), (i, j)), shape=(len(photos),) * 2), directed=False
    )
    first: dict[int, int] = {}
    for k in sorted(range(len(photos)), key=lambda k: photos[k].id):
        first.setdefault(group[k], k)
    goal = [home[first[group[k]]] for k in range(len(photos))]
    moved = [k for k in range(len(photos)) if goal[k] != home[k]]
    if moved:
        ids = [photos[k].id for k in moved]
        notes.append(f"{_count(ids)} moved to the split of a near-duplicate: {_few(ids)}")
    stay = {
        name: [p for k, p in enumerate(photos) if goal[k] == home[k] == name] for name in splits
    }
    return {
        name: part + [photos[k] for k in moved if goal[k] == name] for name, part in stay.items()
    }


def _count(ids: list[str], name: str = "") -> str:
    return " ".join(filter(None, (str(len(ids)), name, "photo" if len(ids) == 1 else "photos")))


def _few(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
