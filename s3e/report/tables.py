"""Tables 1 to 10 and A1 of a study, from the frames of notebook 07, and what it found in words.

Their words are in `tables.toml`. A difference is only called one where it is significant
(`s3e.evaluation.gains`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from s3e.config import VARIANTS
from s3e.evaluation.captions import SPICE_NOT_RUN
from s3e.evaluation.collect import HUMAN, RANDOM, SUSPECTS
from s3e.evaluation.gains import UNTRAINED, significant
from s3e.evaluation.images import (
    CLASSICAL_NOTE,
    DEFINITION_IMAGES,
    DEFINITIONS,
    PROTOCOL,
    agreement,
)
from s3e.report.style import in_order, label, short
from s3e.utils import data_file, write_file

WORDS = data_file("report/tables.toml")
NOT_RUN, DASH = "not run", "–"
ONE_SEED = "one seed, no claim"
COLUMNS, FORMATS = WORDS["columns"], WORDS["formats"]


@dataclass(frozen=True)
class Table:
    """`cells`: what is printed; `data`: the tidy numbers; `caption` above, `notes` below.

    `text_columns`: columns on the left that hold words.
    """

    name: str
    caption: str
    cells: pd.DataFrame
    data: pd.DataFrame
    notes: tuple[str, ...] = ()
    text_columns: int = 1


def numbers(row: Mapping[str, Any]) -> dict[str, str]:
    """Mean, low, high and half of the interval of a row in print; differences with their sign."""
    digits, scale = FORMATS.get(row.get("metric"), (1, 100))
    sign = "+" if isinstance(row.get("reference"), str) else ""
    values = {name: row[name] * scale for name in ("mean", "low", "high")}
    text = {name: f"{value:{sign},.{digits}f}".replace("-", "−") for name, value in values.items()}
    return text | {"half": f"{(values['high'] - values['low']) / 2:.{digits}f}"}


def cell(row: Mapping[str, Any]) -> str:
    """`mean ± half of the interval` of a row; no ± where nothing spreads."""
    if np.isnan(row["mean"]):
        return NOT_RUN
    text = numbers(row)
    return f"{text['mean']} ± {text['half']}" if row["high"] > row["low"] else text["mean"]


def pick(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows of `frame` in which each column named has the value given."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def study_table(
    name: str, shown: pd.DataFrame, rows: Mapping[str, str], context: str, **words: Any
) -> Table:
    """The table `name` of `tables.toml`: a row for each variant, a column for each value of
    `shown.column`.

    `shown`: tidy numbers with variant, seeds, images and column; rows without a column stand in
    the CSV alone. `rows`: what names a row: columns of `shown` -> their titles; `context`, `words`:
    what the caption ends with, and what it and the notes hold.
    """
    printed = shown.dropna(subset="column")
    seeds = printed.seeds.where(~printed.variant.isin([*UNTRAINED, RANDOM, HUMAN]), 0)
    most = seeds.groupby(printed.variant).max()
    alone = {name: f" ({ONE_SEED})" * bool(most[name] == 1 < most.max()) for name in most.index}
    order = {name: place for place, name in enumerate(in_order(most.index))}
    printed = printed.assign(cell=[cell(row) for row in printed.to_dict("records")])
    printed = printed.sort_values("variant", key=lambda names: names.map(order), kind="stable")
    printed["variant"] = [label(name) + alone[name] for name in printed.variant]
    known = [*COLUMNS.values()]  # come last, in this order
    titles = dict.fromkeys(printed.column)
    titles = sorted(titles, key=lambda title: known.index(title) if title in known else -1)
    table = printed.pivot_table("cell", list(rows), "column", "first", sort=False)[titles]
    cells = table.fillna(DASH).reset_index().rename(columns=dict(rows)).rename_axis(columns=None)
    words |= {
        "seeds": seeds_sentence(seeds),
        "images": images_of(printed),
        "classical": CLASSICAL_NOTE * ("wiener" in order),
        "reasons": " ".join(sorted(set(shown.get("reason", pd.Series()).dropna()) - {""})),
        "protocol": PROTOCOL,
        "spice": SPICE_NOT_RUN,
        **WORDS["notes"],
    }
    notes = (note.format(**words) for note in WORDS[name]["notes"])
    caption = f"{WORDS[name]['caption'].format(**words)} {context}".strip()
    data = shown.drop(columns="column")
    return Table(name, caption, cells, data, tuple(filter(None, notes)), len(rows))


def seeds_sentence(seeds: pd.Series) -> str:
    """How many trainings stand behind the rows (0: none): a table must say when it is one."""
    counts = sorted(set(seeds.dropna().astype(int)) - {0})
    if counts in ([], [1]):
        return "One seed, no claim: ± speaks of new images, not of new trainings."
    alone = f"; rows marked “{ONE_SEED}” have one" if counts[0] == 1 else ""
    return f"{counts[-1]} seeds{alone}; ± is half of the 95 % interval over images and seeds."


def images_of(frame: pd.DataFrame) -> str:
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


# ----------------------------------------------------------------------------------- tables 1 to 10


def deblurring(scores: pd.DataFrame, context: str = "") -> Table:
    """Tables 1 and 2 (GoPro): PSNR (dB) and SSIM of every variant at each severity."""
    data = pick(scores, split="test")
    shown = data.assign(column=data.severity + " " + data.metric.str.upper())
    name = "table2_gopro" if "released" in set(data.severity) else "table1_deblurring"
    return study_table(name, shown, {"variant": "method"}, context, videos=data.clusters.max())


def captioning(scores: pd.DataFrame, context: str = "") -> Table:
    """Table 3: caption metrics of every system and input, with floor and landmark."""
    data = pick(scores, split="test").rename(columns={"system": "variant"})
    fair = data.input.isin(["sharp", "none"]) | (data.references == "all")
    rows = {"variant": "system", "input": "input", "references": "references"}
    return study_table(
        "table3_captioning", data.assign(column=data.metric.where(fair)), rows, context
    )


def ablation(
    scores: pd.DataFrame,
    differences: pd.DataFrame,
    costs: pd.DataFrame,
    context: str = "",
    severity: str = "severe",
    frozen: bool = False,
) -> Table:
    """Table 4: what each variant embeds, its PSNR, SSIM, paired gain over the baseline, and cost.

    `frozen`: the data had no captions, so `full` kept the tree of another study (stage D). The CSV
    holds every comparison at this severity, with its p-values.
    """
    wanted = {"split": "test", "severity": severity}
    scores, compared = pick(scores, **wanted), pick(differences, **wanted)
    gain = (compared.reference == "baseline") & (compared.metric == "psnr")
    names = ["parameters_semantics", "milliseconds_per_step"]
    spent = costs.groupby("variant")[names].mean().melt(var_name="metric", ignore_index=False)
    spent = spent.reset_index().rename(columns={"value": "mean"})
    shown = pd.concat(
        [
            scores.assign(column=scores.metric.map(COLUMNS)),
            compared.assign(column=np.where(gain, "gain (dB)", None)),
            spent.assign(column=spent.metric.map(COLUMNS)),
        ],
        ignore_index=True,
    )
    about = {name: rules.description for name, rules in VARIANTS.items()} | WORDS["known"]
    about |= {"full": about["borrowed"]} if frozen else {}
    shown["about"] = shown.variant.map(about)
    rows, found = (
        {"variant": "variant", "about": "what it is"},
        finding(differences, "test", severity),
    )
    return study_table("table4_ablation", shown, rows, context, severity=severity, found=found)


def nodes(accuracy: pd.DataFrame, context: str = "") -> Table:
    """Table 5: accuracy of the tree's nodes by input, before and after co-training."""
    data = pick(accuracy, split="test")
    wanted = (data.when == "before") | (data.variant == "full")
    shown = data.assign(column=data.metric.map(COLUMNS).where(wanted))
    return study_table("table5_nodes", shown, {"variant": "tree", "input": "input"}, context)


