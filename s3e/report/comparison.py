"""Static figures of notebook 09: one photo restored beside its errors, a tree changed by hand, a photo of your own."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from s3e.evaluation.images import psnr, ssim
from s3e.explore.examples import strengthened
from s3e.report.diagram import draw_tree
from s3e.report.pictures import below, grid, title
from s3e.report.style import GREY, INK, PAGE_WIDTH, VERMILLION, bare, label, styled, wrap

COLUMNS = 7  # panels side by side in the figure of changed trees


@styled
def comparison(
    rows: Mapping[str, Mapping[str, np.ndarray]], sharp: np.ndarray, gain: int = 4
) -> Figure:
    """A photo under each severity, restored by each arm; on the right the absolute errors, `gain` times as strong.

    `rows`: severity -> {"blurred" or arm: uint8 (H, W, 3)}, the same names in each; `sharp`: uint8 (H, W, 3). Below
    each picture its PSNR (dB) and SSIM.
    """
    names = list(next(iter(rows.values())))
    figure, cells = grid(len(rows), 2 * len(names) + 1, top=0.36, left=0.18)
    for row, (severity, images) in zip(cells, rows.items(), strict=True):
        row[0].text(
            -0.04, 0.5, severity, transform=row[0].transAxes, ha="right", va="center", rotation=90
        )
        row[len(names)].imshow(sharp)
        for name, plain, error in zip(names, row, row[len(names) + 1 :], strict=False):
            plain.imshow(images[name])
            error.imshow(strengthened(images[name], sharp, gain))
            below(plain, f"{psnr(images[name], sharp):.2f} dB, {ssim(images[name], sharp):.3f}")
    words = [label(name).split(" (")[0] for name in names]
    for axes, text in zip(
        cells[0], [*words, "sharp", *(f"error of {text}" for text in words)], strict=True
    ):
        title(axes, wrap(text, 16))
    return figure


@styled
def changed_trees(
    blurred: np.ndarray,
    intact: np.ndarray,
    panels: Mapping[str, tuple[np.ndarray, np.ndarray, float]],
    gain: int = 8,
) -> Figure:
    """A photo restored with its tree whole and with each change; below each what the change made of it.

    `blurred`, `intact`: uint8 (H, W, 3); `panels`: change -> (restored, its difference from `intact` times `gain`,
    change of PSNR in dB).
    """
    shown = {"blurred": (blurred, None, None), "whole tree": (intact, None, None), **panels}
    blocks = -(-len(shown) // COLUMNS)
    figure, cells = grid(2 * blocks, COLUMNS, top=0.24, below=0.2)
    for number, (words, (restored, difference, change)) in enumerate(shown.items()):
        row, column = 2 * (number // COLUMNS), number % COLUMNS
        upper, lower = cells[row, column], cells[row + 1, column]
        upper.imshow(restored)
        below(upper, words)
        if difference is not None:
            lower.imshow(difference)
            below(lower, f"{change:+.2f} dB", VERMILLION if change < -0.5 else INK)
    note = wrap(
        f"upper rows: restored; lower rows: {gain} times the difference from “whole tree”, change of PSNR",
        19,
    )
    cells[1, 0].text(
        0,
        0.98,
        note,
        transform=cells[1, 0].transAxes,
        va="top",
        size=7,
        color=GREY,
        linespacing=1.5,
    )
    return figure


@styled
def own_photo(columns: Mapping[str, np.ndarray], labels: Sequence[str], caption: str) -> Figure:
    """Pictures of one photo by title, uint8 (H, W, 3); below, what was read in it: the caption and seven labels."""
    gap, left, room = 0.08, 0.03, 1.55  # inches
    width = (PAGE_WIDTH - 2 * left - gap * (len(columns) - 1)) / len(columns)
    height, breadth = next(iter(columns.values())).shape[:2]
    side = min(width * height / breadth, 2.6)
    tall = side + room + 0.3
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    for number, (words, picture) in enumerate(columns.items()):
        place = (left + number * (width + gap), room, width, side)
        axes = bare(figure.add_axes(np.divide(place, (PAGE_WIDTH, tall, PAGE_WIDTH, tall))))
        axes.imshow(picture)
        title(axes, words)
    figure.text(
        0.5,
        (room - 0.12) / tall,
        f"“{wrap(caption, 90)}”",
        ha="center",
        va="top",
        style="italic",
        color=INK,
    )
    draw_tree(figure.add_axes((0.2, 0.02, 0.6, 1.15 / tall)), labels)
    return figure
