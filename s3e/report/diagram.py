"""Figures drawn by code: the framework (figure 2) and the way from a caption to its tree (figure 3)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
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


def _tint(colour: str, amount: float = 0.14) -> tuple[float, float, float]:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return tuple(1 - amount * (1 - rgb))


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str,
    colour: str,
    note: str = "",
) -> None:
    """A rounded box centred on (x, y) with bold `text` and, below it, a lighter `note`."""
    style = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.09",
        facecolor=_tint(colour), edgecolor=colour, linewidth=1.1, zorder=2,
    )  # fmt: skip
    axes.add_patch(style)
    lift = 0.13 * (note.count("\n") + 1) if note else 0
    axes.text(
        x, y + lift, text, ha="center", va="center", weight="bold", size=8, color=INK, zorder=3
    )
    if note:
        low = y - 0.15 - 0.02 * text.count("\n")
        axes.text(
            x,
            low,
            note,
            ha="center",
            va="center",
            size=6.8,
            color="#555555",
            zorder=3,
            linespacing=1.25,
        )


def _arrow(
    axes: Axes, points: Sequence[tuple[float, float]], colour: str = INK, text: str = ""
) -> None:
    """A right-angled arrow through `points`; `text` stands on its first leg."""
    xs, ys = zip(*points, strict=True)
    axes.plot(xs[:-1], ys[:-1], color=colour, linewidth=1.1, solid_joinstyle="round", zorder=1)
    head = FancyArrowPatch(
        points[-2], points[-1], arrowstyle="-|>", mutation_scale=9, color=colour, linewidth=1.1,
        shrinkA=0, shrinkB=0, zorder=1,
    )  # fmt: skip
    axes.add_patch(head)
    if text:
        axes.text(
            (xs[0] + xs[1]) / 2,
            (ys[0] + ys[1]) / 2 + 0.1,
            text,
            ha="center",
            va="bottom",
            size=6.8,
            color=colour,
        )


def _picture(
    axes: Axes, image: np.ndarray | None, x: float, y: float, side: float, title: str
) -> None:
    if image is not None:
        axes.imshow(
            image, extent=(x - side / 2, x + side / 2, y - side / 2, y + side / 2), zorder=2
        )
    frame = FancyBboxPatch((x - side / 2, y - side / 2), side, side, boxstyle="square,pad=0", facecolor="none" if
                           image is not None else PALE, edgecolor=INK, linewidth=0.8, zorder=3)  # fmt: skip
    axes.add_patch(frame)
    axes.text(
        x, y - side / 2 - 0.1, title, ha="center", va="top", size=7, color=INK, linespacing=1.25
    )


@styled
def framework(
    blurred: np.ndarray | None = None, restored: np.ndarray | None = None, caption: str = ""
) -> Figure:
    """Figure 2: the parts of S3E-Deblur, what flows between them and which loss trains what (specification 6.0).

    `blurred`, `restored`: optional uint8 (S, S, 3) pictures for the two ends; `caption`: what the decoder said.
    """
    figure = Figure(figsize=(PAGE_WIDTH, 3.4))
    axes = bare(figure.add_axes((0, 0, 1, 1)))
    axes.set(xlim=(0, 10.5), ylim=(0.15, 5.25), aspect="equal")
    top, low = 3.85, 1.3
    back = FancyBboxPatch((1.62, low - 0.62), 7.34, 1.5, boxstyle="round,pad=0,rounding_size=0.1", facecolor="#F6F8F6",
                          edgecolor="#D5DDD8", linewidth=0.8, zorder=0)  # fmt: skip
    axes.add_patch(back)
    axes.text(
        1.75, low + 0.72, "Generator (DeblurGAN)", size=7, color=GREEN, va="center", weight="bold"
    )
    _picture(axes, blurred, 0.72, low, 1.1, "blurred $I_b$")
    _picture(axes, restored, 9.78, low, 1.1, "restored $I_r$")
    _box(axes, 2.5, top, 2.05, 0.9, "Semantic encoder", BLUE, "reads the blurred image")
    _box(axes, 8.2, top + 0.45, 2.3, 0.9, "Caption decoder", ORANGE, "LSTM, attends to 7 nodes")
    _tree_glyph(axes, 5.1, top, 2.0, 1.75)
    _box(axes, 2.5, low, 1.45, 0.8, "Down", GREEN, "convolutions")
    _box(axes, 5.1, low, 1.25, 0.8, "Fuse", VERMILLION, "starts at zero")
    _box(axes, 6.75, low, 1.25, 0.8, "Trunk", GREEN, "ResBlocks")
    _box(axes, 8.2, low, 1.15, 0.8, "Up", GREEN, "$+\\,I_b$, clamp")
    _box(axes, 9.78, 2.85, 1.1, 0.8, "Critic", PURPLE, "$I_r$ or $I_s$ ?")
    _flow(axes, top, low)
    _losses(axes, top, low, caption)
    return figure


def _flow(axes: Axes, top: float, low: float) -> None:
    _arrow(axes, [(0.72, low + 0.57), (0.72, top), (1.46, top)], BLUE)
    _arrow(axes, [(3.54, top), (4.08, top)], BLUE, "$V$")
    _arrow(axes, [(6.12, top + 0.45), (7.03, top + 0.45)], ORANGE, "$x_1 \\ldots x_7$")
    _arrow(axes, [(5.1, top - 1.14), (5.1, low + 0.41)], VERMILLION)
    axes.text(5.22, 2.42, "node maps $X_1 \\ldots X_7$", size=7, color=VERMILLION, va="center")
    _arrow(axes, [(1.29, low), (1.76, low)], GREEN)
    _arrow(axes, [(3.24, low), (4.46, low)], GREEN, "features $F$")
    for start, end in ((5.74, 6.11), (7.39, 7.61), (8.79, 9.21)):
        _arrow(axes, [(start, low), (end, low)], GREEN)
    _arrow(axes, [(9.78, low + 0.57), (9.78, 2.43)], PURPLE)


def _losses(axes: Axes, top: float, low: float, caption: str) -> None:
    """Each loss as a pill that touches what it trains."""
    pill = {"boxstyle": "round,pad=0.3", "facecolor": "white", "linewidth": 0.9}
    for x, y, text, colour in (
        (4.09, top - 1.03, "$L_{tree}$", BLUE),
        (9.35, top + 0.45 + 0.47, "$L_{cap}$", ORANGE),
        (9.2, 2.85, "$L_{adv}$", PURPLE),
        (9.08, low - 0.4, "$L_{pix}$", GREEN),
    ):
        axes.text(
            x,
            y,
            text,
            size=8,
            color=INK,
            ha="center",
            va="center",
            bbox={**pill, "edgecolor": colour},
            zorder=5,
        )
    total = "co-training:  $L = L_{adv} + L_{pix} + \\lambda_c L_{cap} + \\lambda_t L_{tree}$"
    axes.text(5.1, 0.36, total, size=8, color=INK, ha="center", va="center")
    if caption:
        text = wrap(f"“{caption}”", 36)
        axes.text(
            8.2,
            top - 0.13,
            text,
            ha="center",
            va="top",
            size=7,
            style="italic",
            color=INK,
            linespacing=1.15,
        )


def _tree_glyph(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    """The seven nodes as small squares (they are maps), leaves below and root on top."""
    _box(axes, x, y, width, height + 0.5, "", BLUE)
    axes.text(
        x,
        y + height / 2 + 0.05,
        "S3-tree",
        ha="center",
        va="center",
        weight="bold",
        size=8,
        color=INK,
        zorder=3,
    )
    spot = {
        node: (x + (u - 0.5) * width * 0.82, y - 0.12 + (v - 0.5) * height * 0.85)
        for node, (u, v) in NODES.items()
    }
    for child, parent in EDGES:
        (x0, y0), (x1, y1) = spot[child], spot[parent]
        axes.plot([x0, x1], [y0, y1], color=INK, linewidth=0.8, zorder=3)
    side = 0.34
    for node, (u, v) in spot.items():
        colour = ENTITY if node < 4 else RELATION
        patch = FancyBboxPatch((u - side / 2, v - side / 2), side, side, boxstyle="round,pad=0,rounding_size=0.04",
                               facecolor=_tint(colour, 0.3), edgecolor=colour, linewidth=1.0, zorder=4)  # fmt: skip
        axes.add_patch(patch)
        axes.text(u, v - 0.01, str(node + 1), ha="center", va="center", size=7, color=INK, zorder=5)


def draw_tree(axes: Axes, labels: Sequence[str]) -> None:
    """A 7-node tree: `labels` in the order leaf 1-4, node 5, node 6, root; empty slots are faint."""
    bare(axes).set(xlim=(-0.06, 1.06), ylim=(0, 1))
    for child, parent in EDGES:
        (x0, y0), (x1, y1) = NODES[child], NODES[parent]
        faint = labels[child] == NULL
        axes.plot([x0, x1], [y0, y1], color="#CCCCCC" if faint else INK, linewidth=0.9, zorder=1)
    for node, (x, y) in NODES.items():
        empty, colour = labels[node] == NULL, ENTITY if node < 4 else RELATION
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white" if empty else _tint(colour, 0.18), "linewidth": 1.0,
               "edgecolor": "#CCCCCC" if empty else colour}  # fmt: skip
        text = "∅" if empty else labels[node].replace("_", " ")
        axes.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            size=7.5,
            color="#AAAAAA" if empty else INK,
            bbox=box,
            zorder=2,
        )


TAG_COLOURS = {"NOUN": ENTITY, "VERB": RELATION, "PREP": PURPLE, "CONJ": PURPLE}


def _chips(axes: Axes, tokens: Sequence[str], tags: Sequence[str]) -> None:
    """The words of a caption as chips coloured by part of speech, wrapped to the width of `axes`; inches inside."""
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
        chip = FancyBboxPatch(
            (x, y - 0.085),
            long,
            0.17,
            boxstyle="round,pad=0,rounding_size=0.03",
            facecolor=face,
            linewidth=0,
        )
        axes.add_patch(chip)
        axes.text(
            x + long / 2,
            y - 0.045,
            token,
            ha="center",
            va="baseline",
            color=INK,
            fontproperties=font,
        )
        x += long + 0.05


def two_wordings(
    captions: Sequence[str], explain: Callable[[str], Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Parses of two captions of one picture: the first, and the one of equal tree whose words differ most from it."""
    parses = [explain(text) for text in captions]
    parses = [parse for parse in parses if parse["tree"]] or parses
    first, *others = sorted(parses, key=lambda parse: parse["tree"].nodes.count(NULL))
    same = [parse for parse in others if parse["tree"] == first["tree"]] or others
    return [
        first,
        *sorted(same, key=lambda parse: -len(set(parse["tokens"]) ^ set(first["tokens"])))[:1],
    ]


