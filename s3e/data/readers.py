"""Data sources as they lie on disk: one frame of images, in fixed splits.

`LAYOUTS` lists the layouts that are known, special ones first. A new one needs a function that
recognises it by names alone, and one that returns its rows (`Photo`) as a `Source`.
"""

import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from PIL import Image

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


class Photo(NamedTuple):
    """A row of `Source.images`. `id` is unique: splits, blur and tables are keyed by it."""

    id: str
    path: Path  # the sharp photo
    split: str
    captions: tuple[str, ...] = ()
    blurred: Path | None = None  # pairs: the released blurred frame
    sequence: str = ""  # pairs: the video it comes from
    frame: int = -1  # pairs: its number in the video


@dataclass
class Source:
    """A data set as it lies on disk.

    `images`: a row a photo (see `Photo`). `protocol`: one sentence for tables. `problems`: what had
    to be left out, each a sentence with place and remedy; `notes`: what else is worth knowing.
    """

    kind: Kind
    root: Path
    images: pd.DataFrame
    protocol: str
    problems: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def captioned(self) -> bool:
        return self.kind in ("coco", "karpathy")

    @property
    def paired(self) -> bool:
        return self.kind == "gopro"

    def check_splits(self) -> None:
        """Raise `S3EError` if a split has fewer than 2 photos; the first problem may be why."""
        counts, shown = self.images["split"].value_counts(), ""
        if self.problems:
            shown = f" ({len(self.problems)} left out, the first: {self.problems[0][:-1]})"
        for name in SPLITS:
            if (count := counts.get(name, 0)) < 2:
                remedy = f"add photos (100 are surely enough), or set data.{name} to 0 (all)"
                if self.paired:
                    remedy = "give at least 2 train sequences and 1 test sequence of 2 pairs"
                what = f"the {name} split has fewer than 2 usable photos ({count})"
                raise S3EError(f"{self.root}: {what}; {remedy}{shown}.")


def read_source(root: Path | str, subset: Subset = "blur") -> Source:
    """Find out what the folder `root` holds and read it, without broken records (`problems`).

    `subset` names GoPro's blurred frames. Raises `S3EError` if the folder cannot be used at all.
    """
    if subset not in get_args(Subset):
        known = ", ".join(get_args(Subset))
        raise S3EError(f"data.subset is '{subset}'; it must be one of {known}.")
    root = Path(root)
    if not root.is_dir():
        raise S3EError(f"{root}: there is no such folder; give the folder that holds the photos.")
    index = ImageIndex(root)
    _, read = LAYOUTS[index.layout()]
    source = read(index, subset)
    source.check_splits()
    return source


# --- files and folders ---


