"""Static figures of the blur laboratory and the tree browser: everything that their widgets tell."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s3e.explore import markup, pictures
from s3e.explore.blurlab import Exposure
from s3e.inference import Reading
from s3e.report.diagram import NODE_NAMES, NODES, draw_tree
from s3e.report.gallery import word_maps
from s3e.report.pictures import below, grid, title
from s3e.report.style import GREY, INK, PAGE_WIDTH, VERMILLION, bare, styled

SIDE = 256  # pixels of a picture on the page
PALEST = 0.005  # shares of attention below this are not written


@styled
def blur_laboratory(results: Sequence[Exposure]) -> Figure:
    """A row for each shake: camera path and kernel at one scale, log spectrum and the blurred photo with its PSNR.

    Spectra share one scale, that of the first photo when sharp. Grey: what the shutter does not see of a path.
    """
    figure, cells = grid(len(results), 4, top=0.22, below=0.4)
    brightest = pictures.top(results[0].sharp)
    for row, result in zip(cells, results, strict=True):
        row[0].set_title(str(result.settings), pad=3)
        _path(row[0], result)
        row[1].imshow(pictures.kernel(result.kernel, result.window))
        row[2].imshow(pictures.spectrum(result.blurred, brightest))
        row[3].imshow(result.blurred)
        below(row[0], f"path, {result.window} px wide (dot: start)")
        below(row[1], f"kernel, extent {result.extent:.1f} px")
        below(row[2], "log spectrum, 0 in the middle")
        below(row[3], f"blurred photo, {result.psnr:.2f} dB")
    return figure


def _path(axes: Axes, result: Exposure) -> None:
    path, reach = result.path, result.window / 2
    axes.plot(path.real, path.imag, color="#BBBBBB", linewidth=0.8)
    seen = path[: result.seen]
    axes.plot(seen.real, seen.imag, color=VERMILLION, linewidth=1.4)
    axes.plot(path.real[0], path.imag[0], "o", color=INK, markersize=4)
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")
    axes.spines[:].set(visible=True, color="#CCCCCC")


@styled
def tree_reading(photo: np.ndarray, reading: Reading) -> Figure:
    """What a tree reads in a photo, uint8 (H, W, 3): labels with their probabilities, and where each node looks.

    Below each node's picture stand its three likeliest labels.
    """
    high, side, gap = 1.85, (PAGE_WIDTH - 0.06 - 6 * 0.05) / 7, 0.05
    tall = high + 0.3 + side + 0.42
    figure = Figure(figsize=(PAGE_WIDTH, tall))

    def place(left: float, bottom: float, width: float, height: float) -> Axes:  # inches
        return bare(
            figure.add_axes((left / PAGE_WIDTH, bottom / tall, width / PAGE_WIDTH, height / tall))
        )

    seen = place(0.03, tall - high + 0.12, 1.5, 1.5)
    seen.imshow(photo)
    title(seen, "what is read")
    _sure_tree(place(1.75, tall - high, 5.2, high - 0.05), reading)
    for node, name in enumerate(NODE_NAMES):
        axes = place(0.03 + node * (side + gap), 0.42, side, side)
        axes.imshow(pictures.lit(photo, reading.attention[node], SIDE))
        title(axes, name)
        guesses = [
            f"{markup.short(label)} {markup.percent(share)}"
            for label, share in reading.ranking(node)
        ]
        below(axes, "\n".join(guesses), linespacing=1.15)
    return figure


def _sure_tree(axes: Axes, reading: Reading) -> None:
    draw_tree(axes, reading.nodes)
    for (x, y), share in zip(NODES.values(), reading.confidence, strict=True):
        axes.text(x, y - 0.1, f"{100 * share:.0f} %", ha="center", va="top", size=6.5, color=GREY)


@styled
def word_reading(photo: np.ndarray, reading: Reading) -> Figure:
    """A caption word by word: where each word looks, and in percent how much it hears of each node.

    `photo`: uint8 (H, W, 3), what was read.
    """
    words, gap, left = reading.words, 0.04, 0.5
    if not words:
        return _silent()
    count = len(words)
    side = min(
        0.8, (PAGE_WIDTH - left - 0.4) / count - gap
    )  # room for the last word, which is slanted
    row, top = 0.19, 0.62
    tall = top + side + 0.08 + row * len(NODE_NAMES)
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    maps = word_maps(reading.word_attention[None], reading.attention[None])[0]
    for column, (word, looked) in enumerate(zip(words, maps, strict=True)):
        x = left + column * (side + gap)
        axes = bare(
            figure.add_axes(
                (x / PAGE_WIDTH, 1 - (top + side) / tall, side / PAGE_WIDTH, side / tall)
            )
        )
        axes.imshow(pictures.lit(photo, looked, SIDE))
        axes.text(
            0.5, 1.05, word, transform=axes.transAxes, ha="left", va="bottom", size=7.5, rotation=35
        )
    wide = count * (side + gap) - gap
    shares = figure.add_axes(
        (left / PAGE_WIDTH, 0, wide / PAGE_WIDTH, row * len(NODE_NAMES) / tall)
    )
    _shares(shares, reading.word_attention)
    return figure


def _silent() -> Figure:
    figure = Figure(figsize=(PAGE_WIDTH, 0.4))
    bare(figure.add_axes((0, 0, 1, 1))).text(0.02, 0.5, "It says nothing.", va="center")
    return figure


def _shares(axes: Axes, attention: np.ndarray) -> None:
    """Attention over nodes, (words, 7), as a table of percents on tinted cells: a column a word, a row a node."""
    bare(axes).imshow(attention.T, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    axes.set_yticks(range(len(NODE_NAMES)), NODE_NAMES, size=7)
    axes.tick_params(length=0)
    for word, node in np.argwhere(attention >= PALEST):
        axes.text(
            word,
            node,
            f"{100 * attention[word, node]:.0f}",
            ha="center",
            va="center",
            size=6.5,
            color=INK,
        )
