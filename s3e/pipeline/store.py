"""What lies in the folder of a run.

    runs/<profile>[@<data folder>][+<hash of overrides>]/<stage>/<variant>-s<seed> | s<seed> | all

`done.json` is written last, so a run that was killed never looks finished; the files that it left
behind are kept for the next attempt as long as its key is the same.
"""

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from s3e.utils import ROOT, S3EError, file_digest, read_json

if TYPE_CHECKING:
    from s3e.config import Runtime

Record: TypeAlias = dict[str, Any]  # as it is written to JSON
KEPT = {".lock", ".worker.lock", "notebook.ipynb", "papermill.log"}  # not a run's own files
PACKAGES = "torch numpy scipy scikit-image pandas matplotlib pillow papermill HanTa"


def record(folder: Path, name: str = "done.json") -> Record | None:
    """The record of a run in its folder, or None."""
    return read_json(folder / name) if (folder / name).is_file() else None


def lost_files(folder: Path, done: Record) -> list[str]:
    """Names of a finished run's files that are gone or have another size."""
    outputs = done["outputs"].items()
    return [name for name, about in outputs if _size(folder / name) != about["bytes"]]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def complete(folder: Path, key: str) -> Record | None:
    """Record and `folder` of a finished run; None if it has another key or has lost files."""
    done = record(folder)
    whole = done and done["key"] == key and not lost_files(folder, done)
    return done | {"folder": folder} if whole else None


def describe_files(folder: Path, names: Iterable[str | Path]) -> Record:
    """Size and SHA-256 of files seen from a folder; `S3EError` for a missing or empty one."""
    found = {}
    for path in (folder / name for name in names):
        if (size := _size(path)) < 1:
            wrong = "missing" if size else "empty"
            raise S3EError(f"the declared output {path} is {wrong}: run the notebook from the top.")
        name = os.path.relpath(path.resolve(), folder.resolve())
        found[name] = {"bytes": size, "sha256": file_digest(path)}
    return found


def provenance(runtime: "Runtime") -> Record:
    """What one wants to know about a result later: source, packages, machine, times."""
    git = "git --no-optional-locks describe --always --dirty --exclude=* --abbrev=40".split()
    commit = ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, timeout=10)
        commit = done.stdout.strip()
    torch = sys.modules.get("torch")  # a stage that did not import it computed without a GPU
    on_gpu = runtime.device != "cpu" and torch is not None and torch.cuda.is_available()
    return {
        "commit": commit.removesuffix("-dirty") or "unknown",
        "dirty": commit.endswith("-dirty"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES.split()},
        "platform": platform.platform(),
        **runtime.model_dump(include={"device", "devices", "precision", "threads"}),
        "device_name": torch.cuda.get_device_name(torch.device(runtime.device)) if on_gpu else "",
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