def is_photo(name: str) -> bool:
    """Whether the file name has a photo's extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def walk(root: Path) -> tuple[list[Path], list[str]]:
    """All files under `root`, sorted by folder, links followed once, without hidden ones.

    The second list says what cannot be listed, or named in UTF-8.
    """
    found, problems, seen = [], [], set()

    def denied(error: OSError) -> None:
        what = f"the folder cannot be listed ({error.strerror or error})"
        problems.append(f"{error.filename}: {what}; give yourself permission with chmod u+rx.")

    def visible(place: str, names: list[str]) -> list[str]:
        for name in names:
            shown = os.path.join(place, name).encode(errors="replace").decode()
            if shown != os.path.join(place, name):
                problems.append(f"{shown}: the name is not valid UTF-8; rename it.")
            elif not name.startswith("."):
                yield name

    for place, folders, files in os.walk(root, onerror=denied, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(visible(place, folders))
        found += [Path(place, name) for name in sorted(visible(place, files))]
    return found, problems


class ImageIndex:
    """The files of a data folder by their relative path (with "/")."""

    def __init__(self, root: Path):
        self.root = root
        files, self.problems = walk(root)
        self.paths = {file.relative_to(root).as_posix(): file for file in files}

    def layout(self) -> Kind:
        """What kind of data the folder holds, by its file names alone."""
        return next(kind for kind, (found, _) in LAYOUTS.items() if found(self))

    def find(self, name: str, folders: list[str]) -> Path | None:
        """The photo `name`, a file name or a path, in the first of `folders` that has it."""
        for folder in folders:
            for place in (f"{folder}/{name}", f"{folder}/{PurePosixPath(name).name}"):
                if path := self.paths.get(os.path.normpath(place)):
                    return path
        return None


# --- captions: MSCOCO's official layout, Karpathy's file, any folder that is laid out likewise ---


class Entry(NamedTuple):
    """An image as a caption file lists it; `where` is its place there, `texts` (place, caption)."""

    split: str
    key: str
    where: str
    name: str
    texts: list[tuple[str, str]]


def _karpathy_files(index: ImageIndex) -> list[str]:
    pattern = r"(annotations/)?dataset_(coco|flickr\d+k)\.json"
    files = [place for place in index.paths if re.fullmatch(pattern, place)]
    return sorted(files, key=lambda place: not place.endswith("dataset_coco.json"))


def _read_karpathy(index: ImageIndex, subset: Subset) -> Source:
    """`dataset_coco.json` (or Flickr's); photos are numbered by `cocoid` or `imgid`."""
    file, problems, entries = index.root / _karpathy_files(index)[0], list(index.problems), []
    records = _load_lists(file, "images")["images"]
    keys: Keys = {"imgid": int | str, "filename": str, "split": str, "sentences": list}
    if any(isinstance(record, dict) and "cocoid" in record for record in records):
        keys = {"cocoid": int | str, "filepath": str, **keys}
    for key, item in _sound(f"{file}: images", records, keys, problems).items():
        where, split = f"{file}: image {key}", item["split"]
        if split not in KARPATHY:
            known = ", ".join(KARPATHY)
            problems.append(f"{where}: the split '{split}' is unknown; use one of {known}.")
            continue
        place, keys = f"{where}, sentences", {"sentid": int | str, "raw": str}
        sentences = _sound(place, item["sentences"], keys, problems).items()
        texts = [(f"{place} {number}", sentence["raw"]) for number, sentence in sentences]
        name = f"{item.get('filepath', '.')}/{item['filename']}"
        entries.append(Entry(KARPATHY[split], key, where, name, texts))
    images = _captioned(index, entries, problems)
    return Source("karpathy", index.root, images, f"Karpathy's split ({file.name})", problems)


def _coco_files(index: ImageIndex) -> dict[tuple[str, str], Path]:
    """(split, year) -> file."""
    pattern = re.compile(r"annotations/captions_(train|val|test|)(.*)\.json")
    found = ((pattern.fullmatch(place), file) for place, file in index.paths.items())
    return {match.groups(): file for match, file in found if match}


def _read_coco(index: ImageIndex, subset: Subset) -> Source:
    """`annotations/captions_{train,val}{2014,2017,}.json`, and `captions_test*.json` if any."""
    files, problems, entries = _coco_files(index), list(index.problems), []
    both = {year for split, year in files if split == "train" and ("val", year) in files}
    year = next((year for year in (*YEARS, *sorted(both)) if year in both), None)
    if year is None:
        raise S3EError(
            f"{index.root}/annotations: captions_train*.json and captions_val*.json of the same"
            " year are both needed; see the README for the layout."
        )
    for split in SPLITS:
        if not (file := files.get((split, year))):
            continue
        content, texts = _load_lists(file, "images", "annotations"), defaultdict(list)
        keys: Keys = {"id": int | str, "image_id": int | str, "caption": str}
        captions = _sound(f"{file}: annotations", content["annotations"], keys, problems)
        for key, item in captions.items():
            texts[str(item["image_id"])].append((f"{file}: annotation {key}", item["caption"]))
        keys = {"id": int | str, "file_name": str}
        for key, item in _sound(f"{file}: images", content["images"], keys, problems).items():
            own = texts.pop(key, [])
            entries.append(Entry(split, key, f"{file}: image {key}", item["file_name"], own))
        for key, ((where, _), *_) in texts.items():
            problems.append(f"{where}: its image {key} is not listed; list it or remove both.")
    images, made = _captioned(index, entries, problems), "splits as given"
    if ("test", year) not in files:
        half, made = (
            [stable_hash("split", key) % 2 for key in images["id"]],
            "val split halved by id",
        )
        images.loc[(images["split"] == "val") & np.array(half, bool), "split"] = "test"
    protocol = f"{f'COCO captions {year}'.strip()}, {made}"
    return Source("coco", index.root, images, protocol, problems)


def _captioned(index: ImageIndex, entries: list[Entry], problems: list[str]) -> pd.DataFrame:
    """The photos that are there and have captions; ids of the test split stay plain."""
    known: dict[str, Path] = {}
    rows = []
    for entry in sorted(entries, key=lambda entry: SPLITS.index(entry.split), reverse=True):
        captions = _usable(entry.texts, problems)
        path, key = index.find(entry.name, _image_folders(entry.split)), entry.key
        if path is None:
            fault = f"its photo {entry.name} is in none of the image folders", "put it into images/"
        elif not captions:
            fault = "it has no usable caption", "add one"
        elif known.get(key) == path:
            fault = "it is in another split as well", "keep one of its entries"
        else:
            if key in known:  # files that number their photos separately
                key = f"{entry.split}/{key}"
            known[key] = path
            rows.append(Photo(key, path, entry.split, tuple(captions[:CAPTIONS])))
            continue
        problems.append("{}: {}; {} or remove its entry.".format(entry.where, *fault))
    return pd.DataFrame(rows, columns=Photo._fields)


def _usable(texts: list[tuple[str, str]], problems: list[str]) -> list[str]:
    """Captions that can be used, cleaned."""
    cleaned = [(where, *clean_caption(raw)) for where, raw in texts]
    problems += [f"{where}: {fault}; correct or remove it." for where, _, fault in cleaned if fault]
    return [text for _, text, fault in cleaned if not fault]


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


def _sound(where: str, records: list, keys: Keys, problems: list[str]) -> dict[str, dict]:
    """The records that hold all `keys` in their types, by the first key's value as text."""
    first, result = next(iter(keys)), {}
    for i, record in enumerate(records):
        fault = _fault(record, keys)
        if not fault and str(record[first]) in result:
            fault = f"the {first} {record[first]} occurs twice"
        if fault:
            problems.append(f"{where}[{i}]: {fault}; correct or remove the record.")
        else:
            result[str(record[first])] = record
    return result


def _fault(record: Any, keys: Keys) -> str | None:
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


def _sequences(index: ImageIndex) -> dict[Path, dict[str, list[Path]]]:
    """The photos of each view of each sequence, by its folder; {} where none has two views."""
    found: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in index.paths.values():
        if file.parent.name in ("sharp", *get_args(Subset)) and is_photo(file.name):
            found[file.parents[1]][file.parent.name].append(file)
    paired = any("sharp" in views and len(views) > 1 for views in found.values())
    return found if paired else {}


def _read_gopro(index: ImageIndex, subset: Subset) -> Source:
    """All pairs of `subset`; validation sequences are taken from train (see `validation`)."""
    root, sequences, problems = index.root, _sequences(index), list(index.problems)
    if not any(subset in views for views in sequences.values()):
        other = "blur" if subset == "blur_gamma" else "blur_gamma"
        raise S3EError(
            f"{root}: no sequence has the folder {subset}/; --set data.subset={other} (--subset"
            f" {other})."
        )
    rows: list[Photo] = []
    known: dict[str, Path] = {}
    for folder in sorted(sequences, key=lambda folder: (folder.name, folder)):
        above = reversed(folder.relative_to(root).parts[:-1])
        split = next((part for part in above if part in ("train", "test")), None)
        missing = {subset, "sharp"} - sequences[folder].keys()
        if split is None and root.name in ("train", "test"):
            whole = "give the folder that holds train/ and test/"
            raise S3EError(f"{root}: is one half of GoPro; {whole}.")
        if split is None:
            fault = "the sequence is neither in train/ nor in test/; move it into one"
        elif missing:
            fault = f"the sequence has no folder {missing.pop()}/; restore or remove it"
        elif folder.name in known:
            fault = f"the sequence's name is that of {known[folder.name]}; remove or rename one"
        else:
            known[folder.name] = folder
            rows += _pairs(folder.name, split, subset, sequences[folder], problems)
            continue
        problems.append(f"{folder}: {fault}.")
    images = pd.DataFrame(rows, columns=Photo._fields)
    trained = images["split"] == "train"
    sizes = images[trained].groupby("sequence").size().to_dict()
    chosen = validation(sizes)
    images.loc[trained & images["sequence"].isin(chosen), "split"] = "val"
    taken = f"validation = {len(chosen)} of {len(sizes)} train sequences"
    return Source("gopro", root, images, f"GoPro, subset {subset}, {taken}", problems)


def _pairs(
    sequence: str, split: str, subset: Subset, views: dict[str, list[Path]], problems: list[str]
) -> list[Photo]:
    """The pairs of a sequence in the order of their numbers; incomplete ones are problems."""
    frames: dict[int, dict[str, Path]] = defaultdict(dict)
    for view in (subset, "sharp"):
        for path in views[view]:
            if re.fullmatch("[0-9]+", path.stem) and view not in frames[int(path.stem)]:
                frames[int(path.stem)][view] = path
            else:
                what = "the name is not a frame number of its own"
                problems.append(f"{path}: {what}; name it like 000001.png or remove it.")
    pairs = []
    for number, pair in sorted(frames.items()):
        if len(pair) == 2:
            name = f"{sequence}/{pair['sharp'].stem}"
            pairs.append(Photo(name, pair["sharp"], split, (), pair[subset], sequence, number))
        for view, path in pair.items() if len(pair) == 1 else ():
            other = subset if view == "sharp" else "sharp"
            remedy = "restore the partner or remove this file"
            problems.append(f"{path}: has no partner in {other}/; {remedy}.")
    return pairs


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
    """A photo's id is its relative path, with the extension only where that is ambiguous."""
    root, tenths = index.root, ("train",) * 8 + ("val", "test")
    places = [PurePosixPath(place) for place in index.paths]
    photos = [place for place in places if is_photo(place.name)]
    if not photos:
        listed = ", ".join(sorted(EXTENSIONS))
        shown = f" ({index.problems[0][:-1]})" if index.problems else ""
        remedy = f"give a folder with files that end in {listed}"
        raise S3EError(f"{root}: holds no photos; {remedy}{shown}.")
    stems, rows = Counter(place.with_suffix("") for place in photos), []
    for place in photos:
        stem = place.with_suffix("")
        key = str(place if stems[stem] > 1 else stem)
        rows.append(Photo(key, root / place, tenths[stable_hash("split", key) % 10]))
    notes = []
    if others := Counter(p.suffix.lower() or p.name for p in places if not is_photo(p.name)):
        shown = ", ".join(sorted(others)[:8])
        notes.append(f"other files, left alone: {others.total()} ({shown})")
    if (root / "annotations").is_dir():
        what = "annotations/ holds no captions_*.json, so the photos are read without captions"
        notes.append(what)
    protocol = "photos without captions, split 80/10/10 by id"
    images = pd.DataFrame(rows, columns=Photo._fields)
    return Source("folder", root, images, protocol, list(index.problems), notes)


LAYOUTS = {  # kind -> (does a folder hold it?, read it)
    "karpathy": (_karpathy_files, _read_karpathy),
    "coco": (_coco_files, _read_coco),
    "gopro": (_sequences, _read_gopro),
    "folder": (lambda index: True, _read_folder),
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


def fingerprint(image: Image.Image) -> tuple[int, np.ndarray]:
    """What near-duplicates share: the 64-bit difference hash, and a grey thumbnail (THUMB**2).

    The hash says of 8 x 8 places whether the next place to the right is brighter (N. Krawetz's
    dHash). The thumbnail has mean 0 and length 1; it is 0 where it shows nothing.
    """
    grey = image.convert("L")
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS))
    bits = np.packbits(steps[:, 1:] > steps[:, :-1])
    thumb = np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.LANCZOS), np.float32).ravel()
    thumb = thumb - thumb.mean()
    length = np.sqrt((thumb**2).sum())
    thumb = thumb / length if length >= FLAT * THUMB else np.zeros_like(thumb)
    return int.from_bytes(bits.tobytes(), "big"), thumb


