"""What a study found, in plain sentences that follow from its numbers by rules.

A difference is only called one where the tables call it one (`s3e.evaluation.gains.significant`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from s3e.evaluation.collect import RANDOM, SEVERITIES
from s3e.report.manifest import read_manifest
from s3e.report.numbers import interval, name, read, shown

Numbers = Mapping[str, Mapping[str, Any]]

QUESTIONS = {  # reference -> what `full` against it asks, if it wins, if it loses, if nothing can be told
    "baseline": (
        "Does the semantic branch help? Against the deblurring network alone, S3E-Deblur",
        "restores better.",
        "restores worse.",
        "makes no difference that can be told.",
    ),
    "no_semantics_loss": (
        "Is it the meaning, or only the larger network? Against the same larger network taught without captions and "
        "trees, S3E-Deblur",
        "restores better: what it was taught counts, or the steps that this took.",
        "restores worse: the teaching of captions and trees did not pay.",
        "makes no difference that can be told: the gain may be owed to size alone.",
    ),
    "shuffled": (
        "Are the maps used at all? Against a twin that is fed the tree of another photo, S3E-Deblur",
        "restores better: what is read off this photo counts (meaning or not).",
        "restores worse: the tree of another photo does more.",
        "makes no difference in PSNR that can be told under this blur: whose tree it is may not count.",
    ),
    "vector_nodes": (
        "Does it matter where in the photo things are? Against a tree of vectors, which cannot tell, S3E-Deblur",
        "restores better: node maps count (of a vector that is the same everywhere, normalisation leaves little).",
        "restores worse: vectors do more.",
        "makes no difference that can be told.",
    ),
    "pretrained_only": (
        "Does teaching captions and trees during co-training pay? Against the same network taught them before it "
        "only, S3E-Deblur",
        "restores better: it does.",
        "restores worse: it costs the photo something (what it keeps is the tree and the captioner).",
        "makes no difference that can be told: what was taught before does the work.",
    ),
}


def findings(folder: Path) -> list[str]:
    """`sentences` of a folder of figures, of the severity that its study was trained on."""
    settings = read_manifest(folder).get("settings", {})
    return sentences(read(folder), settings.get("blur", {}).get("severity", "severe"))


def sentences(numbers: Numbers, severity: str) -> list[str]:
    """The findings on test photos blurred with `severity`: one or two sentences each, none for what was not run."""
    parts = (_study, _blur, _gains, _milder, _headroom, _falsifier, _tree, _captions, _judge)
    return [text for part in parts for text in part(numbers, severity)]


def _study(numbers: Numbers, severity: str) -> Iterator[str]:
    if row := numbers.get(name("full", severity, "psnr")):
        seeds = (
            "one training of each arm"
            if row["seeds"] == 1
            else f"{row['seeds']:.0f} trainings of S3E-Deblur"
        )
        claim = ": a demonstration, not a claim about new trainings" if row["seeds"] == 1 else ""
        yield f"The numbers are of {row['images']:.0f} test photos under {severity} blur and of {seeds}{claim}."


def _blur(numbers: Numbers, severity: str) -> Iterator[str]:
    rows = [numbers.get(name(arm, severity, "psnr")) for arm in ("blurred", "baseline", "full")]
    if all(rows):
        blurred, baseline, full = map(shown, rows)
        yield (
            f"Blurred photos are at {blurred} dB PSNR (higher is nearer to the sharp photo); the deblurring network "
            f"alone brings them to {baseline} dB, S3E-Deblur to {full} dB."
        )


def _gains(numbers: Numbers, severity: str) -> Iterator[str]:
    for reference, (question, *answers) in QUESTIONS.items():
        if row := numbers.get(name("full", "over", reference, severity, "psnr")):
            yield f"{question} {answers[_side(row)]} ({_amount(row)}.)"


def _milder(numbers: Numbers, severity: str) -> Iterator[str]:
    """What training on one severity does to the others, where it speaks against the method."""
    for other in SEVERITIES:
        rows = [numbers.get(name(arm, other, "psnr")) for arm in ("blurred", "baseline", "full")]
        gain = numbers.get(name("full", "over", "baseline", other, "psnr"))
        if other == severity or not all(rows) or not gain or _side(gain) != 1:
            continue
        blurred, baseline, full = map(shown, rows)
        yield (
            f"Under {other} blur, which no network was trained on, S3E-Deblur restores worse than the deblurring "
            f"network alone ({_amount(gain)}): blurred photos are at {blurred} dB, it brings them to {full} dB, the "
            f"network alone to {baseline} dB."
        )


def _side(row: Mapping[str, Any]) -> int:
    """Which answer: 0 higher, 1 lower, 2 no difference can be told."""
    return {1: 0, -1: 1, 0: 2}[int(row["told"])]


def _amount(row: Mapping[str, Any]) -> str:
    unit = f" {row['unit']}" if row["unit"] else ""
    spread = f", 95 % interval {interval(row)}" if interval(row) else ""
    return f"{shown(row)}{unit}{spread}"


def _headroom(numbers: Numbers, severity: str) -> Iterator[str]:
    if row := numbers.get(name("oracle_map", "over", "baseline", severity, "psnr")):
        yield f"How much is there to gain? True label maps in the place of the tree bring {_amount(row)}."
    if row := numbers.get(name("oracle_silhouette", "over", "baseline", severity, "psnr")):
        yield f"The true outline of all things together, without labels, brings {_amount(row)}."
    if row := numbers.get(name("oracle", "over", "baseline", severity, "psnr")):
        yield (
            "Node maps of the *sharp* photo, which carry its outlines whatever the tree has learnt, bring "
            f"{_amount(row)}{' (one training, no claim)' if row['seeds'] == 1 else ''}."
        )
    if row := numbers.get(name("full", "closes", severity)):
        yield f"The share of what true label maps bring that S3E-Deblur reaches: {_amount(row)}."


def _falsifier(numbers: Numbers, severity: str) -> Iterator[str]:
    pair = ("full", "over", "no_semantics_loss", severity, "psnr")
    bound, free = numbers.get(name(*pair)), numbers.get(name("random", "texture", *pair))
    if bound and free:
        yield (
            "Where textures are drawn by lot, a category tells outline and colours but no texture. The gain over the "
            f"network without semantic losses is {_amount(bound)} where textures belong to categories and "
            f"{_amount(free)} where they do not (one training there, no claim; whether it shrinks is not tested)."
        )


def _tree(numbers: Numbers, severity: str) -> Iterator[str]:
    read = [
        numbers.get(name("nodes", "S3-tree alone", view, "leaf_accuracy"))
        for view in ("sharp", severity)
    ]
    guess = numbers.get(name("nodes", "most frequent label", "none", "leaf_accuracy"))
    if all(read) and guess:
        yield (
            f"The tree names {shown(read[0])} % of the things in sharp photos and {shown(read[1])} % in blurred ones; "
            f"a guess that sees nothing names {shown(guess)} %."
        )
        if min(row["low"] for row in read) <= guess["mean"]:
            yield "So the tree reads hardly more than a guess: what one that can read would bring is not tested here."


def _captions(numbers: Numbers, severity: str) -> Iterator[str]:
    rows = [numbers.get(name("captions", "tree", view, "CIDEr")) for view in ("sharp", severity)]
    if all(rows):
        floor = numbers.get(name("captions", RANDOM, "none", "CIDEr"))
        least = f"; captions drawn by lot score {shown(floor)}" if floor else ""
        yield (
            f"The tree captioner scores CIDEr {shown(rows[0])} on sharp photos and {shown(rows[1])} on blurred "
            f"ones{least}."
        )
    after = [numbers.get(name("captions", "full", view, "CIDEr")) for view in ("sharp", severity)]
    if all(after):
        yield (
            f"After co-training on blurred photos, S3E-Deblur's own captions score CIDEr {shown(after[0])} on sharp "
            f"photos and {shown(after[1])} on blurred ones."
        )


def _judge(numbers: Numbers, severity: str) -> Iterator[str]:
    views = {
        "sharp": "sharp photos",
        "blurred": "blurred ones",
        "baseline": "the baseline's",
        "full": "S3E-Deblur's",
    }
    found = {told: numbers.get(name("judge", view, "CIDEr")) for view, told in views.items()}
    if all(found.values()):
        told = ", ".join(f"{shown(row)} for {view}" for view, row in found.items())
        yield (
            f"Can a captioner that was taught sharp photos alone read the restored ones? It scores CIDEr {told} "
            "(against all captions but the first)."
        )
    if row := numbers.get(name("judge", "full", "over", "baseline", "CIDEr")):
        answers = (
            "It reads S3E-Deblur's photos better than the baseline's.",
            "It reads S3E-Deblur's photos worse than the baseline's.",
            "Between S3E-Deblur's photos and the baseline's it makes no difference that can be told.",
        )
        yield f"{answers[_side(row)]} ({_amount(row)}; one judge, not corrected.)"
