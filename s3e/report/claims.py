"""What the comparisons allow to say: the finding in words, the share of the gap closed (table 8), the falsifier (7)."""

import pandas as pd

from s3e.evaluation.collect import severities
from s3e.evaluation.gains import ORACLES, significant
from s3e.report.style import in_order, label
from s3e.report.table import DASH, Table, cell, pick, rows_named

RIVALS = {"baseline": "the baseline", "no_semantics_loss": "its control without semantic losses"}
SPLITS = {"val": "validation", "test": "test"}
ONE_SEED = "one seed, no claim"
INTERVAL = (
    "Intervals: 95 %, the wider of a paired bootstrap over images (of video frames: over videos) and seeds, and of t "
    "intervals over the means of seeds and of images or videos."
)
TEXTURES = {"category": "of the category", "random": "drawn by lot"}


def seeds_sentence(frame: pd.DataFrame) -> str:
    """How many trainings stand behind the rows: a table must say when it is one."""
    counts = sorted(set(frame.seeds.astype(int)) - {0})
    if counts in ([], [1]):
        return "One seed, no claim: ± speaks of new images, not of new trainings."
    low, high = counts[0], counts[-1]
    some = f"{low} to {high}" if low > 1 and low != high else f"{high}"
    alone = f"; rows marked “{ONE_SEED}” have one" if low == 1 else ""
    return f"{some} seeds{alone}; ± is half of the 95 % interval over images and seeds."


def marked(name: str, own: pd.DataFrame, frame: pd.DataFrame) -> str:
    """`name`, with a mark where its rows are of one seed and others of `frame` of several."""
    return f"{name} ({ONE_SEED})" if own.seeds.max() == 1 < frame.seeds.max() else name


def row_name(variant: str, frame: pd.DataFrame) -> str:
    """The arm's label, marked by its seeds."""
    return marked(label(variant), pick(frame, variant=variant), frame)


def verdict(row: pd.Series) -> str:
    """Words for one paired difference in PSNR: only what `gains.significant` marks is a difference."""
    ends = (
        f"95 % interval {row.low:+.2f} to {row.high:+.2f}"
        if row.low <= row.high
        else "no interval of one video"
    )
    amount = f"{row['mean']:+.2f} dB, {ends}"
    if row.seeds > 1:
        amount += f", p {probability(row.p_holm)} after Holm"
    amount = amount.replace("-", "−")
    other = RIVALS.get(row.reference, label(row.reference))
    words = {
        1: f"beats {other}",
        -1: f"loses to {other}",
        0: f"does not beat {other}: no difference can be told",
    }
    if row.seeds == 1:
        words |= {
            1: f"is above {other} in this one training",
            -1: f"is below {other} in this one training",
        }
    return f"{words[significant(row)]} ({amount})"


