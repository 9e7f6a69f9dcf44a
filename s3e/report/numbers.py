"""Every number that prose may want, under a name: `numbers.csv` (all digits), `numbers.md` and `numbers.tex`.

A number is called after what it measures: `name("full", "over", "baseline", "severe", "psnr")` is
"FullOverBaselineSeverePsnr", in LaTeX `\\SEFullOverBaselineSeverePsnr`, with `...Low` and `...High` for the ends of its
95 % interval.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from s3e.evaluation import gains
from s3e.evaluation.captions import METRICS as CAPTION_METRICS
from s3e.report.style import label
from s3e.utils import S3EError, atomic_write

DIGITS = (
    "Zero",
    "One",
    "Two",
    "Three",
    "Four",
    "Five",
    "Six",
    "Seven",
    "Eight",
    "Nine",
)  # LaTeX names have none
COLUMNS = [
    "name",
    "about",
    "mean",
    "low",
    "high",
    "unit",
    "scale",
    "digits",
    "sign",
    "told",
    "seeds",
    "images",
]
UNITS = {
    "psnr": ("dB", 1, 2),
    "ssim": ("", 1, 3),
    "share": ("%", 100, 0),
}  # metric -> unit, scale, digits
SHAPES: dict[
    str, tuple[str, ...]
] = {  # frame of 07 -> what its numbers are called: words, and columns in {}
    "image_scores": ("{variant}", "{severity}", "{metric}"),
    "differences": ("{variant}", "over", "{reference}", "{severity}", "{metric}"),
    "falsifier": (
        "{texture}",
        "texture",
        "{variant}",
        "over",
        "{reference}",
        "{severity}",
        "{metric}",
    ),
    "closing": ("{variant}", "closes", "{severity}"),
    "caption_scores": ("captions", "{system}", "{input}", "{metric}"),
    "node_accuracy": ("nodes", "{variant}", "{input}", "{measure}"),
    "fidelity": ("judge", "{system}", "{metric}"),
    "fidelity_differences": ("judge", "{system}", "over", "{reference}", "{metric}"),
}
CAPTION = (
    "Numbers for prose, of the test images. With one seed an interval speaks of new images only."
)
SIGNED = ("differences", "falsifier", "fidelity_differences")


def name(*parts: str) -> str:
    """The parts as one word of letters: ("full -> tree", "BLEU-4") is "FullTreeBleuFour"."""
    words = re.findall(r"[A-Za-z]+|\d", " ".join(parts).replace("_", " "))
    return "".join(DIGITS[int(word)] if word.isdecimal() else word.capitalize() for word in words)


def collect(frames: Mapping[str, pd.DataFrame], split: str = "test") -> pd.DataFrame:
    """The numbers of one split in the frames of notebook 07 (those of `SHAPES` that are there), one row each.

    Columns: `COLUMNS`; mean, low and high as in the frame, shown times `scale` with `digits`. `told`: 1 or -1 where a
    difference is one, 0 where none can be told, missing for what is no difference.
    """
    rows = [
        row
        for frame in SHAPES
        if frame in frames
        for row in _rows(frame, _tall(frames[frame], split))
    ]
    result = pd.DataFrame(rows, columns=COLUMNS)
    twice = result.name[result.name.duplicated()]
    if len(twice):
        raise S3EError(
            f"two numbers are called {twice.iloc[0]}: give arms and systems names that differ in letters."
        )
    return result


def _tall(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of a split; of captions those against all references, one metric a row."""
    frame = frame[frame["split"] == split] if "split" in frame else frame
    if "references" in frame:
        frame = frame[frame.references == "all"]
    if "CIDEr" not in frame:
        return frame
    parts = []
    for metric in CAPTION_METRICS:
        names = {metric: "mean", f"{metric}_low": "low", f"{metric}_high": "high"}
        part = frame[["system", "input", "seeds", "images", *(set(names) & set(frame))]].rename(
            columns=names
        )
        parts.append(part.assign(metric=metric))
    return pd.concat(parts, ignore_index=True)


