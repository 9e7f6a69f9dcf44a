"""What files hold, as SHA-256: read once, then known by size and date; a copy of a data folder is the same data.

    runs/cache/files-<folder>-<hash>.json   {path below the folder: [size, date in ns, SHA-256]}

The record only saves time: it may be deleted, and where it cannot be written the files are read each time.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from s3e import utils
from s3e.utils import S3EError, file_digest, read_json, write_json

TOLD = 2**30  # bytes to read from which the user is told
SETTLED = 2 * 10**9  # ns: a file younger than this may yet change within one tick of a coarse clock


def digests(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its path below `root`; links to nothing are left out, unreadable files are ""."""
    record = utils.RUNS / "cache" / f"files-{root.resolve().name}-{_name(root)}.json"
    known = _read(record)
    stamps = {os.path.relpath(path, root): stamp for path in files if (stamp := _stamp(path))}
    new = [name for name, stamp in stamps.items() if known.get(name, [])[:2] != stamp]
    total = sum(stamps[name][0] for name in new)
    if total >= TOLD:
        print(
            f"reading {len(new):,} files of {root} once, {total / 2**30:.1f} GiB, to tell these data from others"
        )
    begun = time.time_ns()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = zip(new, pool.map(_digest, (root / name for name in new)), strict=True)
        known |= {name: [*stamps[name], content] for name, content in found}
    if new:
        _write(
            record,
            {name: row for name, row in known.items() if row[2] and row[1] < begun - SETTLED},
        )
    return {name: known[name][2] for name in stamps}


def _name(root: Path) -> str:
    return hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:  # a link to nothing: the readers name it if they need it
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # the readers name it if they need it
        return ""


def _read(record: Path) -> dict[str, list]:
    try:
        return read_json(record)
    except (S3EError, OSError):
        return {}


def _write(record: Path, rows: dict[str, list]) -> None:
    try:
        write_json(record, rows)
    except OSError:
        pass
