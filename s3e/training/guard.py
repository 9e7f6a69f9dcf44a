"""When to stop a training: a loss that is no number or has left its usual size far behind; memory; the disk."""

import errno
import math
from pathlib import Path

import torch

from s3e.config import Training
from s3e.utils import S3EError

SETTLED = 50  # steps before a loss term counts as having a usual size
SMALLEST = 1e-2  # a usual size below it counts as this
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Diverged(Exception):
    """A loss term that is not finite or has exploded."""


def check(values: dict[str, float]) -> None:
    """Raise `Diverged` for the first term that is not finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise Diverged(f"loss '{name}' is {value}")


class Guard:
    """Knows the usual size of each loss term: a mean of its absolute value over about the last hundred steps."""

    def __init__(self, explosion: float):
        self.explosion = explosion
        self.usual: dict[str, list[float]] = {}  # mean size, number of steps seen

    def __call__(self, values: dict[str, float]) -> None:
        """Take an update's terms into account; raises `Diverged` for one that is not finite or has exploded."""
        check(values)
        for name, value in values.items():
            mean, count = self.usual.setdefault(name, [0.0, 0.0])
            if count >= SETTLED and abs(value) > self.explosion * max(mean, SMALLEST):
                raise Diverged(f"loss '{name}' is {value:.3g} after {mean:.3g} in the mean")
            self.usual[name] = [mean + (abs(value) - mean) / min(count + 1, 100), count + 1]


def out_of_memory(error: Exception) -> bool:
    """True for the errors that PyTorch and Python raise when memory runs out."""
    told = (
        "can't allocate memory",
        "not enough memory",
    )  # PyTorch's allocator on the CPU: Linux, Windows
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in told
    )


def too_large(name: str, settings: Training, error: Exception) -> S3EError:
    """What to lower when a training does not fit into memory."""
    at_once = settings.batch // settings.accumulate
    why = (str(error) or type(error).__name__).splitlines()[0][:120]
    return S3EError(
        f"training '{name}' does not fit into memory with {at_once} images at a time ({why}): raise its section's "
        f"accumulate (now {settings.accumulate}), or lower its batch (now {settings.batch}) or data.size."
    )


def unwritable(path: Path, error: OSError, kept: Path) -> S3EError:
    """What to do when a file of a training cannot be written."""
    why = "the disk is full" if error.errno in FULL else error.strerror
    return S3EError(
        f"{path} cannot be written ({why}): make room and run the same command again; it goes on from the last good "
        f"checkpoint, {kept}."
    )
