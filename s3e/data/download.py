"""`python -m s3e data download coco|gopro`: fetch a data set from its owner, check it, and unpack what is needed.

Addresses, sizes and SHA-256: MSCOCO as TensorFlow Datasets records them (`url_checksums/coco.txt`); Karpathy's splits
as several public projects record them; GoPro from its author's own repository on Hugging Face, whose digest two public
projects record. Where no figure is public there is none here: the size is the server's, the digest found is printed."""

import errno
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from itertools import accumulate
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from s3e.utils import RUNS, S3EError, file_digest, read_json, write_json

CHUNK = 1 << 20  # bytes
PATIENCE = 30  # seconds without a byte, then the connection counts as cut
WAITS = (
    1,
    4,
    15,
    60,
)  # seconds before each further attempt; forgotten whenever an attempt brought new bytes
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses worth another attempt
RETRY = (
    "check the address and the connection, then run the command again: it goes on where it stopped"
)


class _Again(Exception):
    """A passing fault; its text says which."""


def fetch(
    url: str, path: Path, size: int = 0, sha256: str = "", remedy: str = RETRY, archive: bool = True
) -> str:  # fmt: skip
    """Fetch `url` to `path` and return its SHA-256; a file that is there already is only checked.

    Bytes gather in `<name>.part`, and `<name>.part.json` remembers which version of the file they belong to, so that
    an interrupted call goes on (HTTP Range with If-Range) and a file that changed meanwhile starts anew. `size` (bytes)
    and `sha256` (hexadecimal, all of it or its beginning) are what it must have, where known; an `archive` is a zip
    file. Raises `S3EError`: the server refuses, stays silent or has another file, or the disk has no room for the file
    and, of an archive, its contents.
    """
    part = path.with_name(f"{path.name}.part")
    with writing(path):
        if path.exists():
            return _verified(
                path, path, size, sha256, "delete it, then run the command again", archive
            )
        part.parent.mkdir(parents=True, exist_ok=True)
        _persist(url, part, size, remedy, archive)
        try:
            found = _verified(part, url, size, sha256, remedy, archive)
        except S3EError:
            _forget(part)
            raise
        os.replace(part, path)
        _forget(part)
    return found


def readable(size: int) -> str:
    """A number of bytes for people: 13510573713 -> "13.5GB"."""
    return tqdm.format_sizeof(size, "B")


