"""Tables 1 to 9 and A1 of a study, from the frames of notebook 07, and what it found in words.

What each table holds, and all words, are in `tables.toml`. A difference is only called one where it
is significant (`s3e.evaluation.gains`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from s3e.config import VARIANTS
from s3e.evaluation.captions import SPICE_NOT_RUN
from s3e.evaluation.collect import HUMAN, RANDOM
from s3e.evaluation.gains import UNTRAINED, significant
from s3e.evaluation.images import DEFINITION_IMAGES, DEFINITIONS, PROTOCOL, SEEN_PROTOCOL, agreement
from s3e.report.style import in_order, label, short
from s3e.utils import data_file, write_file

WORDS = data_file("report/tables.toml")
NOT_RUN, DASH = "not run", "–"
ONE_SEED = "one seed, no claim"
COLUMNS, FORMATS = WORDS["columns"], WORDS["formats"]
Frames = Mapping[str, DataFrame]  # tables of numbers by the name of their file


@dataclass(frozen=True)
class Table:
    """`cells`: what is printed; `data`: the tidy numbers; `caption` above, `notes` below.

    `text_columns`: columns on the left that hold words.
    """

    name: str
    caption: str
    cells: DataFrame
    data: DataFrame
    notes: tuple[str, ...] = ()
    text_columns: int = 1


def spoken(row: Mapping[str, Any]) -> dict[str, str]:
    """A row in print: its numbers (differences with their sign), interval and p-value if known."""
    digits, scale = FORMATS.get(row.get("metric"), (1, 100))
    sign = "+" if isinstance(row.get("reference"), str) else ""
    values = {name: row[name] * scale for name in ("mean", "low", "high")}
    text = {name: f"{value:{sign},.{digits}f}".replace("-", "−") for name, value in values.items()}
    cell, interval = NOT_RUN if np.isnan(row["mean"]) else text["mean"], ""
    if row["high"] > row["low"]:
        cell += f" ± {(values['high'] - values['low']) / 2:.{digits}f}"
        interval = f", 95 % interval {text['low']} to {text['high']}"
    if (p := row.get("p_holm", np.nan)) >= 0:
        interval += f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} after Holm"
    one, seeds = "one training, no claim about new ones", row["seeds"]
    text |= {"trainings": one if seeds == 1 else f"{seeds:.0f} trainings"}
    return text | {"cell": cell, "interval": interval, "images": f"{row['images']:.0f}"}


def pick(frame: DataFrame, **wanted: object) -> DataFrame:
    """The rows of `frame` in which each column named has the value given."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def study_tables(frames: Frames, context: str, severity: str, frozen: bool = False) -> list[Table]:
    """All tables of `tables.toml` that the frames of a study can fill (see `study_table`)."""
    pairs = "released" in set(frames["image_scores"].severity)
    other = "table1_deblurring" if pairs else "table2_gopro"
    names = [name for name in WORDS["tables"] if name != other]
    made = [study_table(name, frames, context, severity, frozen) for name in names]
    return [table for table in made if table]


def study_table(
    name: str, frames: Frames, context: str = "", severity: str = "severe", frozen: bool = False
) -> Table | None:
    """The table `name` of `tables.toml`, which says what it holds; None without numbers.

    `frames`: those of notebook 07, and `definitions` of 07b; `context`: what the caption ends with.
    `frozen`: the data had no captions, so `full` kept the tree of another study (stage D).
    """
    rules = WORDS["tables"][name]
    known = [part for part in rules["parts"] if part["frame"] in frames]
    parts = [part_rows(frames[part["frame"]], part, severity) for part in known]
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    shown = pd.concat(parts, ignore_index=True)
    if "about" in rules["rows"]:
        about = {name: variant.description for name, variant in VARIANTS.items()} | WORDS["known"]
        about |= {"full": about["borrowed"]} if frozen else {}
        shown["about"] = shown.variant.map(about)
    printed = shown.dropna(subset="column")
    seeds = printed.seeds.where(~printed.variant.isin([*UNTRAINED, RANDOM, HUMAN]), 0)
    words = {
        "severity": severity,
        "seeds": seeds_sentence(seeds),
        "images": images_of(printed),
        "videos": shown.get("clusters", seeds).max(),
        "found": finding(frames.get("differences", DataFrame()), "test", severity),
        "reasons": " ".join(sorted(set(shown.get("reason", pd.Series()).dropna()) - {""})),
        "protocol": PROTOCOL,
        "recogniser": SEEN_PROTOCOL if "recognition" in {*printed.metric} else "",
        "spice": SPICE_NOT_RUN,
        **WORDS["notes"],
    }
    notes = (note.format(**words) for note in rules["notes"])
    caption = f"{rules['caption'].format(**words)} {context}".strip()
    cells, data = cells_of(printed, rules["rows"], seeds), shown.drop(columns="column")
    return Table(name, caption, cells, data, tuple(filter(None, notes)), len(rules["rows"]))


def part_rows(frame: DataFrame, part: Mapping[str, Any], severity: str) -> DataFrame:
    """The rows of a frame that a part of a table wants, with the texts that it adds."""
    frame = TIDY.get(part["frame"], DataFrame)(frame)
    frame = frame.rename(columns={"system": "variant"})
    where = {name: value.format(severity=severity) for name, value in part["where"].items()}
    frame = pick(frame, **where)
    rows = frame.to_dict("records")
    for row in rows:
        metric, variant = row["metric"], row["variant"]
        row |= {
            "title": COLUMNS.get(metric, metric),
            "METRIC": COLUMNS.get(metric, metric).removesuffix(" (dB)"),
        }
        row["short"] = short(variant)
    texts = part["texts"].items()
    frame = frame.assign(**{name: [text.format_map(row) for row in rows] for name, text in texts})
    if "printed" in part:
        printed = [index for row in part["printed"] for index in pick(frame, **row).index]
        frame["column"] = frame.column.where(frame.index.isin(printed))
    return frame


