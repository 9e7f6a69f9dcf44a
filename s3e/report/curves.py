"""Pictures of a training for the lesson notebooks: its losses, a comparison of logs, attention word by word."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s3e.report.style import OKABE_ITO, PAGE_WIDTH, styled

NODE_AXIS = ("leaf 1", "leaf 2", "leaf 3", "leaf 4", "node 5", "node 6", "root")


@styled
def losses(log: pd.DataFrame, title: str = "") -> Figure:
    """One panel a loss term over the updates. `log`: columns step and one per term, as in `log_<training>.csv`."""
    terms = [name for name in log.columns if name != "step"]
    figure = Figure(figsize=(PAGE_WIDTH * max(0.5, min(1.0, len(terms) / 4)), 1.9), layout="constrained")
    for axes, term in zip(np.atleast_1d(figure.subplots(1, len(terms))), terms, strict=True):
        axes.plot(log["step"], log[term], color=OKABE_ITO[5])
        axes.set(title=term, xlabel="update", ylabel="weighted loss" if term == terms[0] else "")
    if title:
        figure.suptitle(title)
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
    figure = Figure(figsize=(PAGE_WIDTH * 0.6, 0.35 + 0.2 * max(len(words), 3)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(attention[: len(words)], aspect="auto", cmap="cividis", vmin=0, vmax=1)
    axes.set_xticks(range(attention.shape[1]), NODE_AXIS)
    axes.set_yticks(range(len(words)), words)
    axes.xaxis.tick_top()
    axes.grid(False)
    figure.colorbar(shown, ax=axes, label="attention weight")
    return figure
