"""Milliseconds from an event of a widget to the bytes of its new figure, through the widget's own
callbacks.

    python benchmarks/explore.py

Blur laboratory: a photograph of 256 px, each slider moved. Tree browser: a scene chosen that was
not read before. Medians on one thread, which notebooks run on by default, without the way to the
browser; where the processor's time is far below the clock's, the machine was busy with something
else.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np

from s3e.config import load_config
from s3e.data.photos import photograph
from s3e.data.scenes import make_split
from s3e.explore.widgets import RANGES, Examples, blur_lab, tree_lab
from s3e.inference import Restorer
from s3e.utils import set_threads

SIZE, EVENTS = 256, 25


def timed(events: Iterable[Callable[[], None]]) -> np.ndarray:
    """Milliseconds that each event takes: by the clock, and of processor time (events, 2)."""
    took = []
    for event in events:
        clock, processor = time.perf_counter(), time.process_time()
        event()
        took.append((time.perf_counter() - clock, time.process_time() - processor))
    return 1e3 * np.array(took)


def report(part: str, what: str, took: np.ndarray) -> None:
    (clock, processor), worst = np.median(took, 0), took[:, 0].max()
    print(
        f"{part:16} {what:18} {clock:6.1f} ms (worst {worst:6.1f}), processor {processor:6.1f} ms"
    )


def assign(control: object, value: object) -> Callable[[], None]:
    """An event: `control` gets `value`."""
    return lambda: setattr(control, "value", value)


def laboratory() -> None:
    lab = blur_lab(photograph("astronaut", SIZE))
    for name, (low, high, _) in RANGES.items():
        places = np.linspace(low, high, EVENTS) if name != "seed" else np.arange(1, EVENTS)
        events = (assign(lab.controls[name], value.item()) for value in places)
        report("blur laboratory", name, timed(events))


def trees() -> None:
    restorer = Restorer.load()
    scenes = make_split("test", EVENTS + 1, size=restorer.config.data.size)
    found = tree_lab(Examples(restorer, {scene.id: scene.image for scene in scenes})).controls
    chosen = (assign(found["photo"], scene.id) for scene in scenes[1:])
    report("tree browser", "scene, read first", timed(chosen))


if __name__ == "__main__":
    set_threads(load_config("laptop").runtime.threads, torch=True)
    laboratory()
    trees()
