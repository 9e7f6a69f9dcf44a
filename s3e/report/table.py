"""A table as it is printed, and its files: CSV (numbers), LaTeX and Markdown (cells `value ± half-interval`)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from s3e.utils import atomic_write

NOT_RUN = "not run"
DASH = "–"


@dataclass(frozen=True)
class Table:
    """`cells`: what is printed (strings, the best in `**`); `data`: the tidy numbers; `caption` above, `notes` below.

    `text_columns`: columns on the left that hold words.
    """

    name: str
    caption: str
    cells: pd.DataFrame
    data: pd.DataFrame
    notes: tuple[str, ...] = ()
    text_columns: int = 1


def cell(row: pd.Series | Mapping, digits: int, scale: float = 1.0, sign: bool = False) -> str:
    """`value ± half-interval` of a row with mean, low and high; no ± where nothing spreads or no interval is known."""
    value, half = row["mean"] * scale, (row["high"] - row["low"]) / 2 * scale
    if not np.isfinite(value):
        return NOT_RUN
    text = f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return f"{text} ± {half:.{digits}f}" if half > 0 else text


def number(value: float, digits: int) -> str:
    """`value` with `digits` decimals; "not run" where there is none."""
    return NOT_RUN if pd.isna(value) else f"{value:.{digits}f}"


def pick(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows of `frame` in which each column named has the value given."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def rows_named(rows: Mapping[str, Mapping[str, str]], name: str) -> pd.DataFrame:
    """Cells from {row label: {column: cell}}; the labels stand in the first column, called `name`."""
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(name).reset_index()


def write(table: Table, folder: Path | str) -> list[Path]:
    """Write `<name>.csv` (the tidy numbers), `.tex` and `.md` (the printed table with caption and notes)."""
    writers: dict[str, Callable[[Table], str]] = {"csv": _csv, "tex": latex, "md": markdown}
    paths = []
    for kind, render in writers.items():
        path = Path(folder) / f"{table.name}.{kind}"
        with atomic_write(path) as temporary:
            temporary.write_text(render(table), encoding="utf-8")
        paths.append(path)
    return paths


def _csv(table: Table) -> str:
    return table.data.to_csv(index=False, float_format="%.6g")


def markdown(table: Table) -> str:
    """GitHub Markdown: caption in bold, the table, the notes."""
    align = [
        "left" if index < table.text_columns else "right"
        for index in range(len(table.cells.columns))
    ]
    body = table.cells.to_markdown(index=False, colalign=align, disable_numparse=True)
    return "\n\n".join([f"**{table.caption}**", body, *table.notes]) + "\n"


ESCAPES = {
    "±": r"$\pm$", "−": "$-$", "–": "--", "→": r"$\rightarrow$", "×": r"$\times$", "“": "``", "”": "''",
    "<": "$<$", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$",
}  # fmt: skip


def _tex(text: str) -> str:
    escaped = "".join(ESCAPES.get(letter, letter) for letter in text)
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", escaped)


def latex(table: Table) -> str:
    """A `table` environment for documents with booktabs; caption above, notes below."""
    cells = table.cells.map(lambda text: _tex(str(text))).rename(columns=_tex)
    count = table.text_columns
    layout = "l" * count + "r" * (len(cells.columns) - count)
    style = cells.style.hide(axis="index")
    text = style.to_latex(
        hrules=True,
        column_format=layout,
        caption=_tex(table.caption),
        label=f"tab:{table.name}",
        position_float="centering",
    )
    notes = "\n".join(rf"\par\smallskip\footnotesize {_tex(note)}" for note in table.notes)
    return text.replace(r"\end{table}", f"{notes}\n" + r"\end{table}")