def check_space(folder: Path, needed: int) -> None:
    """Raise `S3EError` if the disk of `folder` (which may not exist yet) has fewer than `needed` bytes free."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        what = f"{folder} has {readable(free)} free, but {readable(needed)} are needed"
        raise S3EError(f"{what}: make room there, or choose another disk with --to.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk into an `S3EError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise S3EError(
                f"{path}: the disk is full; make room, then run the command again: it goes on."
            ) from None
        what = f"{path} cannot be written ({error.strerror or error})"
        raise S3EError(f"{what}: choose another folder with --to.") from None


def _persist(url: str, part: Path, size: int, remedy: str, archive: bool) -> None:
    """Repeat attempts until the file is whole; gives up after as many without new bytes as there are `WAITS`."""
    failures, best = 0, _length(part)
    while True:
        try:
            return _attempt(url, part, size, remedy, archive)
        except _Again as fault:
            failures = 1 if _length(part) > best else failures + 1
            best = max(best, _length(part))
            if failures > len(WAITS):
                raise S3EError(f"{url} could not be fetched ({fault}): {remedy}.") from None
            tqdm.write(f"{part.stem}: {fault}; again in {WAITS[failures - 1]} s")
            time.sleep(WAITS[failures - 1])


def _attempt(url: str, part: Path, size: int, remedy: str, archive: bool) -> None:
    """One request for what is missing of `part`."""
    version = _version(url, part)
    have = _length(part) if version else 0
    if have and have == (size or version.get("total")):
        return
    with _request(url, part, have, version.get("validator", ""), remedy) as response:
        start = have if response.status == 206 else 0
        if start and not _continues(response, start, version):
            _forget(part)
            raise _Again("the file changed on the server")
        total = size if response.length is None else start + response.length
        if size and total != size:
            what = f"{url} offers a file of {total:,} bytes instead of {size:,}"
            raise S3EError(f"{what}, so it is not the published one: {remedy}.")
        contents = total if archive else 0  # photos hardly compress
        check_space(part.parent, total - start + contents)
        if not start:
            version = {"url": url, "validator": _validator(response.headers), "total": total}
        _receive(response, part, start, total, version)


def _request(url: str, part: Path, have: int, validator: str, remedy: str) -> HTTPResponse:
    """Ask for `url` from byte `have` on; the answer is 200 (all of it) or 206 (the rest)."""
    asked = {"User-Agent": "s3e-deblur"}
    if have:
        asked |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=asked), timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            _forget(part)
        elif error.code not in PASSING:
            raise S3EError(f"{url} was refused ({error.code} {error.reason}): {remedy}.") from None
        raise _Again(f"{error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        if isinstance(getattr(error, "reason", None), socket.gaierror):
            host = urllib.parse.urlsplit(url).hostname
            raise S3EError(
                f"{host} cannot be found, so there may be no internet here ({url}): {remedy}."
            ) from None
        raise _Again(str(error) or type(error).__name__) from None


def _receive(response: HTTPResponse, part: Path, start: int, total: int, version: dict) -> None:
    """Put the answer into `part` from `start` on; a body that ends before `total` (0: unknown) raises `_Again`."""
    bar = tqdm(
        total=total or None, initial=start, unit="B", unit_scale=True, desc=part.stem, leave=False
    )
    with part.open("ab") as handle, bar:
        handle.truncate(start)
        write_json(_notes(part), version)
        for chunk in _chunks(response, total - start if total else None):
            handle.write(chunk)
            bar.update(len(chunk))
    if _length(part) < total:
        raise _Again(f"cut after {_length(part):,} of {total:,} bytes")


def _chunks(response: HTTPResponse, left: int | None) -> Iterator[bytes]:
    """The body as it arrives, at most `left` bytes of it (None: to its end)."""
    while left is None or left > 0:
        try:
            chunk = response.read1(CHUNK if left is None else min(CHUNK, left))
        except (OSError, HTTPException) as error:
            raise _Again(str(error) or type(error).__name__) from None
        if not chunk:
            return
        left = None if left is None else left - len(chunk)
        yield chunk


def _continues(response: HTTPResponse, start: int, version: dict) -> bool:
    """Does a partial answer begin where asked, and belong to the version of the file that was begun?"""
    begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    same = _validator(response.headers) in ("", version["validator"])
    return begins is not None and int(begins[1]) == start and same


def _validator(headers: Message) -> str:
    """What tells versions of a file apart in If-Range: a strong ETag, else the date of change, else nothing."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _version(url: str, part: Path) -> dict:
    """Which version of the file `part` belongs to; empty if it cannot be resumed."""
    try:
        version = read_json(_notes(part))
        return version if version["url"] == url and version["validator"] else {}
    except (S3EError, KeyError, TypeError):
        return {}


def _verified(
    path: Path, name: str | Path, size: int, sha256: str, remedy: str, archive: bool
) -> str:
    """The digest of the file at `path`; `S3EError` if size or digest is not the known one, or it is no archive."""
    found = file_digest(path)
    other = (size and _length(path) != size) or not found.startswith(sha256)
    if other or (archive and not zipfile.is_zipfile(path)):
        kind = "archive" if archive else "file"
        what = f"{name} is damaged or not the published {kind} ({_length(path):,} bytes, SHA-256 {found})"
        raise S3EError(f"{what}: {remedy}.")
    return found


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


RECORD = "download.json"  # in the folder: what was fetched and unpacked there


@dataclass(frozen=True)
class Item:
    """One archive. `members` matches the files that are needed; its group 1 is their path below `into`.

    `places` are the files or folders that it gives; `size`, `unpacked` in bytes (0: unknown, and as large as the
    archive: photos hardly compress); `sha256` of the archive, empty if none is public.
    """

    name: str
    url: str
    members: str
    places: tuple[str, ...]
    into: str = ""
    size: int = 0
    unpacked: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class Dataset:
    """Archives of one owner: `page` tells more and states the terms, `manual` is what to do by hand if it must be."""

    page: str
    manual: str
    items: tuple[Item, ...]
    usual: tuple[str, ...]  # fetched unless the user names others


def _photos(split: str, size: int, sha256: str) -> Item:
    address = f"http://images.cocodataset.org/zips/{split}.zip"
    return Item(split, address, rf"({split}/[^/]+\.jpg)", (split,), size=size, sha256=sha256)


def _annotations(year: int, size: int, sha256: str) -> Item:
    address = f"http://images.cocodataset.org/annotations/annotations_trainval{year}.zip"
    places = tuple(f"annotations/captions_{split}{year}.json" for split in ("train", "val"))
    members = rf"(annotations/captions_(?:train|val){year}\.json)"
    return Item(f"annotations{year}", address, members, places, size=size, sha256=sha256)


