"""Captions as they lie beside photos, and which reader a data folder needs.

`LAYOUTS` lists the layouts that are known, special ones first. A new one needs a function that
recognises it by names alone, and one that returns its rows (`Photo`) and its protocol.
"""

import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pandas import DataFrame
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from s3e.data.pairs import find_pairs, read_pairs
from s3e.data.readers import (
    SPLITS,
    ImageIndex,
    Kind,
    Photo,
    Source,
    counted,
    normal,
    read_folder,
    split_of,
)
from s3e.utils import S3EError, stable_hash

KNOWN = {  # names of caption files that are read, in the order in which they are preferred
    "karpathy": r"dataset_(?!info|dict)\w+\.json",
    "coco": r"captions_(train|val|test|)([^/]*)\.json",
    "table": r"captions\.(?:txt|csv|tsv)|flickr\d+k\.token\.txt|results\w*\.(?:csv|token)",
}
LISTS = r"flickr_?\d+k[._](train|dev|val|test)(?:_?images)?\.txt"  # of splits, beside a table
# a photo, perhaps "#0", and a caption, perhaps after its number and in quotes
LINE = (
    r"(?:\d*[,;](?=\S+\.\w+[,;]))?([^\t|,;]+?)(?:#\d+)?\s*[\t|,;]\s*"
    r"(?:\d(?:\s*[\t|,;]|\s{3})\s*)?(.*)"
)
HEADER = r"[^.]*(caption|comment|text)s?\W*"
NAMED = r"captions?[^a-z]|\btoken\b|^dataset_(?!info|dict)|^metadata\.(csv|jsonl)"
SPEAKING = dict.fromkeys((".json", ".jsonl", ".csv", ".tsv"), b"caption|sentences|comment")
KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}
CAPTIONS = 5  # a photo; MSCOCO has 5 to 7
MAX_WORDS, MAX_CHARACTERS = 100, 1000  # of a caption


# --- captions: MSCOCO's official files, Karpathy's, and tables such as Flickr8k's ---


class Entry(NamedTuple):
    """An image as a caption file lists it; `where` is its place there, `texts` its captions.

    `folder`: what the name of its folder may hold where several photos have its name.
    """

    split: str
    key: str
    where: str
    name: str
    texts: list[str]
    folder: str = ""


class Captions(NamedTuple):
    """What caption files that belong together hold, and what had to be left out (`problems`)."""

    files: list[Path]
    protocol: str
    entries: list[Entry]
    problems: list[str]


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
    file_name: str = Field(validation_alias=AliasChoices("file_name", "coco_url"))


class CocoCaption(BaseModel, strict=True):
    image_id: int | str
    caption: str


def caption_files(index: ImageIndex) -> dict[str, list[Path]]:
    """Kind (see `KNOWN`; "" is none of these) -> files that may hold captions, shallow ones first.

    They have a name such as captions, token or dataset_; or their first or last 4 KB speak of
    captions; or they are texts in words, each named as a photo is.
    """
    stems, found = {os.path.splitext(place)[0] for place in index.photos}, defaultdict(list)
    for place in sorted(
        {*index.paths} - {*index.photos}, key=lambda place: (place.count("/"), place)
    ):
        file, (stem, suffix) = index.paths[place], os.path.splitext(place)
        words = {**SPEAKING, ".txt": b"[a-z]{3}"} if stem in stems else SPEAKING
        if re.search(NAMED, file.name, re.IGNORECASE) or (
            suffix in words and re.search(words[suffix], _ends(file), re.IGNORECASE)
        ):
            kinds = (kind for kind, name in KNOWN.items() if re.fullmatch(name, file.name.lower()))
            found[next(kinds, "")].append(file)
    return found


def _ends(file: Path, size: int = 4096) -> bytes:
    with suppress(OSError), open(file, "rb") as opened:
        head = opened.read(size)
        opened.seek(-min(size, file.stat().st_size), os.SEEK_END)
        return head + opened.read()
    return b""


def read_captions(index: ImageIndex, subset: str) -> tuple[list[Photo], str]:
    """The photos with the captions of those files whose photos are there.

    Karpathy's files go before official ones, and these before tables; of one kind, those with the
    most photos (of years of MSCOCO that are equal in this, the first). Raises `S3EError` where
    this does not decide.
    """
    files, tried = caption_files(index), []
    for kind, read in (("karpathy", _karpathy), ("coco", _coco), ("table", _table)):
        distinct = {(file.name, _text(file)): file for file in reversed(files[kind])}
        for found in read(index, [*distinct.values()][::-1]):
            there = sum(bool(index.find(entry.name, entry.folder)) for entry in found.entries)
            tried.append((there, found))
        if any(there for there, _ in tried):
            break
    most, chosen = max(tried, key=lambda pair: pair[0])
    equal = [str(found.files[0]) for there, found in tried if there == most]
    if len(equal) > 1 and not (most and kind == "coco"):
        what = f"have equally many of their photos there ({most}); keep one of them"
        raise S3EError(f"{' and '.join(equal)} {what}.")
    if others := [str(file) for file in chain(*files.values()) if file not in chosen.files]:
        what = f"{most} of {len(chosen.entries)} photos of {chosen.files[0]} are there; not read"
        index.notes.append(counted(what, others))
    index.problems += chosen.problems
    return _captioned(index, chosen.entries), chosen.protocol


