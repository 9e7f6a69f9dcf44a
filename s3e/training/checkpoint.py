"""The resumable state of a training on disk: hashed, replaced whole, the one before kept, never unpickled.

A file is a line that names the format, the SHA-256 of the rest, and what `torch.save` wrote. It is read by
`torch.load(weights_only=True)` and only after its hash was checked.
"""

import errno
import hashlib
import io
import os
import pickle
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from s3e.utils import S3EError, atomic_write, lock_file

FORMAT = b"S3E checkpoint 1\n"
HEAD = len(FORMAT) + 32
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Damaged(S3EError):
    """A file that is no whole checkpoint of this suite."""


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(f"{path.name}.previous")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists and dictionaries of them); the file before it becomes `previous`.

    Raises `S3EError` where the disk is full or cannot be written: what was there stays.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    try:
        with atomic_write(path) as temporary:
            with open(temporary, "wb") as file:
                file.write(FORMAT + hashlib.sha256(payload).digest())
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                _link(path, previous(path))
    except OSError as error:
        raise unwritable(path, error, path) from None


def _link(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without links
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


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
    """The newest whole state: that of `path`, or the one before it, with a message; None where there is neither.

    A damaged file is moved aside (`.damaged`), so that the next one does not push out the good one before it. Raises
    `S3EError` where files are there but none can be used.
    """
    wrong = []
    for place in (path, previous(path)):
        if not place.exists():
            continue
        try:
            state = read(place)
        except Damaged as error:
            wrong.append(str(error))
            continue
        if wrong:
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            print(f"{wrong[0]}: going on from the one before it.", flush=True)
        return state
    if wrong:
        raise S3EError(f"{'; '.join(wrong)}: delete it to train from the start.")
    return None


def sweep(folder: Path, name: str) -> None:
    """Remove the half-written files of a killed training; only for the process that holds its lock."""
    for pattern in (f".{name}.*", f".log_{name}.*", f".validation_{name}.*", f"progress/.{name}_*"):
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)


def hold(path: Path) -> ExitStack:
    """Take the lock file `path` for as long as the handle is open.

    Raises `S3EError` that names process and machine if another training holds it.
    """

    def refuse(owner: str) -> None:
        raise S3EError(
            f"{path.parent} is being trained in by process {owner}: wait until it ends, or stop it."
        )

    return lock_file(path, refuse)


def unwritable(path: Path, error: OSError, kept: Path) -> S3EError:
    """What to do when a file of a training cannot be written."""
    why = "the disk is full" if error.errno in FULL else error.strerror
    return S3EError(
        f"{path} cannot be written ({why}): make room and run the same command again; it goes on from the last good "
        f"checkpoint, {kept}."
    )
