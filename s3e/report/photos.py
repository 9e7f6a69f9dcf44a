"""Figures made of images: severities, results, failures, errors, attention, captions, blur.

All are sheets of square cells; images are uint8 (n, H, W, 3) unless said otherwise.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

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
    window_for,
)
from s3e.utils import psnr

SPEAKERS = {  # system in `captions.json` -> its name in figure 7
    "global": "global feature", "soft_attention": "soft attention", "tree": "S3-tree, before",
    "full": "S3E-Deblur, after",
}  # fmt: skip


@styled
def sheet(
    columns: Mapping[str, Sequence[np.ndarray]],
    notes: Mapping[str, Sequence[str]] | None = None,
    rows: Sequence[str] = (),
    across: int = 0,
) -> Figure:
    """Columns of square cells under their titles, `across` on a line (0: all), the rest below.

    `notes`: by title, a text below each image, red where it starts with ✗; `rows`: words at the
    left of each.
    """
    notes, titles = notes or {}, list(columns)
    across, deep = across or len(titles), len(columns[titles[0]])
    gap, left = 0.05, 0.18 if any(rows) else 0.03
    side = (PAGE_WIDTH - 2 * left - gap * (across - 1)) / across
    heads = {title: fill(title, max(8, int(14 * side))) for title in titles}
    head = 0.12 + 0.14 * max(1 + text.count("\n") for text in heads.values())
    longest = max((1 + text.count("\n") for column in notes.values() for text in column), default=0)
    foot = 0.06 + 0.12 * longest
    block = head + deep * (side + foot)
    tall = block * -(-len(titles) // across)
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    for number, title in enumerate(titles):
        line, column = divmod(number, across)
        for row, image in enumerate(columns[title]):
            bottom = tall - line * block - head - row * (side + foot) - side
            place = (left + column * (side + gap), bottom, side, side)
            axes = bare(figure.add_axes(np.divide(place, (PAGE_WIDTH, tall) * 2)))
            axes.imshow(image)
            note = notes[title][row] if title in notes else ""
            ink = VERMILLION if note.startswith("✗") else INK
            axes.set_xlabel(note, size=7, color=ink, labelpad=2, linespacing=1.1)
            if row == 0:
                axes.set_title(heads[title], loc="center", pad=4)
            if column == 0 and rows:
                axes.set_ylabel(rows[row], color=INK, labelpad=2)
    return figure


def _decibels(images: Sequence[np.ndarray], sharp: Sequence[np.ndarray]) -> list[str]:
    return [f"{psnr(*pair):.2f} dB" for pair in zip(images, sharp, strict=True)]


def severity_views(
    corpus: Corpus, config: Config, count: int = 3
) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """Photos to show, sharp and in every severity, and the kernels of those that were made."""
    split = shown(corpus, config)
    names = [name for name in corpus.severities if name in split.blurred]
    rows = split.spread(split.rows(*names))[:count]
    views, ids = {"sharp": split.sharp} | split.blurred, [split.ids[row] for row in rows]
    images = {name: views[name][rows] for name in ("sharp", *names)}
    size, seed = config.data.size, config.blur.seed
    return images, {name: kernels_for(ids, name, size, seed)[0] for name in corpus.synthetic}


def severities(
    images: Mapping[str, np.ndarray], kernels: Mapping[str, Sequence[np.ndarray]], count: int = 3
) -> Figure:
    """Figure 1: images "sharp" and under each severity, PSNR below, then kernels at their scale."""
    columns = {name: own[:count] for name, own in images.items()}
    sharp = columns["sharp"]
    notes = {name: _decibels(own, sharp) for name, own in columns.items() if name != "sharp"}
    for name, own in kernels.items():
        side = sharp.shape[1] | 1
        columns[f"{name}: kernel"] = [kernel_image(kernel, side) for kernel in own[:count]]
    return sheet(columns, notes)


def results(
    columns: Mapping[str, np.ndarray], sharp: np.ndarray, rows: Sequence[str] = (), count: int = 4
) -> Figure:
    """Figures 4, 5 and 11: images blurred, restored by each variant, sharp; PSNR (dB) below.

    `columns`: "blurred" and variants -> images; `rows`: words for each line.
    """
    drawn = {short(name): images[:count] for name, images in columns.items()}
    notes = {name: _decibels(images, sharp[:count]) for name, images in drawn.items()}
    return sheet(drawn | {"sharp": sharp[:count]}, notes, rows)


def errors(
    columns: Mapping[str, np.ndarray], sharp: np.ndarray, rows: Sequence[str] = (), count: int = 4
) -> Figure:
    """Figure 12: absolute errors of images as in `results`, twice as strong; black: none."""
    shown, notes = {"sharp": sharp[:count]}, {}
    for name, images in columns.items():
        title = f"2 x error, {short(name)}"
        shown[title] = [strengthened(*pair, 2) for pair in zip(images[:count], sharp, strict=False)]
        notes[title] = _decibels(images[:count], sharp[:count])
    return sheet(shown, notes, rows)


def failures(
    columns: Mapping[str, np.ndarray], sharp: np.ndarray, count: int = 3
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Where `full` loses most PSNR to the baseline, then where variants (no oracles) disagree most.

    Images as in `results`; returns those of the rows chosen, and words for each row.
    """
    pairs = {name: zip(images, sharp, strict=True) for name, images in columns.items()}
    scores = pd.DataFrame({name: [psnr(*pair) for pair in own] for name, own in pairs.items()})
    rivals = scores.drop(columns=["blurred", *ORACLES], errors="ignore")
    gain = (scores["full"] - scores["baseline"]).nsmallest(count)
    spread = (rivals.max(axis=1) - rivals.min(axis=1)).nlargest(count)
    words = [f"gain {value:+.1f} dB" for value in gain]
    words += [f"{value:.1f} dB apart" for value in spread]
    rows = [*gain.index, *spread.index]
    return {name: images[rows] for name, images in columns.items()}, sharp[rows], words


