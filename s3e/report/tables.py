"""Tables 1 to 10 of a study, made of the frames of notebook 07; 7 and 8 are in `s3e.report.claims`.

There is no column for the paper: its numbers are unknown.
"""

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
from s3e.evaluation.gains import LEAKAGE_PAIRS, UNTRAINED
from s3e.evaluation.images import CLASSICAL_NOTE, PROTOCOL
from s3e.report.claims import (
    INTERVAL,
    finding,
    marked,
    row_name,
    seeds_sentence,
    tests_note,
    verdict,
)
from s3e.report.style import in_order, label
from s3e.report.table import (
    DASH,
    NOT_RUN,
    Table,
    cell,
    latex,
    markdown,
    number,
    pick,
    rows_named,
    write,
)

__all__ = [
    "DASH", "NOT_RUN", "Table", "ablation", "captioning", "cell", "deblurring", "fidelity", "finding", "gains", "gopro",
    "latex", "leakage", "markdown", "nodes", "verdict", "write",
]  # fmt: skip

INPUTS = ("sharp", *SEVERITIES, "deblurred", "none")
SYSTEMS = {
    HUMAN: "one reference against the others", RANDOM: "random training caption", "global": "global feature (NIC)",
    "soft_attention": "soft attention", "tree": "S3-tree captioner", "full": "S3E-Deblur (co-trained)",
}  # fmt: skip
READ = {
    "sharp": "sharp photo",
    "blurred": "blurred photo",
    HUMAN: SYSTEMS[HUMAN],
    RANDOM: SYSTEMS[RANDOM],
}
SPEED = (
    "Milliseconds an update are as measured in the run, other jobs on the machine included. Semantic parameters "
    "include the caption decoder, which the photo never passes, and leave out the embedding in the generator."
)
FROZEN = "S3E-Deblur: node maps of a frozen S3-tree, taught elsewhere"
KNOWN = {
    "blurred": "nothing done", "wiener": "Wiener filter that is told the true kernel",
    "richardson_lucy": "Richardson-Lucy iterations that are told the true kernel",
}  # fmt: skip
FRAMES = {GUESS: "none (guess)", PERSON: "none (one reference)"}
MEASURES = dict(
    zip(NODE_MEASURES, ("leaves", "empty leaves found", "relations", "root"), strict=True)
)
FIDELITY = {"leaf_accuracy": "leaves", "relation_accuracy": "relations", "root_accuracy": "root"}
SPOKEN = (
    "Intervals: 95 %, a bootstrap over photos and seeds of the metric of the whole set; of several seeds the wider of "
    "that and a t interval over seeds."
)
BEST = (
    "Bold: the arm that is better than the input and every other arm of several seeds, oracles apart (paired, the "
    "larger p-value of interval and Wilcoxon's signed ranks below 0.05 after Holm's correction)."
)