def _karpathy(index: ImageIndex, files: list[Path]) -> Iterator[Captions]:
    """Photos are numbered by `cocoid` or `imgid`; `restval` is trained on."""
    for file in files:
        problems, entries = [], []
        (records,) = _load_lists(file, "images")
        for item in _sound(f"{file}: images", records, KarpathyImage, problems):
            where, name = f"{file}: image {item.key!r}", f"{item.filepath}/{item.filename}"
            sentences = _sound(f"{where}, sentences", item.sentences, KarpathySentence, problems)
            texts = [sentence.raw for sentence in sentences]
            split, key = KARPATHY[item.split], str(item.key)
            entries.append(Entry(split, key, where, name.lstrip("/"), texts, split))
        yield Captions([file], f"Karpathy's split ({file.name})", entries, problems)


def _coco(index: ImageIndex, files: list[Path]) -> Iterator[Captions]:
    """`captions_{train,val}{2014,2017,}.json`, and `captions_test*.json` if any: year by year.

    Without a test file, val is halved by id.
    """
    known: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in files:
        split, year = re.fullmatch(KNOWN["coco"], file.name.lower()).groups()
        if (other := known[year].setdefault(split, file)) != file:
            raise S3EError(f"{other} and {file} differ: keep one of them.")
    whole = {year: parts for year, parts in sorted(known.items()) if {"train", "val"} <= {*parts}}
    if known and not whole:
        raise S3EError(
            f"{files[0]}: captions_train*.json and captions_val*.json of the same year are both"
            " needed; fetch the other."
        )
    for year, parts in whole.items():
        problems, entries, made = [], [], "splits as given"
        for split in sorted({*parts} & {*SPLITS}):
            entries += _coco_entries(parts[split], split, problems)
        if "test" not in parts:
            made = "val split halved by id"
            for k, entry in enumerate(entries):
                if entry.split == "val" and stable_hash("split", entry.key) % 2:
                    entries[k] = entry._replace(split="test")
        protocol = f"{f'COCO captions {year}'.strip()}, {made}"
        yield Captions([*parts.values()], protocol, entries, problems)


def _coco_entries(file: Path, split: str, problems: list[str]) -> list[Entry]:
    entries, texts = [], defaultdict(list)
    listed, annotations = _load_lists(file, "images", "annotations")
    for item in _sound(f"{file}: annotations", annotations, CocoCaption, problems):
        texts[str(item.image_id)].append(item.caption)
    for item in _sound(f"{file}: images", listed, CocoImage, problems):
        key, where = str(item.id), f"{file}: image {item.id!r}"
        entries.append(Entry(split, key, where, item.file_name, texts.pop(key, []), split))
    for key in texts:
        problems.append(f"{file}: image {key!r}: is not listed; list it or remove its captions.")
    return entries


def _table(index: ImageIndex, files: list[Path]) -> Iterator[Captions]:
    """Lines of a photo and a caption (see `LINE`), in the splits of `LISTS`, or by name.

    A photo in two lists belongs to the later one of train, val and test.
    """
    lists = {}
    for file in index.paths.values():
        if match := re.fullmatch(LISTS, file.name, re.IGNORECASE):
            lists[match[1].lower().replace("dev", "val")] = file
    if lists and (lacking := {*SPLITS} - {*lists}):
        what = f"there is no such list of {' and '.join(sorted(lacking))} photos; add it"
        raise S3EError(f"{min(lists.values())}: {what}, or remove this one.")
    names = {split: _text(lists[split]).split("\n") for split in SPLITS if lists}
    given = {normal(name)[-1]: split for split in names for name in names[split]}
    for file in files:
        problems, texts = [], defaultdict(list)
        for number, line in enumerate(_text(file).split("\n"), 1):
            if number == 1 and re.fullmatch(HEADER, line, re.IGNORECASE):
                continue
            if match := re.fullmatch(LINE, line.strip()):
                texts[match[1]].append(re.sub('^"(.*)"$', r"\1", match[2]).replace('""', '"'))
            elif line.strip():
                what = "holds no photo and caption; correct or remove it"
                problems.append(f"{file}: line {number} {what}.")
        splits = {name: given.get(normal(name)[-1]) if lists else split_of(name) for name in texts}
        entries = [
            Entry(split, name, f"{file}: photo {name!r}", name, texts[name])
            for name, split in splits.items()
            if split
        ]
        made = "splits as given" if lists else "split 80/10/10 by id"
        if len(entries) < len(texts):
            made += f" ({len(texts) - len(entries)} photos are in none)"
        yield Captions([file], f"{file.name}, {made}", entries, problems)


