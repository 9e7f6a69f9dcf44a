"""Data sources as they lie on disk: one frame of images, in fixed splits.

`LAYOUTS` lists the layouts that are known, special ones first. A new one needs a function that
recognises it by names alone, and one that returns its rows (`Photo`) and its protocol.
"""

import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame
from PIL import Image
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from s3e.utils import S3EError, stable_hash

SPLITS = ("train", "val", "test")
PAIRED = ("released", "severe")  # severities of pairs, mildest first
Kind = Literal["karpathy", "coco", "gopro", "folder", "scenes"]
Subset = Literal["blur", "blur_gamma"]
EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}
CAPTIONED = ("scenes", "coco", "karpathy")  # kinds of data that teach a tree and a captioner
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
    """A data set as it lies on disk, or generated scenes.

    `images`: a row a photo (see `Photo`). `protocol`: one sentence for tables. `problems`: what had
    to be left out, each a sentence with place and remedy; `notes`: what else is worth knowing.
    """

    kind: Kind
    root: Path
    images: DataFrame
    protocol: str
    problems: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def captioned(self) -> bool:
        return self.kind in CAPTIONED

    @property
    def paired(self) -> bool:
        return self.kind == "gopro"

    def check_splits(self) -> None:
        """Raise `S3EError` if a split has fewer than 2 photos; the first problem may be why."""
        for split in SPLITS:
            if (count := (self.images["split"] == split).sum()) < 2:
                remedy = f"add photos ({', '.join(sorted(EXTENSIONS))})"
                if self.paired:
                    remedy = "give at least 2 train sequences and 1 test sequence of 2 pairs"
                if self.problems:
                    remedy += f" ({len(self.problems)} left out, first: {self.problems[0][:-1]})"
                what = f"the {split} split has fewer than 2 usable photos ({count})"
                raise S3EError(f"{self.root}: {what}; {remedy}.")


def read_source(root: Path | str, subset: Subset = "blur") -> Source:
    """Find out what the folder `root` holds and read it, without broken records (`problems`).

    `subset` names GoPro's blurred frames. Raises `S3EError` if the folder cannot be used at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise S3EError(f"{root}: there is no such folder; give the folder that holds the photos.")
    index = ImageIndex(root)
    kind = index.layout()
    _, read = LAYOUTS[kind]
    photos, protocol = read(index, subset)
    images = DataFrame(photos, columns=Photo._fields)
    source = Source(kind, root, images, protocol, index.problems, index.notes)
    source.check_splits()
    return source


# --- files and folders ---


class ImageIndex:
    """The files of a data folder, links followed once, without hidden ones.

    `paths`: relative path (with "/") -> file, sorted by folder; `photos`: those with a photo's
    extension. `problems` (at first what cannot be listed, or named in UTF-8) and `notes` gather
    what is found out.
    """

    def __init__(self, root: Path):
        self.root, self.paths, self.photos, self.problems, self.notes = root, {}, {}, [], []
        self.names, seen = defaultdict(list), set()  # names: file name -> relative paths

        def denied(error: OSError) -> None:
            what = f"the folder cannot be listed ({error.strerror})"
            remedy = "give yourself permission with chmod u+rx"
            self.problems.append(f"{error.filename}: {what}; {remedy}.")

        for folder, inner, names in os.walk(root, onerror=denied, followlinks=True):
            if (real := os.path.realpath(folder)) in seen:
                inner.clear()
                continue
            seen.add(real)
            inner[:] = sorted(name for name in inner if name[0] != ".")
            for name in sorted(name for name in names if name[0] != "."):
                file = Path(folder, name)
                if (shown := str(file).encode(errors="replace").decode()) != str(file):
                    self.problems.append(f"{shown}: the name is not valid UTF-8; rename it.")
                    continue
                place = file.relative_to(root).as_posix()
                self.paths[place] = file
                self.names[name].append(place)
                if file.suffix.lower() in EXTENSIONS:
                    self.photos[place] = file

    def layout(self) -> Kind:
        """What kind of data the folder holds, by its file names alone."""
        return next(kind for kind, (found, _) in LAYOUTS.items() if found(self))

    def match(self, pattern: str) -> dict[tuple[str, ...], Path]:
        """The files whose relative path is a pattern, by the pattern's groups."""
        found = ((re.fullmatch(pattern, place), file) for place, file in self.paths.items())
        return {match.groups(): file for match, file in found if match}

    def find(self, name: str, split: str) -> Path | None:
        """The photo `name`, a file name or a path: of several, the one with that whole path, then
        one in a folder of the split, then one in `images`.
        """

        def rank(place: str) -> tuple:
            above = place.rpartition("/")[0]
            whole = f"/{place}".endswith(f"/{name}")
            return not whole, split not in above, not above.startswith("images"), place

        places = self.names.get(PurePosixPath(name).name, [])
        return self.paths.get(min(places, key=rank, default=None))


