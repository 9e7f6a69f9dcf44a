"""Figures made of pictures: blur severities (1), results (4 and 5), node attention (6) and captions (7)."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s3e.evaluation.gains import ORACLES
from s3e.evaluation.images import psnr
from s3e.report.diagram import NODE_NAMES, NULL
from s3e.report.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PAGE_WIDTH,
    VERMILLION,
    bare,
    label,
    styled,
    wrap,
)


def grid(
    rows: int,
    columns: int,
    gap: float = 0.05,
    top: float = 0.24,
    below: float = 0.17,
    left: float = 0.03,
):
    """A figure of `rows` x `columns` square pictures with room for a title row and a line below each; inches."""
    side = (PAGE_WIDTH - 2 * left - gap * (columns - 1)) / columns
    tall = top + rows * (side + below)
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    cells = np.empty((rows, columns), dtype=object)
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * (side + gap), tall - top - row * (side + below) - side
            cells[row, column] = bare(
                figure.add_axes((x / PAGE_WIDTH, y / tall, side / PAGE_WIDTH, side / tall))
            )
    return figure, cells


def below(axes: Axes, text: str, colour: str = INK, **style: Any) -> None:
    axes.text(
        0.5,
        -0.03,
        text,
        transform=axes.transAxes,
        ha="center",
        va="top",
        size=7,
        color=colour,
        **style,
    )


def title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="center", pad=4)


def _kernel_inset(axes: Axes, kernel: np.ndarray, size: int) -> None:
    """The kernel's support in the lower right corner, white on black, at the scale of the picture (`size` pixels)."""
    rows, columns = np.nonzero(kernel > 0.02 * kernel.max())
    crop = np.pad(kernel[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], 1)
    height, width = np.array(crop.shape) / size
    inset = bare(axes.inset_axes((0.98 - width, 0.02, width, height)))
    inset.imshow(np.sqrt(crop / crop.max()), cmap="gray", vmin=0, vmax=1, aspect="auto")
    inset.spines[:].set(visible=True, color="white", linewidth=0.6)


@styled
def severities(
    images: Mapping[str, np.ndarray], kernels: Mapping[str, np.ndarray], count: int = 3
) -> Figure:
    """Figure 1: sharp pictures and the same under each severity, with the kernel at the picture's scale and the PSNR.

    `images`: "sharp" and severities -> uint8 (n, S, S, 3); `kernels`: severity -> (n, K, K), zero padded, where known.
    """
    names = list(images)
    count = min(count, len(images["sharp"]))
    figure, cells = grid(count, len(names))
    for column, name in enumerate(names):
        title(cells[0, column], name)
        for row in range(count):
            picture = images[name][row]
            cells[row, column].imshow(picture)
            if name in kernels:
                _kernel_inset(cells[row, column], kernels[name][row], len(picture))
            if name != "sharp":
                below(cells[row, column], f"{psnr(picture, images['sharp'][row]):.1f} dB")
    return figure


@styled
def results(
    columns: Mapping[str, np.ndarray], sharp: np.ndarray, count: int = 4, rows: Sequence[str] = ()
) -> Figure:
    """Figures 4 and 5: photos blurred, restored by each variant, sharp; PSNR (dB) below, the best but oracles in bold.

    `columns`: "blurred" and variants -> uint8 (n, S, S, 3); `sharp`: uint8 (n, S, S, 3); `rows`: a word for each row.
    """
    names = [*columns, "sharp"]
    count = min(count, len(sharp))
    figure, cells = grid(count, len(names), top=0.36, left=0.18 if rows else 0.03)
    for axes, word in zip(cells[:, 0], rows, strict=False):
        axes.text(-0.04, 0.5, word, transform=axes.transAxes, ha="right", va="center", rotation=90)
    for row in range(count):
        scores = {name: float(psnr(images[row], sharp[row])) for name, images in columns.items()}
        best = max(score for name, score in scores.items() if name not in ORACLES)
        for axes, name in zip(cells[row], names, strict=True):
            axes.imshow(sharp[row] if name == "sharp" else columns[name][row])
            if name != "sharp":
                strong = {"weight": "bold"} if scores[name] == best else {}
                below(axes, f"{scores[name]:.2f} dB", **strong)
    for axes, name in zip(cells[0], names, strict=True):
        title(axes, wrap("sharp" if name == "sharp" else label(name).split(" (")[0], 17))
    return figure


