"""Data sources as they lie on disk: photos with ids, captions or blurred partners, in fixed splits.

`LAYOUTS` lists the layouts that are known, special ones first. A new one needs `found(index)`,
which looks at names only, and `read(index, subset)`, which returns a `Source` whose `problems` are
what had to be left out.
"""

import json
import os
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from s3e.data.photos import Problem
from s3e.utils import S3EError, stable_hash

SPLITS = ("train", "val", "test")
PAIRED = ("released", "severe")  # severities of pairs, mildest first
Kind = Literal["karpathy", "coco", "gopro", "folder"]
Subset = Literal["blur", "blur_gamma"]
EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
YEARS = ("2014", "2017", "")  # of MSCOCO: the first that has train and val is used
KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}
CAPTIONS = 5  # a photo; MSCOCO has 5 to 7
MAX_WORDS, MAX_CHARACTERS = 100, 1000  # of a caption


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
    """A data set as it lies on disk. `protocol` is one sentence for tables; `problems` what was
    skipped.
    """

    kind: Kind
    root: Path
    splits: dict[str, list[Photo]]
    protocol: str
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def captioned(self) -> bool:
        return self.kind in ("coco", "karpathy")

    @property
    def paired(self) -> bool:
        return self.kind == "gopro"


def open_source(root: Path | str, subset: Subset = "blur", skip_broken: bool = False) -> Source:
    """`read_source`, but a folder with broken records raises `S3EError` unless `skip_broken`."""
    source = read_source(root, subset)
    if not skip_broken:
        refuse(source.problems, source.root)
    return source


def read_source(root: Path | str, subset: Subset = "blur") -> Source:
    """Find out what the folder `root` holds and read it; broken records are left out and listed in
    `problems`.

    `subset` names GoPro's blurred frames. Raises `S3EError` if the folder cannot be used at all.
    """
    if subset not in get_args(Subset):
        known = ", ".join(get_args(Subset))
        raise S3EError(f"data.subset is '{subset}'; it must be one of {known}.")
    root = Path(root)
    if not root.is_dir():
        raise S3EError(f"{root}: there is no such folder; give the folder that holds the photos.")
    return LAYOUTS[layout(root)].read(ImageIndex(root), subset)


def layout(root: Path | str) -> Kind:
    """What kind of data a folder holds, by its file names alone."""
    index = ImageIndex(Path(root))
    return next(kind for kind, known in LAYOUTS.items() if known.found(index))


def refuse(problems: Sequence[Problem], root: Path) -> None:
    """Raise `S3EError` if there is any problem: it names the first, and how to see or skip the
    others.
    """
    if problems:
        more = f"... and {len(problems) - 1} more; " if len(problems) > 1 else ""
        raise S3EError(
            f"{str(problems[0])[:-1]} ({more}`python -m s3e data check {root}` lists them;"
            " --skip-broken, or --set data.skip_broken=true for run_all.py, leaves them out)."
        )


def check_splits(
    root: Path, splits: dict[str, list[Photo]], problems: Sequence[Problem], remedy: str
) -> None:
    """Raise `S3EError` if a split holds fewer than 2 photos; the first problem may be the reason
    and is named.
    """
    left_out = (
        f" ({len(problems)} left out, the first: {str(problems[0])[:-1]})" if problems else ""
    )
    for name in SPLITS:
        if (count := len(splits[name])) < 2:
            raise S3EError(
                f"{root}: the {name} split has fewer than 2 usable photos ({count});"
                f" {remedy}{left_out}."
            )


# --- files and folders ---