def deblurring(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 1: PSNR (dB) and SSIM of every arm at each severity, the blurred input first (specification 6.9)."""
    return _by_severity("table1_deblurring", "Image deblurring", "images", scores, split, context)


def gopro(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 2: the same for GoPro's pairs, as released and severe (specification 4.3 and 6.9)."""
    videos = int(pick(scores, split=split).clusters.max())
    told = (
        f"Intervals are over {videos} videos"
        if videos > 1
        else "There is one video, which gives no interval"
    )
    context = f"{context} {told}: its frames are not independent.".strip()
    return _by_severity(
        "table2_gopro", "Deblurring of video frames", "frames", scores, split, context
    )


def _by_severity(
    name: str, what: str, unit: str, scores: pd.DataFrame, split: str, context: str
) -> Table:
    data = pick(scores, split=split)
    trained = _trained(data)
    rows = {}
    for variant in in_order(data.variant):
        own = pick(data, variant=variant)
        row = {}
        for severity in severities(data):
            for metric, digits in (("psnr", 2), ("ssim", 3)):
                found = pick(own, severity=severity, metric=metric)
                row[f"{severity} {metric.upper()}"] = _score(found, digits)
        rows[label(variant) if variant in UNTRAINED else row_name(variant, trained)] = row
    caption = f"{what} on {_counts(data)} {split} {unit} by blur severity (PSNR in dB). {seeds_sentence(trained)}"
    caption = f"{caption} {context}"
    return Table(
        name,
        caption.strip(),
        rows_named(rows, "method"),
        data,
        (*_reading(data), INTERVAL, PROTOCOL),
    )


def _trained(data: pd.DataFrame) -> pd.DataFrame:
    return data[~data.variant.isin(UNTRAINED)]


def _score(found: pd.DataFrame, digits: int) -> str:
    """A cell of one score, in bold where it is the best; a dash where there is none."""
    if not len(found):
        return DASH
    text = cell(found.iloc[0], digits)
    return f"**{text}**" if found.best.iloc[0] else text


def _reading(data: pd.DataFrame) -> tuple[str, ...]:
    """What bold means, where several arms had several seeds; how the classical rows were made."""
    several = _trained(data)[_trained(data).seeds > 1]
    best = BEST if data.best.any() else f"{BEST} There is none."
    return (
        *[best] * (several.variant.nunique() > 1),
        *[CLASSICAL_NOTE] * ("wiener" in set(data.variant)),
    )


def _counts(data: pd.DataFrame) -> str:
    """How many images were scored; by severity, where frames at the end of a video have no severe version."""
    counts = {name: int(pick(data, severity=name).images.max()) for name in severities(data)}
    if len(set(counts.values())) == 1:
        return str(max(counts.values()))
    return " and ".join(f"{count} ({name})" for name, count in counts.items())


def captioning(scores: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 3: seven caption metrics (×100) of every system and input, with floor and landmark (specification 6.9)."""
    data = pick(scores, split=split)
    names = dict.fromkeys((RANDOM, *SYSTEMS, *in_order(data.system)))
    rank = {name: place for place, name in enumerate(names)}
    data = data.assign(
        rank=[rank[name] for name in data.system], view=[INPUTS.index(name) for name in data.input]
    ).sort_values(["references", "rank", "view"], kind="stable")
    data = data.assign(seeds=data.seeds.where(~data.system.isin([HUMAN, RANDOM]), 0))
    rows = [_caption_row(row, data) for row in pick(data, references="all").to_dict("records")]
    fair = data[(data.references == "other") & data.input.isin(["sharp", "none"])]
    rows += [
        {**_caption_row(row, data), "references": "all but one"} for row in fair.to_dict("records")
    ]
    reasons = tuple(sorted(set(data.reason.dropna()) - {""}))
    notes = (
        "All values ×100. Rows marked “all but one” are scored against all captions but the first, so that the first "
        "caption can compete with the other references. CIDEr is CIDEr-D with document frequencies of the scored "
        "images: it does not compare with values on other images. Co-trained systems have had the steps of stage C "
        "on top of those of the others; the captioner that reads restored photos has never seen one in training. No "
        "best is marked: rows differ in what they read.",
        *reasons,
        SPICE_NOT_RUN,
        SPOKEN,
    )
    caption = f"Image captioning on {int(data.images.max())} {split} images. {seeds_sentence(data)} {context}"
    cells, facts = pd.DataFrame(rows), data.drop(columns=["rank", "view"])
    return Table("table3_captioning", caption.strip(), cells, facts, notes, 3)


def _caption_row(row: dict, data: pd.DataFrame) -> dict[str, str]:
    name = SYSTEMS.get(row["system"]) or " → ".join(
        SYSTEMS.get(part, label(part)) for part in row["system"].split(" -> ")
    )
    ends = {
        m: {"mean": row[m], "low": row[f"{m}_low"], "high": row[f"{m}_high"]}
        for m in CAPTION_METRICS
    }
    values = {metric: cell(ends[metric], 1, 100) for metric in CAPTION_METRICS}
    view = DASH if row["input"] == "none" else row["input"]
    return {
        "system": marked(name, pick(data, system=row["system"]), data),
        "input": view,
        "references": "all",
        **values,
    }


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
    data = pick(scores, split=split, severity=severity)
    trained = _trained(data)
    gains = pick(differences, split=split, severity=severity, reference="baseline", metric="psnr")
    rows = {}
    for variant in in_order(data.variant):
        own, gain, cost = (
            pick(data, variant=variant),
            pick(gains, variant=variant),
            pick(costs, variant=variant),
        )
        what = KNOWN[variant] if variant in KNOWN else VARIANTS[variant].description
        rows[label(variant) if variant in UNTRAINED else row_name(variant, trained)] = {
            "what it is": FROZEN if frozen and variant == "full" else what,
            "PSNR (dB)": _score(pick(own, metric="psnr"), 2),
            "SSIM": _score(pick(own, metric="ssim"), 3),
            "gain (dB)": cell(gain.iloc[0], 2, sign=True) if len(gain) else DASH,
            "semantic parameters": _thousands(cost.parameters_semantics.mean()),
            "ms an update": number(cost.milliseconds_per_update.mean(), 0) if len(cost) else DASH,
        }
    caption = (
        f"Ablation under {severity} blur, {int(data.images.max())} {split} images; gain is paired, over the baseline. "
        f"{seeds_sentence(trained)} {context}"
    )
    facts = pd.concat([data, gains.assign(metric="psnr gain")]).drop(
        columns=["reference"], errors="ignore"
    )
    said = (finding(differences, split, severity), tests_note(differences, split, severity))
    notes = (*filter(None, said), *_reading(data), INTERVAL, SPEED, PROTOCOL)
    return Table("table4_ablation", caption.strip(), rows_named(rows, "arm"), facts, notes, 2)


def _thousands(value: float) -> str:
    return DASH if pd.isna(value) or not value else f"{value / 1000:,.0f} k"


def nodes(accuracy: pd.DataFrame, split: str = "test", context: str = "") -> Table:
    """Table 5: accuracy (%) of the tree's nodes by input, before and after co-training, against the target tree."""
    data = pick(accuracy, split=split)
    keep = (data.when == "before") | (data.variant == "full")
    data = data[keep] if keep.any() else data
    rows = []
    for variant, words in FRAMES.items():
        if found := {
            row["measure"]: cell(row, 1, 100)
            for row in pick(data, variant=variant).to_dict("records")
        }:
            measures = {title: found.get(name, DASH) for name, title in MEASURES.items()}
            rows.append({"co-training": DASH, "input": words, **measures})
    for when in ("before", "after"):
        for view in INPUTS:
            seen = pick(data[~data.variant.isin(FRAMES)], when=when, input=view)
            for _, own in seen.groupby("system", sort=True):
                values = {row["measure"]: cell(row, 1, 100) for row in own.to_dict("records")}
                facts = {"co-training": when, "input": view}
                rows.append(
                    {**facts, **{title: values.get(name, DASH) for name, title in MEASURES.items()}}
                )
    notes = (
        "Percent right. Leaves, relations and root: nodes that the target fills. Empty leaves found: recall of null. "
        "A guess names the label that training captions have most often in that node, whatever the photo; one "
        "reference is the tree of a photo's first caption against that of the others (in scenes: the scene's own): "
        "it says what people agree on. Labels that training has too rarely to be in the vocabulary count nowhere.",
        "Intervals: 95 %, the wider of Wilson's for a share of so many photos (the nodes of one photo counted as one) "
        "and of the t interval over seeds.",
    )
    seeds = seeds_sentence(data)
    caption = f"Node classification of the S3-tree on {int(data.n.max())} {split} images. {seeds} {context}".strip()
    return Table("table5_nodes", caption, pd.DataFrame(rows), data, notes, 2)


def fidelity(scores: pd.DataFrame, differences: pd.DataFrame, context: str = "") -> Table:
    """Table 6: what a judge who never saw a restored photo says of sharp, blurred and restored ones (×100)."""
    fixed = (RANDOM, "blurred")
    arms = [name for name in in_order(scores.system) if name not in READ]
    order = [name for name in (*fixed, *arms, "sharp", HUMAN) if name in set(scores.system)]
    rows = {}
    for name in order:
        own = pick(scores, system=name)
        rows[marked(READ.get(name, f"restored: {label(name)}"), own, scores)] = _judged(own, False)
    for (system, reference), own in differences.groupby(["system", "reference"], sort=False):
        rows[f"difference: {label(system)} − {label(reference)}"] = _judged(own, True)
    notes = (
        "Captions of one frozen captioner, taught on sharp photos only and with no weight shared with any arm, ×100; "
        "nodes: percent of the target tree that its caption names."
        + " References: all captions but the first."
        * (HUMAN in set(scores.system)),
        "Differences are paired by photo and seed and not corrected for their number; all rows rest on one judge.",
        *sorted(set(scores.reason.dropna()) - {""}),
        SPOKEN,
    )
    caption = (
        f"Semantic fidelity on {int(scores.images.max())} test images: what a judge reads in sharp, blurred and "
        f"restored photos. {seeds_sentence(scores)} {context}"
    )
    data = pd.concat([scores, differences], ignore_index=True)
    return Table(
        "table6_fidelity", caption.strip(), rows_named(rows, "the judge reads"), data, notes
    )


def leakage(frame: pd.DataFrame, severity: str = "severe", context: str = "") -> Table:
    """Table 10: what remains of the gains without test photos that training may have known (`evaluation.leakage`)."""
    rows = []
    for name, own in frame.groupby("left_out", sort=False):
        gains = {
            f"{row.variant} − {row.reference}": cell(row._asdict(), 2, sign=True)
            for row in own.itertuples()
        }
        facts = {"left out": SUSPECTS.get(name, name), "left out (photos)": str(own.photos.iloc[0])}
        facts["photos"] = str(int(own.images.max()))
        named = {
            f"{label(a)} − {label(b)} (dB)": gains.get(f"{a} − {b}", DASH) for a, b in LEAKAGE_PAIRS
        }
        rows.append(facts | named)
    caption = (
        f"Gains in PSNR under {severity} blur on test photos, all and without those that are suspected to resemble "
        f"what was trained on. {seeds_sentence(frame)} {context}"
    )
    note = (
        "Before training, near-duplicates are looked for and taken out of it; this looks again, in other ways. A photo "
        "can be suspected for several reasons; few photos can hardly move a mean, so the last row has them alone. "
        "Words and labels of the vocabularies come from training captions alone."
    )
    return Table("table10_leakage", caption.strip(), pd.DataFrame(rows), frame, (note, INTERVAL))


def _judged(own: pd.DataFrame, sign: bool) -> dict[str, str]:
    found = {row["metric"]: cell(row, 1, 100, sign) for row in own.to_dict("records")}
    columns = {**{metric: metric for metric in CAPTION_METRICS}, **FIDELITY}
    return {title: found.get(metric, DASH) for metric, title in columns.items()}


def gains(
    differences: pd.DataFrame,
    bins: pd.DataFrame,
    split: str = "test",
    severity: str = "severe",
    context: str = "",
) -> Table:
    """Table 9: PSNR gained over the baseline (dB) at each severity, and in each third of the images under one of them.

    Thirds are sorted by the blurred photo's PSNR: those that blur hurts most come first.
    """
    overall = pick(differences, split=split, reference="baseline", metric="psnr")
    thirds = pick(bins, split=split, severity=severity, reference="baseline")
    names = {
        row.bin: f"{severity}, {row.input_low:.1f}–{row.input_high:.1f} dB"
        for row in thirds.itertuples()
    }
    rows = {}
    for variant in in_order(overall.variant):
        whole = {row["severity"]: row for row in pick(overall, variant=variant).to_dict("records")}
        parts = {row["bin"]: row for row in pick(thirds, variant=variant).to_dict("records")}
        cells = {f"{name} (all)": cell(whole[name], 2, sign=True) for name in severities(overall)}
        rows[row_name(variant, overall)] = cells | {
            names[number]: cell(parts[number], 2, sign=True) for number in sorted(names)
        }
    caption = (
        f"PSNR gained over the baseline (dB) on {_counts(overall)} {split} images by blur severity, and under "
        f"{severity} blur by thirds of the images, sorted by the PSNR of the blurred photo. {seeds_sentence(overall)} "
        f"{context}"
    )
    note = (
        f"Arms are trained on {severity} blur alone: under a milder one a gain can mean that less is spoilt (table 1 "
        "has the blurred photo). The PSNR of a blurred photo hangs on what it shows (contrast, detail) as much as on "
        "its kernel, so thirds sort both. Intervals are not corrected for their number."
    )
    data = pd.concat([overall.assign(bin="all"), thirds], ignore_index=True)
    return Table("table9_gains", caption.strip(), rows_named(rows, "arm"), data, (note, INTERVAL))
