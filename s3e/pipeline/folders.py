"""The run store: where a run's files lie, who may write them, and when they count as finished.

    runs/<profile>[@<data folder>][+<hash of overrides>]/<stage>/<variant>-s<seed> | s<seed> | all

`done.json` is written last, so a run that was killed never looks finished; the files that it left behind are kept for
the next attempt as long as its key is the same. With overrides, a run whose key is unchanged is read from the store
without overrides, so that only what depends on the override is computed.
"""

import contextlib
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from s3e.config import Config
from s3e.pipeline import keys
from s3e.pipeline.graph import Instance
from s3e.utils import RUNS, S3EError, atomic_write, is_locked, lock_file, read_json, write_json

FAILURE = "failed.json"  # beside the files of a run whose last attempt failed


class Store:
    """The folders of one profile, data set and set of overrides."""

    def __init__(self, root: Path, base: Path | None = None):
        self.root, self.base = root, base
        self.others: dict[str, Store] = {}  # where the runs of other studies lie, by `Instance.of`

    @classmethod
    def of(
        cls, config: Config, overrides: dict[str, Any] | None = None, run_dir: str = ""
    ) -> "Store":
        """The store of a config; `run_dir` names another root folder for it."""
        if run_dir:
            return cls(Path(run_dir).expanduser().resolve())
        source = config.data.source
        base = RUNS.resolve() / (
            config.profile + ("" if source == "scenes" else "@" + Path(source).name)
        )
        return (
            cls(base.with_name(f"{base.name}+{keys.digest(overrides)[:8]}"), base)
            if overrides
            else cls(base)
        )

    def claim(self, source: str) -> None:
        """Note whose store this is; raises `S3EError` if it is that of another data folder of the same name."""
        mark = self.root / "data.txt"
        owner = mark.read_text(encoding="utf-8") if mark.is_file() else ""
        if source not in ("scenes", owner) and owner and Path(owner).is_dir():
            raise S3EError(
                f"{self.root} holds the runs of {owner}, not of {source}: rename one of the two, or set S3E_RUNS and "
                "S3E_FIGURES."
            )
        if source not in ("scenes", owner):
            with atomic_write(mark) as path:
                path.write_text(source, encoding="utf-8")

    def folder(self, run: Instance) -> Path:
        """Where `run` writes."""
        return (self.others[run.of].root if run.of else self.root) / run.stage / run.folder

    def record(self, run: Instance, root: Path | None = None) -> dict[str, Any] | None:
        """The record of a finished run, or None."""
        path = (root or self.root) / run.stage / run.folder / "done.json"
        return read_json(path) if path.is_file() else None

    def find(self, run: Instance, key: str) -> tuple[Path, dict[str, Any]] | None:
        """Folder and record of a complete run with this key: here, or in the store without overrides."""
        if run.of:
            return self.others[run.of].find(run.own, key)
        for root in filter(None, (self.root, self.base)):
            folder = root / run.stage / run.folder
            if record := complete(folder, key):
                return folder, record
        return None

    def state(self, run: Instance, key_parts: dict[str, Any]) -> tuple[str, str, float | None]:
        """(fresh | skipped | running | stale | failed | missing, why, last seconds)."""
        if run.of:
            return self.others[run.of].state(run.own, key_parts)
        found = self.find(run, keys.digest(key_parts))
        if found:
            folder, record = found
            elsewhere = "" if folder == self.folder(run) else f"from {folder.parents[1].name}"
            return (
                ("skipped" if record["skipped"] else "fresh"),
                record["skipped"] or elsewhere,
                record["seconds"],
            )
        if is_locked(self.folder(run) / ".lock"):
            return "running", "", None
        record = self.record(run)
        if record:
            lost = lost_files(self.folder(run), record)
            why = keys.explain(record["parts"], key_parts) + [
                f"{name} is lost or changed" for name in lost
            ]
            return "stale", "; ".join(why), record["seconds"]
        failure = self.folder(run) / FAILURE
        if failure.is_file() and read_json(failure)["key"] == keys.digest(key_parts):
            return "failed", read_json(failure)["why"], None
        return "missing", self._why_missing(run, key_parts), None

    def _why_missing(self, run: Instance, key_parts: dict[str, Any]) -> str:
        base = self.base and self.record(run, self.base)
        if base:
            return "; ".join(keys.explain(base["parts"], key_parts))
        begun = self.folder(run) / "state.json"
        if not begun.is_file():
            return ""
        same = read_json(begun)["key"] == keys.digest(key_parts)
        return (
            "interrupted; goes on where it stopped"
            if same
            else "interrupted; its code or settings changed since"
        )


def lost_files(folder: Path, record: dict[str, Any]) -> list[str]:
    """Names of a finished run's files that are gone or have another size."""
    sizes = {name: about["bytes"] for name, about in record["outputs"].items()}
    files = {name: folder / name for name in sizes}
    return [
        name
        for name, path in files.items()
        if not path.is_file() or path.stat().st_size != sizes[name]
    ]


def note_failure(folder: Path, key: str, why: str) -> None:
    """Note for `--status` why the last attempt at a run failed; the next attempt removes it."""
    write_json(folder / FAILURE, {"key": key, "why": why})


def complete(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of the finished run in `folder`, or None if it has another key or has lost files."""
    path = folder / "done.json"
    record = read_json(path) if path.is_file() else None
    return record if record and record["key"] == key and not lost_files(folder, record) else None


def wait_for(folder: Path, key: str, seconds: float = 60.0) -> dict[str, Any] | None:
    """`complete`, once it is seen: a shared folder may show files later than on the machine that wrote them."""
    end = time.monotonic() + seconds
    while not (record := complete(folder, key)) and time.monotonic() < end:
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            os.listdir(folder)  # a network file system then asks its server again
    return record


def take_lock(path: Path, what: str) -> ExitStack:
    """Hold an exclusive lock on `path` until the file is closed or the process ends; says so while it waits."""
    told = "{} is in use by process {}: waiting until that ends ..."
    return lock_file(path, lambda owner: print(told.format(what, owner), flush=True))
