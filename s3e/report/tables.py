"""Tables 1 to 5 as CSV (numbers), LaTeX and Markdown (cells `value ± half-interval`), and the finding.

Every number comes from a frame of `s3e.evaluation.collect`; there is no column for the paper: its numbers are unknown.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from s3e.config import VARIANTS
from s3e.evaluation.caption import METRICS as CAPTION_METRICS
from s3e.evaluation.collect import HUMAN, NODE_MEASURES, RANDOM, SEVERITIES, severities
from s3e.evaluation.image import PROTOCOL
from s3e.paths import atomic_write
from s3e.report.style import in_order, label

NOT_RUN = "not run"
DASH = "–"
INPUTS = ("sharp", *SEVERITIES, "deblurred", "none")
SYSTEMS = {
    HUMAN: "one reference against the others", RANDOM: "random training caption", "global": "global feature (NIC)",
    "soft_attention": "soft attention", "tree": "S3-tree captioner", "full": "S3E-Deblur (co-trained)",
}  # fmt: skip
RIVALS = {"baseline": "the baseline", "no_semantics_loss": "its control without semantic losses"}
SPLITS = {"val": "validation", "test": "test"}
SPEED = "Milliseconds an update are as measured in the run, other jobs on the machine included."
FROZEN = "S3E-Deblur: node maps of a frozen S3-tree, taught elsewhere"
MEASURES = dict(zip(NODE_MEASURES, ("leaves", "empty leaves found", "relations", "root"), strict=True))


@dataclass(frozen=True)
class Table:
    """`cells`: what is printed (strings); `data`: the tidy numbers behind it; `caption` above, `notes` below."""

    name: str
    caption: str
    cells: pd.DataFrame
    data: pd.DataFrame
    notes: tuple[str, ...] = ()
    text_columns: int = 1  # columns on the left that hold words


def cell(row: pd.Series | dict, digits: int, scale: float = 1.0, sign: bool = False) -> str:
    """`value ± half-interval` of a row with mean, low and high; no ± where nothing spreads."""
    value, half = row["mean"] * scale, (row["high"] - row["low"]) / 2 * scale
    if not np.isfinite(value):
        return NOT_RUN
    text = f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return f"{text} ± {half:.{digits}f}" if half > 0 else text


def _number(value: float, digits: int, scale: float = 1.0) -> str:
    return NOT_RUN if pd.isna(value) else f"{value * scale:.{digits}f}"


def _seeds(frame: pd.DataFrame) -> str:
    """How many trainings stand behind the rows: a table must say when it is one."""
    counts = sorted(set(frame.seeds[frame.variant != "blurred"].astype(int)))
    if counts == [1]:
        return "One seed: ± speaks of new images, not of new trainings."
    low, high = counts[0], counts[-1]
    many = f"{high} seeds" if low == high else f"{low} to {high} seeds; rows of one seed are marked ¹"
    return f"{many[0].upper()}{many[1:]}; ± is half of the 95 % interval over images and seeds."


def _range_over_seeds(frame: pd.DataFrame) -> str:
    seeds = int(frame.seeds.max())
    return "One seed." if seeds == 1 else f"Mean of up to {seeds} seeds; ± is half their range."


def _pick(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def _marked(name: str, frame: pd.DataFrame, mixed: bool) -> str:
    return f"{name} ¹" if mixed and (frame.seeds == 1).all() else name


def _mixed(frame: pd.DataFrame) -> bool:
    return frame[frame.variant != "blurred"].seeds.nunique() > 1


def deblurring(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 1: PSNR (dB) and SSIM of every arm at each severity, the blurred input first (specification 6.9)."""
    return _by_severity("table1_deblurring", "Image deblurring", "images", scores, split, context)


