"""One look for all figures: a colour and marker per variant, pictures of arrays, files that redraw
to the same bytes.

Pictures are uint8 (H, W, 3) in RGB, in and out, unless said otherwise.
"""

import io
import re
import textwrap
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s3e.utils import atomic_write

PAGE_WIDTH = 7.0  # inches
STYLE = str(files("s3e.report") / "s3e.mplstyle")
SIDE = 256  # pixels of a picture's longer side on the page
DECADES, LOWEST = 4.0, 1e-3  # shown of a spectrum's amplitude; added, so that its logarithm exists

# Okabe & Ito, "Color Universal Design" (2008)
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, INK, PALE = "#8A8A8A", "#333333", "#F3F3F1"
OKABE_ITO = (BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE)

# words, colour and marker of variants and systems, in the order of every figure and table
LOOKS = pd.read_csv(files("s3e.report") / "looks.csv", index_col="variant")
ORDER = tuple(LOOKS.index)


def label(variant: str) -> str:
    """The words of figures and tables for a variant, and for a pair like "a -> b" or "a - b"."""
    words = [
        LOOKS.words.get(name, name.replace("_", " ")) for name in re.split(" (?:->|-) ", variant)
    ]
    return (" → " if "->" in variant else " − ").join(words)


def short(variant: str) -> str:
    """`label` without what stands in brackets."""
    return label(variant).split(" (")[0]


def colour(variant: str) -> str:
    """The Okabe-Ito colour of `variant`."""
    return LOOKS.colour.get(variant, INK)


def marker(variant: str) -> str:
    """The marker of `variant`; colour and marker together are unique."""
    return LOOKS.marker.get(variant, "o")


def in_order(variants: Iterable[str]) -> list[str]:
    """`variants` without repeats in the order in which every table and figure lists them."""
    return sorted(set(variants), key=lambda name: ([*ORDER, name].index(name), name))


def styled(maker: Callable[..., Any]) -> Callable[..., Any]:
    """Run `maker`, which draws a figure, under the suite's style, whatever the caller's settings
    are.
    """

    @wraps(maker)
    def draw(*args: Any, **kwargs: Any) -> Any:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.style.use(STYLE)
            return maker(*args, **kwargs)

    return draw


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


def wrap(text: str, width: int) -> str:
    """`text` on lines of at most `width` characters."""
    return textwrap.fill(text, width)


def enlarged(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The picture with `side` pixels at its longer side: small ones show pixels, large ones are
    averaged.
    """
    scale = side / max(picture.shape[:2])
    size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
    how = cv2.INTER_NEAREST_EXACT if scale > 1 else cv2.INTER_AREA
    return cv2.resize(picture, size, interpolation=how)


def tinted(values: np.ndarray, colours: int = cv2.COLORMAP_MAGMA) -> np.ndarray:
    """Values in [0, 1], (H, W), from black over red to pale yellow."""
    levels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, colours), cv2.COLOR_BGR2RGB)


def lit(picture: np.ndarray, attention: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The enlarged picture, lit by an attention map (h, w) and outlined at half of its peak."""
    found = enlarged(picture, side)
    light = (attention / max(float(attention.max()), 1e-12)).astype(np.float32)
    zoomed = cv2.resize(light, found.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    found = (found * (0.4 + 0.6 * zoomed[..., None])).astype(np.uint8)
    inside = (zoomed >= 0.5).astype(np.uint8)
    rims, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(found, rims, -1, (230, 159, 0), max(1, side // 96))


def window_for(path: np.ndarray, size: int) -> int:
    """Pixels (odd) at a side of the square that shows a path: `size` halved while the path fits."""
    reach = 2 * max(np.abs(path.real).max(), np.abs(path.imag).max()) + 3
    while size > 16 and reach <= size / 2:
        size //= 2
    return (size if reach <= size else 2 * size) | 1  # a middle pixel, as kernels have it


def trajectory(path: np.ndarray, exposed: int, window: int, side: int = SIDE) -> np.ndarray:
    """A camera path (complex, pixels) in `window` x `window` pixels; a dot marks its start.

    The first `exposed` samples, which the shutter sees, are coloured.
    """
    canvas = np.full((side, side, 3), 255, np.uint8)
    places = (np.stack([path.real, path.imag], 1) / window + 0.5) * side
    fixed = np.rint(places * 16).astype(np.int32)  # OpenCV's sixteenths of a pixel
    for part, ink, width in ((fixed, (190, 190, 190), 1), (fixed[:exposed], (213, 94, 0), 2)):
        cv2.polylines(canvas, [part], False, ink, width, cv2.LINE_AA, 4)
    cv2.circle(canvas, fixed[0].tolist(), 5 * 16, (0, 0, 0), -1, cv2.LINE_AA, 4)
    return canvas


def kernel_image(kernel: np.ndarray, window: int, side: int = SIDE) -> np.ndarray:
    """A kernel with odd sides in the middle of `window` x `window` pixels; brightness by square
    root.
    """
    reach = window // 2
    padded = np.pad(kernel, reach)
    row, column = (length // 2 for length in padded.shape)
    cut = padded[row - reach : row + reach + 1, column - reach : column + reach + 1]
    return enlarged(tinted(np.sqrt(cut / cut.max())), side)


def amplitude(photo: np.ndarray) -> np.ndarray:
    """Amplitude spectrum (H, W) of a picture's grey values, windowed; frequency 0 in the middle."""
    grey = photo.mean(-1) / 255
    window = np.outer(*(np.hanning(length) for length in grey.shape))
    return np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window)))


def top(sharp: np.ndarray) -> float:
    """The largest log10 amplitude of a photo's spectrum: the brightest tone for its blurred
    ones.
    """
    return float(np.log10(amplitude(sharp) + LOWEST).max())


def spectrum(photo: np.ndarray, brightest: float, side: int = SIDE) -> np.ndarray:
    """Log amplitude spectrum of a photo; `DECADES` below `brightest` (see `top`) are black."""
    levels = np.log10(amplitude(photo) + LOWEST)
    return enlarged(tinted(1 + (levels - brightest) / DECADES), side)


def strengthened(first: np.ndarray, second: np.ndarray, gain: int) -> np.ndarray:
    """|first - second| times `gain`, cut at white."""
    apart = np.abs(first.astype(np.int16) - second)
    return np.minimum(gain * apart, 255).astype(np.uint8)
