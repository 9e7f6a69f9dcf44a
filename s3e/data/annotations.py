"""Captions as they lie beside photos, and which reader a data folder needs."""

import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pandas import DataFrame

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

# kinds of caption files, preferred ones first, by name and, a line below, content (see `_about`);
# "": they may hold captions in another form
KNOWN = {
    "karpathy": r"^dataset_(?!info|dict)\w+\.json\n",
    "coco": r"^captions_(train|val|test)(.*)\.json\n",
    "table": r"^(captions\.(txt|csv|tsv)|flickr\d+k\.token\.txt|results\w*\.(csv|token))\n",
    "": r"caption(?!ing|er|ed)|sentences|comment|\.token\b"
    r"|^metadata\.(csv|jsonl)\n|^.*\.txt\n(.|\n)*[a-z]{3}",
}
LISTS = r"flickr_?\d+k[._](train|dev|val|test)(_?images)?\.txt"  # of splits, beside a table
HEADER = r"[^.]*(caption|comment|text)s?\W*"  # first line of a table: names of columns
LINE = re.compile(
    r"""(\d*[,;](?=\S+\.\w+[,;]))?  # perhaps the number that pandas gives a line
    "?(?P<photo>[^\t|,;]+?)(\#\d+)?"?\s*[\t|,;]\s*  # perhaps with the number of its caption,
    (\d(\s*[\t|,;]|\s{3})\s*)?  # or that number by itself
    (?P<caption>.*)""",
    re.VERBOSE,
)
KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}
KEY, TEXT = (int, str), (str,)  # what fields of records may hold
CAPTIONS = 5  # a photo; MSCOCO has 5 to 7
MAX_WORDS, MAX_CHARACTERS = 100, 1000  # of a caption


# --- captions: MSCOCO's official files, Karpathy's, and tables such as Flickr8k's ---


class Entry(NamedTuple):
    """An image as a caption file lists it, by number or name, with its captions.

    `folder`: what the name of its folder may hold where several photos have its name.
    """

    file: Path
    split: str
    key: int | str
    name: str
    texts: list[str]
    folder: str = ""


class Captions(NamedTuple):
    """What caption files that belong together hold, and what had to be left out (`problems`)."""

    files: list[Path]
    protocol: str
    entries: list[Entry]
    problems: list[str]


def caption_files(index: ImageIndex) -> dict[str, list[Path]]:
    """Kind (see `KNOWN`) -> files that may hold captions, shallow ones first."""
    stems, found = {os.path.splitext(place)[0] for place in index.photos}, defaultdict(list)
    others = index.paths.keys() - index.photos.keys()
    for place in sorted(others, key=lambda place: (place.count("/"), place)):
        about = _about(index.paths[place], os.path.splitext(place)[0] in stems)
        kinds = [kind for kind, looks in KNOWN.items() if re.search(looks, about, re.I)]
        if kinds:
            found[kinds[0]].append(index.paths[place])
    return found


def _about(file: Path, beside: bool, size: int = 4096) -> str:
    """A file's name; of JSON, tables and texts `beside` a photo of their name also both ends."""
    about = f"{file.name}\n"
    if file.suffix in (".json", ".jsonl", ".csv", ".tsv") or (beside and file.suffix == ".txt"):
        with suppress(OSError), open(file, "rb") as opened:
            about += opened.read(size).decode("latin-1")
            opened.seek(max(0, file.stat().st_size - size))
            about += opened.read().decode("latin-1")
    return about


def read_captions(index: ImageIndex, subset: str) -> tuple[list[Photo], str]:
    """The photos with the captions of those files whose photos are there.

    Karpathy's files go before official ones, and these before tables; of one kind, those with the
    most photos (of years of MSCOCO that are equal in this, the first). What is wrong with files is
    a note where others decide. Raises `S3EError` where none does.
    """
    files, tried, faults = caption_files(index), [], []
    for kind, read in (("karpathy", _karpathy), ("coco", _coco), ("table", _table)):
        together = defaultdict(dict)  # files of one name, of MSCOCO's those of one year
        for file in files[kind]:
            name = file.name.lower()
            together[re.sub("train|val|test", "", name)].setdefault(name, []).append(file)
        for _, parts in sorted(together.items()):
            try:
                found = read(index, [_one(copies) for copies in parts.values()])
            except S3EError as error:
                faults.append(str(error))
            else:
                places = [index.find(entry.name, entry.folder) for entry in found.entries]
                tried.append((sum(map(bool, places)), places, found))
        if any(there for there, _, _ in tried):
            break
    else:
        if faults:
            raise S3EError(faults[0])
    most = max(there for there, _, _ in tried)
    best = [(places, found) for there, places, found in tried if there == most]
    if len(best) > 1 and not (most and kind == "coco"):
        what = f"have equally many of their photos there ({most}); keep one of them"
        raise S3EError(f"{' and '.join(str(found.files[0]) for _, found in best)} {what}.")
    places, chosen = best[0]
    index.problems += chosen.problems
    index.notes += faults
    if others := [str(file) for file in chain(*files.values()) if file not in chosen.files]:
        what = f"{most} of {len(places)} photos of {chosen.files[0]} are there; not read"
        index.notes.append(counted(what, others))
    return _captioned(index, chosen.entries, places), chosen.protocol


