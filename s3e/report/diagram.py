"""Figures drawn by code: the framework (figure 2), captions and their trees (figure 3)."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray

from s3e.captions.parser import parse_caption
from s3e.captions.tree import EDGES, NULL
from s3e.report.style import BLUE, INK, PAGE_WIDTH, VERMILLION, bare, styled
from s3e.utils import data_file

PLAN = data_file("report/diagram.toml")
NODES, PARTS = PLAN["nodes"], PLAN["parts"]
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


@styled
def forest(captions: Sequence[str], image: ndarray | None = None) -> Figure:
    """Captions and the tree that each becomes, two on a line.

    With their `image` (figure 3) they stand beside it, one below the other.
    """
    rows = len(captions) if image is not None else -(-len(captions) // 2)
    figure = Figure(figsize=(PAGE_WIDTH, 1.7 * rows))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, wspace=0.04)
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes in grid.flat:
        bare(axes)
    if image is not None:
        grid[0, 0].imshow(image)
        grid = grid[:, 1]
    for axes, text in zip(grid.flat, captions, strict=False):
        tree = parse_caption(text)
        draw_tree(axes, tree.nodes if tree else [NULL] * 7)
        axes.set_ylim(0, 1.5)
        axes.text(0.5, 1.45, fill(text, LETTERS), size=7, ha="center", va="top", color=INK)
    return figure
