"""The prepared cache of a data folder: every photo decoded, resized and blurred once, on all cores, into plain arrays.

    runs/cache/<data folder>-<hash>/{<split>_sharp.npy, <split>_<severity>.npy, <split>.json, cache.json}

Arrays are uint8 (N, H, W, 3), to be memory-mapped; `<split>.json` holds ids, kernel extents and input PSNR; the hash is
of the settings, the files and the code that the arrays depend on. A cache is made in `<folder>.part`, where each chunk
of photos that is done has a file in `chunks/`, so that a preparation that was killed goes on where it stopped; the
folder gets its name when all is there.
"""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from s3e import blur, camera, convolution, utils
from s3e.config import Config
from s3e.data import photos, views
from s3e.data.plan import Part, plan
from s3e.data.sources import Source
from s3e.data.views import make_views
from s3e.data.workers import in_processes
from s3e.utils import S3EError, read_json, write_json

CHUNK = {False: 64, True: 8}  # photos that are made at once; pairs are large and slow to decode
MAKERS = (
    blur,
    camera,
    convolution,
    photos,
    utils,
    views,
)  # the code that pixels and input PSNR depend on
Progress = Callable[..., Any]


def prepare_arrays(
    source: Source,
    config: Config,
    folder: Path | None = None,
    jobs: int = 0,
    progress: Progress = lambda items, **_: items,
) -> Path:
    """Make the arrays of a source, or find them made; returns their folder (by default one below `runs/cache`).

    `jobs` processes, 0 for all cores: the bytes do not depend on it. Raises `S3EError` if settings and source do not
    fit, if the disk is too small (told before the work; what was done is kept), or if `folder` holds something else.
    """
    parts = plan(source, config)
    key = cache_key(source, config, parts)
    default = utils.RUNS / "cache" / f"{source.root.resolve().name}-{_digest(key)[:8]}"
    folder = (folder or default).resolve()
    building = folder.with_name(f"{folder.name}.part")
    if is_made(folder, key):
        return folder
    with _writing(folder), _locked(folder.with_name(f".{folder.name}.lock")):
        if not is_made(folder, key):  # another process may have made it meanwhile
            _begin(building, key)
            _reserve(building, parts)
            _fill(building, parts, config, jobs, progress)
            _finish(building, folder, parts, key)
    return folder


def cache_key(source: Source, config: Config, parts: dict[str, Part]) -> dict[str, Any]:
    """What the arrays depend on: settings, code, and ids, sizes and times of the files."""
    names = ("frames", "average") if source.paired else ("motion", "seed", "gamma", "noise")
    settings = {name: getattr(config.blur, name) for name in names}
    settings |= (
        {"transforms": "OpenCV" if convolution.IPP else "SciPy"} if not source.paired else {}
    )
    settings |= {"size": config.data.size, "chunk": CHUNK[source.paired]}
    files = {}
    for name, part in parts.items():
        settings[name] = {"severities": part.severities, "shape": part.shape}
        files[name] = [
            (photo.id, _stamp(photo.path), _stamp(photo.blurred)) for photo in part.photos
        ]
        files[f"{name} windows"] = [
            window and [_stamp(path) for path in window] for window in part.windows
        ]
    return json.loads(
        json.dumps(
            {"settings": settings, "code": utils.code_digest(*MAKERS), "files": _digest(files)}
        )
    )


def is_made(folder: Path, key: dict[str, Any]) -> bool:
    """Whether `folder` is the whole cache with this key; raises `S3EError` if something else is there."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    record = read_json(folder / "cache.json") if (folder / "cache.json").is_file() else {}
    sizes = {
        name: (folder / name).stat().st_size
        for name in record.get("files", ())
        if (folder / name).is_file()
    }
    if record.get("key") != key or sizes != record["files"]:
        raise S3EError(
            f"{folder} is not, or no longer, the cache of these photos and settings: delete it or give another --out."
        )
    return True


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path | None) -> tuple[str, int, int] | None:
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError as error:
        raise S3EError(
            f"{path} cannot be read ({error.strerror}): restore it or remove its entry."
        ) from None
    return path.name, stat.st_size, stat.st_mtime_ns


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise S3EError(
                f"{folder}: the disk is full; make room and repeat, which goes on where it stopped, or choose another "
                "place (--out, or the variable S3E_RUNS)."
            ) from None
        raise S3EError(
            f"{folder} cannot be written ({error.strerror or error}): choose another place (--out, or the variable "
            "S3E_RUNS)."
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process makes this cache; the lock ends with the process that holds it."""
    with utils.lock_file(path, lambda owner: None):
        yield


