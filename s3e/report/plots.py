"""Figures made of numbers: trainings, gains, seeds."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy import ndarray
from pandas import DataFrame

from s3e.evaluation.collect import read_logs, severities
from s3e.report.style import INK, LOOKS, PAGE_WIDTH, in_order, label, styled
from s3e.utils import data_file

WORDS = data_file("report/plots.toml")
TRAININGS = WORDS["trainings"]
BARS = {"linewidth": 1.2, "elinewidth": 1.0, "capsize": 2}  # look of intervals


def _legend(figure: Figure) -> None:
    """One legend below all panels, each name once."""
    found = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        found = dict(zip(names, handles, strict=True)) | found
    columns = min(int(figure.get_figwidth() / 1.7), len(found))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def _look(variant: str) -> dict[str, str]:
    """Label, color and marker of a variant; of other lines the label alone."""
    return {"label": label(variant)} if variant not in LOOKS.index else {**LOOKS.loc[variant]}


@styled
def curves(logs: DataFrame, by: str = "variant") -> Figure:
    """A panel for each term of each training (thin: as logged; thick: running mean; mean of seeds).

    `logs`: see `s3e.evaluation.collect.read_logs`. `by`: the column with a line for each value,
    variant or training.
    """
    keys = [name for name in ("training", "term") if name != by]
    panels = list(logs.groupby(keys, sort=False))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (PAGE_WIDTH * max(2, columns) / 3, 1.75 * rows + 0.4 + 0.06 * logs[by].nunique())
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (names, own) in zip(grid, panels, strict=False):
        for line in in_order(own[by]):
            mean = own[own[by] == line].groupby("step").value.mean()
            smooth = mean.rolling(max(1, len(mean) // 15), center=True, min_periods=1).mean()
            every = {"markevery": max(1, len(mean) // 5), "markersize": 3.5}
            (thick,) = axes.plot(smooth, linewidth=1.4, **_look(line), **every)
            axes.plot(mean, color=thick.get_color(), linewidth=0.5, alpha=0.25)
        title = TRAININGS.get(names[0], label(names[0])) if len(keys) == 2 else ""
        quantity = WORDS["quantities"].get(names[-1], f"{names[-1]} loss")
        axes.set(title=title, xlabel="step", ylabel=quantity)
        if (own.value > 0).all() and own.value.max() > 20 * own.value.median():
            axes.set_yscale("log")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    if logs[by].any():
        _legend(figure)
    return figure


def losses(folder: Path, training: str, by: str = "variant") -> Figure:
    """`curves` of what a `training` (a name or pattern) in the folder of a run has logged."""
    return curves(read_logs([folder], training), by)


def training_curves(logs: DataFrame) -> Figure:
    """Figure 9: the trainings of a study, with their main losses as they enter the sum."""
    logs = logs[logs.training.isin(TRAININGS) & logs.term.isin(WORDS["terms"])]
    order = pd.Index(list(TRAININGS)).get_indexer
    return curves(logs.sort_values("training", key=order, kind="stable"))


def _ends(rows: DataFrame) -> ndarray:
    """How far intervals reach below and above their means."""
    return np.clip([rows["mean"] - rows.low, rows.high - rows["mean"]], 0, None)


@styled
def gain_by_severity(differences: DataFrame, split: str = "test") -> Figure:
    """Figure 8: PSNR gained over the baseline by severity, in dB with 95 % intervals.

    `differences`: a frame of notebook 07.
    """
    gains = differences.query("split == @split and reference == 'baseline' and metric == 'psnr'")
    names = severities(gains)
    variants = in_order(set(gains.variant).intersection(WORDS["shown"]) or gains.variant)
    figure = Figure(figsize=(0.6 * PAGE_WIDTH, 2.75), layout="constrained")
    axes = figure.subplots()
    for number, variant in enumerate(variants):
        own = gains[gains.variant == variant].set_index("severity").reindex(names)
        places = np.arange(len(names)) + 0.09 * (number - (len(variants) - 1) / 2)
        axes.errorbar(places, own["mean"], _ends(own), **_look(variant), **BARS)
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.set_xticks(range(len(names)), names)
    axes.margins(x=0.1)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="severity of blur", ylabel="PSNR gain over baseline (dB)")
    _legend(figure)
    return figure


@styled
def seeds(
    by_seed: DataFrame, differences: DataFrame, split: str = "test", severity: str = "severe"
) -> Figure:
    """Figure 14: each training seed's PSNR gain (small dots) below the mean and its interval.

    `by_seed`, `differences`: frames of notebook 07.
    """
    wanted = "split == @split and severity == @severity and metric == 'psnr'"
    means = differences.query(f"{wanted} and reference != 'blurred'")
    panels = (
        ("a  variants over the baseline", "variant", means.query("reference == 'baseline'")),
        ("b  full over others", "reference", means.query("variant == 'full'")),
    )
    tallest = max(1, *(len(rows) for *_, rows in panels))
    figure = Figure(figsize=(PAGE_WIDTH, 0.75 + 0.23 * tallest), layout="constrained")
    for axes, (title, column, rows) in zip(figure.subplots(1, 2), panels, strict=True):
        ticks = []
        for place, name in enumerate(in_order(rows[column])):
            own = rows[rows[column] == name]
            each = by_seed.query(wanted).merge(own[["variant", "reference"]])["mean"]
            bars = axes.errorbar(own["mean"], [place], xerr=_ends(own), **_look(name), **BARS)
            look = {"color": bars[0].get_color(), "markersize": 3.5}
            axes.plot(each, [place + 0.28] * len(each), ".", **look)
            ticks.append(f"{label(name)} ({len(each)} seed{'s' * (len(each) != 1)})")
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set_yticks(range(len(ticks)), ticks)
        axes.grid(axis="y", visible=False)
        axes.set(title=title, xlabel="PSNR gain (dB)", ylim=(len(ticks) - 0.4, -0.6))
    return figure
