"""Captions as they lie beside photos, and which reader a data folder needs.

`LAYOUTS` lists the layouts that are known, special ones first. A new one needs a function that
recognises it by names alone, and one that returns its rows (`Photo`) and its protocol.
"""

import json
import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Literal, NamedTuple

from pandas import DataFrame
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from s3e.data.readers import (
    SPLITS,
    ImageIndex,
    Kind,
    Photo,
    Source,
    Subset,
    frames_of,
    read_folder,
    read_gopro,
)
from s3e.utils import S3EError, stable_hash

KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}
CAPTIONS = 5  # a photo; MSCOCO has 5 to 7
MAX_WORDS, MAX_CHARACTERS = 100, 1000  # of a caption


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


def _caption_files(index: ImageIndex) -> bool:
    return bool(_karpathy_files(index) or _coco_files(index))


def _read_captions(index: ImageIndex, subset: Subset) -> tuple[list[Photo], str]:
    return (_read_karpathy if _karpathy_files(index) else _read_coco)(index, subset)


# --- which reader a folder needs ---


LAYOUTS = {  # kind -> (does a folder hold it?, read it)
    "captions": (_caption_files, _read_captions),
    "gopro": (frames_of, read_gopro),
    "photos": (lambda index: True, read_folder),
}


def layout(index: ImageIndex, kind: str = "") -> Kind:
    """What kind of data a folder holds, by its file names alone, unless `kind` says it."""
    return kind or next(kind for kind, (found, _) in LAYOUTS.items() if found(index))


def read_source(root: Path | str, subset: Subset = "blur", kind: str = "") -> Source:
    """Find out what the folder `root` holds and read it, without broken records (`problems`).

    `subset` names GoPro's blurred frames; `kind`: "photos" asks for photos alone. Raises
    `S3EError` if the folder cannot be used at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise S3EError(f"{root}: there is no such folder; give the folder that holds the photos.")
    index = ImageIndex(root)
    kind = layout(index, kind)
    _, read = LAYOUTS[kind]
    photos, protocol = read(index, subset)
    images = DataFrame(photos, columns=Photo._fields)
    source = Source(kind, root, images, protocol, index.problems, index.notes)
    source.check_splits()
    return source
