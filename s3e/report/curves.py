"""Pictures of a training for the lesson notebooks: its losses, its samples, what each loss asks for, word attention."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s3e.report import pictures
from s3e.report.style import INK, OKABE_ITO, PAGE_WIDTH, bare, styled

NODE_AXIS = ("leaf 1", "leaf 2", "leaf 3", "leaf 4", "node 5", "node 6", "root")


@styled
def losses(log: pd.DataFrame, title: str = "") -> Figure:
    """One panel a loss term over the steps.

    `log`: columns step and one per term, as in `log_<training>.csv`; perhaps "validation score", with gaps, which is
    PSNR where a pixel or perceptual term shows that photos are restored, else minus the sum of the weighted losses.
    """
    terms = [name for name in log.columns if name != "step"]
    axis = {terms[0]: "weighted loss"}
    axis["validation score"] = (
        "PSNR (dB)" if {"pixel", "perceptual"} & set(terms) else "− sum of losses"
    )
    figure = Figure(
        figsize=(PAGE_WIDTH * max(0.5, min(1.0, len(terms) / 4)), 1.9), layout="constrained"
    )
    for axes, term in zip(np.atleast_1d(figure.subplots(1, len(terms))), terms, strict=True):
        known = log[["step", term]].dropna()
        axes.plot(
            known["step"],
            known[term],
            color=OKABE_ITO[5],
            marker="o" if len(known) < 3 else "",
            markersize=3,
        )
        axes.set(title=term.removesuffix(" score"), xlabel="update", ylabel=axis.get(term, ""))
        axes.locator_params(axis="x", nbins=3)
    if title:
        figure.suptitle(title)
    return figure


def restorations(moments: Mapping[int, Mapping[str, np.ndarray]]) -> Figure:
    """The same photos restored after more and more steps, between blurred and sharp; PSNR in dB below.

    `moments`: update -> arrays restored, blurred and sharp, as `s3e.report.live.snapshots` reads them.
    """
    first = next(iter(moments.values()))
    restored = {f"update {step}": arrays["restored"] for step, arrays in moments.items()}
    return pictures.results({"blurred": first["blurred"], **restored}, first["sharp"])


@styled
def readings(
    picture: np.ndarray,
    moments: Mapping[int, np.ndarray],
    predicted: Sequence[Sequence[str]],
    target: Sequence[str],
) -> Figure:
    """Where each node looks in one photo and what it says, a row for each update.

    `picture`: uint8 (S, S, 3); `moments`: update -> attention (7, h, w); `predicted`: its seven labels, in this order.
    """
    count = len(moments)
    shown = np.broadcast_to(picture, (count, *picture.shape))
    figure = pictures.node_attention(
        shown, np.stack([*moments.values()]), predicted, [target] * count, count
    )
    for axes, step in zip(figure.axes[:: len(figure.axes) // count], moments, strict=True):
        text = f"update {step}"
        axes.text(
            0.5, -0.03, text, transform=axes.transAxes, ha="center", va="top", size=7, color=INK
        )
    return figure


@styled
def directions(restored: np.ndarray, wishes: Mapping[str, np.ndarray], sharp: np.ndarray) -> Figure:
    """How each loss term would change restored photos: grey = not at all, brighter = more of that colour.

    `restored`, `sharp`: uint8 (n, S, S, 3); `wishes`: term -> signed (n, S, S, 3), each scaled by its own size.
    """
    columns = {"restored": restored}
    for term, wish in wishes.items():
        size = float(np.quantile(np.abs(wish), 0.99)) or 1.0
        columns[f"{term} loss"] = np.clip(0.5 + 0.5 * wish / size, 0, 1)
    columns["sharp"] = sharp
    figure = Figure(figsize=(1.4 * len(columns), 1.4 * len(sharp) + 0.2), layout="constrained")
    cells = figure.subplots(len(sharp), len(columns), squeeze=False)
    for row, axes in enumerate(cells):
        for place, (name, images) in zip(axes, columns.items(), strict=True):
            bare(place).imshow(images[row])
            place.set_title(name if row == 0 else "", loc="center")
    return figure


@styled
def compare(logs: Mapping[str, pd.DataFrame], term: str, title: str = "") -> Figure:
    """The same loss term of several trainings in one panel."""
    figure = Figure(figsize=(PAGE_WIDTH * 0.6, 2.2), layout="constrained")
    axes = figure.subplots()
    styles = zip(OKABE_ITO[5:] + OKABE_ITO[:5], ("-", "--", ":", "-."), strict=False)
    for (name, log), (colour, line) in zip(logs.items(), styles, strict=False):
        axes.plot(log["step"], log[term], color=colour, linestyle=line, label=name)
    axes.set(title=title, xlabel="update", ylabel=f"{term} loss")
    axes.legend()
    return figure


@styled
def word_attention(text: str, attention: np.ndarray) -> Figure:
    """How much each word (row) drew on each tree node (column). `attention`: (T, 7), T at least the number of words."""
    words = text.split()
    figure = Figure(
        figsize=(PAGE_WIDTH * 0.6, 0.35 + 0.2 * max(len(words), 3)), layout="constrained"
    )
    axes = figure.subplots()
    shown = axes.imshow(attention[: len(words)], aspect="auto", cmap="cividis", vmin=0, vmax=1)
    axes.set_xticks(range(attention.shape[1]), NODE_AXIS)
    axes.set_yticks(range(len(words)), words)
    axes.xaxis.tick_top()
    axes.grid(False)
    figure.colorbar(shown, ax=axes, label="attention weight")
    return figure