def _rows(frame: str, tall: pd.DataFrame) -> Iterable[dict[str, Any]]:
    for row in tall[np.isfinite(tall["mean"])].to_dict("records"):
        metric = "share" if frame == "closing" else row.get("metric", row.get("measure"))
        unit, scale, digits = UNITS.get(
            metric, ("%" if "accuracy" in metric or "recall" in metric else "", 100, 1)
        )
        parts = [part.format_map(row) for part in SHAPES[frame]]
        ends = {end: row.get(end, np.nan) for end in ("low", "high")}
        told = _told(row) if frame in SIGNED else np.nan
        facts = {
            "unit": unit,
            "scale": scale,
            "digits": digits,
            "sign": frame in SIGNED,
            "told": told,
        }
        counts = {"seeds": row["seeds"], "images": row.get("images", row.get("n"))}
        words = {"name": name(*parts), "about": _about(frame, parts)}
        yield {**words, "mean": row["mean"], **ends, **facts, **counts}


def _told(row: Mapping[str, Any]) -> int:
    """As tables tell it (`gains.significant`); frames without p-values are told by their interval."""
    return (
        gains.significant(pd.Series(row))
        if "p_holm" in row
        else int(row["low"] > 0) - int(row["high"] < 0)
    )


def _about(frame: str, parts: list[str]) -> str:
    words = ", ".join(part.upper() if part in UNITS else label(part) for part in parts)
    return f"{frame.replace('_', ' ')}: {words.replace(', over, ', ' over ')}"


def shown(row: Mapping[str, Any], column: str = "mean", minus: str = "−") -> str:
    """One number as it is printed, without its unit."""
    text = f"{row[column] * row['scale']:{'+' if row['sign'] else ''}.{row['digits']}f}"
    return text.replace("-", minus)


def interval(row: Mapping[str, Any]) -> str:
    """The 95 % interval as "low to high", or "" where there is none."""
    return f"{shown(row, 'low')} to {shown(row, 'high')}" if row["high"] > row["low"] else ""


def markdown(numbers: pd.DataFrame) -> str:
    """A table: LaTeX name, number, interval, trainings, what it is."""
    cells = [
        [
            f"`\\SE{row['name']}`",
            f"{shown(row)} {row['unit']}".strip(),
            interval(row),
            row["seeds"],
            row["about"],
        ]
        for row in numbers.to_dict("records")
    ]
    titles = ["name", "number", "95 % interval", "seeds", "what it is"]
    table = pd.DataFrame(cells, columns=titles).to_markdown(index=False, disable_numparse=True)
    return f"**{CAPTION}**\n\n{table}\n"


def latex(numbers: pd.DataFrame) -> str:
    """One macro a number, and one for each end of its interval."""
    lines = []
    for row in numbers.to_dict("records"):
        ends = {"": "mean"} | ({"Low": "low", "High": "high"} if interval(row) else {})
        lines += [
            rf"\newcommand{{\SE{row['name']}{end}}}{{{_tex(shown(row, ends[end], '-'))}}}"
            for end in ends
        ]
    return "\n".join(lines) + "\n"


def _tex(number: str) -> str:
    return rf"\ensuremath{{{number}}}" if number[0] in "+-" else number


def write(numbers: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Every number of the study under a name of its own, for prose: `numbers.csv`, `.md` and `.tex`."""
    texts = {
        "csv": numbers.to_csv(index=False, float_format="%.6g"),
        "md": markdown(numbers),
        "tex": latex(numbers),
    }
    paths = []
    for kind, text in texts.items():
        path = Path(folder) / f"numbers.{kind}"
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The numbers of a folder of figures by name; empty where it has none. Raises `S3EError` for other columns."""
    path = folder / "numbers.csv"
    if not path.is_file():
        return {}
    frame = pd.read_csv(path)
    if list(frame.columns) != COLUMNS:
        raise S3EError(
            f"{path} has other columns than {', '.join(COLUMNS)}: draw the folder again with notebook 08."
        )
    return {row["name"]: row for row in frame.fillna({"unit": ""}).to_dict("records")}