def is_photo(name: str) -> bool:
    """Whether the file name has a photo's extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


@dataclass
class Tree:
    """All that lies under a folder: names of files and sub-folders by folder, sorted; hidden ones
    are left out.
    """

    files: dict[Path, Collection[str]] = field(default_factory=dict)
    folders: dict[Path, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def walk(root: Path) -> Tree:
    """List `root` recursively, links followed once; what cannot be listed or named in UTF-8 becomes
    a problem.
    """
    tree, seen = Tree(), set()

    def denied(error: OSError) -> None:
        what = f"the folder cannot be listed ({error.strerror or error})"
        remedy = "give yourself permission with chmod u+rx"
        tree.problems.append(Problem(str(error.filename), what, remedy))

    def visible(place: str, name: str) -> bool:
        shown = os.path.join(place, name).encode(errors="replace").decode()
        if shown != os.path.join(place, name):
            tree.problems.append(Problem(shown, "the name is not valid UTF-8", "rename it"))
            return False
        return not name.startswith(".")

    for place, folders, files in os.walk(root, onerror=denied, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if visible(place, name))
        tree.folders[Path(place)] = list(folders)
        shown = sorted(name for name in files if visible(place, name))
        tree.files[Path(place)] = dict.fromkeys(shown)  # in order, and found at once
    return tree


class ImageIndex:
    """Where the files of a data set lie."""

    def __init__(self, root: Path):
        self.root = root

    @cached_property
    def tree(self) -> Tree:
        return walk(self.root)

    def names(self, folder: str) -> Collection[str]:
        """The names of the files in a sub-folder, none if it does not exist; `S3EError` without
        permission.
        """
        place = self.root / folder
        for problem in self.tree.problems:
            if problem.where == str(place):
                raise S3EError(str(problem))
        return self.tree.files.get(place, {})

    def match(self, pattern: str, *folders: str) -> list[str]:
        """Relative paths of the files in `folders` whose names match the pattern."""
        paths = [Path(folder, name) for folder in folders for name in self.names(folder)]
        return sorted(path.as_posix() for path in paths if re.fullmatch(pattern, path.name))

    def find(self, name: str, folders: list[str]) -> Path | None:
        """The photo `name`, a file name or a path, in the first of `folders` that has it; never
        outside of the root.
        """
        inner = PurePosixPath(name)
        nested = len(inner.parts) > 1 and ".." not in inner.parts
        for folder in folders:
            for place in [f"{folder}/{inner.parent}", folder] if nested else [folder]:
                if inner.name in self.names(place):
                    return self.root / place / inner.name
        return None


# --- captions: MSCOCO's official layout, Karpathy's file, and any folder that is laid out likewise
# ---


def clean_caption(text: str) -> tuple[str, str | None]:
    """The caption on one line, and what is wrong with it if it must be left out (else None).

    Characters that do not print (line breaks, tabs, control characters, half surrogates) become
    blanks, soft hyphens vanish, accents are composed (NFC), blanks are joined. Left out are
    captions that are empty, hold no Latin letter, or are longer than `MAX_WORDS` words or
    `MAX_CHARACTERS` characters.
    """
    if not text.isprintable():
        letters = text.replace("\xad", "")
        text = "".join(letter if letter.isprintable() else " " for letter in letters)
    text, fault = " ".join(unicodedata.normalize("NFC", text).split()), None
    if not text:
        fault = "the caption is empty"
    elif len(text) > MAX_CHARACTERS or text.count(" ") >= MAX_WORDS:
        size = f"{text.count(' ') + 1} words, {len(text)} characters"
        fault = f"the caption is enormous ({size})"
    elif not re.search("[A-Za-zÀ-ÖØ-öø-ɏ]", text):
        fault = "the caption holds no Latin letter"
    return text, fault


class _Entries(NamedTuple):
    """One split of a caption file: image id -> file name, and (caption id, image id, text)."""

    file: Path
    images: dict[str, str]
    captions: list[tuple[str, str, str]]


def _karpathy_files(index: ImageIndex) -> list[str]:
    return index.match(r"dataset_(coco|flickr\d+k)\.json", ".", "annotations")


def _coco_files(index: ImageIndex) -> list[str]:
    return index.match(r"captions_.+\.json", "annotations")


def _read_karpathy(index: ImageIndex, subset: Subset) -> Source:
    """`dataset_coco.json` (or Flickr's) in the folder or in `annotations/`; photos are numbered by
    `cocoid` or `imgid`.
    """
    name = min(_karpathy_files(index), key=lambda name: not name.endswith("dataset_coco.json"))
    file, reader = index.root / name, _CaptionReader(index)
    records = _load_lists(file, "images")["images"]
    keys: Keys = {"imgid": int | str, "filename": str, "split": str, "sentences": list}
    if any(isinstance(record, dict) and "cocoid" in record for record in records):
        keys = {"cocoid": int | str, "filepath": str, **keys}
    parts = {split: _Entries(file, {}, []) for split in SPLITS}
    for key, item in reader.sound(f"{file}: images", records, keys).items():
        where = f"{file}: image {key}"
        if item["split"] not in KARPATHY:
            what = f"the split '{item['split']}' is unknown"
            reader.problem(where, what, f"use one of {', '.join(KARPATHY)}")
            continue
        part = parts[KARPATHY[item["split"]]]
        part.images[key] = "/".join(filter(None, (item.get("filepath"), item["filename"])))
        texts = {"sentid": int | str, "raw": str}
        for number, text in reader.sound(f"{where}, sentences", item["sentences"], texts).items():
            part.captions.append((number, key, text["raw"]))
    return reader.source("karpathy", parts, f"Karpathy's split ({file.name})")


def _read_coco(index: ImageIndex, subset: Subset) -> Source:
    """`annotations/captions_{train,val}{2014,2017,}.json`, and `captions_test*.json` if there is
    one.
    """
    years = {
        split: {file[21 + len(split) : -5] for file in _coco_files(index) if f"s_{split}" in file}
        for split in SPLITS
    }
    both = years["train"] & years["val"]
    year = next((year for year in (*YEARS, *sorted(both)) if year in both), None)
    if year is None:
        raise S3EError(
            f"{index.root}/annotations: captions_train*.json and captions_val*.json of the same"
            " year are both needed; see the README for the layout."
        )
    parts, reader = {}, _CaptionReader(index)
    for split in SPLITS:
        file = index.root / "annotations" / f"captions_{split}{year}.json"
        if file.name in index.names("annotations"):
            content = _load_lists(file, "images", "annotations")
            keys: Keys = {"id": int | str, "file_name": str}
            images = reader.sound(f"{file}: images", content["images"], keys)
            keys = {"id": int | str, "image_id": int | str, "caption": str}
            texts = reader.sound(f"{file}: annotations", content["annotations"], keys)
            names = {key: image["file_name"] for key, image in images.items()}
            captions = [(key, str(t["image_id"]), t["caption"]) for key, t in texts.items()]
            parts[split] = _Entries(file, names, captions)
    made = "splits as given" if "test" in parts else "val split halved by id"
    return reader.source("coco", parts, f"{f'COCO captions {year}'.strip()}, {made}")


class _CaptionReader:
    """Turns the entries of caption files into photos; gathers what is left out and what is worth a
    note.
    """

    def __init__(self, index: ImageIndex):
        self.index = index
        self.problems: list[Problem] = []
        self.met: dict[str, list[str]] = defaultdict(list)  # note -> where
        self.known: dict[str, Path] = {}  # id -> photo

    def problem(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(where, what, remedy))

    def sound(self, where: str, records: list, keys: "Keys") -> dict[str, dict]:
        """The records that hold all `keys` in their types, by the first key's value as text; others
        are problems.
        """
        first, result = next(iter(keys)), {}
        for i, record in enumerate(records):
            fault = _record_fault(record, keys)
            if not fault and str(record[first]) in result:
                fault = f"the {first} {record[first]} occurs twice"
            if fault:
                self.problem(f"{where}[{i}]", fault, "correct or remove the record")
            else:
                result[str(record[first])] = record
        return result

    def source(self, kind: Kind, parts: dict[str, _Entries], protocol: str) -> Source:
        root, order = self.index.root, ("test", "val", "train")  # ids of the test split stay plain
        splits = {split: self.photos(split, parts[split]) for split in order if split in parts}
        if "test" not in parts:
            halves: tuple[list[Photo], list[Photo]] = ([], [])
            for photo in splits["val"]:
                halves[stable_hash("split", photo.id) % 2].append(photo)
            splits["val"], splits["test"] = halves
        check_splits(root, splits, self.problems, "add photos with captions")
        notes = [counted(what, at) for what, at in self.met.items()]
        used = {part.file for part in parts.values()}
        files = [*_karpathy_files(self.index), *_coco_files(self.index)]
        if unused := [file for file in files if root / file not in used]:
            notes.append(f"caption files that are not used: {', '.join(unused)}")
        splits = {split: splits[split] for split in SPLITS}
        return Source(kind, root, splits, protocol, tuple(self.problems), tuple(notes))

    def photos(self, split: str, entries: _Entries) -> list[Photo]:
        """The photos of a split that are there and have captions, in the order of the file."""
        file, root = entries.file, self.index.root
        places = _image_folders(split)
        paths = {key: self.index.find(name, places) for key, name in entries.images.items()}
        if paths and not any(paths.values()):
            raise S3EError(
                f"{file}: none of its {len(paths)} photos is there; unpack them into {root}/images."
            )
        texts = self.texts(entries)
        for key in sorted(texts.keys() - paths.keys()):
            what = f"its image {key} is not listed"
            self.problem(f"{file}: annotation {texts[key][0][0]}", what, "list it or remove both")
        photos = []
        for key, path in paths.items():
            where, captions = f"{file}: image {key}", [text for _, text in texts.get(key, ())]
            if path is None:
                what = f"its photo {entries.images[key]} is in none of the image folders"
                self.problem(where, what, "restore it or remove its entry")
            elif not captions:
                self.problem(where, "it has no usable caption", "add one or remove the image")
            elif self.known.get(key) == path:
                self.problem(where, "it is in another split as well", "remove one of its entries")
            else:
                identity = key
                if key in self.known:  # files that number their photos separately
                    identity = f"{split}/{key}"
                    self.met["photos that are called split/id, as another split has their id"] += [
                        identity
                    ]
                self.known[identity] = path
                photos.append(Photo(identity, path, tuple(captions[:CAPTIONS])))
                if len(captions) > CAPTIONS:
                    what = f"photos with more than {CAPTIONS} captions, cut"
                    self.met[what].append(f"image {key} of {file.name}")
        return photos

    def texts(self, entries: _Entries) -> dict[str, list[tuple[str, str]]]:
        """The captions that can be used, cleaned: image id -> (caption id, text)."""
        result = defaultdict(list)
        for key, image, raw in entries.captions:
            text, fault = clean_caption(raw)
            if fault:
                where = f"{entries.file}: annotation {key}"
                self.problem(where, fault, "correct or remove it")
                continue
            result[image].append((key, text))
            if not raw.isprintable():
                what = "captions with characters that do not print, cleaned"
                self.met[what].append(f"annotation {key} of {entries.file.name}")
        return result


def _image_folders(split: str) -> list[str]:
    """The sub-folders where photos of a split may lie, likely ones first."""
    parts = [split, *(part for part in SPLITS if part != split)]
    names = [f"{part}{year}" for part in parts for year in YEARS]
    nested = [f"{above}{name}" for name in names for above in ("", "images/")]
    own = 2 * len(YEARS)
    return [*nested[:own], "images", ".", *nested[own:]]


Keys = dict[str, type | UnionType]


def _load_lists(file: Path, *names: str) -> dict[str, Any]:
    """A JSON file's content, which must be an object with these lists; else `S3EError`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        what = f"cannot be read ({error.strerror}); give yourself read permission"
        raise S3EError(f"{file}: {what}.") from None
    except (ValueError, RecursionError) as error:
        raise S3EError(f"{file} is not valid JSON ({error}); fetch or write it again.") from None
    for name in names:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            what = f"not in COCO-captions layout (no list '{name}')"
            raise S3EError(f"{file}: {what}; see the README for the layout.")
    return content


def _record_fault(record: Any, keys: Keys) -> str | None:
    if not isinstance(record, dict):
        return "the record is not an object"
    for key, kind in keys.items():
        if key not in record:
            return f"the key '{key}' is missing"
        value = record[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"the key '{key}' has a value of the wrong type"
        free = key in ("caption", "raw") or not isinstance(value, str)
        if not free and re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", value):
            return f"the key '{key}' holds characters that do not print"
    return None


# --- GoPro: pairs of frames, `{train,test}/<sequence>/{blur,blur_gamma,sharp}/NNNNNN.png` ---


VIEWS = {"sharp", "blur", "blur_gamma"}


def _has_sequences(index: ImageIndex) -> bool:
    folders = index.tree.folders.values()
    return any("sharp" in inner and len(VIEWS & {*inner}) > 1 for inner in folders)


def _read_gopro(index: ImageIndex, subset: Subset) -> Source:
    """All pairs of `subset`, sequences kept together; validation sequences are taken from train
    (see `validation`).
    """
    problems = list(index.tree.problems)
    parts: dict[str, dict[str, list[Photo]]] = {"train": {}, "test": {}}
    for name, (split, folder) in _sequences(index, subset, problems).items():
        if pairs := _pairs(folder, index.tree, subset, problems):
            parts[split][name] = pairs
    train = parts["train"]
    chosen = validation({name: len(pairs) for name, pairs in train.items()})
    names = {"train": [name for name in train if name not in chosen], "val": sorted(chosen)}
    splits = {split: [pair for name in names[split] for pair in train[name]] for split in names}
    splits["test"] = [pair for pairs in parts["test"].values() for pair in pairs]
    needed = "give at least 2 train sequences and 1 test sequence of 2 pairs"
    check_splits(index.root, splits, problems, needed)
    taken = f"validation = {len(chosen)} of {len(train)} train sequences"
    protocol = f"GoPro, subset {subset}, {taken}"
    return Source("gopro", index.root, splits, protocol, tuple(problems))


def _sequences(
    index: ImageIndex, subset: Subset, problems: list[Problem]
) -> dict[str, tuple[str, Path]]:
    """name -> (split, folder) of each usable sequence, by name."""
    root, inner = index.root, index.tree.folders
    folders = sorted((at for at in inner if VIEWS & {*inner[at]}), key=lambda at: (at.name, at))
    if not any(subset in inner[place] for place in folders):
        other = "blur" if subset == "blur_gamma" else "blur_gamma"
        raise S3EError(
            f"{root}: no sequence has the folder {subset}/; --set data.subset={other} (--subset"
            f" {other})."
        )
    result: dict[str, tuple[str, Path]] = {}
    for place in folders:
        above = reversed(place.relative_to(root).parts[:-1])
        split = next((part for part in above if part in ("train", "test")), None)
        missing = next((view for view in (subset, "sharp") if view not in inner[place]), None)
        if split is None and root.name in ("train", "test"):
            whole = "give the folder that holds train/ and test/"
            raise S3EError(f"{root}: is one half of GoPro; {whole}.")
        if split is None:
            fault = "the sequence is neither in train/ nor in test/", "move it into one"
        elif missing:
            fault = f"the sequence has no folder {missing}/", "restore or remove it"
        elif place.name in result:
            other = result[place.name][1]
            fault = f"the sequence's name is that of {other}", "remove or rename one"
        else:
            result[place.name] = (split, place)
            continue
        problems.append(Problem(str(place), *fault))
    return result


def _pairs(folder: Path, tree: Tree, subset: Subset, problems: list[Problem]) -> list[Photo]:
    """The pairs of a sequence in the order of their numbers; incomplete ones are problems."""
    blurred, sharp = (_frames(folder / view, tree, problems) for view in (subset, "sharp"))
    pairs = []
    for number in sorted(blurred.keys() | sharp.keys()):
        if number in blurred and number in sharp:
            name = f"{folder.name}/{sharp[number].stem}"
            pairs.append(Photo(name, sharp[number], (), blurred[number], folder.name, number))
            continue
        there, missing = (sharp, subset) if number in sharp else (blurred, "sharp")
        remedy = "restore the partner or remove this file"
        problems.append(Problem(str(there[number]), f"has no partner in {missing}/", remedy))
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


def validation(pairs: dict[str, int]) -> set[str]:
    """The train sequences (name -> number of pairs) that are used for validation.

    Whole recordings: the clips GOPRxxxx_yy_zz of one xxxx stay together. Ranked by hashed name,
    those of fewer than 5 pairs last, as many as make 10 % of all pairs and at least 2 pairs; one
    recording always stays in train.
    """
    recordings: dict[str, list[str]] = defaultdict(list)
    for name in pairs:
        clip = re.fullmatch(r"(GOPR\d+)_\d+_\d+", name)
        recordings[clip[1] if clip else name].append(name)
    sizes = {key: sum(pairs[name] for name in names) for key, names in recordings.items()}
    ranked = sorted(sizes, key=lambda key: (sizes[key] < 5, stable_hash("validation", key)))
    chosen: list[str] = []
    for key in ranked[:-1]:
        if sum(pairs[name] for name in chosen) >= max(2, 0.1 * sum(pairs.values())):
            break
        chosen += recordings[key]
    return set(chosen)


# --- any folder of photos, without captions or blurred partners ---


def _read_folder(index: ImageIndex, subset: Subset) -> Source:
    """A photo's id is its relative path, with the extension only where that is ambiguous; 80 / 10 /
    10 by hashed id.
    """
    root, tree = index.root, index.tree
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
        tenth = stable_hash("split", photo.id) % 10
        splits["train" if tenth < 8 else "val" if tenth == 8 else "test"].append(photo)
    few = f"{len(paths)} photos are too few, add some (100 are surely enough)"
    check_splits(root, splits, tree.problems, few)
    others = Counter(name.suffix.lower() or name.name for name in names if not is_photo(name.name))
    notes = []
    if others:
        shown = ", ".join(sorted(others)[:8])
        notes.append(f"other files, left alone: {sum(others.values())} ({shown})")
    if (root / "annotations").is_dir():
        what = "annotations/ holds no captions_*.json, so the photos are read without captions"
        notes.append(what)
    protocol = "photos without captions, split 80/10/10 by id"
    return Source("folder", root, splits, protocol, tuple(tree.problems), tuple(notes))


class Layout(NamedTuple):
    """One way in which data lie on disk."""

    found: Callable[[ImageIndex], Any]
    read: Callable[[ImageIndex, Subset], Source]


LAYOUTS: dict[Kind, Layout] = {
    "karpathy": Layout(_karpathy_files, _read_karpathy),
    "coco": Layout(_coco_files, _read_coco),
    "gopro": Layout(_has_sequences, _read_gopro),
    "folder": Layout(lambda index: True, _read_folder),
}


# --- near-duplicates: what a model is tested on, it must not have been trained on ---

THUMB = 16  # side of the grey thumbnail
# Of 12.5 million pairs of 5,000 photos (Flickr8k), 12 are near by hash alone, and only the one true
# pair by both.
# Found of copies: all that are compressed, resized or grey, 97 % of brightened ones, 94 % of those
# cut by 5 %.
DISTANCE = 8  # differing bits of 64 up to which two difference hashes are near
LIKENESS = 0.8  # correlation of the thumbnails from which on two near photos count as duplicates
FLAT = 2.0  # grey levels of deviation below which a thumbnail shows nothing that could be compared
BLOCK = 4_000_000  # comparisons at a time


class PhotoInfo(NamedTuple):
    """What one photo shows: upright size (width, height), notes, and its `fingerprint`."""

    size: tuple[int, int]
    notes: tuple[str, ...]
    hash: int
    thumb: bytes


def fingerprint(image: Image.Image) -> tuple[int, bytes]:
    """What near-duplicates share: the 64-bit difference hash, and a grey thumbnail of THUMB x THUMB
    bytes.

    The hash says of 8 x 8 places whether the next place to the right is brighter (N. Krawetz's
    dHash).
    """
    grey = image.convert("L")
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS))
    bits = np.packbits(steps[:, 1:] > steps[:, :-1])
    thumb = grey.resize((THUMB, THUMB), Image.Resampling.LANCZOS)
    return int.from_bytes(bits.tobytes(), "big"), thumb.tobytes()


