"""Figures made of numbers: gain by severity (8), training (9), the gap closing (10), seeds (14) and cost (15)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s3e.evaluation.collect import severities
from s3e.report.style import (
    GREY,
    INK,
    PAGE_WIDTH,
    VARIANT_ORDER,
    colour,
    in_order,
    label,
    marker,
    save,
    show,
    styled,
)

__all__ = ["closing", "cost", "gain_by_severity", "save", "seeds", "show", "training_curves"]

SHOWN = (
    "full",
    "no_semantics_loss",
    "shuffled",
    "oracle_silhouette",
    "oracle_map",
    "oracle",
)  # figure 8 is about these arms
TRAININGS = {  # `log_<name>.csv` -> panel title, in the order of the panels
    "tree": "A1: S3-tree, sharp", "tree_tree": "A1: S3-tree, sharp", "captioner": "A: captioner",
    "captioner_a1": "A1: captioner, sharp", "tree_captioner_a1": "A1: captioner, sharp",
    "captioner_a2": "A2: captioner, blurred", "tree_captioner_a2": "A2: captioner, blurred",
    "deblurrer": "B: deblurrer alone", "cotrain": "C: co-training",
}  # fmt: skip
LOPSIDED = 4  # times as much as its neighbour may a panel span before each gets a scale of its own
LINES = ("-", "--", ":", "-.")
TERMS = {
    "pixel": "pixel loss",
    "perceptual": "perceptual loss",
    "tree": "tree loss",
    "caption": "caption loss",
}


def _points(
    axes: Axes, frame: pd.DataFrame, variant: str, places: np.ndarray, shift: float
) -> None:
    _interval(axes, places + shift, frame, variant, linewidth=1.2)


def _interval(
    axes: Axes, places: np.ndarray, frame: pd.DataFrame, variant: str, flat: bool = False, **look
) -> None:
    """Means with their intervals at `places`; `flat`: values run along the horizontal axis."""
    ends = np.array([frame["mean"] - frame.low, frame.high - frame["mean"]], float)
    where = {"x": frame["mean"], "y": places} if flat else {"x": places, "y": frame["mean"]}
    axes.errorbar(
        **where, **{"xerr" if flat else "yerr": np.clip(np.nan_to_num(ends), 0, None)}, color=colour(variant),
        marker=marker(variant), markersize=5, elinewidth=1.0, capsize=2, markeredgecolor="white", markeredgewidth=0.5,
        **look,
    )  # fmt: skip


def _gain_axes(
    axes: Axes, frame: pd.DataFrame, by: str, order: list, names: list[str], variants: list[str]
) -> None:
    axes.axhline(0, color=INK, linewidth=0.9)
    for number, variant in enumerate(variants):
        own = frame[frame.variant == variant].set_index(by).reindex(order)
        _points(
            axes, own, variant, np.arange(len(order)), 0.09 * (number - (len(variants) - 1) / 2)
        )
    axes.set_xticks(range(len(order)), names)
    axes.set_xlim(-0.5, len(order) - 0.5)
    axes.grid(axis="x", visible=False)


def _span(frame: pd.DataFrame, variants: list[str]) -> float:
    """From the lowest to the highest end of the variants' intervals, 0 included."""
    own = frame[frame.variant.isin(variants)]
    return max(own.high.max(), 0) - min(own.low.min(), 0)


