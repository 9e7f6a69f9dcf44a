"""Figures made of images: severities, results, failures, errors, attention, captions, blur, changed
trees.

All are sheets of square cells; images are uint8 (n, S, S, 3) unless said otherwise.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s3e.blur import SEVERITIES, blur_batch, kernel_for
from s3e.config import VARIANTS, Config
from s3e.data.corpus import Batch, Corpus, to_images, to_tensor
from s3e.data.photos import PHOTOS, photograph
from s3e.data.prepare import pad_kernels
from s3e.evaluation.collect import describe
from s3e.evaluation.gains import ORACLES
from s3e.evaluation.images import psnr, score_batch
from s3e.evaluation.score import node_names
from s3e.models.build import build_model, build_semantics, load_weights
from s3e.models.tree import predicted_nodes
from s3e.report.diagram import NODE_NAMES, NULL, draw_tree
from s3e.report.style import (
    BLUE,
    GREY,
    INK,
    PAGE_WIDTH,
    VERMILLION,
    bare,
    in_order,
    kernel_image,
    lit,
    short,
    spectrum,
    strengthened,
    styled,
    top,
    trajectory,
    window_for,
    wrap,
)
from s3e.utils import S3EError, read_json

KEPT = "restored_test.npy"
WORDS = 8  # of a caption on a line of figure 13
PANELS = 7  # changed trees on a line
SPEAKERS = {  # system in `captions.json` -> its name in figure 7
    "global": "global feature", "soft_attention": "soft attention", "tree": "S3-tree, before",
    "full": "S3E-Deblur, after",
}  # fmt: skip
WORDINGS = {  # of the public-domain photographs, two each
    "astronaut": (
        "A woman in an orange suit smiles in front of a flag",
        "There is a flag behind a smiling woman",
    ),
    "chelsea": ("A striped cat is lying on a soft blanket", "On a blanket lies a cat"),
    "coffee": (
        "A cup of coffee and a spoon are on a wooden table",
        "On a table there is a cup of coffee",
    ),
    "rocket": (
        "A rocket leaves its tower in a cloud of smoke",
        "Smoke is below a rocket near a tower",
    ),
}
Cell = tuple[np.ndarray, Any]  # an image and the note below it: text, or (text, style)
Samples = tuple[dict[str, np.ndarray], list[dict[str, Any]]]


@styled
def sheet(
    lines: Sequence[Sequence[Cell]],
    titles: Sequence[str] = (),
    rows: Sequence[str] = (),
    head: float = 0.24,
    foot: float = 0.17,
    columns: int = 0,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of square cells line by line, and its axes; `head`, `foot`: inches above all and
    below each.

    `titles` stand above the columns, `rows` at the left of the lines; `columns`: at least so many.
    """
    count, gap, left = max(columns, *map(len, lines)), 0.05, 0.18 if any(rows) else 0.03
    side = (PAGE_WIDTH - 2 * left - gap * (count - 1)) / count
    tall = head + len(lines) * (side + foot)
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    cells: list[list[Axes]] = []
    for number, line in enumerate(lines):
        bottom = tall - head - number * (side + foot) - side
        cells.append([])
        for column, (image, note) in enumerate(line):
            place = (left + column * (side + gap), bottom, side, side)
            axes = bare(figure.add_axes(np.divide(place, (PAGE_WIDTH, tall) * 2)))
            axes.imshow(image)
            text, look = (note, {}) if isinstance(note, str) else note
            look = {
                "ha": "center",
                "va": "top",
                "size": 7,
                "color": INK,
                "linespacing": 1.15,
            } | look
            axes.text(0.5, -0.03, text, transform=axes.transAxes, **look)
            cells[-1].append(axes)
    for axes, text in zip(cells[0], titles, strict=False):
        axes.set_title(wrap(text, 17), loc="center", pad=4)
    for (axes, *_), text in zip(cells, rows, strict=False):
        look = {"ha": "right", "va": "center", "rotation": 90}
        axes.text(-0.04, 0.5, text, transform=axes.transAxes, **look)
    return figure, cells


