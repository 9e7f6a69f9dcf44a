"""One look for all figures: colours, pictures of arrays, files that redraw to the same bytes.

Pictures are uint8 (H, W, 3) in RGB, in and out, unless said otherwise.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from numpy import ndarray
from pandas import DataFrame

from s3e.utils import atomic_write, data_file

PAGE_WIDTH = 7.0  # inches
SIDE = 256  # pixels of a lit picture's longer side

# Okabe & Ito, "Color Universal Design" (2008)
BLUE, VERMILLION = "#0072B2", "#D55E00"
GREY, INK = "#8A8A8A", "#333333"

# label, color (Okabe & Ito) and marker of variants and systems, in the order that all figures and
# tables have; colour and marker together are unique among variants
LOOKS = DataFrame(data_file("report/looks.csv")).set_index("variant")


def label(variant: str) -> str:
    """The words of figures and tables for a variant, and for a pair like "a -> b" or "a - b"."""
    names = re.split(" (?:->|-) ", variant)
    words = (LOOKS.label.get(name, name.replace("_", " ")) for name in names)
    return (" → " if "->" in variant else " − ").join(words)


def short(variant: str) -> str:
    """`label` without what stands in brackets."""
    return label(variant).split(" (")[0]


def in_order(variants: Iterable[str]) -> list[str]:
    """`variants` without repeats in the order in which every table and figure lists them."""
    return sorted(set(variants), key=lambda name: ([*LOOKS.index, name].index(name), name))


# decorates what draws or saves a figure: the suite's style, and no other settings
styled = context(Path(__file__).with_name("s3e.mplstyle"), after_reset=True)


@styled
def save(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write `folder/name.png` and `.pdf` without dates: a redraw gives the same bytes."""
    about = {"png": ["Software"], "pdf": ["CreationDate", "Creator", "Producer"]}
    paths = []
    for kind, fields in about.items():
        paths.append(Path(folder) / f"{name}.{kind}")
        with atomic_write(paths[-1]) as temporary:
            figure.savefig(temporary, metadata=dict.fromkeys(fields), format=kind)
    return paths


@styled
def show(figure: Figure) -> Any:
    """`figure` as an image that a notebook displays, drawn as `save` draws it."""
    from IPython.display import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, metadata={"Software": None}, format="png", dpi=110)
    return Image(buffer.getvalue())


def bare(axes: Axes) -> Axes:
    """An axes for a picture: no ticks, no grid, no frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return axes


def lit(picture: ndarray, attention: ndarray) -> ndarray:
    """The picture enlarged, lit by an attention map (h, w) and outlined at half of its peak."""
    scale = SIDE / max(picture.shape[:2])
    found = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    light = (attention / max(float(attention.max()), 1e-12)).astype(np.float32)
    zoomed = cv2.resize(light, found.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    found = (found * (0.4 + 0.6 * zoomed[..., None])).astype(np.uint8)
    inside = (zoomed >= 0.5).astype(np.uint8)
    found[inside > cv2.erode(inside, np.ones((5, 5)))] = (230, 159, 0)
    return found


def trajectory(path: ndarray, seen: int, window: int) -> ndarray:
    """A camera path (n, 2), in pixels, in `window` x `window` pixels; a dot marks its start.

    The first `seen` samples, which the shutter sees, are coloured.
    """
    canvas = np.full((2 * SIDE, 2 * SIDE, 3), 255, np.uint8)
    points = np.rint(2 * SIDE * (path / window + 0.5)).astype(np.int32)
    cv2.polylines(canvas, [points], False, (190, 190, 190), 3, cv2.LINE_AA)
    cv2.polylines(canvas, [points[:seen]], False, (213, 94, 0), 5, cv2.LINE_AA)
    return cv2.circle(canvas, points[0].tolist(), 10, (0, 0, 0), -1, cv2.LINE_AA)


def kernel_image(kernel: ndarray, window: int) -> ndarray:
    """A kernel in the middle of `window` x `window` pixels; brightness by square root."""
    padded = np.pad(kernel / kernel.max(), max(0, window - len(kernel)) // 2)
    return mpl.colormaps["inferno"](np.sqrt(padded))


def spectrum(photo: ndarray) -> ndarray:
    """Log amplitude of a photo's grey values, frequency 0 in the middle; 1e-4 and less is black."""
    window = np.outer(*(np.hanning(length) for length in photo.shape[:2]))
    grey = (photo.mean(-1) / 255 - photo.mean() / 255) * window / window.sum()
    amplitude = np.abs(np.fft.fftshift(np.fft.fft2(grey)))
    return mpl.colormaps["inferno"](1 + np.log10(amplitude + 1e-9) / 4)


def strengthened(first: ndarray, second: ndarray, gain: int) -> ndarray:
    """|first - second| times `gain`, cut at white."""
    return cv2.convertScaleAbs(cv2.absdiff(first, second), alpha=gain)
