"""Fetch a data set from its owner, check it and unpack what is needed (see `downloads.toml`)."""

import re
import shutil
import zipfile
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter, Retry
from tqdm.auto import tqdm

from s3e import utils
from s3e.utils import S3EError, data_file, disk_errors, file_digest

DATASETS = data_file("data/downloads.toml")
CHUNK = 1 << 16  # bytes
PATIENCE = 30  # seconds without a byte, then the connection counts as cut
RETRIES = Retry(4, backoff_factor=2, status_forcelist=(408, 425, 429, 500, 502, 503, 504))
RETRY = (
    "check the address and the connection, then run the command again: it goes on where it stopped"
)
ROOM = "make room or choose another folder with --to, then run the command again: it goes on"


def fetch(
    url: str, path: Path, size: int = 0, sha256: str = "", remedy: str = RETRY, contents: int = 0
) -> None:
    """Fetch `url` to `path`; a file that is there already is only checked.

    Bytes gather in `<name>.part`, where a cut or interrupted call goes on (HTTP Range). `size`
    (bytes) and `sha256` (hexadecimal, all of it or its beginning) are what it must have, where
    known; `contents`: bytes that will come out of it. Raises `S3EError`: the server refuses, stays
    silent or has another file, or the disk has no room for the file and its contents.
    """
    part = path.with_name(f"{path.name}.part")
    with disk_errors(path, ROOM):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        while not path.exists():
            have = part.stat().st_size
            try:
                _fetch_rest(url, part, size, contents, remedy)
                break
            except requests.RequestException as error:
                if part.stat().st_size <= have:  # not a byte further
                    raise S3EError(f"{url} could not be fetched ({error}): {remedy}.") from None
        whole = path if path.exists() else part
        found = file_digest(whole)
        if not found.startswith(sha256):
            part.unlink()
            what = f"{whole} is damaged or not the published file (SHA-256 {found})"
            raise S3EError(f"{what}: delete it if it is there, and {remedy}.")
        whole.replace(path)
        part.unlink(missing_ok=True)


def _fetch_rest(url: str, part: Path, size: int, contents: int, remedy: str) -> None:
    """One request for what is missing of `part`; `requests.RequestException` where it is cut."""
    have, session = part.stat().st_size, requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
    asked = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    with session.get(url, headers=asked, stream=True, timeout=PATIENCE) as response:
        if response.status_code == 416:  # nothing is missing
            return
        response.raise_for_status()
        have = have if response.status_code == 206 else 0
        total = have + int(response.headers.get("Content-Length", size - have))
        if size and total != size:
            what = f"{url} offers a file of {total:,} bytes instead of {size:,}"
            raise S3EError(f"{what}, so it is not the published one: {remedy}.")
        free, needed = shutil.disk_usage(part.parent).free, total - have + contents
        if free < needed:
            what = f"{part.parent} has {free:,} bytes free, but {needed:,} are needed"
            raise S3EError(f"{what}: make room there, or choose another disk with --to.")
        bar = tqdm(
            total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, leave=False
        )
        with part.open("ab" if have else "wb") as file, bar:
            for chunk in response.iter_content(CHUNK):
                bar.update(file.write(chunk))


def download(dataset: str, to: Path | None = None, archive: Path | None = None) -> int:
    """Fetch and unpack the archives of `dataset` ("coco" or "gopro") into `to`; returns 0.

    `archive`: one of them, fetched by hand, to unpack instead. What is there already is left alone.
    Raises `S3EError` for a wrong request, a server that refuses, a damaged archive or a full disk.
    """
    data, folder = DATASETS[dataset], to or utils.RUNS / "data" / dataset
    archives = data["archives"]
    print(f"{dataset}: terms of use at {data['page']}")
    with disk_errors(folder, ROOM):
        if archive:
            if archive.name not in archives or not archive.is_file():
                what = f"{archive} is no file named like one of {', '.join(archives)}"
                raise S3EError(f"{what}: give the archive its published name.")
            published = file_digest(archive) == archives[archive.name]["sha256"]
            print(f"{archive}: {'as published' if published else 'not the published archive'}")
            unpack(archive, archives[archive.name], folder)
            archives = {}
        for name, item in archives.items():
            if all((folder / place).exists() for place in item["places"]):
                print(f"{name}: there already")
                continue
            file = folder / name
            print(f"{name}: {item['url']}")
            fetch(item["url"], file, item["size"], item["sha256"], data["manual"], item["unpacked"])
            unpack(file, item, folder)
            file.unlink()
    print(f"{folder} is ready; see what it holds: python -m s3e data check {folder}")
    return 0


def unpack(archive: Path, item: dict, folder: Path) -> None:
    """Unpack what is needed of `archive` (an entry of the table) into `folder`, all of it or
    nothing; files that are there already stay.

    Raises `S3EError` for a damaged archive and one with other contents.
    """
    hidden = folder / f".{archive.name}"
    shutil.rmtree(hidden, ignore_errors=True)  # of a call that was killed
    try:
        with zipfile.ZipFile(archive) as opened:
            for info in tqdm(opened.infolist(), desc=archive.name, unit="file", leave=False):
                if match := re.fullmatch(item["members"], info.filename):
                    info.filename = match[1]
                    opened.extract(info, hidden / item["into"])
        for place in item["places"]:
            if not (hidden / place).exists():
                what = f"{archive} holds nothing for {place}"
                raise S3EError(f"{what}: it is another archive, take {item['url']}.")
        for place in item["places"]:
            if not (folder / place).exists():
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                (hidden / place).replace(folder / place)
    except (OSError, S3EError):
        raise
    except Exception as error:  # a damaged archive may raise nearly anything
        raise S3EError(f"{archive} is damaged ({error}): delete it, then fetch it again.") from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