@styled
def severities(
    images: Mapping[str, np.ndarray], kernels: Mapping[str, np.ndarray], count: int = 3
) -> Figure:
    """Figure 1: sharp images and the same under each severity, with the kernel at its scale and the
    PSNR.

    `images`: "sharp" and severities; `kernels`: severity -> (n, K, K), zero padded, where known.
    """
    sharp = images["sharp"][:count]
    lines = [
        [(own[row], "" if name == "sharp" else _decibels(own[row], sharp[row]))
         for name, own in images.items()]
        for row in range(len(sharp))
    ]  # fmt: skip
    figure, cells = sheet(lines, list(images))
    for row, line in enumerate(cells):
        for axes, name in zip(line, images, strict=True):
            if name in kernels:
                _kernel_inset(axes, kernels[name][row], len(sharp[row]))
    return figure


def _kernel_inset(axes: Axes, kernel: np.ndarray, size: int) -> None:
    """The kernel's support in the lower right corner, at the scale of the image (`size` pixels)."""
    rows, columns = np.nonzero(kernel > 0.02 * kernel.max())
    crop = np.pad(kernel[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], 1)
    height, width = np.array(crop.shape) / size
    inset = bare(axes.inset_axes((0.98 - width, 0.02, width, height)))
    inset.imshow(np.sqrt(crop / crop.max()), cmap="gray", vmin=0, vmax=1, aspect="auto")
    inset.spines[:].set(visible=True, color="white", linewidth=0.6)


def _decibels(image: np.ndarray, sharp: np.ndarray) -> str:
    return f"{psnr(image, sharp):.2f} dB"


def results(
    columns: Mapping[str, np.ndarray],
    sharp: np.ndarray,
    count: int = 4,
    rows: Sequence[str] = (),
    errors: int = 0,
) -> Figure:
    """Figures 4 and 5: images blurred, restored by each variant, sharp; PSNR (dB) below, the best
    but oracles in bold.

    `columns`: "blurred" and variants; `rows`: a word for each line; `errors`: adds absolute errors,
    so many times as strong.
    """
    lines = []
    for row, truth in enumerate(sharp[:count]):
        shown = {name: images[row] for name, images in columns.items()}
        scores = {name: float(psnr(image, truth)) for name, image in shown.items()}
        best = max(score for name, score in scores.items() if name not in ORACLES)
        weight = {name: "bold" if score == best else "normal" for name, score in scores.items()}
        line = [
            (image, (f"{scores[name]:.2f} dB", {"weight": weight[name]}))
            for name, image in shown.items()
        ]
        apart = [(strengthened(image, truth, errors), "") for image in shown.values() if errors]
        lines.append([*line, (truth, ""), *apart])
    names = [short(name) for name in columns]
    titles = [*names, "sharp", *(f"error of {name}" for name in names)]
    return sheet(lines, titles, rows, head=0.36)[0]


def progress(moments: Mapping[int, Mapping[str, np.ndarray]]) -> Figure:
    """The same images restored after more and more steps, as `s3e.report.plots.snapshots` reads
    them.
    """
    first = next(iter(moments.values()))
    restored = {f"step {step}": arrays["restored"] for step, arrays in moments.items()}
    return results({"blurred": first["blurred"], **restored}, first["sharp"])


def directions(restored: np.ndarray, wishes: Mapping[str, np.ndarray], sharp: np.ndarray) -> Figure:
    """How each loss term would change restored images: grey = not at all, brighter = more of that
    colour.

    `wishes`: term -> signed (n, S, S, 3), each scaled by its own size.
    """
    columns = {"restored": restored}
    for term, wish in wishes.items():
        size = float(np.quantile(np.abs(wish), 0.99)) or 1.0
        columns[f"{term} loss"] = np.clip(0.5 + 0.5 * wish / size, 0, 1)
    columns["sharp"] = sharp
    lines = zip(*columns.values(), strict=True)
    return sheet([[(image, "") for image in line] for line in lines], list(columns))[0]


