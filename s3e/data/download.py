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
ROOM = "make room or choose another folder with --to, then run the command again: it goes on"


def fetch(item: dict, part: Path, remedy: str) -> None:
    """Fetch an archive (an entry of the table) to `part`, from where an earlier call was cut.

    Raises `S3EError` ending with `remedy`: the server refuses, stays silent or has another file. So
    does a disk without room for the archive and its contents.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    while True:
        have = part.stat().st_size
        try:
            _fetch_rest(item, part, remedy)
            break
        except requests.RequestException as error:
            if part.stat().st_size <= have:  # not a byte further
                what = f"{item['url']} could not be fetched ({error})"
                raise S3EError(f"{what}: {remedy}.") from None
    if (found := file_digest(part)) != item["sha256"]:
        part.unlink()
        what = f"{item['url']} is damaged or not the published file (SHA-256 {found})"
        raise S3EError(f"{what}: {remedy}.")


def _fetch_rest(item: dict, part: Path, remedy: str) -> None:
    """One request (HTTP Range) for what is missing; `requests.RequestException` if it is cut."""
    url, size, have, session = item["url"], item["size"], part.stat().st_size, requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
    asked = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    with session.get(url, headers=asked, stream=True, timeout=PATIENCE) as response:
        if response.status_code == 416:  # nothing is missing
            return
        response.raise_for_status()
        have = have if response.status_code == 206 else 0
        total = have + int(response.headers.get("Content-Length", size - have))
        if size not in (0, total):
            what = f"{url} offers a file of {total:,} bytes instead of {size:,}"
            raise S3EError(f"{what}, so it is not the published one: {remedy}.")
        free, needed = shutil.disk_usage(part.parent).free, total - have + item["unpacked"]
        if free < needed:
            what = f"{part.parent} has {free:,} bytes free, but {needed:,} are needed"
            raise S3EError(f"{what}: make room there, or choose another disk with --to.")
        about = {"desc": part.stem, "unit": "B", "unit_scale": True, "leave": False}
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, **about) as bar,
        ):
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
            print(f"{name}: {item['url']}")
            fetch(item, part := folder / f"{name}.part", data["manual"])
            unpack(part, item, folder)
            part.unlink()
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
        missing = [place for place in item["places"] if not (hidden / place).exists()]
        if missing:
            what = f"{archive} holds nothing for {missing[0]}"
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
