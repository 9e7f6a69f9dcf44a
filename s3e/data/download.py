"""Fetch a data set from its owner, check it, and unpack what is needed; the archives are listed in
`downloads.toml`.
"""

import errno
import os
import re
import shutil
import socket
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from s3e import utils
from s3e.utils import S3EError, file_digest, read_json, write_json

DATASETS = tomllib.loads(Path(__file__).with_name("downloads.toml").read_text(encoding="utf-8"))
RECORD = "download.json"  # in the folder: what was fetched and unpacked there
CHUNK = 1 << 20  # bytes
PATIENCE = 30  # seconds without a byte, then the connection counts as cut
WAITS = (1, 4, 15, 60)  # seconds before each further attempt; begun anew when one brought new bytes
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses worth another attempt
RETRY = (
    "check the address and the connection, then run the command again: it goes on where it stopped"
)


class _Again(Exception):
    """A passing fault; its text says which."""


@dataclass(frozen=True)
class Archive:
    """One archive of `downloads.toml`. `size`, `unpacked` in bytes; 0: unknown, and as large as the
    archive.
    """

    name: str
    url: str
    members: str
    places: list[str]
    into: str = ""
    size: int = 0
    unpacked: int = 0
    sha256: str = ""


# --- one file over HTTP: resumed after a cut, checked, and under its final name only when it is
# whole ---


def fetch(
    url: str, path: Path, size: int = 0, sha256: str = "", remedy: str = RETRY, archive: bool = True
) -> str:  # fmt: skip
    """Fetch `url` to `path` and return its SHA-256; a file that is there already is only checked.

    Bytes gather in `<name>.part`, and `<name>.part.json` remembers which version of the file they
    belong to, so that an interrupted call goes on (HTTP Range with If-Range) and a file that
    changed meanwhile starts anew. `size` (bytes) and `sha256` (hexadecimal, all of it or its
    beginning) are what it must have, where known; an `archive` is a zip file. Raises `S3EError`:
    the server refuses, stays silent or has another file, or the disk has no room for the file and,
    of an archive, its contents.
    """
    part = path.with_name(f"{path.name}.part")
    with _writing(path):
        if path.exists():
            again = "delete it, then run the command again"
            return _verified(path, path, size, sha256, again, archive)
        part.parent.mkdir(parents=True, exist_ok=True)
        failures, best = 0, _length(part)
        while True:
            try:
                _attempt(url, part, size, remedy, archive)
                break
            except _Again as fault:
                failures = 1 if _length(part) > best else failures + 1
                best = max(best, _length(part))
                if failures > len(WAITS):
                    raise S3EError(f"{url} could not be fetched ({fault}): {remedy}.") from None
                tqdm.write(f"{path.name}: {fault}; again in {WAITS[failures - 1]} s")
                time.sleep(WAITS[failures - 1])
        try:
            found = _verified(part, url, size, sha256, remedy, archive)
        except S3EError:
            _forget(part)
            raise
        os.replace(part, path)
        _forget(part)
    return found