def node_attention(
    images: np.ndarray,
    attention: np.ndarray,
    predicted: Sequence[Sequence[str]],
    target: Sequence[Sequence[str] | None],
    rows: Sequence[str] = (),
) -> Figure:
    """Figure 6: where each node of the S3-tree looks and what it predicts (✗ wrong: + the truth).

    `images`: what the tree read; `attention`: (n, 7, h, w), each map sums to 1. A truth that is not
    known (None or "?") marks nothing. `rows`: a word for each line.
    """
    columns, notes = {"input": images}, {}
    for node, name in enumerate(NODE_NAMES):
        columns[name] = [
            lit(image, looks[node]) for image, looks in zip(images, attention, strict=True)
        ]
        notes[name] = [
            _verdict(labels[node], truth and truth[node])
            for labels, truth in zip(predicted, target, strict=True)
        ]
    return sheet(columns, notes, rows)


def _verdict(label: str, truth: str | None) -> str:
    text = label if truth in (None, "?", label) else f"✗ {label}\n({truth})"
    return text.replace("_", " ").replace(NULL, "∅")


def word_attention(image: np.ndarray, caption: str, words: np.ndarray, nodes: np.ndarray) -> Figure:
    """An image and its caption's words, each over the image lit where the nodes look that it hears.

    `words` (T, 7): attention of each word over nodes; `nodes` (7, h, w): where each node looks.
    Below: the node that a word attends to most, and its share.
    """
    columns, notes = {"input": [image]}, {}
    for place, word in enumerate(caption.split(), 1):
        share = words[place - 1]
        columns[f"{place} {word}"] = [lit(image, np.tensordot(share, nodes, 1))]
        notes[f"{place} {word}"] = [f"{NODE_NAMES[share.argmax()]}, {share.max():.0%}"]
    return sheet(columns, notes, across=9)