def alike(images: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """Which of `images` (bool, n) are near-duplicates of any of `others`, by hash and thumbnail."""
    (hashes, thumbs), (other_hashes, other_thumbs) = (
        (frame["hash"].to_numpy(np.uint64), np.stack([*frame["thumb"], np.zeros(THUMB**2)])[:-1])
        for frame in (images, others)
    )
    found, rows = [], max(1, BLOCK // max(1, len(others)))
    for start in range(0, len(images), rows):
        part = slice(start, start + rows)
        near = np.bitwise_count(hashes[part, None] ^ other_hashes) <= DISTANCE
        found.append((near & (thumbs[part] @ other_thumbs.T >= LIKENESS)).any(1))
    return np.concatenate([*found, np.zeros(0, bool)])


def keep_apart(source: Source) -> None:
    """Near-duplicates never straddle splits: val photos alike a test photo, and training photos
    alike either are left out, and noted. Videos stay as they are: splits are whole recordings.
    """
    if not source.paired:
        drop_alike(source, "val", source.images.query("split == 'test'"), "test")
        drop_alike(source, "train", source.images.query("split != 'train'"), "val or test")


def drop_alike(source: Source, split: str, others: pd.DataFrame, where: object) -> None:
    """Leave out the photos of `split` that look like one of `others` (of `where`), with a note."""
    mine = source.images[source.images["split"] == split]
    if len(twins := mine[alike(mine, others)]):
        source.images = source.images.drop(twins.index)
        source.notes.append(
            counted(f"{split} photos left out, alike a photo of {where}", [*twins["id"]])
        )


def counted(what: str, where: Sequence[str]) -> str:
    """A note: what was met, how often, and where first."""
    return f"{what}: {len(where)} ({', '.join(where[:3])}{', ...' if len(where) > 3 else ''})"