def _attempt(url: str, part: Path, size: int, remedy: str, archive: bool) -> None:
    """One request for what is missing of `part`."""
    version = _version(url, part)
    have = _length(part) if version else 0
    if have and have == (size or version.get("total")):
        return
    with _request(url, part, have, version.get("validator", ""), remedy) as response:
        start, tag = have if response.status == 206 else 0, response.headers.get("ETag", "")
        begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
        if start and (
            not begins
            or int(begins[1]) != start
            or validator not in ("", version["validator"])
        ):  # fmt: skip
            _forget(part)
            raise _Again("the file changed on the server")
        total = size if response.length is None else start + response.length
        if size and total != size:
            what = f"{url} offers a file of {total:,} bytes instead of {size:,}"
            raise S3EError(f"{what}, so it is not the published one: {remedy}.")
        _check_space(part.parent, total - start + (total if archive else 0))
        if not start:
            version = {"url": url, "validator": validator, "total": total}
        bar = {"total": total or None, "initial": start, "desc": part.stem}
        with part.open("ab") as file, tqdm(**bar, unit="B", unit_scale=True, leave=False) as bar:
            file.truncate(start)
            write_json(_notes(part), version)
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
    if _length(part) < total:
        raise _Again(f"cut after {_length(part):,} of {total:,} bytes")


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
            what = f"{host} cannot be found, so there may be no internet here ({url})"
            raise S3EError(f"{what}: {remedy}.") from None
        raise _Again(str(error) or type(error).__name__) from None


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Again(str(error) or type(error).__name__) from None


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
    found = file_digest(path)
    other = (size and _length(path) != size) or not found.startswith(sha256)
    if other or (archive and not zipfile.is_zipfile(path)):
        kind = "archive" if archive else "file"
        facts = f"{_length(path):,} bytes, SHA-256 {found}"
        raise S3EError(f"{name} is damaged or not the published {kind} ({facts}): {remedy}.")
    return found


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _check_space(folder: Path, needed: int) -> None:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        free, needed = tqdm.format_sizeof(free, "B"), tqdm.format_sizeof(needed, "B")
        what = f"{folder} has {free} free, but {needed} are needed"
        raise S3EError(f"{what}: make room there, or choose another disk with --to.")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk into an `S3EError` that names `path`."""
    try:
        yield
    except OSError as error:
        what = (
            f"{path} cannot be written ({error.strerror or error}): choose another folder with --to"
        )
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            again = "make room, then run the command again: it goes on"
            what = f"{path}: the disk is full; {again}"
        raise S3EError(f"{what}.") from None


# --- archives ---


def download(
    dataset: str,
    to: Path | None = None,
    only: Sequence[str] = (),
    base_url: str | None = None,
    archive: Path | None = None,
) -> int:
    """Fetch and unpack the archives of `dataset` ("coco" or "gopro") into `to`; returns 0.

    `only` names some archives, `base_url` a mirror, `archive` a file fetched by hand. Archives that
    are there already are left alone. Raises `S3EError` for a wrong request, a server that refuses,
    a damaged archive or a full disk.
    """
    data, folder = DATASETS[dataset], to or utils.RUNS / "data" / dataset
    if base_url and not re.fullmatch(r"https?://\S+", base_url):
        what = f"--base-url {base_url} is not an address"
        raise S3EError(f"{what}: it begins with http:// or https://.")
    items = [Archive(name, **facts) for name, facts in data["archives"].items()]
    known = ", ".join(item.name for item in items)
    if unknown := set(only) - {item.name for item in items}:
        raise S3EError(f"--only {min(unknown)} is not known: choose from {known}.")
    items = [item for item in items if item.name in (only or data["usual"])]
    if archive and len(items) > 1:
        raise S3EError(
            f"--archive {archive} is one archive: say with --only which of {known} it is."
        )
    if archive and not archive.is_file():
        raise S3EError(f"{archive} is not a file: give the archive that you fetched.")
    print(f"{dataset}: terms of use at {data['page']}")
    with _writing(folder):
        items = [item for item in items if not _is_there(item, folder)]
        if archive:
            for item in items:
                unpack(archive, item, folder, archive.name, file_digest(archive))
        else:
            contents = sum(item.unpacked or item.size for item in items)
            _check_space(folder, contents + max((item.size for item in items), default=0))
            for item in items:
                name = item.url.rpartition("/")[2]
                url = f"{base_url.rstrip('/')}/{name}" if base_url else item.url
                size = f" ({tqdm.format_sizeof(item.size, 'B')})" if item.size else ""
                print(f"{item.name}: {url}{size}")
                found = fetch(url, folder / name, item.size, item.sha256, data["manual"])
                unpack(folder / name, item, folder, url, found)
                (folder / name).unlink()
    print(f"{folder} is ready; see what it holds: python -m s3e data check {folder}")
    return 0


def unpack(archive: Path, item: Archive, folder: Path, source: str, sha256: str) -> None:
    """Unpack what is needed of `archive` into `folder`; where it came from (`source`) and what it
    was is noted there.

    Files gather in a hidden folder, where an interrupted call goes on, and move to their places
    when all are whole. Raises `S3EError` for a damaged archive, one with other contents or unsafe
    paths, and a full disk.
    """
    hidden = folder / f".{item.name}-{sha256[:8]}.unpacking"
    for other in set(folder.glob(f".{item.name}-*.unpacking")) - {hidden}:
        shutil.rmtree(other)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, item, archive)
            missing = {path: info for path, info in members.items() if not (hidden / path).exists()}
            _check_space(folder, sum(info.file_size for info in missing.values()))
            for path, info in tqdm(missing.items(), desc=item.name, unit="file", leave=False):
                target = hidden / path
                half = target.with_name(f"{target.name}.part")  # named when its CRC is right
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(info) as content, half.open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK)
                half.replace(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise S3EError(f"{archive} is damaged ({error}): delete it, then fetch it again.") from None
    _settle(hidden, item, folder, {"source": source, "bytes": _length(archive), "sha256": sha256})
    known = "as published" if sha256 == item.sha256 else "not the published archive"
    known = known if item.sha256 else "no digest is published"
    count = f"{len(members):,} files, every CRC right"
    print(f"{item.name}: {count}; SHA-256 of the archive {sha256} ({known})")


def _settle(hidden: Path, item: Archive, folder: Path, facts: dict) -> None:
    """Move all to its place. The record comes first: a place without one belongs to the user and is
    never touched.
    """
    write_json(folder / RECORD, {**_record(folder), item.name: facts})
    for place in item.places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (hidden / place).replace(folder / place)
    shutil.rmtree(hidden)


def _members(opened: zipfile.ZipFile, item: Archive, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """The needed files of an archive by their path in the data folder."""
    members = {}
    for info in opened.infolist():
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            what = f"{archive} holds the unsafe path {name!r}"
            raise S3EError(f"{what}: fetch it from its owner instead.")
        if match := re.fullmatch(item.members, name):
            plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if info.header_offset < 0 or not plain:
                raise zipfile.BadZipFile(f"impossible entry for {name!r}")
            members[str(PurePosixPath(item.into, match[1]))] = info
    for place in item.places:
        if not any(path == place or path.startswith(f"{place}/") for path in members):
            what = f"{archive} holds nothing for {place}"
            raise S3EError(f"{what}: it is not the archive of {item.name}, take that one.")
    return members


def _record(folder: Path) -> dict:
    return read_json(folder / RECORD) if (folder / RECORD).exists() else {}


def _is_there(item: Archive, folder: Path) -> bool:
    """Whether an archive is unpacked already; `S3EError` if its place is taken by files from
    elsewhere.
    """
    there = [folder / place for place in item.places if (folder / place).exists()]
    if there and item.name not in _record(folder):
        what = f"{there[0]} is there, but not from this command"
        raise S3EError(f"{what}: move it away, or leave {item.name} out.")
    if len(there) < len(item.places):
        return False
    print(f"{item.name}: there already")
    return True