# --- captions: MSCOCO's official layout, Karpathy's file, any folder that is laid out likewise ---


class Entry(NamedTuple):
    """An image as a caption file lists it; `where` is its place there, `texts` its captions."""

    split: str
    key: str
    where: str
    name: str
    texts: list[str]


class KarpathyImage(BaseModel, strict=True):
    """A record of `dataset_coco.json`, or of Flickr's, which have no `cocoid` and `filepath`."""

    key: int | str = Field(validation_alias=AliasChoices("cocoid", "imgid"))
    split: Literal[*KARPATHY]
    filepath: str = ""
    filename: str
    sentences: list


class KarpathySentence(BaseModel, strict=True):
    raw: str


class CocoImage(BaseModel, strict=True):
    id: int | str
    file_name: str


class CocoCaption(BaseModel, strict=True):
    image_id: int | str
    caption: str


def _karpathy_files(index: ImageIndex) -> list[Path]:
    files = index.match(r"(annotations/)?dataset_(coco|flickr\d+k)\.json").values()
    return sorted(files, key=lambda file: file.name)


def _read_karpathy(index: ImageIndex, subset: Subset) -> tuple[list[Photo], str]:
    """Photos are numbered by `cocoid` or `imgid`; `restval` is trained on."""
    file, problems, entries = _karpathy_files(index)[0], index.problems, []
    (records,) = _load_lists(file, "images")
    for item in _sound(f"{file}: images", records, KarpathyImage, problems):
        where, name = f"{file}: image {item.key!r}", f"{item.filepath}/{item.filename}".lstrip("/")
        sentences = _sound(f"{where}, sentences", item.sentences, KarpathySentence, problems)
        texts = [sentence.raw for sentence in sentences]
        entries.append(Entry(KARPATHY[item.split], str(item.key), where, name, texts))
    return _captioned(index, entries), f"Karpathy's split ({file.name})"


def _coco_files(index: ImageIndex) -> dict[tuple[str, ...], Path]:
    """(split, year) -> file."""
    return index.match(r"annotations/captions_(train|val|test|)(.*)\.json")


def _read_coco(index: ImageIndex, subset: Subset) -> tuple[list[Photo], str]:
    """`annotations/captions_{train,val}{2014,2017,}.json`, and `captions_test*.json` if any."""
    files, problems, entries = _coco_files(index), index.problems, []
    years = [year for split, year in sorted(files) if split == "train" and ("val", year) in files]
    if not years:
        raise S3EError(
            f"{index.root}/annotations: captions_train*.json and captions_val*.json of the same"
            " year are both needed; see docs/data.md for the layout."
        )
    year, made = years[0], "splits as given"
    for split in sorted(split for split in SPLITS if (split, year) in files):
        file, texts = files[split, year], defaultdict(list)
        listed, annotations = _load_lists(file, "images", "annotations")
        for item in _sound(f"{file}: annotations", annotations, CocoCaption, problems):
            texts[str(item.image_id)].append(item.caption)
        for item in _sound(f"{file}: images", listed, CocoImage, problems):
            key, where = str(item.id), f"{file}: image {item.id!r}"
            entries.append(Entry(split, key, where, item.file_name, texts.pop(key, [])))
        for key in texts:
            what = "is not listed; list it or remove its captions"
            problems.append(f"{file}: image {key!r}: {what}.")
    photos = _captioned(index, entries)
    if ("test", year) not in files:
        made = "val split halved by id"
        for k, photo in enumerate(photos):
            if photo.split == "val" and stable_hash("split", photo.id) % 2:
                photos[k] = photo._replace(split="test")
    return photos, f"{f'COCO captions {year}'.strip()}, {made}"


def _captioned(index: ImageIndex, entries: list[Entry]) -> list[Photo]:
    """The photos that are there and have captions; ids of the test split stay plain."""
    rows: dict[str, Photo] = {}
    for split, key, where, name, texts in sorted(
        entries, key=lambda entry: -SPLITS.index(entry.split)
    ):
        captions, path = [], index.find(name, split)
        for text, fault in map(clean_caption, texts):
            if fault:
                index.problems.append(f"{where}: {fault}; correct or remove the caption.")
            else:
                captions.append(text)
        if key in rows and path != rows[key].path:  # files that number their photos separately
            key = f"{split}/{key}"
        if path is None:
            fault = f"its photo {name!r} is not there; put it into images/"
        elif key in rows:
            fault = "it is listed twice; keep one of its entries"
        elif not key.isprintable():
            fault = "its number holds characters that do not print; correct it"
        elif not captions:
            fault = "it has no usable caption; add one"
        else:
            rows[key] = Photo(key, path, split, tuple(captions[:CAPTIONS]))
            continue
        index.problems.append(f"{where}: {fault} or remove its entry.")
    return [*rows.values()]


