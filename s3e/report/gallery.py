"""Test photos chosen by rule, never by hand: failures (figure 11), error maps (12); and where words look (13)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s3e.evaluation.gains import ORACLES
from s3e.evaluation.images import psnr
from s3e.models.tree import LEAVES
from s3e.report.pictures import below, grid, results, spotlight, title
from s3e.report.style import GREY, PAGE_WIDTH, bare, in_order, label, styled, wrap
from s3e.utils import S3EError, read_json

KEPT = "restored_test.npy"
LINE = 8  # word maps on a line of figure 13
LINES = 2  # a longer caption is cut


@dataclass(frozen=True)
class Gallery:
    """Test photos under the trained severity: uint8 N x H x W x 3 each, and each arm's PSNR in dB (ids x arms)."""

    sharp: np.ndarray
    blurred: np.ndarray
    restored: dict[str, np.ndarray]
    psnr: pd.DataFrame

    @property
    def gain(self) -> np.ndarray:
        """PSNR gained by `full` over `baseline` on each photo, in dB (N,)."""
        return (self.psnr["full"] - self.psnr["baseline"]).to_numpy()

    @property
    def spread(self) -> np.ndarray:
        """How far apart the arms are on each photo: best minus worst PSNR in dB (N,); oracles do not count."""
        rivals = self.psnr.drop(columns=list(ORACLES), errors="ignore")
        return (rivals.max(axis=1) - rivals.min(axis=1)).to_numpy()


def read_gallery(corpus: Path, arms: Mapping[str, Path], severity: str) -> Gallery | None:
    """What `arms` (variant -> folder of its run) kept of the test photos of a corpus folder, under `severity`.

    None without `baseline` and `full`, or where they kept no photos (data without captions).
    """
    kept = {name: arms[name] for name in in_order(arms) if (arms[name] / KEPT).is_file()}
    if not {"baseline", "full"} <= set(kept):
        return None
    ids = read_json(corpus / "test.json")["ids"]
    scores = {name: _scores(path, severity).reindex(ids) for name, path in kept.items()}
    sharp, blurred = (
        np.load(corpus / f"test_{view}.npy", mmap_mode="r") for view in ("sharp", severity)
    )
    restored = {name: np.load(path / KEPT, mmap_mode="r") for name, path in kept.items()}
    for name, images in restored.items():
        if images.shape != sharp.shape or scores[name].isna().any():
            raise S3EError(
                f"{kept[name]} did not restore the test photos of {corpus}: run its notebook again."
            )
    return Gallery(sharp, blurred, restored, pd.DataFrame(scores))


def _scores(folder: Path, severity: str) -> pd.Series:
    scores = pd.read_csv(folder / "scores.csv", dtype={"id": str})
    return scores[(scores.split == "test") & (scores.severity == severity)].set_index("id").psnr


def most(values: np.ndarray, count: int) -> list[int]:
    """Rows of the `count` largest values, largest first; ties in order."""
    return np.argsort(-values, kind="stable")[:count].tolist()


@styled
def failures(gallery: Gallery, count: int = 3) -> Figure:
    """Figure 11: where `full` loses most PSNR to the baseline, then where the arms disagree most; `count` rows each."""
    worst, disputed = most(-gallery.gain, count), most(gallery.spread, count)
    words = [f"gain {_signed(gallery.gain[row])} dB" for row in worst]
    words += [f"{gallery.spread[row]:.1f} dB apart" for row in disputed]
    rows = worst + disputed
    columns = {
        "blurred": gallery.blurred[rows],
        **{name: images[rows] for name, images in gallery.restored.items()},
    }
    return results(columns, gallery.sharp[rows], count=len(rows), rows=words)


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def ladder(values: np.ndarray, count: int) -> list[int]:
    """`count` rows at equal steps from the largest value to the smallest: best, ..., median, ..., worst."""
    order = np.argsort(-values, kind="stable")
    return order[
        np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    ].tolist()


@styled
def error_maps(gallery: Gallery, count: int = 3) -> Figure:
    """Figure 12: mean absolute error over the colours, in grey levels, on one scale for all; PSNR below.

    The photos are those on which `full` gains most over the baseline, gains the median, ..., and gains least.
    """
    rows = ladder(gallery.gain, count)
    columns = {"blurred": gallery.blurred, **gallery.restored}
    errors = {name: _error(images[rows], gallery.sharp[rows]) for name, images in columns.items()}
    top = float(np.quantile(np.stack(list(errors.values())), 0.995)) or 1.0
    figure, cells = grid(len(rows), len(errors) + 1, top=0.6, left=0.18)
    for axes, name in zip(cells[0], ["sharp", *errors], strict=True):
        title(axes, wrap(name if name == "sharp" else label(name).split(" (")[0], 17))
    for row, line in zip(rows, cells, strict=True):
        line[0].imshow(gallery.sharp[row])
        gained = f"gain {_signed(gallery.gain[row])} dB"
        line[0].text(
            -0.04, 0.5, gained, transform=line[0].transAxes, ha="right", va="center", rotation=90
        )
    for axes, (name, maps) in zip(cells[:, 1:].T, errors.items(), strict=True):
        for cell, row, error in zip(axes, rows, maps, strict=True):
            shown = cell.imshow(error, cmap="inferno", vmin=0, vmax=top)
            below(cell, f"{psnr(columns[name][row], gallery.sharp[row]):.2f} dB")
    _colour_bar(figure, shown)
    return figure