def costs(frame: DataFrame) -> DataFrame:
    """What variants cost (means over their runs), a row for each variant and metric."""
    names = ["parameters_semantics", "milliseconds_per_step"]
    means = frame.groupby("variant")[names].mean()
    return means.melt(var_name="metric", value_name="mean", ignore_index=False).reset_index()


def definitions(frame: DataFrame) -> DataFrame:
    """PSNR and SSIM by every definition, and whether it ranks variants as ours does."""
    words = [item[:3] for item in DEFINITIONS]
    habits = DataFrame(words, columns=["definition", "metric", "habit"])
    alike = agreement(frame).map("{:.2f}".format).replace("nan", DASH).rename("agreement")
    frame = frame.merge(habits).join(alike, on=["metric", "definition"])
    value = dict.fromkeys(("mean", "low", "high"), frame.value)
    return frame.assign(seeds=1, images=DEFINITION_IMAGES, **value)


TIDY = {"cost": costs, "definitions": definitions}  # frames that do not come as rows of tables


def cells_of(printed: DataFrame, rows: dict[str, str], seeds: pd.Series) -> DataFrame:
    """What is printed, in the order of all figures; `rows`: columns that name a row -> titles."""
    most = seeds.groupby(printed.variant).max()
    alone = most.index[(most == 1) & (most.max() > 1)]
    printed = printed.assign(cell=[spoken(row)["cell"] for row in printed.to_dict("records")])
    order = in_order(printed.variant)
    printed = printed.sort_values("variant", key=lambda own: own.map(order.index), kind="stable")
    words = {name: label(name) + f" ({ONE_SEED})" * (name in alone) for name in order}
    printed["variant"] = printed.variant.map(words)
    known = [*COLUMNS.values()]  # come last, in this order
    titles = dict.fromkeys(printed.column)
    titles = sorted(titles, key=lambda title: known.index(title) if title in known else -1)
    table = printed.pivot_table("cell", list(rows), "column", "first", sort=False)[titles]
    return table.fillna(DASH).reset_index().rename(columns=rows).rename_axis(columns=None)


def seeds_sentence(seeds: pd.Series) -> str:
    """How many trainings stand behind the rows (0: none): a table must say when it is one."""
    counts = sorted(set(seeds.dropna().astype(int)) - {0})
    if counts in ([], [1]):
        return "One seed, no claim: ± speaks of new images, not of new trainings."
    alone = f"; rows marked “{ONE_SEED}” have one" if counts[0] == 1 else ""
    return f"{counts[-1]} seeds{alone}; ± is half of the 95 % interval over images and seeds."


def images_of(frame: DataFrame) -> str:
    """How many images were scored: by severity, where not all frames have a severe version."""
    by = frame.get("severity", pd.Series("", frame.index))
    counts = frame.groupby(by).images.max().astype(int)
    if counts.nunique() == 1:
        return str(counts.iloc[0])
    return " and ".join(f"{count} ({name})" for name, count in counts.items())


def write(table: Table, folder: Path | str) -> list[Path]:
    """Write `<name>.csv` (the tidy numbers) and `.md` (what is printed)."""
    paths = [Path(folder) / f"{table.name}.{kind}" for kind in ("csv", "md")]
    write_file(paths[0], table.data)
    write_file(paths[1], markdown(table))
    return paths


def markdown(table: Table) -> str:
    """GitHub Markdown: caption in bold, the table, the notes."""
    words, columns = table.text_columns, len(table.cells.columns)
    align = ["left"] * words + ["right"] * (columns - words)
    body = table.cells.to_markdown(index=False, colalign=align, disable_numparse=True)
    return "\n\n".join([f"**{table.caption}**", body, *table.notes]) + "\n"


# ------------------------------------------------------------------------------- what a study found


def findings(frames: Frames, severity: str, split: str = "test") -> dict[str, str]:
    """What the frames of notebook 07 say under `severity`: topic -> sentence."""
    facts = {
        shape.format_map(row): row
        for name, shape in WORDS["facts"].items()
        for row in frames.get(name, DataFrame()).to_dict("records")
        if row.get("split", split) == split and row.get("references", "all") == "all"
    }
    found = {}
    for item in WORDS["findings"]:
        rows = [facts.get(name.format(severity=severity)) for name in item["rows"]]
        if all(rows) and item["topic"] != severity:
            sign = _sign(rows[0], rows[-1]["mean"] if "beside" in item else 0.0)
            answer = item["answers"].get(sign) if "answers" in item else ""
            if answer is not None:
                words = {"severity": severity, "answer": answer}
                found[item["topic"]] = item["text"].format(*map(spoken, rows), **words)
    return found


def finding(differences: DataFrame, split: str, severity: str) -> str:
    """Does `full` beat the baseline and the control without semantic losses? In plain sentences."""
    found = findings({"differences": differences}, severity, split)
    said = [found[name] for name in ("baseline", "no_semantics_loss") if name in found]
    return " ".join(said) or "Full and baseline cannot be compared: one of the two was not run."


def _sign(row: Mapping[str, Any], zero: float) -> str:
    if "p_holm" in row:
        sign = significant(pd.Series(row))
    else:
        sign = int(row["low"] > zero) - int(row["high"] < zero)
    return ("unclear", "better", "worse")[sign]