def clean_caption(text: str) -> tuple[str, str | None]:
    """The caption on one line, and what is wrong with it if it must be left out (else None).

    Characters that do not print (line breaks, tabs, control characters, half surrogates) become
    blanks, soft hyphens vanish, accents are composed (NFC), blanks are joined. Left out are
    captions that are empty, hold no Latin letter, or are longer than `MAX_WORDS` words or
    `MAX_CHARACTERS` characters.
    """
    letters = (letter if letter.isprintable() else " " for letter in text.replace("\xad", ""))
    text, fault = " ".join(unicodedata.normalize("NFC", "".join(letters)).split()), None
    if not text:
        fault = "the caption is empty"
    elif len(text) > MAX_CHARACTERS or text.count(" ") >= MAX_WORDS:
        size = f"{text.count(' ') + 1} words, {len(text)} characters"
        fault = f"the caption is enormous ({size})"
    elif not re.search("[A-Za-zÀ-ÖØ-öø-ɏ]", text):
        fault = "the caption holds no Latin letter"
    return text, fault


def _load_lists(file: Path, *names: str) -> list[list]:
    """The lists of a JSON file, which must be an object that holds them; else `S3EError`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        what = f"cannot be read ({error.strerror}); give yourself read permission"
        raise S3EError(f"{file}: {what}.") from None
    except (ValueError, RecursionError) as error:
        raise S3EError(f"{file} is not valid JSON ({error}); fetch or write it again.") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(n), list) for n in names):
        what = f"not in COCO-captions layout (lists {', '.join(names)})"
        raise S3EError(f"{file}: {what}; see docs/data.md for the layout.")
    return [content[name] for name in names]


def _sound(where: str, records: list, kind: type[BaseModel], problems: list[str]) -> list:
    """The records of that kind."""
    sound = []
    for row, record in enumerate(records):
        try:
            sound.append(kind.model_validate(record))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            key = f"the key '{fault['loc'][0]}': " if fault["loc"] else ""
            what = f"{key}{fault['msg']}; correct or remove the record"
            problems.append(f"{where}[{row}]: {what}.")
    return sound


# --- GoPro: pairs of frames, `{train,test}/<sequence>/{blur,blur_gamma,sharp}/NNNNNN.png` ---


def _frames(index: ImageIndex) -> dict[tuple[Path, str], dict[str, list[Path]]]:
    """(Folder of the sequence, stem) -> view -> photos; {} where no sequence has two views."""
    frames, views = defaultdict(lambda: defaultdict(list)), defaultdict(set)
    for file in index.photos.values():
        sequence, view = file.parents[1], file.parent.name
        if view in ("sharp", *get_args(Subset)):
            frames[sequence, file.stem][view].append(file)
            views[sequence].add(view)
    return frames if any("sharp" in seen and len(seen) > 1 for seen in views.values()) else {}


def _read_gopro(index: ImageIndex, subset: Subset) -> tuple[list[Photo], str]:
    """All pairs of `subset`; validation sequences are taken from train (see `validation`)."""
    root, frames = index.root, _frames(index)
    if not any(subset in views for views in frames.values()):
        other = "blur" if subset == "blur_gamma" else "blur_gamma"
        raise S3EError(f"{root}: no sequence has the folder {subset}/; --set data.subset={other}.")
    if root.name in ("train", "test"):
        whole = "give the folder that holds train/ and test/"
        raise S3EError(f"{root}: is one half of GoPro; {whole}.")
    pairs: list[Photo] = []
    known: dict[str, Path] = {}
    for folder, stem in sorted(frames, key=lambda at: (at[0].name, at[0], len(at[1]), at[1])):
        blurred, sharp = (frames[folder, stem][view] for view in (subset, "sharp"))
        above = [part for part in folder.relative_to(root).parts if part in ("train", "test")]
        fault = ""
        if not above:
            fault = "is neither in train/ nor in test/; move it into one"
        elif (first := known.setdefault(folder.name, folder)) != folder:
            fault = f"the sequence's name is that of {first}; remove or rename one"
        elif len(blurred) == len(sharp) == 1:
            key, number = f"{folder.name}/{stem}", int(stem) if stem.isdecimal() else -1
            pair = sharp[0], above[-1], (), blurred[0]
            pairs.append(Photo(key, *pair, folder.name, number))
        elif blurred or sharp:
            what = f"{len(blurred)} files in {subset}/ and {len(sharp)} in sharp/"
            fault = f"frame {stem} has {what}; keep one of each, or none"
        if fault and (problem := f"{folder}: {fault}.") not in index.problems:
            index.problems.append(problem)
    trained = pd.Series([pair.sequence for pair in pairs if pair.split == "train"], dtype=object)
    chosen = validation(trained)
    pairs = [pair._replace(split="val") if pair.sequence in chosen else pair for pair in pairs]
    taken = f"validation = {len(chosen)} of {trained.nunique()} train sequences"
    return pairs, f"GoPro, subset {subset}, {taken}"


def validation(pairs: pd.Series) -> set[str]:
    """The train sequences (`pairs`: that of each pair) that are used for validation.

    Whole recordings: the clips GOPRxxxx_yy_zz of one xxxx stay together. Ranked by hashed name,
    those of fewer than 5 pairs last, as many as make 10 % of all pairs and at least 2 pairs; one
    recording always stays in train.
    """
    recordings = pairs.str.replace(r"^(GOPR\d+)_\d+_\d+$", r"\1", regex=True)
    sizes, chosen = recordings.value_counts(), []
    ranked = sorted(sizes.index, key=lambda key: (sizes[key] < 5, stable_hash("validation", key)))
    for key in ranked[:-1]:
        if sizes[chosen].sum() >= max(2, 0.1 * len(pairs)):
            break
        chosen.append(key)
    return {*pairs[recordings.isin(chosen)]}


# --- any folder of photos, without captions or blurred partners ---


def _read_folder(index: ImageIndex, subset: Subset) -> tuple[list[Photo], str]:
    """A photo's id is its relative path, with the extension only where that is ambiguous."""
    stems = {place: os.path.splitext(place)[0] for place in index.photos}
    counts, tenths = Counter(stems.values()), ["train"] * 8 + ["val", "test"]
    photos = []
    for place, file in index.photos.items():
        key = place if counts[stems[place]] > 1 else stems[place]
        photos.append(Photo(key, file, tenths[stable_hash("split", key) % 10]))
    if others := {*index.paths.values()} - {*index.photos.values()}:
        kinds = sorted({file.suffix.lower() or file.name for file in others})
        index.notes.append(f"other files, left alone: {len(others)} ({', '.join(kinds[:8])})")
    if any(place.startswith("annotations/") for place in index.paths):
        what = "annotations/ holds no captions_*.json, so the photos are read without captions"
        index.notes.append(what)
    return photos, "photos without captions, split 80/10/10 by id"