def probability(value: float) -> str:
    """A p-value for print: "= 0.012" or "< 0.001"."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def finding(differences: pd.DataFrame, split: str = "test", severity: str = "severe") -> str:
    """One plain sentence: does `full` beat the baseline and the control without semantic losses?"""
    rows = pick(
        differences, split=split, severity=severity, variant="full", metric="psnr"
    ).set_index("reference", drop=False)
    parts = [verdict(rows.loc[name]) for name in RIVALS if name in rows.index]
    if not parts:
        return "Whether S3E-Deblur (full) beats the baseline cannot be said: one of the two was not run."
    absent = [RIVALS[name] for name in RIVALS if name not in rows.index]
    missing = f"; {absent[0]} was not run" if absent else ""
    seeds = ONE_SEED if rows.seeds.max() == 1 else f"{int(rows.seeds.max())} seeds"
    return f"On {SPLITS[split]} images under {severity} blur ({seeds}), S3E-Deblur (full) {'; it '.join(parts)}{missing}."


def tests_note(differences: pd.DataFrame, split: str, severity: str) -> str:
    """The p-values behind the finding, in one sentence."""
    rows = pick(differences, split=split, severity=severity, variant="full", metric="psnr")
    parts = []
    for row in rows[rows.reference != "blurred"].to_dict("records"):
        corrected = f", Holm {probability(row['p_holm'])}" if row["seeds"] > 1 else ""
        tests = f"interval {probability(row['p_interval'])}, Wilcoxon {probability(row['p_wilcoxon'])}{corrected}"
        parts.append(f"over {label(row['reference'])}: {tests}")
    return (
        f"p-values of S3E-Deblur (full), PSNR, {'; '.join(parts)}. The CSV holds those of all arms."
        if parts
        else ""
    )


def falsifier(
    frame: pd.DataFrame, split: str = "test", severity: str = "severe", context: str = ""
) -> Table:
    """Table 7: the decisive differences where a category tells its texture, and where textures are drawn by lot."""
    data = pick(frame, split=split, severity=severity)
    rows = []
    for texture, words in TEXTURES.items():
        for names, own in pick(data, texture=texture).groupby(["variant", "reference"], sort=False):
            gains = {row["metric"]: row for row in own.to_dict("records")}
            seeds = int(own.seeds.max())
            facts = {"textures": words, "difference": f"{label(names[0])} − {label(names[1])}"}
            facts |= {
                "PSNR (dB)": cell(gains["psnr"], 2, sign=True),
                "SSIM": cell(gains["ssim"], 3, sign=True),
            }
            rows.append({**facts, "seeds": ONE_SEED if seeds == 1 else str(seeds)})
    caption = (
        f"The falsifier: paired differences under {severity} blur on {int(data.images.max())} {split} images whose "
        f"fine texture belongs to the category, and on as many whose textures are drawn by lot. {context}"
    )
    note = (
        "A category tells the fine texture in the upper rows only; in both it tells silhouette and colours. How much a "
        "gain shrinks from the upper to the lower rows is not tested: read it beside the intervals."
    )
    return Table("table7_falsifier", caption.strip(), pd.DataFrame(rows), data, (note, INTERVAL), 2)


def closing(
    frame: pd.DataFrame,
    differences: pd.DataFrame,
    split: str = "test",
    severity: str = "severe",
    context: str = "",
) -> Table:
    """Table 8: which share of the PSNR gap between baseline and true label maps each arm closes, by severity."""
    data = pick(frame, split=split)
    rows = {}
    for variant in sorted(in_order(data.variant), key=lambda name: name in ORACLES):
        own = {row["severity"]: row for row in pick(data, variant=variant).to_dict("records")}
        shown = {
            f"{name} (%)": cell(own[name], 0, 100) if name in own else DASH
            for name in severities(data)
        }
        rows[row_name(variant, data) + (" (told, no arm)" if variant in ORACLES else "")] = shown
    caption = (
        f"Share of the PSNR gap between the baseline (0 %) and true label maps (100 %) that an arm closes on "
        f"{int(data.images.max())} {split} images. {seeds_sentence(data)} {context}"
    )
    note = "A severity is left out where true label maps do not help. Paired by image and seed; the oracle has both."
    notes = (note, *_category(differences, split, severity), INTERVAL)
    return Table("table8_closing", caption.strip(), rows_named(rows, "arm"), data, notes)


def _category(differences: pd.DataFrame, split: str, severity: str) -> tuple[str, ...]:
    """What labels and inner outlines add to the outline of all things; nothing where that was not tried."""
    names = {"variant": "oracle_map", "reference": "oracle_silhouette", "metric": "psnr"}
    found = pick(differences, split=split, severity=severity, **names)
    if not len(found):
        return ()
    alone = f" ({ONE_SEED})" if found.seeds.iloc[0] == 1 else ""
    gain = cell(found.iloc[0], 2, sign=True)
    return (
        f"What labels, and outlines between things that touch, add to the outline of all things together, under "
        f"{severity} blur: {gain} dB{alone}. An outline hints at the category, so this bounds neither.",
    )