def _gopro(name: str, frames: str, sha256: str = "") -> Item:
    address = f"https://huggingface.co/datasets/snah/GOPRO_Large/resolve/main/{name}.zip"
    return Item(
        name,
        address,
        rf"(?:{name}/)?((?:train|test)/[^/]+/{frames}\d+\.png)",
        (name,),
        name,
        sha256=sha256,
    )


KARPATHY = Item(
    "karpathy",
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    r"(?:.*/)?(dataset_coco\.json)",
    ("dataset_coco.json",),
    size=36_745_453,
    unpacked=144_186_139,
    sha256="4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
)
DATASETS = {
    "coco": Dataset(
        "https://cocodataset.org/#download",
        "run the command again later (it goes on where it stopped), or fetch the file with a browser and unpack it by "
        "`python -m s3e data download coco --only train2014 --archive FILE`",
        (
            _photos(
                "train2014",
                13_510_573_713,
                "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
            ),
            _photos(
                "val2014",
                6_645_013_297,
                "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
            ),
            _annotations(
                2014,
                252_872_794,
                "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
            ),
            KARPATHY,
            _photos(
                "train2017",
                19_336_861_798,
                "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
            _photos(
                "val2017",
                815_585_330,
                "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            _annotations(
                2017,
                252_907_541,
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
        ),
        ("train2014", "val2014", "annotations2014", "karpathy"),
    ),
    "gopro": Dataset(
        "https://seungjunnah.github.io/Datasets/gopro",
        "run the command again later (it goes on where it stopped), or fetch the file with a browser from the Google "
        "Drive link of https://seungjunnah.github.io/Datasets/gopro (confirm that it is too large for a virus scan) "
        "and unpack it by `python -m s3e data download gopro --archive FILE`",
        (
            _gopro(
                "GOPRO_Large",
                "(?:blur|blur_gamma|sharp)/",
                "24532c036712515cf33803704421311c91f6a080e76049d7e5e7fd22389f128e",
            ),
            _gopro("GOPRO_Large_all", ""),
        ),
        ("GOPRO_Large",),
    ),
}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of `python -m s3e data download`."""
    names = "; ".join(
        f"{key}: {' '.join(item.name for item in data.items)}" for key, data in DATASETS.items()
    )
    parser.add_argument("dataset", choices=DATASETS, help="what to fetch")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where to (default: runs/data/DATASET)"
    )
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help=f"only these archives ({names})"
    )
    parser.add_argument(
        "--base-url", metavar="URL", help="take the archives from this address instead, a mirror"
    )
    parser.add_argument(
        "--archive", type=Path, metavar="FILE", help="unpack this archive, fetched by hand"
    )


def execute(arguments: Namespace) -> int:
    """Fetch and unpack; says what was done, and what to run next."""
    data = DATASETS[arguments.dataset]
    folder = arguments.to or RUNS / "data" / arguments.dataset
    mirror = arguments.base_url
    if mirror and not re.fullmatch(r"https?://\S+", mirror):
        raise S3EError(
            f"--base-url {mirror} is not an address: it begins with http:// or https://."
        )
    items = _chosen(data, arguments.only, arguments.archive)
    print(f"{arguments.dataset}: terms of use at {data.page}")
    with writing(folder):
        items = [item for item in items if not _done(item, folder)]
        if not arguments.archive:
            check_space(folder, _peak(items, folder))
        for item in items:
            if arguments.archive:
                _take(item, folder, arguments.archive)
            else:
                _fetch(item, folder, data.manual, mirror)
    print(f"{folder} is ready; see what it holds: python -m s3e data check {folder}")
    return 0


def _fetch(item: Item, folder: Path, manual: str, mirror: str | None) -> None:
    """Download an archive, unpack it, remove it."""
    name = item.url.rpartition("/")[2]
    url = f"{mirror.rstrip('/')}/{name}" if mirror else item.url
    print(f"{item.name}: {url}" + (f" ({readable(item.size)})" if item.size else ""))
    found = fetch(url, folder / name, item.size, item.sha256, manual)
    unpack(folder / name, item, folder, url, found)
    (folder / name).unlink()


def _take(item: Item, folder: Path, archive: Path) -> None:
    """Unpack an archive that was fetched by hand, and leave it where it is."""
    if not archive.is_file():
        raise S3EError(f"{archive} is not a file: give the archive that you fetched.")
    print(f"{item.name}: {archive}")
    unpack(archive, item, folder, archive.name, file_digest(archive))


def unpack(archive: Path, item: Item, folder: Path, source: str, sha256: str) -> None:
    """Unpack what is needed of `archive` into `folder`; where it came from (`source`) and what it was is noted there.

    Files gather in a hidden folder, where an interrupted call goes on, and move to their places when all are whole.
    Raises `S3EError` for a damaged archive, one with other contents or unsafe paths, and a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hidden = folder / f".{item.name}-{sha256[:8]}.unpacking"
    for other in set(folder.glob(f".{item.name}-*.unpacking")) - {hidden}:
        shutil.rmtree(other)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, item, archive)
            missing = {path: info for path, info in members.items() if not (hidden / path).exists()}
            check_space(folder, sum(info.file_size for info in missing.values()))
            for path, info in tqdm(missing.items(), desc=item.name, unit="file", leave=False):
                _extract(opened, info, hidden / path)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise S3EError(f"{archive} is damaged ({error}): delete it, then fetch it again.") from None
    _settle(
        hidden, item, folder, {"source": source, "bytes": archive.stat().st_size, "sha256": sha256}
    )
    known = {"": "no digest is published", sha256: "as published"}.get(
        item.sha256, "not the published archive"
    )
    print(
        f"{item.name}: {len(members):,} files, every CRC right; SHA-256 of the archive {sha256} ({known})"
    )


def _settle(hidden: Path, item: Item, folder: Path, facts: dict) -> None:
    """Move all to its place. The record comes first: a place without one belongs to the user and is never touched."""
    write_json(folder / RECORD, {**_record(folder), item.name: facts})
    for place in item.places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (hidden / place).replace(folder / place)
    shutil.rmtree(hidden)


def _members(opened: zipfile.ZipFile, item: Item, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """The needed files of an archive by their path in the data folder."""
    members = {}
    for info in opened.infolist():
        if info.filename.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", info.filename):
            raise S3EError(
                f"{archive} holds the unsafe path {info.filename!r}: fetch it from its owner instead."
            )
        if match := re.fullmatch(item.members, info.filename):
            if info.header_offset < 0 or info.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise zipfile.BadZipFile(f"impossible entry for {info.filename!r}")
            members[str(PurePosixPath(item.into, match[1]))] = info
    for place in item.places:
        if not any(path == place or path.startswith(f"{place}/") for path in members):
            raise S3EError(
                f"{archive} holds nothing for {place}: it is not the archive of {item.name}, take that one."
            )
    return members


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Write one member; it gets its name when it is complete and its CRC right."""
    half = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(info) as source, half.open("wb") as handle:
        shutil.copyfileobj(source, handle, 1 << 20)
    half.replace(target)


def _record(folder: Path) -> dict:
    return read_json(folder / RECORD) if (folder / RECORD).exists() else {}


def _chosen(data: Dataset, names: list[str], archive: Path | None) -> list[Item]:
    """The items asked for, in the data set's order."""
    known = [item.name for item in data.items]
    if unknown := set(names) - set(known):
        raise S3EError(f"--only {min(unknown)} is not known: choose from {', '.join(known)}.")
    chosen = [item for item in data.items if item.name in (names or data.usual)]
    if archive and len(chosen) > 1:
        raise S3EError(
            f"--archive {archive} is one archive: say with --only which of {', '.join(known)} it is."
        )
    return chosen


def _done(item: Item, folder: Path) -> bool:
    """Whether an item is unpacked already; `S3EError` if its place is taken by files from elsewhere."""
    there = [folder / place for place in item.places if (folder / place).exists()]
    if there and item.name not in _record(folder):
        raise S3EError(
            f"{there[0]} is there, but not from this command: move it away, or leave {item.name} out."
        )
    if len(there) == len(item.places):
        print(f"{item.name}: there already")
    return len(there) == len(item.places)


def _peak(items: list[Item], folder: Path) -> int:
    """Most bytes that are still to be written at once: each archive goes when its files are in place."""
    archives = [item.size - _there(folder, f"{item.url.rpartition('/')[2]}*") for item in items]
    contents = [
        (item.unpacked or item.size) - _there(folder, f".{item.name}-*.unpacking/**/*")
        for item in items
    ]
    return max(map(sum, zip(archives, accumulate(contents), strict=True)), default=0)


def _there(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())
