"""The resumable state of a training on disk: hashed, replaced whole, never unpickled.

A file is a line that names the format, the SHA-256 of the rest, and what `torch.save` wrote. It is
read by `torch.load(weights_only=True)` and only after its hash was checked.
"""

import hashlib
import io
import os
import pickle
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch

from s3e import utils
from s3e.utils import S3EError, atomic_write, lock_file

FORMAT = b"S3E checkpoint 1\n"
HEAD = len(FORMAT) + 32


def disk_errors(path: Path, checkpoint: Path) -> AbstractContextManager[None]:
    """Where the disk is full or cannot be written: an `S3EError` that names the last checkpoint."""
    last = f"it resumes from the last good checkpoint, {checkpoint}"
    return utils.disk_errors(path, f"make room and run the same command again; {last}")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists and dictionaries of them).

    Raises `S3EError` where that is impossible: the file before it stays.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    with disk_errors(path, path), atomic_write(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(FORMAT + hashlib.sha256(payload).digest())
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> dict[str, Any]:
    """The state in `path`; raises `S3EError` for a file that is cut, altered or something else."""

    def refuse(why: str) -> S3EError:
        return S3EError(f"{path} {why}: delete it to train from the start.")

    content = memoryview(path.read_bytes())
    if bytes(content[: len(FORMAT)]) != FORMAT:
        raise refuse("is not a checkpoint of this suite")
    if hashlib.sha256(content[HEAD:]).digest() != bytes(content[len(FORMAT) : HEAD]):
        raise refuse("is damaged (its hash does not fit its content)")
    try:
        return torch.load(io.BytesIO(content[HEAD:]), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):  # or what would run code
        raise refuse("holds something else than the state of a training") from None


def hold(folder: Path, name: str) -> ExitStack:
    """Lock the training `name` in `folder` and remove what a killed one left half-written.

    Raises `S3EError` that names process and machine if another training holds the lock.
    """

    def refuse(owner: str) -> None:
        raise S3EError(
            f"{folder} is being trained in by process {owner}: wait until it ends, or stop it."
        )

    lock = lock_file(folder / f"{name}.lock", refuse)
    for kind in ("", "log_", "validation_"):
        for leftover in folder.glob(f".{kind}{name}.*"):
            leftover.unlink(missing_ok=True)
    return lock