def spotlight(axes: Axes, picture: np.ndarray, attention: np.ndarray) -> None:
    """The picture lit by an attention map (h, w): dark where the node does not look, outlined at half of its peak."""
    size = len(picture)
    scale = size / len(attention)
    light = attention / max(float(attention.max()), 1e-12)
    zoomed = light[
        np.arange(size)[:, None] * len(light) // size,
        np.arange(size)[None] * light.shape[1] // size,
    ]
    axes.imshow((picture * (0.4 + 0.6 * zoomed[..., None])).astype(np.uint8))
    centres = (np.arange(len(attention)) + 0.5) * scale - 0.5
    if light.min() < 0.5:
        axes.contour(centres, centres, light, levels=[0.5], colors=[ORANGE], linewidths=1.0)


@styled
def node_attention(
    pictures: np.ndarray,
    attention: np.ndarray,
    predicted: Sequence[Sequence[str]],
    target: Sequence[Sequence[str] | None],
    count: int = 4,
) -> Figure:
    """Figure 6: where each node of the S3-tree looks, with the label it predicts (blue right, red wrong: + the truth).

    `pictures`: uint8 (n, S, S, 3), what the tree read; `attention`: (n, 7, h, w), each map sums to 1. Where a picture's
    truth is not known (None), labels are grey.
    """
    count = min(count, len(pictures))
    figure, cells = grid(count, 8, gap=0.04, below=0.28)
    for axes, name in zip(cells[0], ("input", *NODE_NAMES), strict=True):
        title(axes, name)
    for row in range(count):
        cells[row, 0].imshow(pictures[row])
        for node, axes in enumerate(cells[row, 1:]):
            said, known = predicted[row][node], target[row] is not None
            truth = target[row][node] if known else said
            spotlight(axes, pictures[row], attention[row, node])
            right = said == truth
            words = said if right else f"{said}\n({truth})"
            colour = (
                GREY if right and (said == NULL or not known) else BLUE if right else VERMILLION
            )
            below(
                axes,
                ("" if right else "✗ ") + words.replace("_", " ").replace(NULL, "∅"),
                colour,
                linespacing=1.1,
            )
    return figure


SPEAKERS = {  # system in `captions.json` -> its name in figure 7
    "global": "global feature", "soft_attention": "soft attention", "tree": "S3-tree, before",
    "full": "S3E-Deblur, after",
}  # fmt: skip


def caption_lines(
    said: pd.DataFrame, records: Sequence[Mapping[str, Any]], view: str
) -> list[list[tuple[str, str]]]:
    """Lines for figure 7: per picture, the first reference caption and what each known system said of the input `view`.

    `said`: frame of `s3e.evaluation.collect.read_captions`; `records`: the sample records (id, references).
    """
    chosen = (
        said[(said.input == view) & (said.split == "val")]
        .drop_duplicates("system")
        .set_index("system")
    )
    speakers = [name for name in SPEAKERS if name in chosen.index]
    return [
        [
            ("reference", record["references"][0]),
            *((SPEAKERS[who], chosen.captions[who][record["id"]]) for who in speakers),
        ]
        for record in records
    ]


@styled
def captions(
    pictures: Sequence[tuple[str, np.ndarray]],
    rows: Sequence[Sequence[tuple[str, str]]],
    count: int = 4,
) -> Figure:
    """Figure 7: pictures on the left, and on the right what people and captioners said of them.

    `pictures`: (title, uint8 (n, S, S, 3)) a column; `rows`: for each picture, (who, caption) lines.
    """
    count = min(count, len(rows))
    side, gap, left, top = 0.98, 0.06, 0.03, 0.24
    tall = top + count * (side + gap)
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    text_left = left + len(pictures) * (side + gap) + 0.08
    for row in range(count):
        y = tall - top - row * (side + gap) - side
        for column, (heading, images) in enumerate(pictures):
            x = left + column * (side + gap)
            axes = bare(figure.add_axes((x / PAGE_WIDTH, y / tall, side / PAGE_WIDTH, side / tall)))
            axes.imshow(images[row])
            if row == 0:
                title(axes, heading)
        _said(figure, text_left, y, side, tall, rows[row])
    return figure


def _said(
    figure: Figure,
    left: float,
    bottom: float,
    side: float,
    tall: float,
    lines: Sequence[tuple[str, str]],
) -> None:
    """Lines of (who, caption), spread evenly over the height of the picture beside them; inches."""
    step = side / len(lines)
    width = int((PAGE_WIDTH - left - 0.95) * 20)
    for number, (who, text) in enumerate(lines):
        y = (bottom + side - (number + 0.5) * step) / tall
        figure.text(left / PAGE_WIDTH, y, who, size=6.6, color=GREY, va="center")
        figure.text(
            (left + 0.95) / PAGE_WIDTH,
            y,
            wrap(textwrap.shorten(text, 2 * width - 8, placeholder=" …"), width),
            size=6.6,
            color=INK,
            va="center",
            linespacing=1.0,
        )