def gopro(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 2: the same for GoPro's pairs, as released and severe (specification 4.3 and 6.9)."""
    context = f"{context} Intervals take frames as independent, which those of one video are not.".strip()
    return _by_severity("table2_gopro", "Deblurring of video frames", "frames", scores, split, context)


def _by_severity(name: str, what: str, unit: str, scores: pd.DataFrame, split: str, context: str) -> Table:
    data = _pick(scores, split=split)
    rows = {}
    for variant in in_order(data.variant):
        own = _pick(data, variant=variant)
        row = {}
        for severity in severities(data):
            for metric, digits in (("psnr", 2), ("ssim", 3)):
                found = _pick(own, severity=severity, metric=metric)
                row[f"{severity} {metric.upper()}"] = cell(found.iloc[0], digits) if len(found) else DASH
        rows[_marked(label(variant), own, _mixed(data) and variant != "blurred")] = row
    many = _counts(data)
    caption = f"{what} on {many} {split} {unit} by blur severity (PSNR in dB). {_seeds(data)} {context}".strip()
    return Table(name, caption, _frame(rows, "method"), data, (PROTOCOL,))


def _counts(data: pd.DataFrame) -> str:
    """How many images were scored; by severity, where frames at the end of a video have no severe version."""
    counts = {name: int(_pick(data, severity=name).images.max()) for name in severities(data)}
    if len(set(counts.values())) == 1:
        return str(max(counts.values()))
    return " and ".join(f"{count} ({name})" for name, count in counts.items())


def captioning(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 3: seven caption metrics (×100) of every system and input, with floor and landmark (specification 6.9)."""
    data = _pick(scores, split=split)
    names = dict.fromkeys((RANDOM, *SYSTEMS, *in_order(data.system)))
    rank = {name: place for place, name in enumerate(names)}
    data = data.assign(
        rank=[rank[name] for name in data.system], view=[INPUTS.index(name) for name in data.input]
    ).sort_values(["references", "rank", "view"], kind="stable")
    rows = []
    for row in data[data.references == "all"].to_dict("records"):
        rows.append(_caption_row(row))
    for row in data[(data.references == "other") & data.input.isin(["sharp", "none"])].to_dict("records"):
        rows.append({**_caption_row(row), "references": "all but one"})
    cells = pd.DataFrame(rows)
    reasons = tuple(sorted(set(data.reason.dropna()) - {""}))
    notes = (
        "All values ×100. Rows marked “all but one” are scored against all captions but the first, so that the first "
        "caption can compete with the other references. CIDEr is CIDEr-D with document frequencies of the scored "
        "images: it does not compare with values on other images. Co-trained systems have had the updates of stage C "
        "on top of those of the others.",
        *reasons,
    )
    caption = (
        f"Image captioning on {int(data.images.max())} {split} images. {_range_over_seeds(data)} {context}".strip()
    )
    return Table("table3_captioning", caption, cells, data.drop(columns=["rank", "view"]), notes, 3)


def _caption_row(row: dict) -> dict[str, str]:
    name = SYSTEMS.get(row["system"]) or " → ".join(
        SYSTEMS.get(part, label(part)) for part in row["system"].split(" -> ")
    )
    values = {metric: _number(row[metric], 1, 100) for metric in CAPTION_METRICS}
    half = (row["CIDEr_high"] - row["CIDEr_low"]) / 2 * 100
    if half > 0:
        values["CIDEr"] += f" ± {half:.1f}"
    return {"system": name, "input": DASH if row["input"] == "none" else row["input"], "references": "all", **values}


def ablation(
    scores: pd.DataFrame,
    differences: pd.DataFrame,
    costs: pd.DataFrame,
    split: str = "test",
    severity: str = "severe",
    context: str = "",
    frozen: bool = False,
) -> Table:
    """Table 4: what each arm embeds, its PSNR and SSIM, its paired gain over the baseline, and its cost.

    `frozen`: the data had no captions, so `full` kept the tree of another study (stage D).
    """
    data = _pick(scores, split=split, severity=severity)
    gains = _pick(differences, split=split, severity=severity, reference="baseline", metric="psnr")
    rows = {}
    for variant in in_order(set(data.variant) - {"blurred"}):
        own, gain, cost = _pick(data, variant=variant), _pick(gains, variant=variant), _pick(costs, variant=variant)
        rows[_marked(label(variant), own, _mixed(data))] = {
            "what it is": FROZEN if frozen and variant == "full" else VARIANTS[variant].description,
            "PSNR (dB)": cell(_pick(own, metric="psnr").iloc[0], 2),
            "SSIM": cell(_pick(own, metric="ssim").iloc[0], 3),
            "gain (dB)": cell(gain.iloc[0], 2, sign=True) if len(gain) else DASH,
            "semantic parameters": _thousands(cost.parameters_semantics.mean()),
            "ms an update": _number(cost.milliseconds_per_update.mean(), 0) if len(cost) else DASH,
        }
    caption = (
        f"Ablation under {severity} blur, {int(data.images.max())} {split} images; gain is paired, over the baseline. "
    )
    caption += f"{_seeds(data)} {context}"
    facts = pd.concat([data, gains.assign(metric="psnr gain")]).drop(columns=["reference"], errors="ignore")
    notes = (finding(differences, split, severity), SPEED, PROTOCOL)
    return Table("table4_ablation", caption.strip(), _frame(rows, "arm"), facts, notes, 2)


def _thousands(value: float) -> str:
    return DASH if pd.isna(value) or not value else f"{value / 1000:,.0f} k"


def nodes(accuracy: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 5: accuracy (%) of the tree's nodes by input, before and after co-training, against the target tree."""
    data = _pick(accuracy, split=split)
    keep = (data.when == "before") | (data.variant == "full")
    data = data[keep] if keep.any() else data
    rows = []
    for when in ("before", "after"):
        for view in INPUTS:
            for _, own in _pick(data, when=when, input=view).groupby("system", sort=True):
                values = {row["measure"]: cell(row, 1, 100) for row in own.to_dict("records")}
                facts = {"co-training": when, "input": view}
                rows.append({**facts, **{title: values.get(name, DASH) for name, title in MEASURES.items()}})
    notes = (
        "Percent right. Leaves, relations and root: nodes that the target fills. Empty leaves found: recall of null.",
    )
    seeds = _range_over_seeds(data)
    caption = f"Node classification of the S3-tree on {int(data.n.max())} {split} images. {seeds} {context}".strip()
    return Table("table5_nodes", caption, pd.DataFrame(rows), data, notes, 2)


def _frame(rows: dict[str, dict[str, str]], name: str) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(name).reset_index()


def verdict(row: pd.Series) -> str:
    """Words for one paired difference in PSNR: only an interval on one side of zero is a difference."""
    amount = f"{row['mean']:+.2f} dB, 95 % interval {row.low:+.2f} to {row.high:+.2f}".replace("-", "−")
    other = RIVALS.get(row.reference, label(row.reference))
    if row.low > 0:
        return f"beats {other} ({amount})"
    if row.high < 0:
        return f"loses to {other} ({amount})"
    return f"does not beat {other}: no difference can be told ({amount})"


def finding(differences: pd.DataFrame, split: str = "test", severity: str = "severe") -> str:
    """One plain sentence: does `full` beat the baseline and the control without semantic losses?"""
    rows = _pick(differences, split=split, severity=severity, variant="full", metric="psnr").set_index(
        "reference", drop=False
    )
    parts = [verdict(rows.loc[name]) for name in RIVALS if name in rows.index]
    if not parts:
        return "Whether S3E-Deblur (full) beats the baseline cannot be said: one of the two was not run."
    absent = [RIVALS[name] for name in RIVALS if name not in rows.index]
    missing = f"; {absent[0]} was not run" if absent else ""
    seeds = "one seed" if rows.seeds.max() == 1 else f"{int(rows.seeds.max())} seeds"
    return (
        f"On {SPLITS[split]} images under {severity} blur ({seeds}), S3E-Deblur (full) {'; it '.join(parts)}{missing}."
    )


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
    align = ["left" if index < table.text_columns else "right" for index in range(len(table.cells.columns))]
    body = table.cells.to_markdown(index=False, colalign=align, disable_numparse=True)
    return "\n\n".join([f"**{table.caption}**", body, *table.notes]) + "\n"


ESCAPES = {
    "±": r"$\pm$", "−": "$-$", "–": "--", "→": r"$\rightarrow$", "×": r"$\times$", "¹": "$^1$", "“": "``", "”": "''",
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(ESCAPES.get(letter, letter) for letter in text)


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
