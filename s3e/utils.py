"""Folders, the one error type, files that appear whole or not at all, and keyed randomness."""

import ast
import csv
import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from numpy import ndarray

CLONE = Path(__file__).resolve().parents[1]  # the repository, unless this is installed without it
ROOT = Path(os.environ.get("S3E_ROOT", CLONE if (CLONE / "run_all.py").is_file() else ""))
NOTEBOOKS = ROOT / "notebooks"
FIGURES = Path(os.environ.get("S3E_FIGURES", ROOT / "figures"))
RUNS = Path(os.environ.get("S3E_RUNS", ROOT / "runs"))
THREADS = tuple(f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"))
CGROUP = Path("/sys/fs/cgroup")  # what Linux grants a container
PSNR_CAP = 100.0  # dB; two identical images would otherwise give infinity and ruin every mean


class S3EError(Exception):
    """A mistake that the user can mend: one sentence that names the place and the remedy."""


def data_file(name: str) -> Any:
    """A data file of the package, e.g. "report/tables.toml"; of CSV a list of rows, else text."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    match Path(name).suffix:
        case ".toml":
            return tomllib.loads(text)
        case ".yaml":
            return yaml.safe_load(text)
        case ".csv":
            return list(csv.DictReader(text.splitlines()))
    return text


def shown(text: object) -> str:
    """Text for a line of output: control characters and bytes outside UTF-8 as `\\x1b`."""
    odd = "[\x00-\x1f\x7f-\x9f\udc80-\udcff]"
    return re.sub(odd, lambda found: f"\\x{ord(found[0]) & 255:02x}", str(text))


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a path beside `path`, renamed to `path` if the block ends well; else leave no trace.

    A file that is replaced keeps its mode, a link gives way to a file (what it led to stays).
    """
    path = Path(path)
    # Never too long; libraries look at the suffix, `checkpoint.hold` at the beginning
    temporary = path.with_name(f".{path.name[:32]}.{secrets.token_hex(6)}{path.suffix[-12:]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with suppress(OSError):  # nothing is replaced, or the file system has no modes
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_file(path: Path | str, value: Any) -> None:
    """Write an array (.npy), a table without its index (.csv), a text as UTF-8, all else as JSON.

    JSON is sorted and indented; NaN and infinity in it are refused (ValueError).
    """
    kind = Path(path).suffix
    with atomic_write(path) as temporary:
        if kind == ".npy":
            np.save(temporary, value)
        elif kind == ".csv":
            value.to_csv(temporary, index=False, errors="backslashreplace")
        else:
            options = {"indent": 1, "sort_keys": True, "ensure_ascii": False, "allow_nan": False}
            if kind == ".json" or not isinstance(value, str):
                value = json.dumps(value, **options) + "\n"
            temporary.write_text(value, encoding="utf-8", errors="backslashreplace")


@contextmanager
def disk_errors(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn an error of the disk into an `S3EError` that names the file, or else `path`.

    It ends with `remedy`, unless only a shorter name helps.
    """
    try:
        yield
    except BrokenPipeError:  # of stdout
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full" if full else error.strerror or " ".join(map(str, error.args))
        if error.errno == errno.ENAMETOOLONG:
            remedy = "give it, or what it is named after, a shorter name"
        path = error.filename or path
        raise S3EError(f"{path} cannot be written ({why}): {remedy}.") from None


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or damaged one raises `S3EError` with its name."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise S3EError(f"{path} does not exist: run the stage that writes it first.") from None
    except ValueError as error:
        what = f"{path} is not valid JSON ({error})"
        raise S3EError(f"{what}: delete it and run its stage again.") from None


def lock_file(
    path: Path, busy: Callable[[str], None], stop: Callable[[], bool] | None = None
) -> ExitStack:
    """Hold a lock on `path` until the result is closed (also by `with`) or the process ends.

    Where another process holds it, `busy` is called with "PID on MACHINE"; unless it raises, the
    lock is waited for (until `stop()` is true: `filelock.Timeout`). Raises `S3EError` where the
    file cannot be written or the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = "?"
        with suppress(OSError):  # Windows lets nobody read or write a locked file
            holder = path.read_text(encoding="utf-8").strip() or holder
        busy(holder)
        lock.acquire(poll_interval=0.1, cancel_check=stop)
    except OSError as error:
        raise S3EError(
            f"{path} cannot be locked ({error.strerror}): choose a folder that can be written, on a"
            " file system with file locks (variable S3E_RUNS)."
        ) from None
    with suppress(OSError):
        path.write_text(f"{os.getpid()} on {platform.node()}", encoding="utf-8")
    held = ExitStack()
    held.callback(lock.release)
    return held


def is_locked(path: Path) -> bool:
    """True while a process holds the lock file `path`."""
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0.1, fallback_to_soft=False):
            return False
    except OSError as error:  # where there are no locks, nobody holds one
        return isinstance(error, Timeout)


def open_streams() -> None:
    """Let print never fail for a closed stream, nor for a character that its encoding lacks."""
    for name in ("stdin", "stdout", "stderr"):  # in the order of their numbers
        stream = getattr(sys, name) or open(os.devnull, "r+")
        with suppress(AttributeError):  # a stream of strings has no encoding
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


def tell(line: object, end: str = "\n") -> None:
    """A line on stdout; where that takes no more (a full disk), it is said and all else dropped."""
    try:
        print(shown(line), end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"standard output: {error.strerror}; nothing more is printed.")
        sys.stdout = None  # print does nothing then


def say(line: object) -> None:
    """A line on stderr."""
    try:
        print(f"s3e: {shown(line)}", file=sys.stderr, flush=True)
    except OSError:  # nobody can be told
        sys.stderr = open(os.devnull, "w")


def end_output(code: int) -> int:
    """Return `code`; 141 if nobody reads stdout on (`| head -1`), 1 if it took not everything."""
    try:
        tell("", end="")
        return code or int(sys.stdout is None)
    except BrokenPipeError:
        sys.stdout = None
        return 141


def stable_hash(*parts: object) -> int:
    """A 63-bit number from JSON-able `parts`: the same on every machine and in every process."""
    return int(digest(parts)[:16], 16) >> 1


def digest(value: object) -> str:
    """SHA-256 of a JSON-able value, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def code_digest(source: str, name: Path | str) -> str:
    """Hash of Python source by its meaning: comments, layout and docstrings do not count."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise S3EError(f"{name}, line {error.lineno}: {error.msg}; mend it first.") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def rng(*parts: object) -> np.random.Generator:
    """A NumPy generator keyed by `parts`, e.g. `rng("blur", image_id, severity)`."""
    return np.random.default_rng(stable_hash(*parts))


def seed_everything(*parts: object) -> None:
    """Seed torch (CPU and CUDA) from `parts`."""
    import torch

    torch.manual_seed(stable_hash(*parts))


def cores() -> int:
    """Cores that this process may use, by its affinity and by the CPU quota of its container."""
    found = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        found = len(os.sched_getaffinity(0))
    for names in ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"):  # v2, v1
        with suppress(OSError, ValueError):  # no such file; "max"
            quota, period = map(int, " ".join((CGROUP / n).read_text() for n in names).split())
            if quota > 0:
                found = min(found, math.ceil(quota / period))
    return found


def set_threads(count: int, torch: bool) -> None:
    """Fix the thread count (PyTorch's if asked, or imported): one count gives the same bits."""
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    if torch or "torch" in sys.modules:
        import torch as library

        library.set_num_threads(count)


def out_of_memory(error: Exception) -> bool:
    """True for the errors that PyTorch and Python raise when memory runs out."""
    import torch

    # What PyTorch says on the CPU: Linux, Windows
    said = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)


def to_uint8(image: ndarray, low: float, high: float = 1.0) -> ndarray:
    """Map floats in [low, high] (`low` is -1 or 0) to uint8: clamp, then round. NaN: ValueError."""
    image = np.asarray(image, float)
    if np.isnan(image).any():
        raise ValueError("to_uint8: the image contains NaN; the network that made it has diverged.")
    return np.rint((np.clip(image, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def psnr(restored: ndarray, sharp: ndarray, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two images (H, W, 3), at most 100 dB.

    Both uint8, or both float with their `data_range` (1 for [0, 1], 2 for [-1, 1]): it is never
    guessed.
    """
    peak = peak_value(restored, sharp, data_range)
    error = np.mean(np.square(restored.astype(float) - sharp))
    return float(min(PSNR_CAP, 10 * np.log10(peak**2 / error))) if error else PSNR_CAP


def peak_value(restored: ndarray, sharp: ndarray, data_range: float | None = None) -> float:
    """The range of values of images that are scored; ValueError where they cannot be compared."""
    if restored.dtype != sharp.dtype or (restored.dtype != np.uint8 and data_range is None):
        kinds = f"{restored.dtype} and {sharp.dtype}"
        raise ValueError(
            f"Images must be uint8, not {kinds}: use to_uint8 first, or give floats a data_range."
        )
    if restored.shape != sharp.shape or sharp.ndim != 3 or sharp.shape[-1] != 3:
        raise ValueError(
            f"Images must have one RGB shape in common, not {restored.shape} and {sharp.shape}."
        )
    if not (np.isfinite(restored).all() and np.isfinite(sharp).all()):
        raise ValueError(
            "An image contains NaN or infinity; the network that made it has diverged."
        )
    return 255 if data_range is None else data_range
