"""One look for all figures: page width, a colour and marker per variant, files that redraw to the same bytes."""

import io
import textwrap
from collections.abc import Callable
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s3e.utils import atomic_write

PAGE_WIDTH = 7.0  # inches
STYLE = str(files("s3e.report") / "s3e.mplstyle")

# Okabe & Ito, "Color Universal Design" (2008)
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, INK, PALE = "#8A8A8A", "#333333", "#F3F3F1"
OKABE_ITO = (BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE)

VARIANT_STYLE: dict[
    str, tuple[str, str]
] = {  # variant -> (colour, marker): the same in every figure
    "blurred": (GREY, "x"),
    "wiener": (GREY, "1"),
    "richardson_lucy": (GREY, "2"),
    "baseline": (BLACK, "s"),
    "full": (VERMILLION, "o"),
    "no_semantics_loss": (BLUE, "D"),
    "pretrained_only": (SKY, "o"),
    "shuffled": (PURPLE, "X"),
    "oracle_silhouette": (GREEN, "d"),
    "oracle_map": (GREEN, "^"),
    "oracle": (GREEN, "v"),
    "noise_maps": (PURPLE, "P"),
    "frozen": (ORANGE, "p"),
    "no_caption_loss": (SKY, "<"),
    "no_tree_loss": (SKY, ">"),
    "vector_nodes": (ORANGE, "h"),
    "global_caption": (BLUE, "d"),
    "flat_spatial": (ORANGE, "*"),
}
LABELS: dict[str, str] = {
    "blurred": "blurred input",
    "wiener": "Wiener, true kernel",
    "richardson_lucy": "Richardson-Lucy, true kernel",
    "baseline": "baseline (no semantics)",
    "full": "S3E-Deblur (full)",
    "no_semantics_loss": "no semantic losses",
    "pretrained_only": "pretrained only",
    "shuffled": "tree of another image",
    "oracle_silhouette": "true outline",
    "oracle_map": "true label maps",
    "oracle": "tree of the sharp image",
    "noise_maps": "noise maps",
    "frozen": "frozen semantics",
    "no_caption_loss": "no caption loss",
    "no_tree_loss": "no tree loss",
    "vector_nodes": "node vectors",
    "global_caption": "caption vector, no tree",
    "flat_spatial": "flat features, no tree",
}
VARIANT_ORDER = tuple(VARIANT_STYLE)


def label(variant: str) -> str:
    """The words a figure or table uses for `variant` (its own name if it is not one of ours)."""
    return LABELS.get(variant, variant.replace("_", " "))


def colour(variant: str) -> str:
    """The Okabe-Ito colour of `variant`."""
    return VARIANT_STYLE.get(variant, (INK, "o"))[0]


def marker(variant: str) -> str:
    """The marker of `variant`; colour and marker together are unique."""
    return VARIANT_STYLE.get(variant, (INK, "o"))[1]


def in_order(variants: Any) -> list[str]:
    """`variants` without repeats in the order in which every table and figure lists them."""
    known = {name: place for place, name in enumerate(VARIANT_ORDER)}
    return sorted(set(variants), key=lambda name: (known.get(name, len(known)), name))


def styled(maker: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw `maker`'s figure under the suite's style, whatever the caller's settings are."""

    @wraps(maker)
    def draw(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.style.use(STYLE)
            return maker(*args, **kwargs)

    return draw


def save(figure: Figure, folder: Path | str, name: str, origin: str = "") -> list[Path]:
    """Write `folder/name.png` and `.pdf` without dates or versions, so that a redraw gives the same bytes.

    `origin`: where the figure comes from (`s3e.report.manifest`), kept in the file's own metadata.
    """
    about = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    if origin:
        about["png"]["Description"] = about["pdf"]["Subject"] = origin
    paths = [Path(folder) / f"{name}.{kind}" for kind in about]
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.style.use(STYLE)
        for path, metadata in zip(paths, about.values(), strict=True):
            with atomic_write(path) as temporary:
                figure.savefig(temporary, metadata=metadata, format=path.suffix[1:])
    return paths


def show(figure: Figure) -> Any:
    """`figure` as a picture that a notebook displays, drawn as `save` draws it."""
    from IPython.display import Image

    buffer = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.style.use(STYLE)
        figure.savefig(buffer, metadata={"Software": None}, format="png", dpi=110)
    return Image(buffer.getvalue())


def bare(axes: Axes) -> Axes:
    """An axes for a picture: no ticks, no grid, no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return axes


def wrap(text: str, width: int) -> str:
    """`text` on lines of at most `width` characters."""
    return textwrap.fill(text, width)