def best_example(
    groups: Sequence[Sequence[str]], explain: Callable[[str], Mapping[str, Any]]
) -> int:
    """Number of the picture whose two wordings agree on the fullest tree (figure 3 shows that one)."""

    def worth(number: int) -> tuple[bool, int, int]:
        pair = two_wordings(groups[number], explain)
        if not all(parse["tree"] for parse in pair):
            return False, 0, -number
        return pair[0]["tree"] == pair[-1]["tree"], -pair[0]["tree"].nodes.count(NULL), -number

    return max(range(len(groups)), key=worth)


@styled
def caption_to_tree(image: np.ndarray, parses: Sequence[Mapping[str, Any]]) -> Figure:
    """Figure 3: captions of one picture, their parts of speech, and the canonical tree that each becomes.

    `image`: uint8 (S, S, 3); `parses`: what `s3e.captions.parser.explain` returns (tokens, tags, tree) a caption.
    """
    row, margin = 1.5, 0.3
    tall = row * len(parses) + margin
    figure = Figure(figsize=(PAGE_WIDTH, tall))

    def place(left: float, bottom: float, width: float, height: float) -> Axes:  # inches
        return figure.add_axes(
            (left / PAGE_WIDTH, bottom / tall, width / PAGE_WIDTH, height / tall)
        )

    side = min(1.7, tall - 0.6)
    picture = bare(place(0.08, tall - 0.26 - side, side, side))
    picture.imshow(image)
    picture.set_title("picture")
    for number, parse in enumerate(parses):
        bottom = tall - row * (number + 1)
        words = place(2.0, bottom + 0.1, 2.15, 1.14)
        _chips(words, parse["tokens"], parse["tags"])
        words.set_title(f"caption {number + 1}")
        tree = place(4.25, bottom + 0.02, 2.7, 1.22)
        draw_tree(tree, parse["tree"].nodes)
        tree.set_title("canonical tree" if number == 0 else "")
    for left, text, colour in (
        (2, "noun", ENTITY),
        (2.6, "verb", RELATION),
        (3.15, "preposition or conjunction", PURPLE),
    ):
        figure.text(left / PAGE_WIDTH, 0.1 / tall, f"■ {text}", color=colour, size=7)
    return figure


@styled
def forest(parses: Sequence[Mapping[str, Any]], columns: int = 2) -> Figure:
    """Many captions and their trees: words as chips above, the tree (or "names nothing") below, `columns` a row."""
    rows = -(-len(parses) // columns)
    width, row = PAGE_WIDTH / columns, 1.95
    figure = Figure(figsize=(PAGE_WIDTH, row * rows))
    for number, parse in enumerate(parses):
        x, y = (number % columns) * width, row * (rows - 1 - number // columns)
        words, tree = (
            figure.add_axes(
                (
                    (x + 0.1) / PAGE_WIDTH,
                    (y + low) / (row * rows),
                    (width - 0.2) / PAGE_WIDTH,
                    high / row / rows,
                )
            )
            for low, high in ((1.32, 0.55), (0.06, 1.2))
        )
        _chips(words, parse["tokens"], parse["tags"])
        if parse["tree"]:
            draw_tree(tree, parse["tree"].nodes)
        else:
            bare(tree).text(0.5, 0.5, "names nothing", ha="center", color=OTHER, size=7.5)
    return figure
