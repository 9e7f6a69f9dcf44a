"""Fetch one large file over HTTP: resumed after a cut, checked, and under its final name only when it is whole."""

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
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm.auto import tqdm

from s3e.utils import S3EError, file_digest, read_json, write_json

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