def _error(restored: np.ndarray, sharp: np.ndarray) -> np.ndarray:
    """|restored - sharp| in grey levels, mean over colours: N x H x W."""
    return np.abs(restored.astype(float) - sharp).mean(-1)


def _colour_bar(figure: Figure, shown: object) -> None:
    """The common scale, in the upper right corner; brighter than its end is drawn as its end."""
    tall = figure.get_figheight()
    bar = figure.colorbar(
        shown,
        cax=figure.add_axes((0.68, 1 - 0.13 / tall, 0.3, 0.08 / tall)),
        orientation="horizontal",
        extend="max",
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5, pad=1)
    bar.ax.grid(False)
    words = "absolute error, grey levels of 255"
    figure.text(0.665, 1 - 0.1 / tall, words, ha="right", va="center", size=7, color=GREY)


def word_maps(words: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
    """Where each word looks in the photo: N x T x h x w, each map sums to 1.

    `words` N x T x K: the decoder's attention over its items; `nodes` N x 7 x h x w: where each tree node looks. With
    a tree K is 7 and a word's map is the nodes' maps in the proportions that it hears them; else K are grid cells.
    """
    if nodes is not None:
        return np.einsum("ntk,nkhw->nthw", words, nodes)
    side = round(words.shape[-1] ** 0.5)
    return words.reshape(*words.shape[:2], side, side)


@styled
def word_attention(
    pictures: np.ndarray,
    maps: np.ndarray,
    captions: Sequence[str],
    words: np.ndarray | None = None,
    count: int = 3,
) -> Figure:
    """Figure 13: a caption's words, each over the photo lit where it looks.

    `pictures`: uint8 (n, S, S, 3), what the captioner read; `maps`: (n, T, h, w) of `word_maps`; `words`: (n, T, 7),
    attention over nodes, adds the node that each word hears most and its share.
    """
    said = [_cut(caption.split()) for caption in captions[:count]]
    figure, photos, cells = _word_grid(
        [len(text) for text in said], 0.16 if words is None else 0.27
    )
    for row, (photo, text) in enumerate(zip(photos, said, strict=True)):
        photo.imshow(pictures[row])
        for place, (word, axes) in enumerate(zip(text, cells[row], strict=True)):
            spotlight(axes, pictures[row], maps[row, place])
            below(axes, word)
            if words is not None:
                _heard(axes, words[row, place])
    return figure


def _cut(text: list[str]) -> list[str]:
    """The words of a caption that figure 13 has room for."""
    room = LINE * LINES
    return text if len(text) <= room else [*text[: room - 1], f"{text[room - 1]} …"]


def _heard(axes: Axes, nodes: np.ndarray) -> None:
    """The node that a word hears most, with its share, in small print below the word."""
    node = int(nodes.argmax())
    name = (
        f"leaf {node + 1}"
        if node < LEAVES
        else "root"
        if node == len(nodes) - 1
        else f"node {node + 1}"
    )
    axes.text(
        0.5,
        -0.25,
        f"{name}, {nodes[node]:.0%}",
        transform=axes.transAxes,
        ha="center",
        va="top",
        size=5.6,
        color=GREY,
    )


def _word_grid(
    lengths: Sequence[int], below: float, gap: float = 0.05
) -> tuple[Figure, list[Axes], list[list[Axes]]]:
    """For every caption a square for its photo and, right of it, one for each of its words, `LINE` a line; inches."""
    side = (PAGE_WIDTH - gap * (LINE + 2)) / (LINE + 1)
    lines = [max(1, -(-length // LINE)) for length in lengths]  # a caption may be empty
    starts = np.cumsum([0, *lines[:-1]]) * (side + below) + gap
    tall = sum(lines) * (side + below) + gap
    figure = Figure(figsize=(PAGE_WIDTH, tall))

    def square(top: float, line: int, column: int) -> Axes:
        x, y = gap + column * (side + gap), tall - top - line * (side + below) - side
        return bare(figure.add_axes((x / PAGE_WIDTH, y / tall, side / PAGE_WIDTH, side / tall)))

    photos = [square(top, 0, 0) for top in starts]
    cells = [
        [square(top, place // LINE, place % LINE + 1) for place in range(length)]
        for top, length in zip(starts, lengths, strict=True)
    ]
    return figure, photos, cells
