"""Tables 1 to 10 and A1 of a study, from the frames of notebook 07, and what it found in words.

Their words are in `tables.toml`. A difference is only called one where it is significant
(`s3e.evaluation.gains`).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
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
from s3e.utils import atomic_write, write_csv

WORDS = tomllib.loads((files("s3e.report") / "tables.toml").read_text(encoding="utf-8"))
NOT_RUN, DASH = "not run", "–"
ONE_SEED = "one seed, no claim"
# metric -> digits after the point and scale of its numbers; all others are printed in percent
FORMATS = {"psnr": (2, 1), "ssim": (3, 1), "share": (0, 100)}
FORMATS |= {"parameters_semantics": (0, 0.001), "milliseconds_per_step": (0, 1)}
COLUMNS = {
    "leaf_accuracy": "leaves",
    "null_recall": "empty leaves found",
    "relation_accuracy": "relations",
    "root_accuracy": "root",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "gain": "gain (dB)",
    "parameters_semantics": "semantic parameters (k)",
    "milliseconds_per_step": "ms a step",
}


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
    """Mean, ends and half of the interval of a row in print; differences (those with a `reference`)
    with their sign.
    """
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
    name: str, data: pd.DataFrame, shown: pd.DataFrame, rows: Mapping[str, str], **words: Any
) -> Table:
    """The table `name` of `tables.toml`: a row for each variant, a column for each value of
    `shown.column`.

    `shown`: tidy numbers with variant, column, seeds and images; `rows`: those of its columns that
    name a row -> their titles; `words`: what caption and notes may hold.
    """
    seeds = shown.seeds.where(~shown.variant.isin([*UNTRAINED, RANDOM, HUMAN]), 0)
    most = seeds.groupby(shown.variant).max()
    alone = {name: f" ({ONE_SEED})" * bool(most[name] == 1 < most.max()) for name in most.index}
    order = {name: place for place, name in enumerate(in_order(most.index))}
    shown = shown.assign(cell=[cell(row) for row in shown.to_dict("records")])
    shown = shown.sort_values("variant", key=lambda names: names.map(order), kind="stable")
    shown["variant"] = [label(name) + alone[name] for name in shown.variant]
    known = [*COLUMNS.values()]
    titles = sorted(
        dict.fromkeys(shown.column), key=lambda name: known.index(name) if name in known else -1
    )
    table = shown.pivot_table("cell", list(rows), "column", "first", sort=False)[titles]
    cells = table.fillna(DASH).reset_index().rename(columns=dict(rows)).rename_axis(columns=None)
    words |= {
        "seeds": seeds_sentence(seeds),
        "images": images_of(shown),
        "classical": CLASSICAL_NOTE * bool({"wiener"} & set(order)),
        "reasons": " ".join(sorted(set(shown.get("reason", pd.Series()).dropna()) - {""})),
        "protocol": PROTOCOL,
        "spice": SPICE_NOT_RUN,
        **WORDS["notes"],
    }
    caption, *notes = (
        text.format(**words) for text in (WORDS[name]["caption"], *WORDS[name]["notes"])
    )
    caption = f"{caption} {words['context']}".strip()
    return Table(name, caption, cells, data, tuple(filter(None, notes)), len(rows))


def seeds_sentence(seeds: pd.Series) -> str:
    """How many trainings stand behind the rows (0: none): a table must say when it is one."""
    counts = sorted(set(seeds.dropna().astype(int)) - {0})
    if counts in ([], [1]):
        return "One seed, no claim: ± speaks of new images, not of new trainings."
    alone = f"; rows marked “{ONE_SEED}” have one" if counts[0] == 1 else ""
    return f"{counts[-1]} seeds{alone}; ± is half of the 95 % interval over images and seeds."


def images_of(frame: pd.DataFrame) -> str:
    """How many images were scored: by severity, where frames at the end of a video have no severe
    version.
    """
    by = frame.get("severity", pd.Series("", frame.index))
    counts = frame.groupby(by).images.max().astype(int)
    if counts.nunique() == 1:
        return str(counts.iloc[0])
    return " and ".join(f"{count} ({name})" for name, count in counts.items())


def write(table: Table, folder: Path | str) -> list[Path]:
    """Write `<name>.csv` (the tidy numbers) and `.md` (what is printed)."""
    paths = [Path(folder) / f"{table.name}.{kind}" for kind in ("csv", "md")]
    write_csv(paths[0], table.data)
    with atomic_write(paths[1]) as temporary:
        temporary.write_text(markdown(table), encoding="utf-8")
    return paths


def markdown(table: Table) -> str:
    """GitHub Markdown: caption in bold, the table, the notes."""
    words, columns = table.text_columns, len(table.cells.columns)
    align = ["left"] * words + ["right"] * (columns - words)
    body = table.cells.to_markdown(index=False, colalign=align, disable_numparse=True)
    return "\n\n".join([f"**{table.caption}**", body, *table.notes]) + "\n"


# ----------------------------------------------------------------------------------- tables 1 to 10


def deblurring(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Tables 1 and 2 (GoPro): PSNR (dB) and SSIM of every variant at each severity."""
    data = pick(scores, split=split)
    shown = data.assign(column=data.severity + " " + data.metric.str.upper())
    name = "table2_gopro" if "released" in set(data.severity) else "table1_deblurring"
    words = {"split": split, "context": context, "videos": data.clusters.max()}
    return study_table(name, data, shown, {"variant": "method"}, **words)


