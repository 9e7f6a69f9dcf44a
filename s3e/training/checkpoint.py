"""The resumable state of a training on disk: hashed, replaced whole, the one before kept, never
unpickled.

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


class Damaged(S3EError):
    """A file that is no whole checkpoint of this suite."""


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(f"{path.name}.previous")


def disk_errors(path: Path, checkpoint: Path) -> AbstractContextManager[None]:
    """Where the disk is full or cannot be written: an `S3EError` that names the last checkpoint."""
    last = f"the last good checkpoint, {checkpoint}"
    return utils.disk_errors(
        path, f"make room and run the same command again; it resumes from {last}"
    )


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists and dictionaries of them); the file before it
    becomes `previous`.

    Raises `S3EError` where that is impossible: a whole checkpoint stays.
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
        if path.exists():
            os.replace(path, previous(path))


def read(path: Path) -> dict[str, Any]:
    """The state in `path`; raises `Damaged` for a file that is cut, altered or something else."""
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from None
    if bytes(content[: len(FORMAT)]) != FORMAT:
        raise Damaged(f"{path} is not a checkpoint of this suite")
    if hashlib.sha256(content[HEAD:]).digest() != bytes(content[len(FORMAT) : HEAD]):
        raise Damaged(f"{path} is damaged (its hash does not fit its content)")
    try:
        return torch.load(io.BytesIO(content[HEAD:]), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):  # or what would run code
        raise Damaged(f"{path} holds something else than the state of a training") from None


def load(path: Path) -> dict[str, Any] | None:
    """The newest whole state: that of `path`, or the one before it, with a message; None where
    there is neither.

    A damaged file is moved aside (`.damaged`), so that the next one does not push out the good one
    before it. Raises `S3EError` where files are there but none can be used.
    """
    wrong = []
    for place in filter(Path.exists, (path, previous(path))):
        try:
            state = read(place)
        except Damaged as error:
            wrong.append(str(error))
            continue
        if wrong:
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            print(f"{wrong[0]}: resuming from the one before it.", flush=True)
        return state
    if wrong:
        raise S3EError(f"{'; '.join(wrong)}: delete it to train from the start.")
    return None


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