def _one(copies: list[Path]) -> Path:
    for file in copies[1:]:
        if _text(file) != _text(copies[0]):
            raise S3EError(f"{copies[0]} and {file} differ: keep one of them.")
    return copies[0]


def _karpathy(index: ImageIndex, files: list[Path]) -> Captions:
    """Photos are numbered by `cocoid` or `imgid`; `restval` is trained on."""
    (file,), problems, entries = files, [], []
    fields = {"cocoid imgid": KEY, "split": (*KARPATHY,), "filename": TEXT, "sentences": (list,)}
    fields["filepath"] = *TEXT, type(None)  # Flickr's files have none
    for key, given, name, raw, above in _records(file, _load(file), "images", fields, problems):
        where, held, split = f"{file}: image {key!r}", {"sentences": raw}, KARPATHY[given]
        texts = [text for (text,) in _records(where, held, "sentences", {"raw": TEXT}, problems)]
        name = f"{above or ''}/{name}".lstrip("/")
        entries.append(Entry(file, split, key, name, texts, split))
    return Captions(files, f"Karpathy's split ({file.name})", entries, problems)


def _coco(index: ImageIndex, files: list[Path]) -> Captions:
    """`captions_{train,val}{2014,2017,}.json`, and `captions_test*.json` if any, of one year.

    Without a test file, val is halved by id.
    """
    parts, problems, entries = {}, [], []
    for file in files:
        split, year = re.search(KNOWN["coco"], f"{file.name}\n".lower()).groups()
        parts[split] = file
    if not {"train", "val"} <= {*parts}:
        what = "captions_train*.json and captions_val*.json of the same year are both needed"
        raise S3EError(f"{files[0]}: {what}; fetch the other.")
    listed, said = {"id": KEY, "file_name": TEXT}, {"image_id": KEY, "caption": TEXT}
    for split, file in sorted(parts.items()):
        content, texts = _load(file), defaultdict(list)
        for key, text in _records(file, content, "annotations", said, problems):
            texts[str(key)].append(text)
        for key, name in _records(file, content, "images", listed, problems):
            half = split == "val" and "test" not in parts and stable_hash("split", str(key)) % 2
            own = texts.pop(str(key), [])
            entries.append(Entry(file, "test" if half else split, key, name, own, split))
        what = "is not listed; list it or remove its captions"
        problems += [f"{file}: image {key!r}: {what}." for key in texts]
    made = "splits as given" if "test" in parts else "val split halved by id"
    protocol = f"{f'COCO captions {year}'.strip()}, {made}"
    return Captions(files, protocol, entries, problems)


def _table(index: ImageIndex, files: list[Path]) -> Captions:
    """Lines of a photo and a caption (see `LINE`), in the splits of `LISTS`, or by name.

    A photo in two lists belongs to the later one of train, val and test.
    """
    (file,), given, problems, texts = files, {}, [], defaultdict(list)
    names = ((re.fullmatch(LISTS, path.name, re.I), path) for path in index.paths.values())
    lists = {match[1].lower().replace("dev", "val"): path for match, path in names if match}
    if lists and (lacking := {*SPLITS} - {*lists}):
        what = f"there is no such list of {' and '.join(sorted(lacking))} photos; add it"
        raise S3EError(f"{min(lists.values())}: {what}, or remove this one.")
    for split in SPLITS if lists else ():
        given |= {normal(name)[-1]: split for name in _text(lists[split]).split("\n")}
    for number, line in enumerate(_text(file).split("\n"), 1):
        if number == 1 and re.fullmatch(HEADER, line, re.I):
            continue
        if match := LINE.fullmatch(line.strip()):
            text = re.sub('^"(.*)"$', r"\1", match["caption"]).replace('""', '"')
            texts[match["photo"]].append(text)
        elif line.strip():
            what = "holds no photo and caption; correct or remove it"
            problems.append(f"{file}: line {number} {what}.")
    entries = [
        Entry(file, split, name, name, said)
        for name, said in texts.items()
        if (split := given.get(normal(name)[-1]) if lists else split_of(name))
    ]
    made = "splits as given" if lists else "split 80/10/10 by id"
    if len(entries) < len(texts):
        made += f" ({len(texts) - len(entries)} photos are in none)"
    return Captions(files, f"{file.name}, {made}", entries, problems)