def fidelity(scores: pd.DataFrame, differences: pd.DataFrame, context: str = "") -> Table:
    """Table 6: captions of sharp, blurred and restored images by an independent captioner."""
    pairs = differences.assign(system=differences.system + " - " + differences.reference)
    shown = pd.concat([scores, pairs], ignore_index=True).rename(columns={"system": "variant"})
    shown["column"] = shown.metric.replace(COLUMNS)
    return study_table("table6_fidelity", shown, {"variant": "the judge reads"}, context)


def texture_control(frame: pd.DataFrame, context: str = "", severity: str = "severe") -> Table:
    """Table 7: differences where categories determine textures, and where these are random."""
    data = pick(frame, split="test", severity=severity)
    pairs, column = data.variant + " - " + data.reference, data.metric.map(COLUMNS)
    shown = data.assign(variant=pairs, column=column)
    rows = {"texture": "textures", "variant": "difference", "seeds": "seeds"}
    return study_table("table7_texture_control", shown, rows, context, severity=severity)


def closing(frame: pd.DataFrame, context: str = "") -> Table:
    """Table 8: the share of the PSNR gap from baseline to true label maps that variants close."""
    data = pick(frame, split="test")
    shown = data.assign(column=data.severity + " (%)")
    return study_table("table8_closing", shown, {"variant": "variant"}, context)