LAYOUTS = {  # kind -> (does a folder hold it?, read it)
    "karpathy": (_karpathy_files, _read_karpathy),
    "coco": (_coco_files, _read_coco),
    "gopro": (_frames, _read_gopro),
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


def fingerprint(image: Image.Image) -> tuple[np.uint64, ndarray]:
    """What near-duplicates share: the 64-bit difference hash, and a grey thumbnail (THUMB**2).

    The hash says of 8 x 8 places whether the next place to the right is brighter (N. Krawetz's
    dHash). The thumbnail has mean 0 and length 1; it is 0 where it shows nothing.
    """
    grey, lanczos = image.convert("L"), Image.Resampling.LANCZOS
    steps = np.asarray(grey.resize((9, 8), lanczos))
    bits = np.packbits(steps[:, 1:] > steps[:, :-1])
    thumb = np.asarray(grey.resize((THUMB, THUMB), lanczos), np.float32).ravel()
    thumb = thumb - thumb.mean()
    length = np.linalg.norm(thumb)
    return bits.view(np.uint64)[0], thumb / length if length >= FLAT * THUMB else 0 * thumb


def alike(images: DataFrame, others: DataFrame) -> ndarray:
    """Which of `images` (bool, n) are near-duplicates of any of `others`, by hash and thumbnail."""
    hashes, thumbs = others["hash"].to_numpy(np.uint64), np.array([*others["thumb"]])
    found = []
    for sign, thumb in zip(images["hash"].astype(np.uint64), images["thumb"], strict=True):
        near = np.bitwise_count(hashes ^ sign) <= DISTANCE
        found.append(near.any() and (thumbs[near] @ thumb >= LIKENESS).any())
    return np.array(found, bool)


def keep_apart(source: Source) -> None:
    """Near-duplicates never straddle splits: val photos alike a test photo, and training photos
    alike either are left out, and noted. Videos stay as they are: splits are whole recordings.
    """
    if not source.paired:
        drop_alike(source, "val", source.images.query("split == 'test'"), "test")
        drop_alike(source, "train", source.images.query("split != 'train'"), "val or test")


def drop_alike(source: Source, split: str, others: DataFrame, where: object) -> None:
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