def _begin(building: Path, key: dict[str, Any]) -> None:
    """Empty the folder, unless it holds what an interrupted preparation of the same cache left."""
    building.mkdir(exist_ok=True)
    plan_file = building / "plan.json"
    if not plan_file.is_file() or read_json(plan_file) != key:
        for path in building.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(plan_file, key)


def _reserve(building: Path, parts: dict[str, Part]) -> None:
    """Make sure of the disk space for all arrays before the work begins."""
    arrays = {f"{name}_{view}.npy": (len(part.photos), *part.shape)
              for name, part in parts.items() for view in ("sharp", *part.severities)}  # fmt: skip
    taken = sum(path.stat().st_blocks * 512 for path in building.glob("*.npy"))
    needed, free = sum(map(math.prod, arrays.values())) - taken, shutil.disk_usage(building).free
    if needed > free:
        raise S3EError(
            f"{building} needs {tqdm.format_sizeof(needed, 'B')}, but {tqdm.format_sizeof(free, 'B')} are free: make "
            "room, take fewer photos (data.train) or another place (--out, or the variable S3E_RUNS)."
        )
    for name, shape in arrays.items():
        if _shape(building / name) != shape:
            shutil.rmtree(
                building / "chunks", ignore_errors=True
            )  # what it says is no longer there
            np.lib.format.open_memmap(building / name, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):
            with open(building / name, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def _shape(path: Path) -> tuple[int, ...] | None:
    try:
        return np.load(path, mmap_mode="r").shape
    except (OSError, ValueError, EOFError):
        return None


@dataclass(frozen=True)
class _Chunk:
    """Some rows of a split, from `start` on."""

    name: str
    start: int
    part: Part

    @property
    def record(self) -> str:
        """The file that says that these rows are done."""
        return f"chunks/{self.name}-{self.start:07}.json"


def _chunks(parts: dict[str, Part]) -> list[_Chunk]:
    chunks = []
    for name, part in parts.items():
        step = CHUNK[bool(part.photos[0].blurred)]
        for i in range(0, len(part.photos), step):
            rows = replace(
                part, photos=part.photos[i : i + step], windows=part.windows[i : i + step]
            )
            chunks.append(_Chunk(name, i, rows))
    return chunks


def _fill(
    building: Path, parts: dict[str, Part], config: Config, jobs: int, progress: Progress
) -> None:
    chunks = _chunks(parts)
    waiting = [chunk for chunk in chunks if not (building / chunk.record).is_file()]
    total, left = (sum(len(chunk.part.photos) for chunk in some) for some in (chunks, waiting))
    made = (
        row
        for count in in_processes(partial(_make, building, config), waiting, jobs)
        for row in range(count)
    )
    for _ in progress(
        made, total=total, initial=total - left, desc="preparing photos", unit="", leave=False
    ):
        pass


def _make(building: Path, config: Config, chunk: _Chunk) -> int:
    """Make the views of a chunk, write them into the arrays, then the record that says so; returns the photos made."""
    sharp, blurred = make_views(chunk.part, config)
    for view, images in {
        "sharp": sharp,
        **{name: view.images for name, view in blurred.items()},
    }.items():
        _write_rows(building / f"{chunk.name}_{view}.npy", chunk.start, images)
    record = {
        field: {name: getattr(view, field) for name, view in blurred.items()}
        for field in ("extents", "psnr")
    }
    write_json(building / chunk.record, record)
    return len(sharp)


def _write_rows(path: Path, start: int, images: np.ndarray) -> None:
    """Write rows into an array's file; not through a memory map, which a full disk would turn into a crash."""
    offset = np.load(path, mmap_mode="r").offset
    with open(path, "r+b") as file:
        file.seek(offset + start * images[0].nbytes)
        file.write(images.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _finish(building: Path, folder: Path, parts: dict[str, Part], key: dict[str, Any]) -> None:
    """Join the records of all chunks, and give the folder its name."""
    for name, part in parts.items():
        records = [read_json(path) for path in sorted((building / "chunks").glob(f"{name}-*.json"))]
        joined = {field: {severity: [value for record in records for value in record[field][severity]]
                          for severity in part.severities} for field in ("extents", "psnr")}  # fmt: skip
        ids = [photo.id for photo in part.photos]
        write_json(building / f"{name}.json", {"ids": ids, "missing": part.missing, **joined})
    shapes = {name: (len(part.photos), *part.shape) for name, part in parts.items()}
    made = [*building.glob("*.npy"), *(building / f"{name}.json" for name in parts)]
    files = {path.name: path.stat().st_size for path in made}
    write_json(building / "cache.json", {"key": key, "files": files, "shapes": shapes})
    building.rename(folder)
    shutil.rmtree(folder / "chunks")
    (folder / "plan.json").unlink()
