"""Figures made of numbers: trainings while they run and after, gains, seeds, the gap closing, cost,
how blur hurts.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s3e.evaluation.collect import severities
from s3e.report.style import (
    GREY,
    INK,
    OKABE_ITO,
    ORDER,
    PAGE_WIDTH,
    SKY,
    amplitude,
    bare,
    colour,
    in_order,
    label,
    marker,
    short,
    show,
    spectrum,
    styled,
    top,
)
from s3e.utils import S3EError

EVERY = 5.0  # seconds between two pictures of a training at least
SHARE = 0.02  # of the time may be spent on drawing
SHOWN = ("full", "no_semantics_loss", "shuffled", "oracle_silhouette", "oracle_map", "oracle")
TRAININGS = {  # `log_<name>.csv` -> panel title, in the order of the panels
    "tree": "A1: S3-tree, sharp", "tree_tree": "A1: S3-tree, sharp", "captioner": "A: captioner",
    "captioner_a1": "A1: captioner, sharp", "tree_captioner_a1": "A1: captioner, sharp",
    "captioner_a2": "A2: captioner, blurred", "tree_captioner_a2": "A2: captioner, blurred",
    "deblurrer": "B: deblurrer alone", "cotrain": "C: co-training",
}  # fmt: skip
TERMS = ("pixel", "perceptual", "tree", "caption")  # losses of figure 9
LINES = ("-", "--", ":", "-.")
LOPSIDED = 4  # times as much as its neighbour may a panel span before each gets a scale of its own
SEVERITY_COLOUR = {
    "light": OKABE_ITO[2],
    "moderate": OKABE_ITO[1],
    "severe": OKABE_ITO[6],
    "released": SKY,
}
Moments = dict[int, dict[str, np.ndarray]]


# ------------------------------------------------------------------------ a training and its losses


@contextmanager
def follow(
    folder: Path | str, name: str, title: str = "", every: float = EVERY
) -> Iterator[Callable[[int], None]]:
    """Yield a `watch(step)` for the training `name` in `folder` that redraws its losses in place,
    from the log on disk.

    It redraws every `every` seconds, and so seldom that drawing takes at most a fiftieth of the
    time; the last state, or that of a training that is finished already, is drawn at the end.
    Outside notebooks nothing is drawn.
    """
    handle, last, took = None, time.perf_counter(), 0.0

    def draw() -> None:
        nonlocal handle
        if not _in_notebook() or not log_path(folder, name).is_file():
            return
        from IPython.display import display

        picture = show(losses(read_log(folder, name), title))
        if handle is None:
            handle = display(picture, display_id=True)
        else:
            handle.update(picture)

    def watch(step: int) -> None:
        nonlocal last, took
        now = time.perf_counter()
        if now - last >= max(every, took / SHARE):
            draw()
            last = time.perf_counter()
            took = last - now

    try:
        yield watch
    finally:
        draw()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def log_path(folder: Path | str, name: str) -> Path:
    """Where the training `name` writes its losses."""
    return Path(folder) / f"log_{name}.csv"


def read_log(folder: Path | str, name: str) -> pd.DataFrame:
    """Step and losses of a training as far as it has come, and its validation score where it has
    one (NaN between).
    """
    log, scores = pd.read_csv(log_path(folder, name)), Path(folder) / f"validation_{name}.csv"
    if not scores.is_file():
        return log
    scores = pd.read_csv(scores).rename(columns={"score": "validation score"})
    return log.merge(scores, how="outer", on="step")


def snapshots(folder: Path | str, name: str) -> Moments:
    """What a training showed of itself after 0, 10, 30 and 100 % of its steps: {step: arrays}.

    Deblurring: ids and uint8 images restored, blurred, sharp (n, S, S, 3). Semantics: ids and
    captions, and for a tree attention (n, 7, h, w) and nodes (n, 7). Raises `S3EError` where there
    is none.
    """
    found = {}
    for path in sorted((Path(folder) / "progress").glob(f"{name}_" + "[0-9]" * 7 + ".npz")):
        with np.load(path) as arrays:
            found[int(path.stem[-7:])] = dict(arrays)
    if not found:
        raise S3EError(
            f"{folder} has no samples of the training '{name}': run its notebook with resume ="
            " False."
        )
    return found


@styled
def losses(log: pd.DataFrame, title: str = "") -> Figure:
    """One panel a loss term over the steps.

    `log`: columns step and one per term, as in `log_<training>.csv`; perhaps "validation score",
    with gaps, which is PSNR where a pixel or perceptual term shows that images are restored, else
    minus the sum of the weighted losses.
    """
    terms = [name for name in log.columns if name != "step"]
    restores = {"pixel", "perceptual"} & set(terms)
    score = "PSNR (dB)" if restores else "− sum of losses"
    axis = {terms[0]: "weighted loss", "validation score": score}
    width = PAGE_WIDTH * max(0.5, min(1.0, len(terms) / 4))
    figure = Figure(figsize=(width, 1.9), layout="constrained")
    for axes, term in zip(np.atleast_1d(figure.subplots(1, len(terms))), terms, strict=True):
        known = log[["step", term]].dropna()
        dots = {"marker": "o", "markersize": 3} if len(known) < 3 else {}
        axes.plot(known["step"], known[term], color=OKABE_ITO[5], **dots)
        axes.set(title=term.removesuffix(" score"), xlabel="step", ylabel=axis.get(term, ""))
        axes.locator_params(axis="x", nbins=3)
    figure.suptitle(title)
    return figure


@styled
def compare(logs: Mapping[str, pd.DataFrame], term: str, title: str = "") -> Figure:
    """The same loss term of several trainings in one panel."""
    figure = Figure(figsize=(PAGE_WIDTH * 0.6, 2.2), layout="constrained")
    axes = figure.subplots()
    for (name, log), ink, line in zip(logs.items(), OKABE_ITO[5:], LINES, strict=False):
        axes.plot(log["step"], log[term], color=ink, linestyle=line, label=name)
    axes.set(title=title, xlabel="step", ylabel=f"{term} loss")
    axes.legend()
    return figure


def _line(variant: str) -> str:
    """The line style of a variant: another one for each of the same colour, so that curves need no
    markers.
    """
    same = [name for name in ORDER if colour(name) == colour(variant)]
    return LINES[same.index(variant)] if variant in same else "-"


@styled
def training_curves(logs: pd.DataFrame) -> Figure:
    """Figure 9: each training's losses over its steps (thin: as logged; thick: running mean; mean
    over seeds).

    Losses are shown as they enter the sum, with their weights. Variants of one colour differ in the
    style of their lines. `logs`: training, variant, seed, step, term, value
    (`s3e.evaluation.collect.read_logs`).
    """
    found = set(zip(logs.training, logs.term, strict=True))
    panels = [(name, term) for name in TRAININGS for term in TERMS if (name, term) in found]
    columns = min(3, len(panels)) or 1
    rows = -(-len(panels) // columns) or 1
    figure = Figure(figsize=(PAGE_WIDTH, 1.75 * rows + 0.45), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (training, term) in zip(grid, panels, strict=False):
        own = logs[(logs.training == training) & (logs.term == term)]
        for variant in in_order(own.variant):
            mean = own[own.variant == variant].groupby("step").value.mean()
            ink = colour(variant) if variant else GREY
            axes.plot(mean.index, mean, color=ink, linewidth=0.5, alpha=0.25)
            look = {"color": ink, "linestyle": _line(variant), "linewidth": 1.4}
            axes.plot(mean.index, _smooth(mean.to_numpy()), label=variant, **look)
        axes.set(title=TRAININGS[training], xlabel="step", ylabel=f"{term} loss")
        if (own.value > 0).all() and own.value.max() > 20 * own.value.median():
            axes.set_yscale("log")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    variants = set(logs.variant)
    handles = [Line2D([], [], color=GREY, label="shared by all variants")] * ("" in variants)
    for name in in_order(variants - {""}):
        handles.append(Line2D([], [], color=colour(name), linestyle=_line(name), label=label(name)))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)) or 1)
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a fifteenth of the values that shrinks at the ends; same length."""
    window = np.ones(max(1, len(values) // 15))
    counts = np.convolve(np.ones(len(values)), window, mode="same")
    return np.convolve(values, window, mode="same") / counts


# ---------------------------------------------------------------------------------- what was gained


def _interval(
    axes: Axes, places: Any, frame: pd.DataFrame, variant: str, flat=False, **look
) -> None:
    """Means with their intervals at `places`; `flat`: values run along the horizontal axis."""
    ends = np.array([frame["mean"] - frame.low, frame.high - frame["mean"]], float)
    ends = np.clip(np.nan_to_num(ends), 0, None)
    data = (
        {"x": frame["mean"], "y": places, "xerr": ends}
        if flat
        else {"x": places, "y": frame["mean"], "yerr": ends}
    )
    axes.errorbar(
        **data,
        color=colour(variant),
        marker=marker(variant),
        markersize=5,
        elinewidth=1.0,
        capsize=2,
        markeredgecolor="white",
        markeredgewidth=0.5,
        **look,
    )


def _marker_legend(figure: Figure, variants: list[str]) -> None:
    handles = [
        Line2D([], [], color=colour(name), marker=marker(name), label=label(name))
        for name in variants
    ]
    columns = min(4 if figure.get_figwidth() > PAGE_WIDTH / 2 else 2, len(handles)) or 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _most_seeds(seeds: pd.Series) -> list[str]:
    """The variants (index of `seeds`) of several seeds, or all where there are none: figures would
    be crowded.
    """
    several = seeds[seeds > 1]
    return in_order(several.index if len(several) else seeds.index)


def _pick(frame: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    return frame[(frame[list(wanted)] == pd.Series(wanted)).all(axis=1)]


@styled
def gain_by_severity(
    differences: pd.DataFrame, bins: pd.DataFrame, split: str = "test", reference: str = "baseline"
) -> Figure:
    """Figure 8: PSNR gained over `reference` (dB, 95 % intervals) by severity and by thirds of the
    hardest images.

    `differences`, `bins`: frames of notebook 07. Panels share a scale, unless that would flatten
    one.
    """
    wanted = {"split": split, "reference": reference, "metric": "psnr"}
    chosen, thirds = (_pick(frame, **wanted) for frame in (differences, bins))
    variants = in_order(set(chosen.variant) & set(SHOWN)) or in_order(chosen.variant)
    severity = severities(chosen)
    thirds = thirds[thirds.severity == severity[-1]]
    ends = thirds.drop_duplicates("bin").sort_values("bin")
    names = [f"{row.input_low:.1f}–{row.input_high:.1f} dB" for row in ends.itertuples()]
    drawn = [frame[frame.variant.isin(variants)] for frame in (chosen, thirds)]
    spans = [max(frame.high.max(), 0) - min(frame.low.min(), 0) for frame in drawn]
    figure = Figure(figsize=(PAGE_WIDTH, 2.75), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=max(spans) < LOPSIDED * min(spans))
    for axes, frame, by, order, ticks in (
        (left, chosen, "severity", severity, severity),
        (right, thirds, "bin", list(ends.bin), names),
    ):
        axes.axhline(0, color=INK, linewidth=0.9)
        for number, variant in enumerate(variants):
            own = frame[frame.variant == variant].set_index(by).reindex(order)
            shift = 0.09 * (number - (len(variants) - 1) / 2)
            _interval(axes, np.arange(len(order)) + shift, own, variant, linewidth=1.2)
        axes.set_xticks(range(len(order)), ticks)
        axes.set_xlim(-0.5, len(order) - 0.5)
        axes.grid(axis="x", visible=False)
    gained = f"PSNR gain over {short(reference)} (dB)"
    left.set(title="a  by named severity", xlabel="blur", ylabel=gained)
    words = "PSNR of the blurred input, worst third first"
    right.set(title=f"b  thirds of the {severity[-1]} images", xlabel=words)
    _marker_legend(figure, variants)
    return figure


@styled
def closing(progress: pd.DataFrame) -> Figure:
    """Figure 10: PSNR gained over the baseline on validation images, and share of the oracle's gap,
    against steps.

    Thick: mean over seeds; thin: each seed; variants of one seed are left out where others have
    several. `progress`: `closing_by_step` of notebook 07.
    """
    panels = [("gain", 1, "a  validation images", "PSNR gain over baseline (dB)")]
    if "share" in progress:  # only data with true label maps have a gap to close
        panels.append(("share", 100, "b  share of the gap closed", "of true label maps' gain (%)"))
    width, height = (PAGE_WIDTH, 2.6) if len(panels) > 1 else (PAGE_WIDTH / 2, 3.0)
    figure = Figure(figsize=(width, height), layout="constrained")
    variants = _most_seeds(progress.groupby("variant").seed.nunique())
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (column, scale, words, unit) in zip(grid, panels, strict=True):
        for variant in variants:
            known = progress[progress.variant == variant].dropna(subset=[column])
            look = {"color": colour(variant)}
            for _, own in known.groupby("seed"):
                axes.plot(own.step, own[column] * scale, linewidth=0.5, alpha=0.4, **look)
            mean = known.groupby("step")[column].mean() * scale
            look |= {"marker": marker(variant), "markersize": 3.5, "linewidth": 1.4}
            axes.plot(mean.index, mean, markevery=max(1, len(mean) // 8), **look)
        axes.axhline(0, color=INK, linewidth=0.9)
        words = words if len(panels) > 1 else words[3:]
        axes.set(title=words, xlabel="step of co-training", ylabel=unit)
    _marker_legend(figure, variants)
    return figure


@styled
def seeds(
    by_seed: pd.DataFrame, differences: pd.DataFrame, split: str = "test", severity: str = "severe"
) -> Figure:
    """Figure 14: each training seed's PSNR gain (small dots) beside the mean and its interval over
    images and seeds.

    `by_seed`, `differences`: frames of notebook 07.
    """
    chosen = [
        _pick(frame[frame.reference != "blurred"], split=split, severity=severity, metric="psnr")
        for frame in (differences, by_seed)
    ]
    panels = []
    for title, rows, fixed, value in (
        ("a  variants over the baseline", "variant", "reference", "baseline"),
        ("b  full over others", "reference", "variant", "full"),
    ):
        ends, dots = (frame[frame[fixed] == value].set_index(rows) for frame in chosen)
        panels.append((title, in_order(ends.index), ends, dots))
    tallest = max(1, *(len(names) for _, names, *_ in panels))
    figure = Figure(figsize=(PAGE_WIDTH, 0.75 + 0.23 * tallest), layout="constrained")
    for axes, (title, names, ends, dots) in zip(figure.subplots(1, 2), panels, strict=True):
        ticks = []
        for place, name in enumerate(names):
            each = dots.loc[[name]]
            _interval(axes, np.array([place]), ends.loc[[name]], name, flat=True)
            height = np.full(len(each), place + 0.28)
            axes.plot(each["mean"], height, ".", color=colour(name), markersize=3.5)
            count = each.seed.nunique()
            ticks.append(f"{label(name)} ({count} seed{'s' * (count != 1)})")
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set_yticks(range(len(names)), ticks)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set(title=title, xlabel="PSNR gain (dB)")
    return figure


@styled
def cost(
    costs: pd.DataFrame, differences: pd.DataFrame, split: str = "test", severity: str = "severe"
) -> Figure:
    """Figure 15: PSNR gained over the baseline against what semantics cost: parameters, and time of
    a step.

    Variants of one seed are left out where others have several. `costs`, `differences`: frames of
    notebook 07.
    """
    wanted = {"split": split, "severity": severity, "metric": "psnr", "reference": "baseline"}
    chosen = _pick(differences, **wanted).set_index("variant")
    mean = costs.groupby("variant").mean(numeric_only=True)
    time = mean.milliseconds_per_step - mean.milliseconds_per_step["baseline"]
    variants = [name for name in _most_seeds(chosen.seeds) if name in mean.index]
    figure = Figure(figsize=(PAGE_WIDTH, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values in ((left, mean.parameters_semantics / 1000), (right, time)):
        axes.axhline(0, color=INK, linewidth=0.9)
        values = values[variants]
        beside = 0.012 * np.ptp(values) * values.groupby(values).cumcount()  # those of equal cost
        for variant in variants:
            places = (values + beside)[[variant]]
            _interval(axes, places, chosen.loc[[variant]], variant, linestyle="none")
    gained, words = "PSNR gain over baseline (dB)", "semantic parameters (thousands)"
    left.set(title="a  parameters", xlabel=words, ylabel=gained)
    right.set(title="b  time of training", xlabel="milliseconds a step more than the baseline")
    _marker_legend(figure, variants)
    return figure


# ----------------------------------------------------------------------------------- how blur hurts


def radial(spectrum: np.ndarray, bins: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square of a centred spectrum over rings: frequencies in cycles per pixel (0 to
    0.5), and values.
    """
    axes = [np.fft.fftshift(np.fft.fftfreq(length)) for length in spectrum.shape]
    radius = np.hypot(*np.meshgrid(*axes, indexing="ij"))
    ring = np.minimum((radius * 2 * bins).astype(int), bins).ravel()  # the last: beyond 0.5, unused
    power = np.bincount(ring, spectrum.ravel() ** 2, bins + 1)[:bins]
    counts = np.bincount(ring, minlength=bins + 1)[:bins]
    return (np.arange(bins) + 0.5) / (2 * bins), np.sqrt(power / counts)


@styled
def spectra(views: Mapping[str, np.ndarray]) -> Figure:
    """What blur removes: one photo ("sharp" first), its spectra, and the amplitude left at each
    spatial frequency.
    """
    figure = Figure(figsize=(PAGE_WIDTH, 2.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.75, 1))
    grid, axes = left.subplots(2, len(views), squeeze=False), right.subplots()
    frequency, sharp = radial(amplitude(views["sharp"]))
    for (name, photo), (above, below) in zip(views.items(), grid.T, strict=True):
        bare(above).imshow(photo)
        above.set_title(name, loc="center")
        bare(below).imshow(spectrum(photo, top(views["sharp"])))
        if name != "sharp":
            ratio, ink = radial(amplitude(photo))[1] / sharp, SEVERITY_COLOUR.get(name, INK)
            axes.plot(frequency, ratio, color=ink, label=name)
    grid[1, 0].set_ylabel("log amplitude", size=7)
    axes.axhline(1, color=GREY, linewidth=0.8)
    words = "spatial frequency (cycles per pixel)"
    axes.set(yscale="log", xlabel=words, ylabel="amplitude left (1 = all)")
    axes.legend()
    return figure


@styled
def severity_spread(table: pd.DataFrame) -> Figure:
    """How severe a data set is: input PSNR by severity (left) and against kernel extent (right,
    where it is known).

    `table`: one row an image and severity with `severity`, `extent` (pixels, NaN: unknown) and
    `psnr_blurred` (dB).
    """
    known, words = table.dropna(subset="extent"), "PSNR of the blurred image (dB)"
    figure = Figure(figsize=(PAGE_WIDTH, 2.2), layout="constrained")
    left, *right = figure.subplots(1, 1 + (len(known) > 0), squeeze=False)[0]
    edges = np.histogram_bin_edges(table.psnr_blurred, bins=24)
    for name, own in table.groupby("severity", sort=False):
        ink = SEVERITY_COLOUR.get(name, INK)
        left.hist(own.psnr_blurred, edges, histtype="stepfilled", color=ink, alpha=0.3)
        left.hist(own.psnr_blurred, edges, histtype="step", color=ink, label=name)
        for axes in right:
            axes.scatter(own.extent, own.psnr_blurred, s=6, color=ink, alpha=0.6, linewidths=0)
            axes.set(title="b  one name, many strengths", ylabel=words)
            axes.set(xlabel="kernel extent (pixels)")
    left.set(title="a  how much is left", xlabel=words, ylabel="images")
    left.legend()
    return figure
