"""Milliseconds from an event of a widget to the bytes of its new figure, through the widget's own
callbacks.

    python benchmarks/explore.py

Blur laboratory: a photograph of 256 px, each slider moved. Tree browser: a scene chosen that was
not read before. Medians on one thread, which notebooks run on by default, without the way to the
browser; where the processor's time is far below the clock's, the machine was busy with something
else.
"""

import time
from functools import partial

import numpy as np

from s3e.config import load_config
from s3e.data.photos import photograph
from s3e.data.scenes import make_split
from s3e.explore.widgets import Examples, laboratory, shake
from s3e.inference.restorer import Restorer
from s3e.utils import set_threads

SIZE, EVENTS = 256, 25


def report(part: str, control: object, values: list) -> None:
    """Give a control each value, and print how long that takes."""
    took = []
    for value in values:
        clock, processor = time.perf_counter(), time.process_time()
        control.value = value
        took.append((time.perf_counter() - clock, time.process_time() - processor))
    (clock, processor), worst = 1e3 * np.median(took, 0), 1e3 * np.max(took, 0)[0]
    line = f"{clock:6.1f} ms (worst {worst:6.1f}), processor {processor:6.1f} ms"
    print(f"{part:16} {control.description:18} {line}")


def shakes() -> None:
    sliders = {"length": (0.25, 1.0), "exploration": (0.002, 0.008), "exposure": (0.5, 1.0)}
    draw = partial(shake, photograph("astronaut", SIZE))
    for control in laboratory(draw, **sliders).children[:-1]:
        values = np.linspace(control.min, control.max, EVENTS)
        report("blur laboratory", control, values.tolist())


def trees() -> None:
    restorer = Restorer.load()
    scenes = make_split("test", EVENTS + 1, size=restorer.config.data.size)
    examples = Examples(restorer, {scene.id: scene.image for scene in scenes})
    draw = partial(examples.trees, severity="severe", read_by="full")
    [control, _] = laboratory(draw, photo=[*examples.photos]).children
    report("tree browser", control, [*examples.photos][1:])


if __name__ == "__main__":
    set_threads(load_config("laptop").runtime.threads, torch=True)
    shakes()
    trees()