def captioning(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 3: seven caption metrics of every system and input, with floor and landmark
    (specification 6.9).
    """
    data = pick(scores, split=split)
    fair = data.input.isin(["sharp", "none"])
    shown = data[(data.references == "all") | fair].assign(column=data.metric)
    rows = {"variant": "system", "input": "input", "references": "references"}
    shown = shown.rename(columns={"system": "variant"})
    return study_table("table3_captioning", data, shown, rows, split=split, context=context)


def ablation(
    scores: pd.DataFrame,
    differences: pd.DataFrame,
    costs: pd.DataFrame,
    split: str = "test",
    severity: str = "severe",
    context: str = "",
    frozen: bool = False,
) -> Table:
    """Table 4: what each variant embeds, its PSNR and SSIM, its paired gain over the baseline, and
    its cost.

    `frozen`: the data had no captions, so `full` kept the tree of another study (stage D). The data
    hold every comparison at this severity, with its p-values.
    """
    data = pick(scores, split=split, severity=severity)
    compared = pick(differences, split=split, severity=severity)
    gain = pick(compared, reference="baseline", metric="psnr").assign(column="gain")
    names = ["parameters_semantics", "milliseconds_per_step"]
    spent = costs.melt("variant", names, "metric", "mean").groupby(["variant", "metric"])
    spent = spent.mean().reset_index()
    shown = pd.concat([data, gain, spent])
    about = {name: rules.description for name, rules in VARIANTS.items()} | WORDS["known"]
    about |= {"full": about["borrowed"]} if frozen else {}
    shown["column"] = shown.column.fillna(shown.metric).map(COLUMNS)
    shown["about"] = shown.variant.map(about)
    rows = {"variant": "variant", "about": "what it is"}
    found = finding(differences, split, severity)
    words = {"split": split, "severity": severity, "context": context, "found": found}
    return study_table("table4_ablation", pd.concat([data, compared]), shown, rows, **words)


def nodes(accuracy: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 5: accuracy of the tree's nodes by input, before and after co-training, against the
    target tree.
    """
    data = pick(accuracy, split=split)
    shown = data[(data.when == "before") | (data.variant == "full")]
    shown = shown.assign(column=shown.metric.map(COLUMNS))
    rows = {"variant": "tree", "input": "input"}
    return study_table("table5_nodes", data, shown, rows, split=split, context=context)


def fidelity(scores: pd.DataFrame, differences: pd.DataFrame, context: str = "") -> Table:
    """Table 6: captions of a judge that never saw a restored image, of sharp, blurred and restored
    ones.
    """
    pairs = differences.assign(system=differences.system + " - " + differences.reference)
    shown = pd.concat([scores, pairs]).rename(columns={"system": "variant"})
    shown = shown.assign(column=shown.metric.replace(COLUMNS))
    data = pd.concat([scores, differences], ignore_index=True)
    rows = {"variant": "the judge reads"}
    return study_table("table6_fidelity", data, shown, rows, split="test", context=context)


def texture_control(
    frame: pd.DataFrame, split: str = "test", severity: str = "severe", context: str = ""
) -> Table:
    """Table 7: the decisive differences where a category determines its texture, and where textures
    are random.
    """
    data = pick(frame, split=split, severity=severity)
    shown = data.assign(
        variant=data.variant + " - " + data.reference, column=data.metric.map(COLUMNS)
    )
    rows = {"texture": "textures", "variant": "difference", "seeds": "seeds"}
    words = {"split": split, "severity": severity, "context": context}
    return study_table("table7_texture_control", data, shown, rows, **words)


def closing(frame: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 8: which share of the PSNR gap between baseline and true label maps each variant
    closes, by severity.
    """
    data = pick(frame, split=split)
    shown = data.assign(column=data.severity + " (%)")
    return study_table(
        "table8_closing", data, shown, {"variant": "variant"}, split=split, context=context
    )


def gains(
    differences: pd.DataFrame,
    bins: pd.DataFrame,
    split: str = "test",
    severity: str = "severe",
    context: str = "",
) -> Table:
    """Table 9: PSNR gained over the baseline at each severity, and in each third of the images
    under one of them.

    Thirds are sorted by the blurred image's PSNR: those that blur hurts most come first.
    """
    overall = pick(differences, split=split, reference="baseline", metric="psnr")
    thirds = pick(bins, split=split, severity=severity, reference="baseline")
    ends = zip(thirds.input_low, thirds.input_high, strict=True)
    ranges = [f"{severity}, {low:.1f}–{high:.1f} dB" for low, high in ends]
    overall, thirds = (
        overall.assign(bin="all", column=overall.severity),
        thirds.assign(column=ranges),
    )
    shown = pd.concat([overall, thirds], ignore_index=True)
    words = {"split": split, "severity": severity, "context": context}
    data = shown.drop(columns="column")
    return study_table("table9_gains", data, shown, {"variant": "variant"}, **words)


def leakage(frame: pd.DataFrame, severity: str = "severe", context: str = "") -> Table:
    """Table 10: what remains of the gains without test images that resemble training images
    (train/test leakage).
    """
    pairs = [label(f"{a} - {b}") for a, b in zip(frame.variant, frame.reference, strict=True)]
    shown = frame.assign(column=pairs, variant="full", without=frame.left_out.replace(SUSPECTS))
    rows = {"without": "left out", "photos": "images left out", "images": "images"}
    words = {"split": "test", "severity": severity, "context": context}
    return study_table("table10_leakage", frame, shown, rows, **words)


def definitions(frame: pd.DataFrame, context: str = "") -> Table:
    """Table A1: PSNR and SSIM by every definition in use, and how far it ranks variants as ours
    does.

    `frame`: `definitions.csv` of notebook 07b (variant, definition, metric, value).
    """
    wanted = ("blurred", "baseline", "no_semantics_loss", "full", "oracle_map")
    shown = pd.concat([pick(frame, variant=name) for name in wanted], ignore_index=True)
    value, places = shown.value, pd.MultiIndex.from_frame(shown[["metric", "definition"]])
    shown = shown.assign(
        column=shown.variant.map(short),
        habit=places.map({(item.metric, item.name): item.habit for item in DEFINITIONS}),
        agreement=places.map(agreement(frame).round(2)),
        variant="full",
        mean=value,
        low=value,
        high=value,
        seeds=1,
        images=DEFINITION_IMAGES,
    )
    rows = {"metric": "metric", "definition": "definition", "habit": "as in"}
    rows |= {"agreement": "same ranking (τ)"}
    return study_table("tableA1_definitions", frame, shown, rows, context=context)


# ------------------------------------------------------------------------------- what a study found


def findings(
    frames: Mapping[str, pd.DataFrame], severity: str, split: str = "test"
) -> dict[str, str]:
    """What the frames of notebook 07 say under `severity`: topic -> sentence, none of what was not
    run.
    """
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
    """A row in print, with its interval and, of several seeds, its p-value, as far as they are
    known.
    """
    text, p, seeds = numbers(row), row.get("p_holm", np.nan), row["seeds"]
    interval = f", 95 % interval {text['low']} to {text['high']}" * (row["high"] > row["low"])
    if not np.isnan(p):
        interval += f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} after Holm"
    one = "one training, no claim about new ones"
    trainings = one if seeds == 1 else f"{seeds:.0f} trainings"
    return text | {"interval": interval, "trainings": trainings, "images": f"{row['images']:.0f}"}
