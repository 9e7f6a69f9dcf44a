"""Folders, the one error type, files that appear whole or not at all, and randomness keyed by names and numbers."""

import ast
import fcntl
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

ROOT = Path(os.environ.get("S3E_ROOT", Path(__file__).parents[1])).resolve()
NOTEBOOKS = ROOT / "notebooks"
FIGURES = Path(os.environ.get("S3E_FIGURES", ROOT / "figures")).resolve()
RUNS = Path(os.environ.get("S3E_RUNS", ROOT / "runs")).resolve()


class S3EError(Exception):
    """A mistake that the user can mend; its message is one sentence that names the place and the remedy."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` if the block ends well; else leave no trace."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as sorted, indented JSON; NaN and infinity are refused (ValueError)."""
    with atomic_write(path) as temporary:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Write `array` as .npy."""
    with atomic_write(path) as temporary:
        np.save(temporary, array)


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or damaged one raises `S3EError` with its name."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise S3EError(f"{path} does not exist: run the stage that writes it first.") from None
    except ValueError as error:
        raise S3EError(
            f"{path} is not valid JSON ({error}): delete it and run its stage again."
        ) from None


def lock_file(path: Path, busy: Callable[[str], None]) -> IO[str]:
    """Hold an exclusive lock on `path` until the file is closed or the process ends.

    Where another process holds it, `busy` is told which ("PID on MACHINE"); unless it raises, the lock is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open(path, "a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        try:
            busy(handle.read().strip() or "?")
        except BaseException:
            handle.close()
            raise
        fcntl.flock(handle, fcntl.LOCK_EX)
    handle.truncate(0)
    handle.write(f"{os.getpid()} on {platform.node()}")
    handle.flush()
    return handle


def reader_gone() -> int:
    """The exit code where nobody reads on (`| head -1`), after which Python does not complain either when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def stable_hash(*parts: object) -> int:
    """A 63-bit number from JSON-able `parts`: the same on every machine and in every Python process."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def code_digest(*modules: ModuleType) -> str:
    """Hash of the syntax trees of modules: what they computed may be used again as long as it is the same."""
    trees = [
        ast.dump(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")))
        for module in modules
    ]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()


def rng(*parts: object) -> np.random.Generator:
    """A NumPy generator keyed by `parts`, e.g. `rng("blur", image_id, severity)`."""
    return np.random.default_rng(stable_hash(*parts))


def seed_everything(*parts: object) -> None:
    """Seed torch (CPU and CUDA) from `parts`; called before each update, so that draws depend on the step alone."""
    import torch

    torch.manual_seed(stable_hash(*parts))
