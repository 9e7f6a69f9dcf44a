"""Tables 1 to 10 and A1 of a study, from the frames of notebook 07, and what a study found, in
sentences.

A difference is only called one where it is significant (`s3e.evaluation.gains`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from s3e.config import VARIANTS
from s3e.evaluation.captions import METRICS as CAPTION_METRICS
from s3e.evaluation.captions import SPICE_NOT_RUN
from s3e.evaluation.collect import (
    GUESS,
    HUMAN,
    NODE_MEASURES,
    PERSON,
    RANDOM,
    SEVERITIES,
    SUSPECTS,
    severities,
)
from s3e.evaluation.gains import LEAKAGE_PAIRS, ORACLES, UNTRAINED, significant
from s3e.evaluation.images import (
    CLASSICAL_NOTE,
    DEFINITION_IMAGES,
    DEFINITIONS,
    PROTOCOL,
    agreement,
)
from s3e.report.style import in_order, label, short
from s3e.utils import atomic_write, read_json

NOT_RUN, DASH = "not run", "–"
ONE_SEED = "one seed, no claim"
INPUTS = ("sharp", *SEVERITIES, "deblurred", "none")
SYSTEMS = {
    HUMAN: "one reference against the others",
    RANDOM: "random training caption",
    "global": "global feature (NIC)",
    "soft_attention": "soft attention",
    "tree": "S3-tree captioner",
    "full": "S3E-Deblur (co-trained)",
}
READ = {"sharp": "sharp image", "blurred": "blurred image", **SYSTEMS}
KNOWN = {
    "blurred": "nothing done",
    "wiener": "Wiener filter, given the true kernel",
    "richardson_lucy": "Richardson-Lucy iterations, given the true kernel",
}
FROZEN = "S3E-Deblur: node maps of a frozen S3-tree, pretrained elsewhere"
GUESSES = {GUESS: "none (guess)", PERSON: "none (one reference)"}
MEASURES = dict(
    zip(NODE_MEASURES, ("leaves", "empty leaves found", "relations", "root"), strict=True)
)
FIDELITY = {"leaf_accuracy": "leaves", "relation_accuracy": "relations", "root_accuracy": "root"}
TEXTURES = {"category": "of the category", "random": "random"}
INTERVAL = (
    "Intervals: 95 %, the wider of a paired bootstrap over images (of video frames: over videos)"
    " and seeds, and of t intervals over the means of seeds and of images or videos."
)
SPOKEN = (
    "Intervals: 95 %, a bootstrap over images and seeds of the metric of the whole set; of several"
    " seeds the wider of that and a t interval over seeds."
)
SPEED = (
    "Milliseconds a step are as measured in the run, other jobs on the machine included. Semantic"
    " parameters include the caption decoder, which the image never passes, and leave out the"
    " embedding in the generator."
)


# ---------------------------------------------------------------------------------- what a table is


@dataclass(frozen=True)
class Table:
    """`cells`: what is printed (strings, the best in `**`); `data`: the tidy numbers; `caption`
    above, `notes` below.

    `text_columns`: columns on the left that hold words.
    """

    name: str
    caption: str
    cells: pd.DataFrame
    data: pd.DataFrame
    notes: tuple[str, ...] = ()
    text_columns: int = 1


def cell(row: Mapping[str, Any], digits: int, scale: float = 1.0, sign: bool = False) -> str:
    """`value ± half-interval` of a row with mean, low and high; no ± where nothing spreads."""
    value, half = row["mean"] * scale, (row["high"] - row["low"]) / 2 * scale
    if not np.isfinite(value):
        return NOT_RUN
    return _number(value, digits, sign) + (f" ± {half:.{digits}f}" if half > 0 else "")


def _number(value: float, digits: int, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def _cells(frame: pd.DataFrame, by: str, *how: Any) -> dict[str, str]:
    """Cells of a frame's rows by their value in column `by`; `how`: `cell`'s other arguments."""
    return {row[by]: cell(row, *how) for row in frame.to_dict("records")}


def _row(found: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    return {title: found.get(name, DASH) for name, title in columns.items()}


def pick(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows of `frame` in which each column named has the value given."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def write(table: Table, folder: Path | str) -> list[Path]:
    """Write `<name>.csv` (the tidy numbers), `.tex` and `.md` (the printed table with caption and
    notes).
    """
    numbers = table.data.to_csv(index=False, float_format="%.6g")
    texts, paths = {"csv": numbers, "tex": latex(table), "md": markdown(table)}, []
    for kind, text in texts.items():
        paths.append(Path(folder) / f"{table.name}.{kind}")
        with atomic_write(paths[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def markdown(table: Table) -> str:
    """GitHub Markdown: caption in bold, the table, the notes."""
    words, columns = table.text_columns, len(table.cells.columns)
    align = ["left"] * words + ["right"] * (columns - words)
    body = table.cells.to_markdown(index=False, colalign=align, disable_numparse=True)
    return "\n\n".join([f"**{table.caption}**", body, *table.notes]) + "\n"


ESCAPES = str.maketrans(
    {
        "±": r"$\pm$",
        "−": "$-$",
        "→": r"$\rightarrow$",
        "×": r"$\times$",
        "–": "--",
        "“": "``",
        "”": "''",
        "<": "$<$",
        "&": r"\&",
        "%": r"\%",
        "_": r"\_",
        "#": r"\#",
        "$": r"\$",
    }
)


def _tex(text: Any) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", str(text).translate(ESCAPES))


def latex(table: Table) -> str:
    """A `table` environment for documents with booktabs; caption above, notes below."""
    cells, words = table.cells.map(_tex).rename(columns=_tex), table.text_columns
    text = cells.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="l" * words + "r" * (len(cells.columns) - words),
        caption=_tex(table.caption),
        label=f"tab:{table.name}",
        position_float="centering",
    )
    notes = "\n".join(rf"\par\smallskip\footnotesize {_tex(note)}" for note in table.notes)
    return text.replace(r"\end{table}", f"{notes}\n" + r"\end{table}")


# -------------------------------------------------------------------------- words of several tables


def seeds_sentence(frame: pd.DataFrame) -> str:
    """How many trainings stand behind the rows: a table must say when it is one."""
    counts = sorted(set(frame.seeds.astype(int)) - {0})
    if counts in ([], [1]):
        return "One seed, no claim: ± speaks of new images, not of new trainings."
    low, high = counts[0], counts[-1]
    some = f"{low} to {high}" if low > 1 and low != high else f"{high}"
    alone = f"; rows marked “{ONE_SEED}” have one" if low == 1 else ""
    return f"{some} seeds{alone}; ± is half of the 95 % interval over images and seeds."


def _marked(name: str, own: pd.DataFrame, frame: pd.DataFrame) -> str:
    """`name`, with a mark where its rows are of one seed and others of `frame` of several."""
    return f"{name} ({ONE_SEED})" if own.seeds.max() == 1 < frame.seeds.max() else name


def _variants(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each variant, its words in the first column (marked by its seeds) and its rows."""
    trained = frame[~frame.variant.isin(UNTRAINED)]
    for variant in in_order(frame.variant):
        own = pick(frame, variant=variant)
        words = label(variant)
        yield variant, words if variant in UNTRAINED else _marked(words, own, trained), own