def node_attention(
    images: np.ndarray,
    attention: np.ndarray,
    predicted: Sequence[Sequence[str]],
    target: Sequence[Sequence[str] | None],
    rows: Sequence[str] = (),
) -> Figure:
    """Figure 6: where each node of the S3-tree looks, with the label it predicts (blue right, red
    wrong: + the truth).

    `images`: what the tree read; `attention`: (n, 7, h, w), each map sums to 1. Where an image's
    truth is not known (None), labels are grey. `rows`: a word for each line.
    """
    lines = [
        [(image, ""), *((lit(image, looks[node]), _node_note(labels[node], truth and truth[node]))
                        for node in range(len(looks)))]
        for image, looks, labels, truth in zip(images, attention, predicted, target, strict=True)
    ]  # fmt: skip
    return sheet(lines, ("input", *NODE_NAMES), rows, foot=0.28)[0]


def _node_note(predicted: str, truth: str | None) -> tuple[str, dict[str, str]]:
    right, text = predicted == truth, predicted
    if truth and not right:
        text = f"✗ {predicted}\n({truth})"
    colour = GREY if not truth or (right and truth == NULL) else BLUE if right else VERMILLION
    return text.replace("_", " ").replace(NULL, "∅"), {"color": colour}


def word_maps(words: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
    """Where each word looks in the image: N x T x h x w, each map sums to 1.

    `words` N x T x K: the decoder's attention over its items; `nodes` N x 7 x h x w: where each
    tree node looks. With a tree K is 7 and a word's map is the nodes' maps in the proportions that
    it attends to them; else K are grid cells.
    """
    if nodes is not None:
        return np.einsum("ntk,nkhw->nthw", words, nodes)
    side = round(words.shape[-1] ** 0.5)
    return words.reshape(*words.shape[:2], side, side)


def word_attention(
    images: np.ndarray, maps: np.ndarray, captions: Sequence[str], words: np.ndarray | None = None
) -> Figure:
    """Figure 13: an image and its caption's words, each over the image lit where it looks.

    `images`: what the captioner read; `maps`: (n, T, h, w) of `word_maps`; `words`: (n, T, 7),
    attention over nodes, adds the node that each word attends to most and its share.
    """
    lines = []
    for row, caption in enumerate(captions):
        line: list[Cell] = [(images[row], "")]
        for place, word in enumerate(caption.split()[: 2 * WORDS]):
            note = word
            if words is not None:
                share = words[row, place]
                note += f"\n{NODE_NAMES[int(share.argmax())]}, {share.max():.0%}"
            if place == WORDS:
                lines.append(line)
                line = [(np.full_like(images[row], 255), "")]
            line.append((lit(images[row], maps[row, place]), note))
        lines.append(line)
    return sheet(lines, foot=0.17 if words is None else 0.28, head=0.05, columns=WORDS + 1)[0]


def caption_lines(
    said: pd.DataFrame, records: Sequence[Mapping[str, Any]], view: str
) -> list[list[tuple[str, str]]]:
    """Lines for figure 7: per image, the first reference caption and what each known system said of
    the input `view`.

    `said`: frame of `s3e.evaluation.collect.read_captions`; `records`: the sample records (id,
    references).
    """
    chosen = said[(said.input == view) & (said.split == "val")].drop_duplicates("system")
    found = chosen.set_index("system").captions
    known = {words: found[name] for name, words in SPEAKERS.items() if name in found.index}
    return [
        [
            ("reference", record["references"][0]),
            *((words, texts[record["id"]]) for words, texts in known.items()),
        ]
        for record in records
    ]


@styled
def captions(
    images: Mapping[str, np.ndarray], lines: Sequence[Sequence[tuple[str, str]]], count: int = 4
) -> Figure:
    """Figure 7: images on the left (a column each, by title), and beside them what people and
    captioners said of them.

    `lines`: for each image, (who, caption).
    """
    columns, width = 7, 20 * (7 - len(images)) - 22  # letters on a line
    drawn = [[(own[row], "") for own in images.values()] for row in range(min(count, len(lines)))]
    figure, cells = sheet(drawn, list(images), foot=0.06, columns=columns)
    for axes, own in zip((line[-1] for line in cells), lines, strict=False):
        for number, (who, text) in enumerate(own):
            y = 1 - (number + 0.5) / len(own)
            look = {"transform": axes.transAxes, "size": 6.6, "va": "center", "linespacing": 1.0}
            said = textwrap.shorten(text, 2 * width - 8, placeholder=" …")
            axes.text(1.1, y, who, color=GREY, **look)
            axes.text(2.05, y, wrap(said, width), color=INK, **look)
    return figure


@dataclass(frozen=True)
class Gallery:
    """Test images under the trained severity, and each variant's PSNR in dB (ids x variants)."""

    sharp: np.ndarray
    blurred: np.ndarray
    restored: dict[str, np.ndarray]
    psnr: pd.DataFrame

    @property
    def gain(self) -> np.ndarray:
        """PSNR gained by `full` over `baseline` on each image, in dB (N,)."""
        return (self.psnr["full"] - self.psnr["baseline"]).to_numpy()

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The blurred images and what each variant made of them."""
        return {"blurred": self.blurred, **self.restored}


def read_gallery(corpus: Path, runs: Mapping[str, Path], severity: str) -> Gallery | None:
    """What `runs` (variant -> folder) kept of the test images of a corpus folder, under `severity`.

    None without `baseline` and `full`, or where they kept no images (data without captions).
    """
    kept = {name: runs[name] for name in in_order(runs) if (runs[name] / KEPT).is_file()}
    if not {"baseline", "full"} <= set(kept):
        return None
    ids, scores = read_json(corpus / "test.json")["ids"], {}
    views = [np.load(corpus / f"test_{name}.npy", mmap_mode="r") for name in ("sharp", severity)]
    restored = {name: np.load(path / KEPT, mmap_mode="r") for name, path in kept.items()}
    for name, path in kept.items():
        own = pd.read_csv(path / "scores.csv", dtype={"id": str})
        own = own[(own.split == "test") & (own.severity == severity)].set_index("id").psnr
        scores[name] = own.reindex(ids)
        if restored[name].shape != views[0].shape or scores[name].isna().any():
            raise S3EError(
                f"{path} did not restore the test images of {corpus}: run its notebook again."
            )
    return Gallery(*views, restored, pd.DataFrame(scores))


def _gained(value: float) -> str:
    return f"gain {value:+.1f} dB".replace("-", "−")


def failures(gallery: Gallery, count: int = 3) -> Figure:
    """Figure 11: where `full` loses most PSNR to the baseline, then where variants (but oracles)
    disagree most.
    """
    rivals = gallery.psnr.drop(columns=list(ORACLES), errors="ignore").to_numpy()
    spread = np.ptp(rivals, axis=1)
    worst = np.argsort(gallery.gain, kind="stable")[:count].tolist()
    disputed = np.argsort(-spread, kind="stable")[:count].tolist()
    rows = worst + disputed
    words = [_gained(gallery.gain[row]) for row in worst]
    words += [f"{spread[row]:.1f} dB apart" for row in disputed]
    columns = {name: images[rows] for name, images in gallery.columns.items()}
    return results(columns, gallery.sharp[rows], len(rows), words)


@styled
def error_maps(gallery: Gallery, count: int = 3) -> Figure:
    """Figure 12: mean absolute error over the colours, in grey levels, on one scale for all; PSNR
    below.

    The images are those on which `full` gains most over the baseline, gains the median, ..., and
    gains least.
    """
    order = np.argsort(-gallery.gain, kind="stable")
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    rows, columns = order[places].tolist(), gallery.columns
    sharp = gallery.sharp[rows]
    errors = {
        name: np.abs(images[rows].astype(float) - sharp).mean(-1)
        for name, images in columns.items()
    }
    peak = float(np.quantile(np.stack(list(errors.values())), 0.995)) or 1.0
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, peak), "inferno")
    lines = [
        [(truth, ""), *((scale.to_rgba(errors[name][line], bytes=True),
                         _decibels(columns[name][row], truth)) for name in columns)]
        for line, (row, truth) in enumerate(zip(rows, sharp, strict=True))
    ]  # fmt: skip
    words = [_gained(gallery.gain[row]) for row in rows]
    figure, _ = sheet(lines, ["sharp", *map(short, columns)], words, head=0.6)
    tall = figure.get_figheight()
    place = figure.add_axes((0.68, 1 - 0.13 / tall, 0.3, 0.08 / tall))
    bar = figure.colorbar(scale, cax=place, orientation="horizontal", extend="max")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5, pad=1)
    bar.ax.grid(False)
    words = "absolute error, grey levels of 255"
    figure.text(0.665, 1 - 0.1 / tall, words, ha="right", va="center", size=7, color=GREY)
    return figure


# ----------------------------------------------------- blur, trees changed by hand, one's own photo


def path_and_kernels(path: np.ndarray, kernels: Mapping[float, np.ndarray]) -> Figure:
    """A camera path (complex, pixels) and the kernels of its exposed shares {fraction: (K, K)}, at
    one scale.
    """
    around = path - (path.max() + path.min()) / 2
    side = window_for(around, 256)
    line = [(trajectory(around, len(path), side), f"camera path, {side} px wide")]
    line += [(kernel_image(own, side), f"exposed: {share:g}") for share, own in kernels.items()]
    return sheet([line], head=0.05)[0]


def kernel_gallery(
    kernels: Mapping[str, Sequence[np.ndarray]], extents: Mapping[str, Sequence[float]]
) -> Figure:
    """Kernels of several images (columns) under each severity (rows), all at one scale, extent in
    pixels below.
    """
    side = max(max(own.shape) for row in kernels.values() for own in row) + 2 | 1
    lines = [
        [(kernel_image(own, side), f"{extent:.0f} px")
         for own, extent in zip(row, extents[name], strict=True)]
        for name, row in kernels.items()
    ]  # fmt: skip
    return sheet(lines, rows=list(kernels), head=0.05)[0]


@styled
def blur_laboratory(results: Sequence[Any]) -> Figure:
    """A row for each shake (`s3e.explore` `Exposure`): path and kernel at one scale, log spectrum,
    blurred photo.

    Spectra share one scale, that of the first photo when sharp. Grey: what the shutter does not see
    of a path.
    """
    brightest, lines = top(results[0].sharp), []
    for found in results:
        path = trajectory(found.path, found.seen, found.window)
        lines.append(
            [
                (path, f"path, {found.window} px wide (dot: start)"),
                (kernel_image(found.kernel, found.window), f"kernel, extent {found.extent:.1f} px"),
                (spectrum(found.blurred, brightest), "log spectrum, 0 in the middle"),
                (found.blurred, f"blurred photo, {found.psnr:.2f} dB"),
            ]
        )
    figure, cells = sheet(lines, foot=0.4)
    for (axes, *_), found in zip(cells, results, strict=True):
        axes.set_title(str(found.settings), pad=3)
    return figure


@styled
def changed_trees(
    blurred: np.ndarray,
    intact: np.ndarray,
    panels: Mapping[str, tuple[np.ndarray, float]],
    gain: int = 8,
) -> Figure:
    """A photo restored with its tree whole and with each change; below it `gain` times the
    difference from whole.

    `panels`: change -> (restored, change of PSNR in dB).
    """
    shown = [(blurred, "blurred", None), (intact, "whole tree", None)]
    shown += [(image, words, change) for words, (image, change) in panels.items()]
    lines = []
    for start in range(0, len(shown), PANELS):
        part = shown[start : start + PANELS]
        lines.append([(image, wrap(words, 18)) for image, words, _ in part])
        lines.append(
            [
                (np.full_like(image, 255), "")
                if change is None
                else (strengthened(image, intact, gain), _changed(change))
                for image, _, change in part
            ]
        )
    figure, _ = sheet(lines, foot=0.26, head=0.2, columns=PANELS)
    words = f"Upper rows: restored; lower rows: {gain} times the difference from “whole tree”."
    tall = figure.get_figheight()
    figure.text(0.005, 1 - 0.05 / tall, words, va="top", size=7, color=GREY)
    return figure


def _changed(value: float) -> tuple[str, dict[str, str]]:
    return f"{value:+.2f} dB", {"color": VERMILLION if value < -0.5 else INK}


@styled
def reading(
    images: Mapping[str, np.ndarray],
    labels: Sequence[str],
    caption: str,
    shares: Sequence[float] | None = None,
) -> Figure:
    """Images of one photo by title, uint8 (H, W, 3), and what was read in it: its caption and the
    tree's labels.

    `shares`: how probable each of the seven labels is, in [0, 1].
    """
    tall, count = 4.0, len(images)
    figure = Figure(figsize=(PAGE_WIDTH, tall))
    for number, (words, image) in enumerate(images.items()):
        axes = figure.add_axes((0.01 + 0.98 * number / count, 0.42, 0.97 / count, 0.5))
        bare(axes).imshow(image)
        axes.set_title(words, loc="center", pad=4)
    look = {"ha": "center", "va": "top", "style": "italic", "color": INK}
    figure.text(0.5, 0.4, f"“{wrap(caption, 90)}”", **look)
    draw_tree(figure.add_axes((0.15, 0.01, 0.7, 0.33)), labels, shares)
    return figure


# -------------------------------------------- photographs that anybody may publish, instead of data


def photographs(config: Config) -> Samples:
    """scikit-image's public-domain photographs as notebook 01 keeps data: sharp, blurred by
    severity, kernels.

    Some data must not be shown: then figures are of these. No network was trained on them, and none
    is scored.
    """
    size, blur = config.data.size, config.blur
    sharp = np.stack([photograph(name, size) for name in PHOTOS])
    found = {"ids": np.array(PHOTOS), "sharp": sharp}
    for name in SEVERITIES:
        found[name] = blur_batch(sharp, PHOTOS, name, blur.seed, blur.gamma, blur.noise)[0]
        kernels = [kernel_for(photo, name, size, blur.seed) for photo in PHOTOS]
        found[f"kernel_{name}"] = np.stack(pad_kernels(kernels))
    return found, []


def restored_photographs(path: Path, corpus: Corpus, config: Config) -> Samples:
    """What a run of 03, 05 or 06 would have kept of `photographs`: images, attention, labels.

    Raises `S3EError` for weights that are missing or of other networks.
    """
    shown, variant = photographs(config)[0], describe(path).variant
    arrays = {"sharp": shown["sharp"], "blurred": shown[config.blur.severity]}
    images = [to_tensor(image) for image in arrays.values()]
    if variant:
        model = build_model(config, corpus, variant).eval()
        load_weights(model.generator, path / "generator.safetensors")
        if model.semantics and any(True for _ in model.semantics.parameters()):
            load_weights(model.semantics, path / "semantics.safetensors")
        nothing = torch.zeros(len(PHOTOS), 1, dtype=torch.long)
        with torch.no_grad():
            restored, read = model(
                Batch(list(PHOTOS), *images, nothing, nothing, None, ("photos",))
            )
        arrays["restored"] = to_images(restored)
    else:
        source = build_semantics(config, corpus, "tree")
        load_weights(source, path / "tree_captioner.safetensors")
        with torch.no_grad():
            read = source.eval()(images[1])
    labels: list[list[str] | None] = [None] * len(PHOTOS)
    if read is not None and read.tree is not None and (not variant or VARIANTS[variant].tree_loss):
        arrays["attention"] = read.tree.attention.numpy()
        labels = [node_names(row, corpus) for row in predicted_nodes(read.tree).tolist()]
    about = {"caption": None, "target": None}
    return arrays, [
        {"id": name, "references": WORDINGS[name], "predicted": own, **about}
        for name, own in zip(PHOTOS, labels, strict=True)
    ]


def public_gallery(samples: Mapping[str, dict[str, np.ndarray]]) -> Gallery | None:
    """`photographs` for figure 12, from variant -> arrays; None without `baseline` and `full`."""
    if not {"baseline", "full"} <= set(samples):
        return None
    first = samples["full"]
    restored = {name: arrays["restored"] for name, arrays in samples.items()}
    scores = {name: score_batch(own, first["sharp"])["psnr"] for name, own in restored.items()}
    table = pd.DataFrame(scores, index=list(PHOTOS))
    return Gallery(first["sharp"], first["blurred"], restored, table)
