"""Figures drawn by code: the framework (figure 2), captions and their trees (figure 3)."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy import ndarray

from s3e.captions.tree import EDGES, NULL
from s3e.report.style import BLUE, GREY, INK, PAGE_WIDTH, VERMILLION, bare, styled
from s3e.utils import data_file

PLAN = data_file("report/diagram.toml")
NODES, TAGS, PARTS = PLAN["nodes"], PLAN["tags"], PLAN["parts"]
LETTERS = 58  # of a caption on a line


def _box(ink: str) -> dict[str, Any]:
    """A box of a light tint of `ink`."""
    return {"facecolor": [1 - 0.15 * (1 - part) for part in to_rgb(ink)], "edgecolor": ink}


@styled
def framework(
    blurred: ndarray | None = None, restored: ndarray | None = None, caption: str = ""
) -> Figure:
    """Figure 2: the parts of S3E-Deblur, what flows between them, which loss trains what (6.0).

    `blurred`, `restored`: images for the two ends; `caption`: what the decoder outputs.
    """
    figure, boxes = Figure(figsize=(PAGE_WIDTH, 3.4)), {}
    axes = bare(figure.add_axes((0, 0, 1, 1)))
    middle = {"size": 7, "ha": "center", "va": "center", "color": INK}
    for name, (x, y, width, height, ink, words) in PARTS.items():
        box = Rectangle((x - width / 2, y - height / 2), width, height, **_box(ink))
        boxes[name] = axes.add_patch(box)
        axes.text(x, y, words, linespacing=1.5, **middle)
    for name, image in {"blurred": blurred, "restored": restored}.items():
        if image is not None:
            ends = boxes[name].get_bbox().get_points()
            axes.imshow(image, extent=ends.T.ravel(), zorder=2)
    for start, end in PLAN["flows"]:
        look = {"arrowstyle": "-|>", "color": PARTS[end][4], "shrinkA": 0, "shrinkB": 0}
        patches = {"patchA": boxes[start], "patchB": boxes[end]}
        axes.annotate("", PARTS[end][:2], PARTS[start][:2], arrowprops=look | patches)
    for x, y, words in [*PLAN["notes"], (8.2, 3.15, caption and fill(f"“{caption}”", 32))]:
        axes.text(x, y, words, **middle)
    axes.set(xlim=(0, 10.5), ylim=(0.15, 5.25), aspect="equal")
    draw_tree(axes.inset_axes((4.15, 2.75, 1.9, 1.9), transform=axes.transData), "1234567")
    return figure


def draw_tree(axes: Axes, labels: Sequence[str], shares: Sequence[float] | None = None) -> None:
    """A tree of seven `labels` (leaf 1-4, node 5, node 6, root); empty slots are faint.

    `shares`: how probable each label is, in [0, 1], written below it.
    """
    bare(axes).set(xlim=(-0.06, 1.06), ylim=(0, 1))
    for child, parent in EDGES:
        ink = "#CCCCCC" if labels[child] == NULL else INK
        axes.plot(*zip(NODES[child], NODES[parent], strict=True), color=ink, linewidth=0.9)
    for node, ((x, y), label) in enumerate(zip(NODES, labels, strict=True)):
        ink, text = BLUE if node < 4 else VERMILLION, label.replace("_", " ")
        if label == NULL:
            ink, text = "#BBBBBB", "∅"
        if shares is not None:
            text += f"\n{shares[node]:.0%}"
        box = {"boxstyle": "round,pad=0.35", **_box(ink)}
        axes.text(x, y, text, size=7.5, ha="center", va="center", color=INK, bbox=box)


@styled
def tree(labels: Sequence[str], shares: Sequence[float] | None = None) -> Figure:
    """`draw_tree` as a figure of its own, 4.4 x 2 inches."""
    figure = Figure(figsize=(4.4, 2.0))
    draw_tree(figure.add_axes((0, 0, 1, 1)), labels, shares)
    return figure


def _write_words(axes: Axes, tokens: Sequence[str], tags: Sequence[str]) -> None:
    """The words of a caption above a tree, coloured by part of speech."""
    y, used, last = 1.75, LETTERS, None
    for token, tag in zip(tokens, tags, strict=True):
        box = {"boxstyle": "round,pad=0.15", **_box(TAGS.get(tag, GREY)), "linewidth": 0}
        look = {"size": 7, "color": INK, "bbox": box, "va": "bottom"}
        used += len(token) + 2
        if used > LETTERS:
            y, used = y - 0.16, len(token)
            last = axes.text(-0.05, y, token, **look)
        else:
            beside = {"xycoords": last, "textcoords": "offset points"}
            last = axes.annotate(token, (1, 0), (5, 0), **beside, **look)


@styled
def forest(parses: Sequence[Mapping[str, Any]], image: ndarray | None = None) -> Figure:
    """Captions, coloured by part of speech, and the tree that each becomes, two on a line.

    `parses`: what `s3e.captions.parser.explain` returns; with their `image` (figure 3) they stand
    beside it, one below the other.
    """
    rows = len(parses) if image is not None else -(-len(parses) // 2)
    tall = 1.95 * rows + 0.25
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    figure.subplots_adjust(0.01, 0.25 / tall, 0.99, 0.99, wspace=0.04)
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes in grid.flat:
        bare(axes)
    if image is not None:
        grid[0, 0].imshow(image)
        grid = grid[:, 1]
    for axes, parse in zip(grid.flat, parses, strict=False):
        draw_tree(axes, parse["tree"].nodes if parse["tree"] else [NULL] * 7)
        axes.set_ylim(0, 1.75)
        _write_words(axes, parse["tokens"], parse["tags"])
    handles = [Patch(color=colour, label=tag.lower()) for tag, colour in TAGS.items()]
    figure.legend(handles=handles, loc="lower left", ncols=4)
    return figure