def _counts(data: pd.DataFrame) -> str:
    """How many images were scored; by severity, where frames at the end of a video have no severe
    version.
    """
    counts = {name: int(pick(data, severity=name).images.max()) for name in severities(data)}
    if len(set(counts.values())) == 1:
        return str(max(counts.values()))
    return " and ".join(f"{count} ({name})" for name, count in counts.items())


def _classical(data: pd.DataFrame) -> list[str]:
    """How the classical rows were made, where there are any."""
    return [CLASSICAL_NOTE] * ("wiener" in set(data.variant))


# ----------------------------------------------------------------------------------- tables 1 to 10


def deblurring(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Tables 1 and 2 (GoPro): PSNR (dB) and SSIM of every variant at each severity, the blurred
    input first.
    """
    data = pick(scores, split=split)
    pairs = "released" in set(data.severity)
    rows = []
    for _, words, own in _variants(data):
        row = {"method": words}
        for severity in severities(data):
            for metric, digits in (("psnr", 2), ("ssim", 3)):
                found = _cells(pick(own, severity=severity), "metric", digits)
                row[f"{severity} {metric.upper()}"] = found.get(metric, DASH)
        rows.append(row)
    what, unit, name = "Image deblurring", "images", "table1_deblurring"
    if pairs:
        what, unit, name = "Deblurring of video frames", "frames", "table2_gopro"
        videos = int(data.clusters.max())
        many = f"Intervals are over {videos} videos"
        few = "There is one video, which gives no interval"
        context = (
            f"{context} {many if videos > 1 else few}: its frames are not independent.".strip()
        )
    seeds = seeds_sentence(data[~data.variant.isin(UNTRAINED)])
    caption = f"{what} on {_counts(data)} {split} {unit} by blur severity (PSNR in dB). {seeds}"
    notes = (*_classical(data), INTERVAL, PROTOCOL)
    return Table(name, f"{caption} {context}".strip(), pd.DataFrame(rows), data, notes)


def captioning(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 3: seven caption metrics (×100) of every system and input, with floor and landmark
    (specification 6.9).
    """
    data = pick(scores, split=split)
    order = list(dict.fromkeys((RANDOM, *SYSTEMS, *in_order(data.system))))
    fair = (data.references == "other") & data.input.isin(["sharp", "none"])
    shown = data[(data.references == "all") | fair]
    cells = {key: own for key, own in shown.groupby(["references", "system", "input"])}
    rows = []
    for references, system, view in sorted(
        cells, key=lambda key: (key[0], order.index(key[1]), INPUTS.index(key[2]))
    ):
        parts = system.split(" -> ")
        words = SYSTEMS.get(system, " → ".join(SYSTEMS.get(part, label(part)) for part in parts))
        found = _cells(cells[references, system, view], "metric", 1, 100)
        facts = {
            "system": _marked(words, pick(data, system=system), data),
            "input": DASH if view == "none" else view,
            "references": "all" if references == "all" else "all but one",
        }
        rows.append(facts | _row(found, {name: name for name in CAPTION_METRICS}))
    notes = (
        (
            "All values ×100. Rows marked “all but one” are scored against all captions but the"
            " first, so that the first caption can compete with the other references. CIDEr is"
            " CIDEr-D with document frequencies of the scored images: it does not compare with"
            " values on other images. Co-trained systems have had the steps of stage C on top of"
            " those of the others; the captioner that reads restored images has never seen one in"
            " training."
        ),
        *sorted(set(data.reason.dropna()) - {""}),
        SPICE_NOT_RUN,
        SPOKEN,
    )
    images, seeds = int(data.images.max()), seeds_sentence(data)
    caption = f"Image captioning on {images} {split} images. {seeds} {context}".strip()
    return Table("table3_captioning", caption, pd.DataFrame(rows), data, notes, 3)


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
    gain = _cells(pick(compared, reference="baseline", metric="psnr"), "variant", 2, 1, True)
    rows = []
    for variant, words, own in _variants(data):
        known = {**KNOWN, "full": FROZEN} if frozen else KNOWN
        spent = pick(costs, variant=variant).mean(numeric_only=True)
        parameters, time = (
            spent.get(name, np.nan) for name in ("parameters_semantics", "milliseconds_per_step")
        )
        rows.append(
            {
                "variant": words,
                "what it is": known.get(variant) or VARIANTS[variant].description,
                "PSNR (dB)": _cells(own, "metric", 2).get("psnr", DASH),
                "SSIM": _cells(own, "metric", 3).get("ssim", DASH),
                "gain (dB)": gain.get(variant, DASH),
                "semantic parameters": f"{parameters / 1000:,.0f} k" if parameters > 0 else DASH,
                "ms a step": f"{time:.0f}" if time > 0 else DASH,
            }
        )
    found = dict(sentences(facts({"differences": compared}), severity))
    said = [found[name] for name in ("baseline", "no_semantics_loss") if name in found]
    if len(compared):
        said.append("The CSV holds every comparison with its p-values (interval, Wilcoxon, Holm).")
    seeds = seeds_sentence(data[~data.variant.isin(UNTRAINED)])
    caption = (
        f"Ablation under {severity} blur, {int(data.images.max())} {split} images; gain is paired,"
        f" over the baseline. {seeds} {context}"
    ).strip()
    data, notes = pd.concat([data, compared]), (*said, *_classical(data), INTERVAL, SPEED, PROTOCOL)
    return Table("table4_ablation", caption, pd.DataFrame(rows), data, notes, 2)


def nodes(accuracy: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 5: accuracy (%) of the tree's nodes by input, before and after co-training, against the
    target tree.
    """
    data = pick(accuracy, split=split)
    keep = (data.when == "before") | (data.variant == "full")
    data = data[keep] if keep.any() else data
    rows = []
    for variant, words in GUESSES.items():
        if found := _cells(pick(data, variant=variant), "metric", 1, 100):
            rows.append({"co-training": DASH, "input": words, **_row(found, MEASURES)})
    for when in ("before", "after"):
        for view in INPUTS:
            seen = pick(data[~data.variant.isin(GUESSES)], when=when, input=view)
            for _, own in seen.groupby("variant", sort=True):
                found = _row(_cells(own, "metric", 1, 100), MEASURES)
                rows.append({"co-training": when, "input": view, **found})
    notes = (
        (
            "Percent right. Leaves, relations and root: nodes that the target fills. Empty leaves"
            " found: recall of null. A guess names the label that training captions have most often"
            " in that node, whatever the image; one reference is the tree of an image's first"
            " caption against that of the others (in scenes: the scene's own): it says what people"
            " agree on. Labels that training has too rarely to be in the vocabulary count nowhere."
        ),
        (
            "Intervals: 95 %, the wider of Wilson's for a share of so many images (the nodes of one"
            " image counted as one) and of the t interval over seeds."
        ),
    )
    images, seeds = int(data.images.max()), seeds_sentence(data)
    caption = f"Node classification of the S3-tree on {images} {split} images. {seeds} {context}"
    return Table("table5_nodes", caption.strip(), pd.DataFrame(rows), data, notes, 2)


def fidelity(scores: pd.DataFrame, differences: pd.DataFrame, context: str = "") -> Table:
    """Table 6: captions of a judge that never saw a restored image, of sharp, blurred and restored
    ones (×100).
    """
    columns = {**{metric: metric for metric in CAPTION_METRICS}, **FIDELITY}
    restored = [name for name in in_order(scores.system) if name not in READ or name == "full"]
    rows = []
    for name in (RANDOM, "blurred", *restored, "sharp", HUMAN):
        own = pick(scores, system=name)
        words = f"restored: {label(name)}" if name in restored else READ[name]
        if len(own):
            found = _row(_cells(own, "metric", 1, 100), columns)
            rows.append({"the judge reads": _marked(words, own, scores), **found})
    for (system, reference), own in differences.groupby(["system", "reference"], sort=False):
        words = f"difference: {label(system)} − {label(reference)}"
        found = _row(_cells(own, "metric", 1, 100, True), columns)
        rows.append({"the judge reads": words, **found})
    human = HUMAN in set(scores.system)
    notes = (
        "Captions of one frozen captioner, trained on sharp images only and with no weight shared"
        " with any variant, ×100; nodes: percent of the target tree that its caption names."
        + " References: all captions but the first."
        * human,
        (
            "Differences are paired by image and seed and not corrected for their number; all rows"
            " rest on one judge."
        ),
        *sorted(set(scores.reason.dropna()) - {""}),
        SPOKEN,
    )
    caption = (
        f"Semantic fidelity on {int(scores.images.max())} test images: what a judge reads in sharp,"
        f" blurred and restored images. {seeds_sentence(scores)} {context}"
    ).strip()
    data = pd.concat([scores, differences], ignore_index=True)
    return Table("table6_fidelity", caption, pd.DataFrame(rows), data, notes)


def texture_control(
    frame: pd.DataFrame, split: str = "test", severity: str = "severe", context: str = ""
) -> Table:
    """Table 7: the decisive differences where a category determines its texture, and where textures
    are random.
    """
    data, rows = pick(frame, split=split, severity=severity), []
    for texture, words in TEXTURES.items():
        groups = pick(data, texture=texture).groupby(["variant", "reference"], sort=False)
        for (variant, reference), own in groups:
            seeds = int(own.seeds.max())
            rows.append(
                {
                    "textures": words,
                    "difference": f"{label(variant)} − {label(reference)}",
                    "PSNR (dB)": _cells(own, "metric", 2, 1, True).get("psnr", DASH),
                    "SSIM": _cells(own, "metric", 3, 1, True).get("ssim", DASH),
                    "seeds": ONE_SEED if seeds == 1 else str(seeds),
                }
            )
    caption = (
        f"The texture control: paired differences under {severity} blur on {int(data.images.max())}"
        f" {split} images whose fine texture belongs to the category, and on as many with random"
        f" textures. {context}"
    ).strip()
    note = (
        "A category determines the fine texture in the upper rows only; in both it determines"
        " silhouette and colours. How much a gain shrinks from the upper to the lower rows is not"
        " tested: read it beside the intervals."
    )
    return Table("table7_texture_control", caption, pd.DataFrame(rows), data, (note, INTERVAL), 2)


def closing(
    frame: pd.DataFrame,
    differences: pd.DataFrame,
    split: str = "test",
    severity: str = "severe",
    context: str = "",
) -> Table:
    """Table 8: which share of the PSNR gap between baseline and true label maps each variant
    closes, by severity.
    """
    data = pick(frame, split=split)
    columns, rows = {name: f"{name} (%)" for name in severities(data)}, []
    for variant, words, own in sorted(_variants(data), key=lambda item: item[0] in ORACLES):
        words += " (oracle)" * (variant in ORACLES)
        rows.append({"variant": words, **_row(_cells(own, "severity", 0, 100), columns)})
    images, seeds = int(data.images.max()), seeds_sentence(data)
    caption = (
        "Share of the PSNR gap between the baseline (0 %) and true label maps (100 %) that a"
        f" variant closes on {images} {split} images. {seeds} {context}"
    ).strip()
    notes = [
        "A severity is left out where true label maps do not help. Paired by image and seed; the"
        " oracle has both."
    ]
    names = {"variant": "oracle_map", "reference": "oracle_silhouette", "metric": "psnr"}
    for row in pick(differences, split=split, severity=severity, **names).to_dict("records"):
        alone = f" ({ONE_SEED})" if row["seeds"] == 1 else ""
        notes.append(
            "What labels, and outlines between things that touch, add to the outline of all things"
            f" together, under {severity} blur: {cell(row, 2, sign=True)} dB{alone}. An outline"
            " hints at the category, so this bounds neither."
        )
    notes = (*notes, INTERVAL)
    return Table("table8_closing", caption, pd.DataFrame(rows), data, notes)


def gains(
    differences: pd.DataFrame,
    bins: pd.DataFrame,
    split: str = "test",
    severity: str = "severe",
    context: str = "",
) -> Table:
    """Table 9: PSNR gained over the baseline (dB) at each severity, and in each third of the images
    under one of them.

    Thirds are sorted by the blurred image's PSNR: those that blur hurts most come first.
    """
    overall = pick(differences, split=split, reference="baseline", metric="psnr")
    thirds = pick(bins, split=split, severity=severity, reference="baseline")
    columns = {name: f"{name} (all)" for name in severities(overall)}
    for row in thirds.sort_values("bin").itertuples():
        columns[row.bin] = f"{severity}, {row.input_low:.1f}–{row.input_high:.1f} dB"
    rows = []
    for variant, words, own in _variants(overall):
        found = _cells(own, "severity", 2, 1, True)
        found |= _cells(pick(thirds, variant=variant), "bin", 2, 1, True)
        rows.append({"variant": words, **_row(found, columns)})
    seeds = seeds_sentence(overall)
    caption = (
        f"PSNR gained over the baseline (dB) on {_counts(overall)} {split} images by blur severity,"
        f" and under {severity} blur by thirds of the images, sorted by the PSNR of the blurred"
        f" image. {seeds} {context}"
    ).strip()
    note = (
        f"Variants are trained on {severity} blur alone: under a milder one a gain can mean that"
        " less is spoilt (table 1 has the blurred image). The PSNR of a blurred image depends on"
        " what it shows (contrast, detail) as much as on its kernel, so thirds sort both."
        " Intervals are not corrected for their number."
    )
    data = pd.concat([overall.assign(bin="all"), thirds], ignore_index=True)
    return Table("table9_gains", caption, pd.DataFrame(rows), data, (note, INTERVAL))


def leakage(frame: pd.DataFrame, severity: str = "severe", context: str = "") -> Table:
    """Table 10: what remains of the gains without test images that resemble training images
    (train/test leakage).
    """
    rows = []
    for name, own in frame.groupby("left_out", sort=False):
        pairs = own.assign(pair=list(zip(own.variant, own.reference, strict=True)))
        found = _cells(pairs, "pair", 2, 1, True)
        facts = {"left out": SUSPECTS.get(name, name), "left out (images)": str(own.photos.iloc[0])}
        facts["images"] = str(int(own.images.max()))
        columns = {pair: f"{label(pair[0])} − {label(pair[1])} (dB)" for pair in LEAKAGE_PAIRS}
        rows.append(facts | _row(found, columns))
    caption = (
        f"Gains in PSNR under {severity} blur on test images, all and without those that are"
        f" suspected to resemble what was trained on. {seeds_sentence(frame)} {context}"
    ).strip()
    note = (
        "Before training, near-duplicates are looked for and taken out of it; this looks again, in"
        " other ways. An image can be suspected for several reasons; few images can hardly move a"
        " mean, so the last row has them alone. Words and labels of the vocabularies come from"
        " training captions alone."
    )
    return Table("table10_leakage", caption, pd.DataFrame(rows), frame, (note, INTERVAL))


def definitions(frame: pd.DataFrame, context: str = "") -> Table:
    """Table A1: PSNR and SSIM by every definition in use, and how far it ranks variants as ours
    does.

    `frame`: `definitions.csv` of notebook 07b (variant, definition, metric, value).
    """
    values = frame.set_index(["metric", "definition", "variant"]).value
    alike = agreement(frame)
    shown = [name for name in ("blurred", "baseline", "no_semantics_loss", "full", "oracle_map")
             if name in set(frame.variant)]  # fmt: skip
    rows = []
    for item in DEFINITIONS:
        place, digits = (item.metric, item.name), 2 if item.metric == "psnr" else 3
        row = {"metric": item.metric.upper(), "definition": item.name, "as in": item.habit}
        row |= {short(name): f"{values[*place, name]:.{digits}f}" for name in shown}
        rows.append({**row, "same ranking (τ)": f"{alike[place]:.2f}"})
    swaps = (
        "Last column: Kendall's rank correlation with this suite's definition, over the blurred"
        " input and all variants; 1 is the same ranking."
    )
    about = f"The first {DEFINITION_IMAGES} test images at most, variants of the first seed."
    caption = (
        f"The same images, many scores: PSNR (dB) and SSIM by the definitions in use. {context}"
    )
    notes = (swaps, about, PROTOCOL)
    return Table("tableA1_definitions", caption.strip(), pd.DataFrame(rows), frame, notes, 3)


# ------------------------------------------------------------------------------- what a study found

Facts = Mapping[str, Mapping[str, Any]]
SHAPES = {  # frame -> what its rows are called
    "image_scores": "{variant} {severity} {metric}",
    "differences": "{variant} over {reference} {severity} {metric}",
    "texture_control": "{texture} texture {variant} over {reference} {severity} {metric}",
    "closing": "{variant} closes {severity}",
    "captions": "captions {system} {input} {metric}",
    "node_accuracy": "nodes {variant} {input} {metric}",
    "fidelity": "judge {system} {metric}",
    "fidelity_differences": "judge {system} over {reference} {metric}",
}
FILES = {  # frame -> the tables that hold its rows
    "image_scores": ("table1_deblurring", "table2_gopro"),
    "differences": ("table4_ablation", "table9_gains"),
    "texture_control": ("table7_texture_control",),
    "closing": ("table8_closing",),
    "captions": ("table3_captioning",),
    "node_accuracy": ("table5_nodes",),
    "fidelity": ("table6_fidelity",),
    "fidelity_differences": ("table6_fidelity",),
}
# reference -> what `full` against it asks, if it is better, if it is worse, if not significant
QUESTIONS = {
    "baseline": (
        "Does the semantic branch help? Against the deblurring network alone, S3E-Deblur",
        "restores better",
        "restores worse",
        "does not differ significantly",
    ),
    "no_semantics_loss": (
        (
            "Is it the meaning, or only the larger network? Against the same larger network trained"
            " without captions and trees, S3E-Deblur"
        ),
        "restores better: what it learnt of captions and trees counts, or the steps that this took",
        "restores worse: training on captions and trees did not pay",
        "does not differ significantly: the gain may be owed to size alone",
    ),
    "shuffled": (
        (
            "Are the maps used at all? Against a twin that is fed the tree of another image,"
            " S3E-Deblur"
        ),
        "restores better: what is read off this image counts (meaning or not)",
        "restores worse: the tree of another image does more",
        "does not differ significantly in PSNR under this blur: whose tree it is may not count",
    ),
    "vector_nodes": (
        (
            "Does it matter where in the image things are? Against a tree of vectors, which hold no"
            " places, S3E-Deblur"
        ),
        (
            "restores better: node maps count (of a vector that is the same everywhere,"
            " normalisation leaves little)"
        ),
        "restores worse: vectors do more",
        "does not differ significantly",
    ),
    "pretrained_only": (
        (
            "Do caption and tree losses during co-training pay? Against the same network that had"
            " them before it only, S3E-Deblur"
        ),
        "restores better: they do",
        (
            "restores worse: they cost the image something (what they keep is the tree and the"
            " captioner)"
        ),
        "does not differ significantly: pretraining does the work",
    ),
}
HEADLINE = ("levels", "baseline", "no_semantics_loss", "tree")


def _key(text: str) -> str:
    """ "full over baseline severe psnr" as "FullOverBaselineSeverePsnr"."""
    return "".join(
        word.capitalize() for word in re.findall(r"[A-Za-z]+|\d", text.replace("_", " "))
    )


def facts(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """The rows of frames (those of `SHAPES`; all of one split) under names that say what they
    are.
    """
    return {
        _key(SHAPES[name].format_map(row)): row
        for name, frame in frames.items()
        for row in frame.to_dict("records")
    }


def read_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """`facts` of a folder of figures, from the CSV files of its tables."""
    older = folder / "numbers.csv"  # folders from before December 2026
    if older.is_file():
        rows = pd.read_csv(older).to_dict("records")
        return {row["name"].replace("TaughtBefore", "PretrainedOnly"): row for row in rows}
    found: dict[str, dict[str, Any]] = {}
    for name, files in FILES.items():
        for path in (folder / f"{file}.csv" for file in files):
            if path.is_file():
                frame = pd.read_csv(path)
                if "reference" in frame:
                    frame = frame[frame.reference.notna() == ("reference" in SHAPES[name])]
                if "bin" in frame:
                    frame = frame[frame.bin == "all"]
                if name == "captions":
                    frame = pick(frame, references="all")
                if "CIDEr" in frame:  # folders from before December 2026
                    names = {"CIDEr": "mean", "CIDEr_low": "low", "CIDEr_high": "high"}
                    frame = frame.rename(columns=names).assign(metric="CIDEr")
                frame = frame.rename(columns={"measure": "metric"})
                found |= facts({name: frame})
    return found


def findings(folder: Path, headline: bool = False) -> list[str]:
    """What the study of a folder of figures found on its test images; `headline`: in at most four
    sentences.
    """
    settings = read_json(folder / "manifest.json").get("settings", {})
    severity = settings.get("blur", {}).get("severity", "severe")
    found = sentences(read_facts(folder), severity)
    return [text for topic, text in found if topic in HEADLINE or not headline]


def finding(differences: pd.DataFrame, split: str = "test", severity: str = "severe") -> str:
    """Does `full` beat the baseline and the control without semantic losses? In plain sentences."""
    found = dict(sentences(facts({"differences": pick(differences, split=split)}), severity))
    said = [found[name] for name in ("baseline", "no_semantics_loss") if name in found]
    return "\n".join(said) or "Full and baseline cannot be compared: one of the two was not run."


def sentences(rows: Facts, severity: str) -> Iterator[tuple[str, str]]:
    """(topic, sentence): the findings under `severity` that follow from `facts`; none for what was
    not run.
    """
    for part in (_levels, _gains, _milder, _headroom, _semantics, _judge):
        yield from part(rows, severity)


def _get(rows: Facts, *names: str) -> list[Mapping[str, Any]]:
    """The rows of these names, or none at all unless all are there."""
    found = [rows.get(_key(name)) for name in names]
    return found if all(found) else []


def _side(row: Mapping[str, Any]) -> int:
    """Which answer: 0 better, 1 worse, 2 not significant."""
    if "told" in row:
        sign = int(row["told"])
    elif "p_holm" in row:
        sign = significant(pd.Series(row))
    else:
        sign = int(row["low"] > 0) - int(row["high"] < 0)
    return {1: 0, -1: 1, 0: 2}[sign]


def _amount(row: Mapping[str, Any], digits: int = 2, unit: str = " dB", scale: float = 1.0) -> str:
    """A difference with its interval and, of several seeds, its p-value, as far as they are
    known.
    """
    mean, low, high = (_number(row[name] * scale, digits, True) for name in ("mean", "low", "high"))
    text = f"{mean}{unit}" + f", 95 % interval {low} to {high}" * bool(row["high"] > row["low"])
    p = row.get("p_holm", np.nan)
    return text + (
        "" if np.isnan(p) else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} after Holm"
    )


def _levels(rows: Facts, severity: str) -> Iterator[tuple[str, str]]:
    for row in _get(rows, f"full {severity} psnr"):
        many = f"{row['seeds']:.0f} trainings of S3E-Deblur"
        one = "one training of each variant: a demonstration, not a claim about new trainings"
        seeds, images = one if row["seeds"] == 1 else many, f"{row['images']:.0f} test images"
        yield "study", f"The numbers are of {images} under {severity} blur and of {seeds}."
    found = _get(rows, *(f"{name} {severity} psnr" for name in ("blurred", "baseline", "full")))
    if found:
        blurred, baseline, full = (_number(row["mean"], 2) for row in found)
        yield (
            "levels",
            (
                f"Blurred images are at {blurred} dB PSNR (higher is nearer to the sharp image);"
                f" the deblurring network alone brings them to {baseline} dB, S3E-Deblur to"
                f" {full} dB."
            ),
        )


def _gains(rows: Facts, severity: str) -> Iterator[tuple[str, str]]:
    for reference, (question, *answers) in QUESTIONS.items():
        for row in _get(rows, f"full over {reference} {severity} psnr"):
            yield reference, f"{question} {answers[_side(row)]} ({_amount(row)})."


def _milder(rows: Facts, severity: str) -> Iterator[tuple[str, str]]:
    """What training on one severity does to the others, where it speaks against the method."""
    for other in set(SEVERITIES) - {severity}:
        names = [
            f"{name} {other} psnr" for name in ("full over baseline", "blurred", "baseline", "full")
        ]
        for gain, *levels in [_get(rows, *names)] if _get(rows, *names) else []:
            blurred, baseline, full = (_number(row["mean"], 2) for row in levels)
            if _side(gain) == 1:
                yield (
                    other,
                    (
                        f"Under {other} blur, which no network was trained on, S3E-Deblur restores"
                        f" worse than the deblurring network alone ({_amount(gain)}): blurred"
                        f" images are at {blurred} dB, it brings them to {full} dB, the network"
                        f" alone to {baseline} dB."
                    ),
                )


def _headroom(rows: Facts, severity: str) -> Iterator[tuple[str, str]]:
    for oracle, words in (
        ("oracle_map", "How much is there to gain? True label maps in the place of the tree bring"),
        ("oracle_silhouette", "The true outline of all things together, without labels, brings"),
        (
            "oracle",
            "Node maps of the sharp image, with its outlines whatever the tree learnt, bring",
        ),
    ):
        for row in _get(rows, f"{oracle} over baseline {severity} psnr"):
            alone = " (one training, no claim)" if row["seeds"] == 1 else ""
            yield oracle, f"{words} {_amount(row)}{alone}."
    for row in _get(rows, f"full closes {severity}"):
        share, low, high = (_number(100 * row[name], 0) for name in ("mean", "low", "high"))
        yield (
            "closes",
            (
                f"S3E-Deblur reaches {share} % of what true label maps bring, 95 % interval {low}"
                f" to {high}."
            ),
        )
    pair = f"full over no_semantics_loss {severity} psnr"
    found = _get(rows, pair, f"random texture {pair}")
    if found:
        bound, free = map(_amount, found)
        yield (
            "textures",
            (
                "With random textures, a category determines outline and colours but no texture."
                f" The gain over the network without semantic losses is {bound} where textures"
                f" belong to categories and {free} where they do not (one training there, no claim;"
                " whether it shrinks is not tested)."
            ),
        )


def _hundred(found: list[Mapping[str, Any]]) -> list[str]:
    return [_number(100 * row["mean"], 1) for row in found]


def _semantics(rows: Facts, severity: str) -> Iterator[tuple[str, str]]:
    names = [f"nodes S3-tree alone {view} leaf_accuracy" for view in ("sharp", severity)]
    found = _get(rows, *names, f"nodes {GUESS} none leaf_accuracy")
    if found:
        sharp, blurred, guess = _hundred(found)
        text = (
            f"The tree names {sharp} % of the things in sharp images and {blurred} % in blurred"
            f" ones; a guess that sees nothing names {guess} %."
        )
        if min(row["low"] for row in found[:2]) <= found[2]["mean"]:
            text += (
                " So the tree reads hardly more than a guess: what one that can read would bring is"
                " not tested."
            )
        yield "tree", text
    found = _get(rows, *(f"captions tree {view} CIDEr" for view in ("sharp", severity)))
    if found:
        floor = _hundred(_get(rows, f"captions {RANDOM} none CIDEr"))
        least = "".join(f"; random captions score {value}" for value in floor)
        sharp, blurred = _hundred(found)
        text = (
            f"The tree captioner scores CIDEr {sharp} on sharp images and {blurred} on blurred"
            f" ones{least}."
        )
        yield "captions", text
    found = _get(rows, *(f"captions full {view} CIDEr" for view in ("sharp", severity)))
    if found:
        sharp, blurred = _hundred(found)
        yield (
            "co-trained",
            (
                "After co-training on blurred images, S3E-Deblur's own captions score CIDEr"
                f" {sharp} on sharp images and {blurred} on blurred ones."
            ),
        )


def _judge(rows: Facts, severity: str) -> Iterator[tuple[str, str]]:
    found = _get(
        rows, *(f"judge {name} CIDEr" for name in ("sharp", "blurred", "baseline", "full"))
    )
    if found:
        sharp, blurred, baseline, full = _hundred(found)
        yield (
            "judge",
            (
                "Can a captioner that was trained on sharp images alone read the restored ones? It"
                f" scores CIDEr {sharp} for sharp images, {blurred} for blurred ones, {baseline}"
                f" for the baseline's, {full} for S3E-Deblur's (against all captions but the"
                " first)."
            ),
        )
    answers = ("reads S3E-Deblur's images better than", "reads S3E-Deblur's images worse than",
               "makes no significant difference between S3E-Deblur's images and")  # fmt: skip
    for row in _get(rows, "judge full over baseline CIDEr"):
        amount = _amount(row, 1, "", 100)
        yield (
            "judged",
            f"It {answers[_side(row)]} the baseline's ({amount}; one judge, not corrected).",
        )
