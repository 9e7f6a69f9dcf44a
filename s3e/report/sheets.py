"""Figures made of images: severities, results, failures, attention, captions, blur.

All are a `sheet` of square cells: an image, uint8 (H, W, 3), alone or with words to stand below it.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray
from pandas import DataFrame

from s3e.blur import kernels_for
from s3e.captions.tree import NODE_NAMES, NULL
from s3e.config import Config
from s3e.data.corpus import Corpus
from s3e.evaluation.gains import ORACLES
from s3e.evaluation.score import shown
from s3e.report.style import (
    INK,
    PAGE_WIDTH,
    VERMILLION,
    bare,
    kernel_image,
    lit,
    short,
    spectrum,
    strengthened,
    styled,
    trajectory,
)
from s3e.utils import data_file, psnr

SPEAKERS = data_file("report/plots.toml")["speakers"]
Images = Mapping[str, ndarray]  # view, severity or variant -> images (N, H, W, 3)
Columns = Mapping[str, Sequence[ndarray | tuple[ndarray, str]]]  # title -> cells


@styled
def sheet(columns: Columns, rows: Sequence[str] = (), across: int = 0) -> Figure:
    """Columns of cells under their titles, `across` on a line (0: all), the rest below.

    Words below an image are red where they start with ✗; `rows`: words at the left of each.
    """
    cells = [
        [cell if isinstance(cell, tuple) else (cell, "") for cell in column]
        for column in columns.values()
    ]
    across = across or len(cells)
    gap, left = 0.05, 0.18 if any(rows) else 0.03
    side = (PAGE_WIDTH - 2 * left - gap * (across - 1)) / across
    heads = [fill(title, max(8, int(14 * side))) for title in columns]
    head = 0.12 + 0.14 * max(1 + text.count("\n") for text in heads)
    foot = 0.06 + 0.12 * max(len(note.splitlines()) for column in cells for _, note in column)
    block = head + len(cells[0]) * (side + foot)
    tall = block * -(-len(cells) // across)
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    for number, column in enumerate(cells):
        line, place = divmod(number, across)
        for row, (image, note) in enumerate(column):
            bottom = tall - line * block - head - row * (side + foot) - side
            box = (left + place * (side + gap), bottom, side, side)
            axes = bare(figure.add_axes(np.divide(box, (PAGE_WIDTH, tall) * 2)))
            axes.imshow(image)
            ink = VERMILLION if note.startswith("✗") else INK
            axes.set_xlabel(note, size=7, color=ink, labelpad=2, linespacing=1.1)
            if row == 0:
                axes.set_title(heads[number], loc="center", pad=4)
            if place == 0 and rows:
                axes.set_ylabel(rows[row], color=INK, labelpad=2)
    return figure


def _scored(columns: Images, sharp: ndarray) -> Columns:
    """Images by their short names, with PSNR (dB) below."""
    return {
        short(name): [
            (image, f"{psnr(image, truth):.2f} dB")
            for image, truth in zip(images, sharp, strict=False)
        ]
        for name, images in columns.items()
    }


def severity_views(corpus: Corpus, config: Config, count: int = 3) -> tuple:
    """For figure 1: photos to show sharp and in every severity, kernels of those that were made."""
    split = shown(corpus, config)
    names = [name for name in corpus.severities if name in split.blurred]
    rows = split.apart(split.rows(*names))[:count]
    ids, size, seed = [split.ids[row] for row in rows], config.data.size, config.blur.seed
    kernels = {name: kernels_for(ids, name, size, seed)[0] for name in corpus.synthetic}
    return split.sharp[rows], {name: split.blurred[name][rows] for name in names}, kernels


def severities(sharp: ndarray, blurred: Images, kernels: Mapping[str, Sequence[ndarray]]) -> Figure:
    """Figure 1: images "sharp" and under each severity, PSNR below, then kernels at their scale."""
    columns, side = {"sharp": sharp} | _scored(blurred, sharp), sharp.shape[1] | 1
    for name, own in kernels.items():
        columns[f"{name}: kernel"] = [kernel_image(kernel, side) for kernel in own]
    return sheet(columns)


def results(columns: Images, sharp: ndarray, rows: Sequence[str] = (), count: int = 4) -> Figure:
    """Figures 4, 5 and 11: images blurred, restored by each variant, sharp; PSNR (dB) below.

    `columns`: "blurred" and variants -> images; `rows`: words for each line.
    """
    sharp = sharp[:count]
    return sheet(_scored(columns, sharp) | {"sharp": sharp}, rows)


def failures(columns: Images, sharp: ndarray, count: int = 3) -> tuple[Images, ndarray, list[str]]:
    """Where `full` loses most PSNR to the baseline, then where variants (no oracles) disagree most.

    Images as in `results`; returns those of the rows chosen, and words for each row.
    """
    scores = DataFrame({name: [*map(psnr, images, sharp)] for name, images in columns.items()})
    rivals = scores.drop(columns=["blurred", *ORACLES], errors="ignore")
    gain = (scores.full - scores.baseline).nsmallest(count)
    apart = (rivals.max(axis=1) - rivals.min(axis=1)).nlargest(count)
    rows = [*gain.index, *apart.index]
    words = [f"gain {value:+.1f} dB" for value in gain]
    words += [f"{value:.1f} dB apart" for value in apart]
    return {name: images[rows] for name, images in columns.items()}, sharp[rows], words


def node_attention(
    images: ndarray,
    attention: ndarray,
    predicted: Sequence[Sequence[str]],
    target: Sequence[Sequence[str] | None],
) -> Figure:
    """Figure 6: where each node of the S3-tree looks and what it predicts (✗ wrong: + the truth).

    `images`: what the tree read; `attention`: (n, 7, h, w), each map sums to 1. A truth that is not
    known (None or "?") marks nothing.
    """
    columns = {"input": images}
    for node, name in enumerate(NODE_NAMES):
        columns[name] = [
            (lit(image, looks[node]), _verdict(labels[node], truth and truth[node]))
            for image, looks, labels, truth in zip(
                images, attention, predicted, target, strict=True
            )
        ]
    return sheet(columns)


def _verdict(label: str, truth: str | None) -> str:
    text = label if truth in (None, "?", label) else f"✗ {label}\n({truth})"
    return text.replace("_", " ").replace(NULL, "∅")


def word_attention(image: ndarray, caption: str, words: ndarray, nodes: ndarray) -> Figure:
    """An image and its caption's words, each over the image lit where the nodes look that it hears.

    `words` (T, 7): attention of each word over nodes; `nodes` (7, h, w): where each node looks.
    Below: the node that a word attends to most, and its share.
    """
    columns = {"input": [image]}
    for place, word in enumerate(caption.split(), 1):
        share = words[place - 1]
        heard = f"{NODE_NAMES[share.argmax()]}, {share.max():.0%}"
        columns[f"{place} {word}"] = [(lit(image, np.tensordot(share, nodes, 1)), heard)]
    return sheet(columns, across=9)


@styled
def captions(
    images: Images, records: Sequence[Mapping[str, Any]], said: DataFrame, view: str
) -> Figure:
    """Figure 7: images (by title), and what people and captioners said of them.

    `records`: of the images (id, references); `said`: `s3e.evaluation.collect.read_captions`, of
    which captions of the input `view` are shown.
    """
    figure, width = sheet(images, across=7), 19 * (7 - len(images))  # letters on a line
    known = said.query("input == @view and split == 'val'").drop_duplicates(["system", "id"])
    known = known.pivot(index="id", columns="system", values="caption")
    for axes, record in zip(figure.axes[-len(records) :], records, strict=True):
        lines = {"reference": record["references"][0]}
        lines |= {SPEAKERS[name]: known[name][record["id"]] for name in SPEAKERS if name in known}
        text = "\n".join(fill(f"{who}: {text}", width) for who, text in lines.items())
        look = {"size": 6.2, "va": "center", "linespacing": 1.05, "color": INK}
        axes.text(1.1, 0.5, text, transform=axes.transAxes, **look)
    return figure


# --------------------------------------------------------------- blur, and trees changed by hand


def shakes(shown: Mapping[str, tuple[ndarray, int, ndarray, ndarray]]) -> Figure:
    """A row for each shake: path and kernel at one scale, log spectrum, blurred photo.

    `shown`: words -> (path, complex, in pixels; how many of its samples the shutter sees, the
    others are grey; kernel; blurred photo).
    """
    lines = []
    for path, seen, kernel, photo in shown.values():
        moved = (path - path[:seen].mean()).view(float).reshape(-1, 2)
        side = max(2 * np.abs(moved).max() + 3, 16)
        window = int(2 ** np.ceil(np.log2(side))) + 1  # odd, as kernels are
        drawn = trajectory(moved, seen, window), kernel_image(kernel, window)
        lines.append([*((image, f"{window} px wide") for image in drawn), spectrum(photo), photo])
    titles = ("camera path (dot: start)", "kernel", "log spectrum", "blurred photo")
    return sheet(dict(zip(titles, zip(*lines, strict=True), strict=True)), list(shown))


def changed_trees(
    blurred: ndarray, intact: ndarray, panels: Mapping[str, tuple[ndarray, float]]
) -> Figure:
    """A photo restored with its tree whole and with each change, and what that changes.

    `panels`: change -> (restored, change of PSNR in dB).
    """
    nothing = np.full_like(intact, 255)
    columns = {"blurred": [blurred, nothing], "whole tree": [intact, nothing]}
    for words, (image, change) in panels.items():
        columns[words] = [image, (strengthened(image, intact, 8), f"{change:+.2f} dB")]
    return sheet(columns, ("restored", "difference x 8"), across=8)