def _captioned(index: ImageIndex, entries: list[Entry]) -> list[Photo]:
    """The photos that are there and have captions; ids of the test split stay plain."""
    rows: dict[str, Photo] = {}
    by_rule, lost = [], 0
    found = [index.find(entry.name, entry.folder) for entry in entries]
    taken = Counter(places[0] for places in found if len(places) == 1)
    pairs = sorted(zip(entries, found, strict=True), key=lambda pair: -SPLITS.index(pair[0].split))
    for (split, key, where, name, texts, _), places in pairs:
        captions, path = [], index.paths[places[0]] if places else None
        for text, fault in map(clean_caption, texts):
            if fault:
                index.problems.append(f"{where}: {fault}; correct or remove the caption.")
            else:
                captions.append(text)
        if key in rows and path != rows[key].path:  # files that number their photos separately
            key = f"{split}/{key}"
        other = path and PurePosixPath(places[0]).name != PurePosixPath(name).name
        if len(places) > 1 or other and taken[places[0]] > 1:
            fault = f"its photo {name!r} is perhaps {' or '.join(places[:3])}; give it that name"
        elif path is None:
            lost += 1
            near = index.nearest(name) if lost <= 3 else ""  # slow
            like = f" (most alike: {near})" if near else ""
            fault = f"its photo {name!r} is not there{like}; put it into images/"
        elif key in rows:
            fault = "it is listed twice; keep one of its entries"
        elif not key.isprintable():
            fault = "its number holds characters that do not print; correct it"
        elif not captions:
            fault = "it has no usable caption; add one"
        else:
            rows[key] = Photo(key, path, split, tuple(captions[:CAPTIONS]))
            by_rule += [key] if other else []
            continue
        index.problems.append(f"{where}: {fault} or remove its entry.")
    if by_rule:
        index.notes.append(counted("photos whose names differ from those listed", by_rule))
    listed = {index.paths[place] for places in found for place in places}
    if others := [place for place, file in index.photos.items() if file not in listed]:
        index.notes.append(counted("photos without a caption, left out", others))
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


def _text(file: Path) -> str:
    """The text of a file in UTF-8, -16 or -32; else `S3EError`."""
    try:
        content = file.read_bytes()
        return content.decode(json.detect_encoding(content))
    except OSError as error:
        what = f"cannot be read ({error.strerror}); give yourself read permission"
        raise S3EError(f"{file}: {what}.") from None
    except UnicodeDecodeError as error:
        raise S3EError(f"{file} is not UTF-8 text ({error}); save it as UTF-8.") from None


def _load_lists(file: Path, *names: str) -> list[list]:
    """The lists of a JSON file, which must be an object that holds them; else `S3EError`."""
    try:
        content = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise S3EError(f"{file} is not valid JSON ({error}); fetch or write it again.") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(n), list) for n in names):
        what = f"it does not hold captions (no lists {', '.join(names)})"
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


# --- which reader a folder needs ---


LAYOUTS = {  # kind -> (does a folder hold it?, read it)
    "captions": (lambda index: {*caption_files(index)} - {""}, read_captions),
    "pairs": (lambda index: find_pairs(index)[0], read_pairs),
    "photos": (lambda index: True, read_folder),
}


def layout(index: ImageIndex, kind: str = "") -> Kind:
    """What kind of data a folder holds, unless `kind` says it.

    Decided by file names alone, but that photos are never read without their captions unasked:
    raises `S3EError` where something seems to hold some.
    """
    found = kind or next(kind for kind, (found, _) in LAYOUTS.items() if found(index))
    if found != kind and found == "photos" and (files := caption_files(index)[""]):
        what = "may hold captions, in no layout that is read (docs/data.md): change or remove it"
        raise S3EError(f"{files[0]} {what}, or read photos alone (--set data.kind=photos).")
    return found


def read_source(root: Path | str, subset: str = "blur", kind: str = "") -> Source:
    """Find out what the folder `root` holds and read it, without broken records (`problems`).

    `subset` names the blurred frames of pairs; `kind`: "photos" asks for photos alone. Raises
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
