"""A training while it runs: its curves from the log on disk, in one picture that redraws itself, and its samples."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from s3e.report import curves
from s3e.report.style import show
from s3e.utils import S3EError

EVERY = 5.0  # seconds between two pictures at least
SHARE = 0.02  # of the time may be spent on drawing
Moments = dict[int, dict[str, np.ndarray]]


@contextmanager
def follow(
    folder: Path | str, name: str, title: str = "", every: float = EVERY
) -> Iterator[Callable[[int], None]]:
    """Yield a `watch(step)` for the training `name` in `folder` that redraws its losses in place, from the log on disk.

    The last state stays: it is drawn once more at the end of the block, which is the only time for a training that is
    finished already. It redraws every `every` seconds, and so seldom that drawing takes at most a fiftieth of the time.
    Outside notebooks nothing is drawn.
    """
    live = _Live(Path(folder), name, title, every)
    try:
        yield live.watch
    finally:
        live.draw()


class _Live:
    def __init__(self, folder: Path, name: str, title: str, every: float):
        self.folder, self.name, self.title, self.every = folder, name, title, every
        self.handle, self.last, self.took = None, time.perf_counter(), 0.0

    def watch(self, step: int) -> None:
        now = time.perf_counter()
        if now - self.last >= max(self.every, self.took / SHARE):
            self.draw()
            self.last = time.perf_counter()
            self.took = self.last - now

    def draw(self) -> None:
        if not _in_notebook() or not log_path(self.folder, self.name).is_file():
            return
        from IPython.display import display

        picture = show(curves.losses(read_log(self.folder, self.name), self.title))
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def log_path(folder: Path | str, name: str) -> Path:
    """Where the training `name` writes its losses."""
    return Path(folder) / f"log_{name}.csv"


def read_log(folder: Path | str, name: str) -> pd.DataFrame:
    """Step and losses of a training as far as it has come, and its validation score where it has one (NaN between)."""
    log, scores = pd.read_csv(log_path(folder, name)), Path(folder) / f"validation_{name}.csv"
    if not scores.is_file():
        return log
    return log.merge(
        pd.read_csv(scores).rename(columns={"score": "validation score"}), how="outer", on="step"
    )


def snapshots(folder: Path | str, name: str) -> Moments:
    """What a training showed of itself after 0, 10, 30 and 100 % of its steps: {update: arrays}.

    Deblurring: ids and uint8 photos restored, blurred, sharp (n, S, S, 3). Semantics: ids and captions, and for a tree
    attention (n, 7, h, w) and nodes (n, 7). Raises `S3EError` where there is none.
    """
    found = {}
    for path in sorted((Path(folder) / "progress").glob(f"{name}_" + "[0-9]" * 7 + ".npz")):
        with np.load(path) as arrays:
            found[int(path.stem[-7:])] = dict(arrays)
    if not found:
        raise S3EError(
            f"{folder} has no samples of the training '{name}': run its notebook with resume = False."
        )
    return found
