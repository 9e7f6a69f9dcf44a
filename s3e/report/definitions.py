"""Table A1: the same restored photos under every definition of PSNR and SSIM in use (appendix to specification 4.4)."""

import pandas as pd

from s3e.evaluation.images import DEFINITION_IMAGES, DEFINITIONS, PROTOCOL, swapped
from s3e.report.style import label
from s3e.report.table import DASH, Table

SHOWN = ("blurred", "baseline", "no_semantics_loss", "full", "oracle_map")
DIGITS = {"psnr": 2, "ssim": 3}
UNITS = {"psnr": "dB", "ssim": "of SSIM"}


def table(frame: pd.DataFrame, context: str = "") -> Table:
    """Rows are definitions, columns the main arms and how many pairs of all arms are ranked otherwise than by ours.

    `frame`: `definitions.csv` of notebook 07b (variant, definition, metric, value).
    """
    values = frame.set_index(["metric", "definition", "variant"]).value
    turned = swapped(frame)
    pairs = turned.set_index(["metric", "definition"]).pairs
    rows = []
    for item in DEFINITIONS:
        row = {"metric": item.metric.upper(), "definition": item.name, "as in": item.habit}
        for variant in [name for name in SHOWN if name in set(frame.variant)]:
            row[label(variant).split(" (")[0]] = (
                f"{values[item.metric, item.name, variant]:.{DIGITS[item.metric]}f}"
            )
        count = len(list(filter(None, pairs[item.metric, item.name].split(", "))))
        rows.append({**row, "pairs swapped": str(count) if count else DASH})
    notes = (
        verdict(frame),
        f"The first {DEFINITION_IMAGES} test photos at most, arms of the first seed.",
        PROTOCOL,
    )
    caption = f"The same pictures, many scores: PSNR (dB) and SSIM by the definitions in use. {context}".strip()
    return Table("tableA1_definitions", caption, pd.DataFrame(rows), frame, notes, text_columns=3)


def verdict(frame: pd.DataFrame) -> str:
    """Does the ranking depend on the definition, and how far apart do definitions lie? From `definitions.csv`."""
    turned, outputs = swapped(frame), frame.variant.nunique()
    spans = frame[frame.metric == "ssim"].groupby("variant").value.agg(["min", "max"])
    name = "full" if "full" in spans.index else spans.index[0]
    low, high = spans.loc[name]
    said = f"By definition, the SSIM of one output ({label(name).split(' (')[0]}) runs from {low:.3f} to {high:.3f}."
    found = turned[turned.pairs != ""]
    if found.empty:
        return said + (f" All definitions rank the {outputs} outputs alike." if outputs > 1 else "")
    worst = found.groupby("metric").apart.max()
    sizes = [
        f"{worst[metric]:.{DIGITS[metric] + 1}f} {unit}"
        for metric, unit in UNITS.items()
        if metric in worst
    ]
    names = ", ".join(f"{row.metric.upper()} {row.definition}" for row in found.itertuples())
    said += f" Of the {outputs} outputs some change places under another definition ({names}), "
    return said + f"none of them further apart than {' and '.join(sizes)} by this suite's."
