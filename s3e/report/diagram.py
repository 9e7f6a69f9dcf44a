"""Figures drawn by code: the framework (figure 2), the way from captions to trees (figure 3), and
trees themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.textpath import TextPath

from s3e.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAGE_WIDTH,
    PALE,
    PURPLE,
    VERMILLION,
    bare,
    styled,
    wrap,
)

NULL = "null"
NODES = {  # node -> (x, y) in the unit square: leaves 1-4, sub-relations 5-6, root 7
    0: (0.11, 0.14), 1: (0.37, 0.14), 2: (0.63, 0.14), 3: (0.89, 0.14),
    4: (0.24, 0.52), 5: (0.76, 0.52), 6: (0.5, 0.88),
}  # fmt: skip
EDGES = ((0, 4), (1, 4), (2, 5), (3, 5), (4, 6), (5, 6))
NODE_NAMES = ("leaf 1", "leaf 2", "leaf 3", "leaf 4", "node 5", "node 6", "root")
ENTITY, RELATION, OTHER = BLUE, VERMILLION, GREY
TAG_COLOURS = {"NOUN": ENTITY, "VERB": RELATION, "PREP": PURPLE, "CONJ": PURPLE}


def _tint(colour: str, amount: float = 0.14) -> tuple[float, ...]:
    return tuple(1 - amount * (1 - part) for part in to_rgb(colour))


def _write(axes: Axes, x: float, y: float, text: str, size: float = 7, **look: Any) -> None:
    look = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.2, "zorder": 5} | look
    axes.text(x, y, text, size=size, **look)


def _rectangle(axes: Axes, middle: tuple, size: tuple, rounding: float = 0.0, **look: Any) -> None:
    corner = np.subtract(middle, np.divide(size, 2))
    style = f"round,pad=0,rounding_size={rounding}" if rounding else "square,pad=0"
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, **look))


def _box(
    axes: Axes, x: float, y: float, size: tuple, text: str, colour: str, note: str = ""
) -> None:
    """A rounded box centred on (x, y) with bold `text` and, below it, a lighter `note`."""
    look = {"facecolor": _tint(colour), "edgecolor": colour, "linewidth": 1.1, "zorder": 2}
    _rectangle(axes, (x, y), size, 0.09, **look)
    _write(axes, x, y + 0.13 * bool(note), text, 8, weight="bold")
    _write(axes, x, y - 0.15, note, 6.8, color="#555555")


def _arrow(axes: Axes, points: Sequence[tuple[float, float]], colour: str, text: str = "") -> None:
    """A right-angled arrow through `points`; `text` stands on its first leg."""
    xs, ys = zip(*points, strict=True)
    look = {"color": colour, "linewidth": 1.1, "zorder": 1}
    axes.plot(xs[:-1], ys[:-1], solid_joinstyle="round", **look)
    head = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(points[-2], points[-1], **head, **look))
    middle = (xs[0] + xs[1]) / 2, (ys[0] + ys[1]) / 2 + 0.1
    _write(axes, *middle, text, 6.8, va="bottom", color=colour)


def _picture(axes: Axes, image: np.ndarray | None, x: float, y: float, title: str) -> None:
    half = 0.55
    if image is not None:
        axes.imshow(image, extent=(x - half, x + half, y - half, y + half), zorder=2)
    face = PALE if image is None else "none"
    look = {"facecolor": face, "edgecolor": INK, "linewidth": 0.8, "zorder": 3}
    _rectangle(axes, (x, y), (2 * half, 2 * half), **look)
    _write(axes, x, y - half - 0.1, title, va="top")


@styled
def framework(
    blurred: np.ndarray | None = None, restored: np.ndarray | None = None, caption: str = ""
) -> Figure:
    """Figure 2: the parts of S3E-Deblur, what flows between them and which loss trains what
    (specification 6.0).

    `blurred`, `restored`: optional uint8 (S, S, 3) images for the two ends; `caption`: what the
    decoder outputs.
    """
    figure = Figure(figsize=(PAGE_WIDTH, 3.4))
    axes = bare(figure.add_axes((0, 0, 1, 1)))
    axes.set(xlim=(0, 10.5), ylim=(0.15, 5.25), aspect="equal")
    top, low = 3.85, 1.3
    look = {"facecolor": "#F6F8F6", "edgecolor": "#D5DDD8", "linewidth": 0.8, "zorder": 0}
    _rectangle(axes, (5.29, low + 0.13), (7.34, 1.5), 0.1, **look)
    words = {"ha": "left", "color": GREEN, "weight": "bold"}
    _write(axes, 1.75, low + 0.72, "Generator (DeblurGAN)", **words)
    _picture(axes, blurred, 0.72, low, "blurred $I_b$")
    _picture(axes, restored, 9.78, low, "restored $I_r$")
    for x, y, width, text, colour, note in (
        (2.5, top, 2.05, "Semantic encoder", BLUE, "reads the blurred image"),
        (8.2, top + 0.45, 2.3, "Caption decoder", ORANGE, "LSTM, attends to 7 nodes"),
        (2.5, low, 1.45, "Down", GREEN, "convolutions"),
        (5.1, low, 1.25, "Fuse", VERMILLION, "starts at zero"),
        (6.75, low, 1.25, "Trunk", GREEN, "ResBlocks"),
        (8.2, low, 1.15, "Up", GREEN, "$+\\,I_b$, clamp"),
        (9.78, 2.85, 1.1, "Critic", PURPLE, "$I_r$ or $I_s$ ?"),
    ):
        _box(axes, x, y, (width, 0.9 if y >= top else 0.8), text, colour, note)
    _tree_glyph(axes, 5.1, top)
    for points, colour, text in (
        ([(0.72, low + 0.57), (0.72, top), (1.46, top)], BLUE, ""),
        ([(3.54, top), (4.08, top)], BLUE, "$V$"),
        ([(6.12, top + 0.45), (7.03, top + 0.45)], ORANGE, "$x_1 \\ldots x_7$"),
        ([(5.1, top - 1.14), (5.1, low + 0.41)], VERMILLION, ""),
        ([(1.29, low), (1.76, low)], GREEN, ""),
        ([(3.24, low), (4.46, low)], GREEN, "features $F$"),
        ([(5.74, low), (6.11, low)], GREEN, ""),
        ([(7.39, low), (7.61, low)], GREEN, ""),
        ([(8.79, low), (9.21, low)], GREEN, ""),
        ([(9.78, low + 0.57), (9.78, 2.43)], PURPLE, ""),
    ):
        _arrow(axes, points, colour, text)
    _write(axes, 5.22, 2.42, "node maps $X_1 \\ldots X_7$", ha="left", color=VERMILLION)
    for x, y, text, colour in (  # each loss touches what it trains
        (4.09, top - 1.03, "tree", BLUE),
        (9.35, top + 0.92, "cap", ORANGE),
        (9.2, 2.85, "adv", PURPLE),
        (9.08, low - 0.4, "pix", GREEN),
    ):
        pill = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": colour}
        _write(axes, x, y, f"$L_{{{text}}}$", 8, bbox={**pill, "linewidth": 0.9})
    total = "co-training:  $L = L_{adv} + L_{pix} + \\lambda_c L_{cap} + \\lambda_t L_{tree}$"
    _write(axes, 5.1, 0.36, total, 8)
    said = wrap(f"“{caption}”", 36) if caption else ""
    _write(axes, 8.2, top - 0.13, said, va="top", style="italic")
    return figure


def _tree_glyph(axes: Axes, x: float, y: float) -> None:
    """The seven nodes as small squares (they are maps), leaves below and root on top."""
    _box(axes, x, y, (2.0, 2.25), "", BLUE)
    _write(axes, x, y + 0.925, "S3-tree", 8, weight="bold")
    spots = [(x + (u - 0.5) * 1.64, y - 0.12 + (v - 0.5) * 1.49) for u, v in NODES.values()]
    for edge in EDGES:
        axes.plot(
            *zip(*(spots[node] for node in edge), strict=True), color=INK, linewidth=0.8, zorder=3
        )
    for node, spot in enumerate(spots):
        colour = ENTITY if node < 4 else RELATION
        look = {"facecolor": _tint(colour, 0.3), "edgecolor": colour, "linewidth": 1.0, "zorder": 4}
        _rectangle(axes, spot, (0.34, 0.34), 0.04, **look)
        _write(axes, spot[0], spot[1] - 0.01, str(node + 1))


def draw_tree(axes: Axes, labels: Sequence[str], shares: Sequence[float] | None = None) -> None:
    """A 7-node tree: `labels` in the order leaf 1-4, node 5, node 6, root; empty slots are faint.

    `shares`: how probable each label is, in [0, 1], written below it.
    """
    bare(axes).set(xlim=(-0.06, 1.06), ylim=(0, 1))
    for child, parent in EDGES:
        ends = zip(NODES[child], NODES[parent], strict=True)
        faint = labels[child] == NULL
        axes.plot(*ends, color="#CCCCCC" if faint else INK, linewidth=0.9, zorder=1)
    for node, (x, y) in NODES.items():
        empty, colour = labels[node] == NULL, ENTITY if node < 4 else RELATION
        face, rim, ink = (
            ("white", "#CCCCCC", "#AAAAAA") if empty else (_tint(colour, 0.18), colour, INK)
        )
        box = {"boxstyle": "round,pad=0.35", "facecolor": face, "edgecolor": rim, "linewidth": 1.0}
        text = "∅" if empty else labels[node].replace("_", " ")
        _write(axes, x, y, text, 7.5, color=ink, bbox=box)
        if shares is not None:
            _write(axes, x, y - 0.1, f"{100 * shares[node]:.0f} %", 6.5, va="top", color=GREY)


@styled
def tree(labels: Sequence[str], shares: Sequence[float] | None = None) -> Figure:
    """`draw_tree` as a figure of its own, 4.4 x 2 inches."""
    figure = Figure(figsize=(4.4, 2.0))
    draw_tree(figure.add_axes((0, 0, 1, 1)), labels, shares)
    return figure


def _chips(axes: Axes, tokens: Sequence[str], tags: Sequence[str]) -> None:
    """The words of a caption as chips coloured by part of speech, wrapped to the width of `axes`;
    inches inside.
    """
    width, height = axes.figure.get_size_inches() * axes.get_position().size
    bare(axes).set(xlim=(0, width), ylim=(0, height))
    x, y = 0.0, height - 0.12
    for token, tag in zip(tokens, tags, strict=True):
        colour = TAG_COLOURS.get(tag, OTHER)
        font = FontProperties(weight="bold" if colour != OTHER else "normal", size=7.2)
        long = TextPath((0, 0), token, prop=font).get_extents().width / 72 + 0.1
        if x + long > width:
            x, y = 0.0, y - 0.215
        face = _tint(colour, 0.2 if colour != OTHER else 0.08)
        _rectangle(axes, (x + long / 2, y), (long, 0.17), 0.03, facecolor=face, linewidth=0)
        look = {"ha": "center", "va": "baseline", "color": INK, "fontproperties": font}
        axes.text(x + long / 2, y - 0.045, token, **look)
        x += long + 0.05


def _draw_parse(
    figure: Figure, parse: Mapping[str, Any], left: float, bottom: float, width: float
) -> None:
    """A caption as chips, and below it its tree (or "names nothing"); 1.95 inches high, all in
    inches.
    """
    size = np.tile(figure.get_size_inches(), 2)
    words = figure.add_axes(np.divide((left, bottom + 1.32, width, 0.55), size))
    below = figure.add_axes(np.divide((left, bottom + 0.06, width, 1.2), size))
    _chips(words, parse["tokens"], parse["tags"])
    if parse["tree"]:
        draw_tree(below, parse["tree"].nodes)
    else:
        _write(bare(below), 0.5, 0.5, "names nothing", 7.5, color=OTHER)


@styled
def caption_to_tree(image: np.ndarray, parses: Sequence[Mapping[str, Any]]) -> Figure:
    """Figure 3: captions of one image, their parts of speech, and the canonical tree that each
    becomes.

    `image`: uint8 (S, S, 3); `parses`: what the parser's `explain` returns (tokens, tags, tree) for
    each caption.
    """
    row, tall = 1.95, 1.95 * len(parses) + 0.1
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    place = np.divide((0.08, tall - 2.1, 2.0, 2.0), (PAGE_WIDTH, tall) * 2)
    bare(figure.add_axes(place)).imshow(image)
    for number, parse in enumerate(parses):
        _draw_parse(figure, parse, 2.4, tall - row * (number + 1), 4.5)
    kinds = (("noun", ENTITY), ("verb", RELATION), ("preposition or conjunction", PURPLE))
    for line, (text, colour) in enumerate(kinds):
        height = (tall - 2.3 - 0.17 * line) / tall
        figure.text(0.08 / PAGE_WIDTH, height, f"■ {text}", color=colour, size=7)
    return figure


@styled
def forest(parses: Sequence[Mapping[str, Any]], columns: int = 2) -> Figure:
    """Many captions and their trees, `columns` a row; a single one is half as wide as the page."""
    rows, width = -(-len(parses) // columns), PAGE_WIDTH / columns
    figure = Figure(figsize=(width * min(columns, len(parses)), 1.95 * rows))
    for number, parse in enumerate(parses):
        row, column = divmod(number, columns)
        _draw_parse(figure, parse, column * width + 0.1, 1.95 * (rows - 1 - row), width - 0.2)
    return figure


def two_wordings(
    captions: Sequence[str], explain: Callable[[str], Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Parses of two captions of one image: the fullest, and the one of equal tree whose words
    differ most from it.
    """
    parses = [explain(text) for text in captions]
    parses = [parse for parse in parses if parse["tree"]] or parses
    first, *others = sorted(parses, key=lambda parse: parse["tree"].nodes.count(NULL))
    same = [parse for parse in others if parse["tree"] == first["tree"]] or others
    other = sorted(same, key=lambda parse: -len(set(parse["tokens"]) ^ set(first["tokens"])))
    return [first, *other[:1]]


def best_example(
    groups: Sequence[Sequence[str]], explain: Callable[[str], Mapping[str, Any]]
) -> int:
    """Number of the image whose two wordings agree on the fullest tree (figure 3 shows that
    one).
    """

    def worth(number: int) -> tuple[bool, int, int]:
        pair = two_wordings(groups[number], explain)
        if not all(parse["tree"] for parse in pair):
            return False, 0, -number
        return pair[0]["tree"] == pair[-1]["tree"], -pair[0]["tree"].nodes.count(NULL), -number

    return max(range(len(groups)), key=worth)
