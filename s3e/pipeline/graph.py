"""The stage table (`stages.toml`): which notebook needs what, how often it runs, which settings it
reads, which files it leaves; and how long each takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from s3e.utils import NOTEBOOKS, S3EError, data_file

PREPARES, TREE, CAPTIONER = "01_data_blurring", "02_train_s3_tree", "03_train_captioner"
JUDGES, EVALUATES = "06b_semantic_fidelity", "07_evaluation"
DRAWS, EXPLORES = "08_figures_and_tables", "09_explore"


@dataclass(frozen=True)
class Stage:
    """One notebook; `stages.toml` explains the fields."""

    name: str
    what: str
    per: str
    reads: Sequence[str] = ()
    settings: Sequence[str] = ()
    unread: Sequence[str] = ()
    agree: Sequence[str] = ()
    outputs: Sequence[str] = ()
    caption_outputs: Sequence[str] = ()


STAGES = {name: Stage(name, **row) for name, row in data_file("pipeline/stages.toml").items()}


def notebook(stage: str) -> Path:
    """The notebook of a stage."""
    return NOTEBOOKS / f"{stage}.ipynb"


def stage_named(text: str) -> str:
    """The name of a stage, given that or its number ("06"); raises `S3EError` that lists all."""
    for name in STAGES:
        number = name.split("_")[0]
        if text == name or text.zfill(len(number)) == number:
            return name
    raise S3EError(f"unknown stage '{text}'; stages: {', '.join(STAGES)}.")


@cache
def minutes(profile: str) -> dict[str, float]:
    """Measured minutes by notebook (two at a time on two cores); empty for a profile that nobody
    measured. "06_ablation (own semantics)": of variants that pretrain semantics of their own.
    """
    rows = data_file("pipeline/minutes.csv")
    return {row["stage"]: float(row["minutes"]) for row in rows if row["profile"] == profile}