def _captioned(index: ImageIndex, entries: list[Entry], found: list[list[str]]) -> list[Photo]:
    """The photos that are there and have captions; ids of the test split stay plain."""
    rows: dict[str, Photo] = {}
    by_rule, lost = [], 0
    wanted = Counter(places[0] for places in found if len(places) == 1)
    pairs = sorted(zip(entries, found, strict=True), key=lambda pair: -SPLITS.index(pair[0].split))
    for (file, split, key, name, texts, _), places in pairs:
        where, cleaned = f"{file}: image {key!r}", [*map(clean_caption, texts)]
        faults = [
            f"{where}: {fault}; correct or remove the caption." for _, fault in cleaned if fault
        ]
        index.problems += faults
        captions = [text for text, fault in cleaned if not fault][:CAPTIONS]
        path = index.paths[places[0]] if places else None
        other = path and PurePosixPath(places[0]).name != PurePosixPath(name).name
        own = str(key)
        if own in rows and path != rows[own].path:  # files that number their photos separately
            own = f"{split}/{own}"
        if path is None:
            lost += 1
            near = index.nearest(name) if lost <= 3 else ""  # slow
            like = f" (most alike: {near})" if near else ""
            fault = f"its photo {name!r} is not there{like}; put it into images/"
        elif len(places) > 1 or (other and wanted[places[0]] > 1):
            fault = f"its photo {name!r} is perhaps {' or '.join(places[:3])}; give it that name"
        elif own in rows:
            fault = "it is listed twice; keep one of its entries"
        elif not own.isprintable():
            fault = "its number holds characters that do not print; correct it"
        elif not captions:
            fault = "it has no usable caption; add one"
        else:
            rows[own] = Photo(own, path, split, tuple(captions))
            by_rule += [own] if other else []
            continue
        index.problems.append(f"{where}: {fault} or remove its entry.")
    if by_rule:
        index.notes.append(counted("photos whose names differ from those listed", by_rule))
    if others := [*index.photos.keys() - {*chain(*found)}]:
        index.notes.append(counted("photos without a caption, left out", sorted(others)))
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


def _load(file: Path) -> object:
    """What a JSON file holds; else `S3EError`."""
    try:
        return json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise S3EError(f"{file} is not valid JSON ({error}); fetch or write it again.") from None


def _records(
    where: object, content: object, name: str, fields: dict[str, tuple], problems: list[str]
) -> Iterator[list]:
    """Of each record in the list `name` the values of `fields`: names -> types or values.

    Of several names the first that is there counts. Raises `S3EError` if there is no such list.
    """
    records = content.get(name) if isinstance(content, dict) else None
    if not isinstance(records, list):
        what = f"it does not hold captions (no list {name})"
        raise S3EError(f"{where}: {what}; see docs/data.md for the layout.")
    for row, record in enumerate(records):
        known, values = record if isinstance(record, dict) else {}, []
        for names, allowed in fields.items():
            key = next((key for key in names.split() if key in known), names)
            values.append(value := known.get(key))
            if type(value) not in allowed and value not in allowed:
                what = (
                    f"the key {key!r} is missing or of another kind; correct or remove the record"
                )
                problems.append(f"{where}: {name}[{row}]: {what}.")
                break
        else:
            yield values


# --- which reader a folder needs ---


READERS = {"captions": read_captions, "pairs": read_pairs, "photos": read_folder}


def layout(index: ImageIndex, kind: str = "") -> Kind:
    """What kind of data a folder holds, unless `kind` says it.

    Photos are never read without their captions unasked: raises `S3EError` where something seems
    to hold some.
    """
    files = {} if kind else caption_files(index)
    if kind or {*files} - {""}:
        return kind or "captions"
    if find_pairs(index)[0]:
        return "pairs"
    if files:
        what = "may hold captions, in no layout that is read (docs/data.md): change or remove it"
        raise S3EError(f"{files[''][0]} {what}, or read photos alone (--set data.kind=photos).")
    return "photos"


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
    photos, protocol = READERS[kind](index, subset)
    images = DataFrame(photos, columns=Photo._fields)
    source = Source(kind, root, images, protocol, index.problems, index.notes)
    source.check_splits()
    return source