def alike(a: Sequence[PhotoInfo], b: Sequence[PhotoInfo]) -> np.ndarray:
    """Index pairs (n, 2) of near-duplicates: photo i of `a` and photo j of `b`.

    Near in hash and in thumbnail; photos that show nothing are alike only if their thumbnails are
    equal.
    """
    (hashes, thumbs, exact), (others, other_thumbs, other_exact) = map(_signatures, (a, b))
    found, rows = [np.empty((0, 2), dtype=np.int64)], max(1, BLOCK // max(1, len(b)))
    for start in range(0, len(a), rows):
        near = np.bitwise_count(hashes[start : start + rows, None] ^ others) <= DISTANCE
        i, j = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        same = thumbs[start + i] @ other_thumbs[j].T >= LIKENESS
        same |= exact[start + i, None] == other_exact[j]
        row, column = np.nonzero(same & near[np.ix_(i, j)])
        found.append(np.stack([start + i[row], j[column]], axis=1))
    return np.concatenate(found)


def _signatures(infos: Sequence[PhotoInfo]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes, thumbnails without mean and of length 1 (0 where they show nothing), and a number for
    each thumbnail.
    """
    content = np.frombuffer(b"".join(info.thumb for info in infos), dtype=np.uint8)
    thumbs = content.reshape(len(infos), THUMB**2).astype(np.float32)
    thumbs -= thumbs.mean(1, keepdims=True)
    length = np.sqrt((thumbs**2).sum(1, keepdims=True))
    flat = length < FLAT * THUMB
    hashes = np.array([info.hash for info in infos], dtype=np.uint64)
    exact = np.array([zlib.crc32(info.thumb) for info in infos], dtype=np.int64)
    return hashes, np.where(flat, 0, thumbs / np.where(flat, 1, length)), exact


def separate(source: Source, infos: dict[str, PhotoInfo]) -> Source:
    """Near-duplicates never straddle splits; every photo that is left out is listed in `notes`.

    Validation photos that look like a test photo go, and training photos that look like either.
    Videos stay as they are: their splits are whole recordings. `infos`: by photo id.
    """
    if source.paired:
        return source
    splits, notes = dict(source.splits), list(source.notes)
    held_out = [infos[photo.id] for photo in splits["test"]]
    splits["val"] = without(splits["val"], infos, held_out, "test", "val", notes)
    held_out += [infos[photo.id] for photo in splits["val"]]
    splits["train"] = without(splits["train"], infos, held_out, "val or test", "train", notes)
    return replace(source, splits=splits, notes=tuple(notes))


def without(
    photos: list[Photo],
    infos: dict[str, PhotoInfo],
    others: Sequence[PhotoInfo],
    where: object,
    name: str,
    notes: list[str],
) -> list[Photo]:
    """The photos of split `name` that look like none of `others` (of `where`); a note lists which
    were left out.
    """
    twins = set(alike([infos[photo.id] for photo in photos], others)[:, 0].tolist())
    if twins:
        ids = [photos[k].id for k in sorted(twins)]
        notes.append(counted(f"{name} photos left out, alike a photo of {where}", ids))
    return [photo for k, photo in enumerate(photos) if k not in twins]


def counted(what: str, where: Sequence[str]) -> str:
    """A note: what was met, how often, and where first."""
    return f"{what}: {len(where)} ({', '.join(where[:3])}{', ...' if len(where) > 3 else ''})"