def gains(
    differences: pd.DataFrame, bins: pd.DataFrame, context: str = "", severity: str = "severe"
) -> Table:
    """Table 9: PSNR gained over the baseline by severity, and in thirds of the images under one.

    Thirds are sorted by the blurred image's PSNR: those that blur hurts most come first.
    """
    wanted = {"split": "test", "reference": "baseline", "metric": "psnr"}
    overall, thirds = pick(differences, **wanted), pick(bins, severity=severity, **wanted)
    ends = zip(thirds.input_low, thirds.input_high, strict=True)
    ranges = [f"{severity}, {low:.1f}–{high:.1f} dB" for low, high in ends]
    overall = overall.assign(column=overall.severity, bin="all")
    shown = pd.concat([overall, thirds.assign(column=ranges)], ignore_index=True)
    return study_table("table9_gains", shown, {"variant": "variant"}, context, severity=severity)


def leakage(frame: pd.DataFrame, context: str = "", severity: str = "severe") -> Table:
    """Table 10: what remains of the gains without test images that resemble training images."""
    pairs = (frame.variant + " - " + frame.reference).map(label)
    shown = frame.assign(column=pairs, left_out=frame.left_out.replace(SUSPECTS))
    rows = {"left_out": "left out", "photos": "images left out", "images": "images"}
    return study_table("table10_leakage", shown, rows, context, severity=severity)


def definitions(frame: pd.DataFrame, context: str = "") -> Table:
    """Table A1: PSNR and SSIM by every definition in use, and whether it ranks variants as ours.

    `frame`: `definitions.csv` of notebook 07b (variant, definition, metric, value).
    """
    wanted = ["blurred", "baseline", "no_semantics_loss", "full", "oracle_map"]
    places = pd.MultiIndex.from_frame(frame[["metric", "definition"]])
    alike = agreement(frame).map("{:.2f}".format).replace("nan", DASH)
    shown = frame.assign(
        column=frame.variant.map(short).where(frame.variant.isin(wanted)),
        habit=places.map({(item.metric, item.name): item.habit for item in DEFINITIONS}),
        agreement=places.map(alike),
        seeds=1,
        images=DEFINITION_IMAGES,
        **dict.fromkeys(("mean", "low", "high"), frame.value),
    )
    rows = {"metric": "metric", "definition": "definition", "habit": "as in"}
    rows |= {"agreement": "same ranking (τ)"}
    return study_table("tableA1_definitions", shown, rows, context)


# ------------------------------------------------------------------------------- what a study found


def findings(
    frames: Mapping[str, pd.DataFrame], severity: str, split: str = "test"
) -> dict[str, str]:
    """What the frames of notebook 07 say under `severity`: topic -> sentence."""
    facts = {
        shape.format_map(row): row
        for name, shape in WORDS["facts"].items()
        for row in frames.get(name, pd.DataFrame()).to_dict("records")
        if row.get("split", split) == split and row.get("references", "all") == "all"
    }
    found = {}
    for item in WORDS["findings"]:
        rows = [facts.get(name.format(severity=severity)) for name in item["rows"]]
        if all(rows) and item["topic"] != severity:
            sign = _sign(rows[0], rows[-1]["mean"] if "beside" in item else 0.0)
            answer = item.get("answers", {"better": "", "worse": "", "unclear": ""}).get(sign)
            if answer is not None:
                words = {"severity": severity, "answer": answer}
                found[item["topic"]] = item["text"].format(*map(_spoken, rows), **words)
    return found


def finding(differences: pd.DataFrame, split: str = "test", severity: str = "severe") -> str:
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


def _spoken(row: Mapping[str, Any]) -> dict[str, str]:
    """A row in print, with its interval and p-value, as far as they are known."""
    text, p, seeds = numbers(row), row.get("p_holm", np.nan), row["seeds"]
    interval = f", 95 % interval {text['low']} to {text['high']}" * (row["high"] > row["low"])
    if not np.isnan(p):
        interval += f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} after Holm"
    one = "one training, no claim about new ones"
    trainings = one if seeds == 1 else f"{seeds:.0f} trainings"
    return text | {"interval": interval, "trainings": trainings, "images": f"{row['images']:.0f}"}