@styled
def captions(
    images: Mapping[str, np.ndarray],
    records: Sequence[Mapping[str, Any]],
    said: pd.DataFrame,
    view: str,
) -> Figure:
    """Figure 7: images (by title), and what people and captioners said of them.

    `records`: of the images (id, references); `said`: `s3e.evaluation.collect.read_captions`, of
    which captions of the input `view` are shown.
    """
    figure, width = sheet(images, across=7), 19 * (7 - len(images))  # letters on a line
    known = said[(said.input == view) & (said.split == "val")].drop_duplicates("system")
    known = known.set_index("system").captions
    for axes, record in zip(figure.axes[-len(records) :], records, strict=True):
        lines = {"reference": record["references"][0]}
        lines |= {SPEAKERS[name]: known[name][record["id"]] for name in SPEAKERS if name in known}
        text = "\n".join(fill(f"{who}: {text}", width) for who, text in lines.items())
        look = {"size": 6.2, "va": "center", "linespacing": 1.05, "color": INK}
        axes.text(1.1, 0.5, text, transform=axes.transAxes, **look)
    return figure


# --------------------------------------------------------------- blur, and trees changed by hand


def shakes(shown: Mapping[str, tuple[np.ndarray, int, np.ndarray, np.ndarray]]) -> Figure:
    """A row for each shake: path and kernel at one scale, log spectrum, blurred photo.

    `shown`: words -> (path, complex, in pixels; how many of its samples the shutter sees, the
    others are grey; kernel; blurred photo).
    """
    titles = ("camera path (dot: start)", "kernel", "log spectrum", "blurred photo")
    lines, widths = [], []
    for path, seen, kernel, photo in shown.values():
        moved = path - path[:seen].mean()
        window = window_for(moved)
        drawn = trajectory(moved, seen, window), kernel_image(kernel, window)
        lines.append((*drawn, spectrum(photo), photo))
        widths.append(f"{window} px wide")
    columns = dict(zip(titles, zip(*lines, strict=True), strict=True))
    return sheet(columns, dict.fromkeys(titles[:2], widths), list(shown))


def kernels(
    shown: Mapping[str, Sequence[np.ndarray]], extents: Mapping[str, Sequence[float]]
) -> Figure:
    """Kernels of several images under each severity, all at one scale, extent in pixels below."""
    side = max(kernel.shape[0] for row in shown.values() for kernel in row) + 2
    count = range(len(next(iter(shown.values()))))
    columns = {
        f"image {n + 1}": [kernel_image(row[n], side) for row in shown.values()] for n in count
    }
    notes = {f"image {n + 1}": [f"{extents[name][n]:.0f} px" for name in shown] for n in count}
    return sheet(columns, notes, list(shown))


def spectra(views: Mapping[str, np.ndarray]) -> Figure:
    """What blur removes: one photo, sharp first, and its log amplitude spectra on one scale."""
    columns = {name: [photo, spectrum(photo)] for name, photo in views.items()}
    return sheet(columns, rows=("photo", "log amplitude"))


def changed_trees(
    blurred: np.ndarray,
    intact: np.ndarray,
    panels: Mapping[str, tuple[np.ndarray, float]],
    gain: int = 8,
) -> Figure:
    """A photo restored with its tree whole and with each change, and what that changes.

    `panels`: change -> (restored, change of PSNR in dB); `gain`: how strong differences are shown.
    """
    nothing = np.full_like(intact, 255)
    columns = {"blurred": [blurred, nothing], "whole tree": [intact, nothing]}
    notes = {}
    for words, (image, change) in panels.items():
        columns[words] = [image, strengthened(image, intact, gain)]
        notes[words] = ["", f"{change:+.2f} dB"]
    return sheet(columns, notes, ("restored", f"difference x {gain}"), across=8)