@styled
def gain_by_severity(
    differences: pd.DataFrame, bins: pd.DataFrame, split: str = "test", reference: str = "baseline"
) -> Figure:
    """Figure 8: PSNR gained over `reference` (dB, 95 % intervals) by severity and by thirds of the hardest images.

    `differences`, `bins`: frames of `s3e.evaluation.collect`. Panels share a scale, unless that would flatten one.
    """
    wanted = {"split": split, "reference": reference, "metric": "psnr"}
    chosen, thirds = (
        frame[(frame[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        for frame in (differences, bins)
    )
    variants = in_order(set(chosen.variant) & set(SHOWN)) or in_order(set(chosen.variant))
    severity = severities(chosen)
    thirds = thirds[thirds.severity == severity[-1]]
    ends = thirds.drop_duplicates("bin").sort_values("bin")
    names = [
        f"{low:.1f}–{high:.1f} dB"
        for low, high in zip(ends.input_low, ends.input_high, strict=True)
    ]
    figure = Figure(figsize=(PAGE_WIDTH, 2.75), layout="constrained")
    spans = [_span(frame, variants) for frame in (chosen, thirds)]
    left, right = figure.subplots(1, 2, sharey=max(spans) < LOPSIDED * min(spans))
    _gain_axes(left, chosen, "severity", severity, severity, variants)
    _gain_axes(right, thirds, "bin", list(ends.bin), names, variants)
    gained = f"PSNR gain over {label(reference).split(' (')[0]} (dB)"
    left.set(title="a  by named severity", xlabel="blur", ylabel=gained)
    right.set(
        title=f"b  thirds of the {severity[-1]} images",
        xlabel="PSNR of the blurred input, worst third first",
    )
    _marker_legend(figure, variants)
    return figure


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred running mean that shrinks at the ends; same length."""
    sums, counts = (
        np.convolve(item, np.ones(width), mode="same") for item in (values, np.ones(len(values)))
    )
    return sums / counts


def _line(variant: str) -> str:
    """The line style of an arm: another one for each arm of the same colour, so that curves need no markers."""
    same = [name for name in VARIANT_ORDER if colour(name) == colour(variant)]
    return LINES[same.index(variant)] if variant in same else "-"


def _curve(axes: Axes, frame: pd.DataFrame, variant: str) -> None:
    ink = colour(variant) if variant else GREY
    mean = frame.groupby("step").value.mean()
    width = max(1, len(mean) // 15)
    axes.plot(mean.index, mean, color=ink, linewidth=0.5, alpha=0.25)
    axes.plot(
        mean.index,
        _smooth(mean.to_numpy(), width),
        color=ink,
        linestyle=_line(variant),
        linewidth=1.4,
        label=variant,
    )


def _panels(logs: pd.DataFrame) -> list[tuple[str, str]]:
    found = set(zip(logs.training, logs.term, strict=True))
    return [
        (training, term) for training in TRAININGS for term in TERMS if (training, term) in found
    ]


@styled
def training_curves(logs: pd.DataFrame) -> Figure:
    """Figure 9: each training's losses over its steps (thin: as logged; thick: running mean; mean over seeds).

    Losses are shown as they enter the sum, with their weights. Arms of one colour differ in the style of their lines.
    `logs`: training, variant, seed, step, term, value (`s3e.evaluation.collect.read_logs`).
    """
    panels = _panels(logs)
    columns = min(3, len(panels)) or 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PAGE_WIDTH, 1.75 * rows + 0.45), layout="constrained")
    grid = figure.subplots(max(rows, 1), columns, squeeze=False).ravel()
    for axes, (training, term) in zip(grid, panels, strict=False):
        own = logs[(logs.training == training) & (logs.term == term)]
        for variant in in_order(own.variant):
            _curve(axes, own[own.variant == variant], variant)
        axes.set(title=TRAININGS[training], xlabel="update", ylabel=TERMS[term])
        if (own.value > 0).all() and own.value.max() > 20 * own.value.median():
            axes.set_yscale("log")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    _variant_legend(figure, in_order(set(logs.variant) - {""}), shared="" in set(logs.variant))
    return figure


def _most_seeds(seeds: pd.Series) -> list[str]:
    """The arms (index of `seeds`) of several seeds, or all where there are none: figures would be crowded."""
    several = seeds[seeds > 1]
    return list(several.index if len(several) else seeds.index)


@styled
def closing(progress: pd.DataFrame) -> Figure:
    """Figure 10: PSNR gained over the baseline on validation photos, and share of the oracle's gap, against steps.

    Thick: mean over seeds; thin: each seed; arms of one seed are left out where others have several. `progress`:
    `s3e.evaluation.gains.closing_by_step`.
    """
    panels = [("gain", 1, "a  validation photos", "PSNR gain over baseline (dB)")]
    if progress.share.notna().any():  # only data with true label maps have a gap to close
        panels.append(("share", 100, "b  share of the gap closed", "of true label maps' gain (%)"))
    width, height = (PAGE_WIDTH, 2.6) if len(panels) > 1 else (PAGE_WIDTH / 2, 3.0)
    figure = Figure(figsize=(width, height), layout="constrained")
    variants = in_order(_most_seeds(progress.groupby("variant").seed.nunique()))
    for axes, (column, scale, words, unit) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for variant in variants:
            known = progress[progress.variant == variant].dropna(subset=[column])
            for _, own in known.groupby("seed"):
                axes.plot(
                    own.step, own[column] * scale, color=colour(variant), linewidth=0.5, alpha=0.4
                )
            mean = known.groupby("step")[column].mean() * scale
            style = {"linewidth": 1.4, "markersize": 3.5, "markevery": max(1, len(mean) // 8)}
            axes.plot(mean.index, mean, color=colour(variant), marker=marker(variant), **style)
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.set(
            title=words if len(panels) > 1 else words[3:],
            xlabel="update of co-training",
            ylabel=unit,
        )
    _marker_legend(figure, variants)
    return figure


@styled
def seeds(
    by_seed: pd.DataFrame, differences: pd.DataFrame, split: str = "test", severity: str = "severe"
) -> Figure:
    """Figure 14: each training seed's PSNR gain (small dots) beside the mean and its interval over images and seeds.

    `by_seed`, `differences`: frames of `s3e.evaluation.gains`.
    """
    wanted = {"split": split, "severity": severity, "metric": "psnr"}
    dots, ends = (
        frame[
            (frame[list(wanted)] == pd.Series(wanted)).all(axis=1) & (frame.reference != "blurred")
        ]
        for frame in (by_seed, differences)
    )
    panels = (("a  arms over the baseline", "variant", "reference", "baseline"),
              ("b  full over others", "reference", "variant", "full"))  # fmt: skip
    counts = [
        max(1, ends[ends[fixed] == value][rows].nunique()) for _, rows, fixed, value in panels
    ]
    figure = Figure(figsize=(PAGE_WIDTH, 0.75 + 0.23 * max(counts)), layout="constrained")
    for axes, (title, rows, fixed, value) in zip(figure.subplots(1, 2), panels, strict=True):
        names = in_order(ends[ends[fixed] == value][rows])
        for place, name in enumerate(names):
            own, each = (
                item[(item[fixed] == value) & (item[rows] == name)] for item in (ends, dots)
            )
            _interval(axes, np.array([place]), own, name, flat=True)
            axes.plot(
                each["mean"],
                np.full(len(each), place + 0.28),
                ".",
                color=colour(name),
                markersize=3.5,
            )
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set_yticks(
            range(len(names)), [_with_seeds(name, dots, rows, fixed, value) for name in names]
        )
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set(title=title, xlabel="PSNR gain (dB)")
    return figure


def _with_seeds(name: str, dots: pd.DataFrame, rows: str, fixed: str, value: str) -> str:
    count = dots[(dots[fixed] == value) & (dots[rows] == name)].seed.nunique()
    return f"{label(name)} ({count} seed{'s' * (count != 1)})"


@styled
def cost(
    costs: pd.DataFrame, differences: pd.DataFrame, split: str = "test", severity: str = "severe"
) -> Figure:
    """Figure 15: PSNR gained over the baseline against what semantics cost: parameters, and time of an update.

    Arms of one seed are left out where others have several. `costs`: `s3e.evaluation.collect.costs`; `differences`:
    `s3e.evaluation.gains.differences`.
    """
    wanted = {"split": split, "severity": severity, "metric": "psnr", "reference": "baseline"}
    chosen = differences[(differences[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    mean = costs.groupby("variant").mean(numeric_only=True)
    extra = mean.milliseconds_per_update - mean.milliseconds_per_update["baseline"]
    shown = _most_seeds(chosen.set_index("variant").seeds)
    variants = [name for name in in_order(shown) if name in mean.index]
    figure = Figure(figsize=(PAGE_WIDTH, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values in ((left, mean.parameters_semantics / 1000), (right, extra)):
        axes.axhline(0, color=INK, linewidth=0.9)
        values = values[variants]
        places = (
            values + 0.012 * np.ptp(values) * values.groupby(values).cumcount()
        )  # equal cost: beside each other
        for variant in variants:
            _interval(
                axes,
                places[[variant]],
                chosen[chosen.variant == variant],
                variant,
                linestyle="none",
            )
    left.set(
        title="a  parameters",
        xlabel="semantic parameters (thousands)",
        ylabel="PSNR gain over baseline (dB)",
    )
    right.set(title="b  time of training", xlabel="milliseconds an update more than the baseline")
    _marker_legend(figure, variants)
    return figure


def _marker_legend(figure: Figure, variants: list[str]) -> None:
    handles = [
        Line2D([], [], color=colour(name), marker=marker(name), label=label(name))
        for name in variants
    ]
    columns = 4 if figure.get_figwidth() > PAGE_WIDTH / 2 else 2
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(columns, len(handles)) or 1
    )


def _variant_legend(figure: Figure, variants: list[str], shared: bool) -> None:
    handles = [
        Line2D([], [], color=colour(name), linestyle=_line(name), label=label(name))
        for name in variants
    ]
    if shared:
        handles.insert(0, Line2D([], [], color=GREY, label="shared by all arms"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
