"""The stage table: which notebook needs what, how often it runs, which settings it reads and which
files it leaves.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from s3e.blur import SEVERITIES
from s3e.config import TRUTH, VARIANTS, Config
from s3e.data.readers import PAIRED
from s3e.utils import S3EError

Selection = tuple[tuple[str, int], ...]  # the (variant, seed) pairs of a study

TRAINED = ("-runtime.save_every", "-runtime.explosion")  # a leading minus takes a field out again
SCORED = ("evaluation", "-evaluation.resamples")
SAMPLES = ("samples.npz", "samples.json")
SPLITS = ("train", "val", "test")
CORPUS = (
    *("corpus.json", "vocabulary.json", "samples.npz"),
    *(f"{split}{end}" for split in SPLITS for end in (".json", "_sharp.npy")),
)
CAPTION_TABLES = ("caption_scores.csv", "node_accuracy.csv")  # tables of 07 that need captions
CAPTION_FILES = (
    "vocabulary.json",
    "captions.json",
    "nodes.csv",
    "restored_test.npy",
    *CAPTION_TABLES,
)
SEMANTICS = ("02_train_s3_tree", "03_train_captioner")
CAPTIONED = ("scenes", "coco", "karpathy")  # kinds of data that teach a tree and a captioner
DRAWS, EXPLORES = "08_figures_and_tables", "09_explore"


@dataclass(frozen=True)
class Stage:
    """One notebook.

    `per`: "once", "seed" or "variant"; `reads`: stages before it, by number; `fields`: config
    sections or dotted fields that it reads; `outputs`: files that it must leave.
    """

    name: str
    what: str
    per: str
    reads: str
    fields: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, order=True)
class Instance:
    """One run of a stage; `seed` is -1 and `variant` empty where a stage runs once."""

    stage: str
    variant: str = ""
    seed: int = -1

    @property
    def folder(self) -> str:
        """Folder name inside the stage's folder: `all`, `s0` or `baseline-s0`."""
        if self.seed < 0:
            return "all"
        return f"{self.variant}-s{self.seed}" if self.variant else f"s{self.seed}"

    def __str__(self) -> str:
        return f"{self.stage}/{self.folder}"


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("00_start_here", "map of the suite and of this machine", "once", ""),
        Stage(
            "01_data_blurring",
            "images, captions, trees, blur",
            "once",
            "",
            ("data", "-data.source", "blur", "text", "evaluation.samples"),
            CORPUS,
        ),
        Stage(
            "02_train_s3_tree",
            "training A1: encoder and S3-tree",
            "seed",
            "01",
            ("model", "loss.tree", "loss.null_weight", "train_tree", "runtime", *TRAINED),
            ("log_tree.csv",),
        ),
        Stage(
            "03_train_captioner",
            "training A1 and A2: captioner and its baselines",
            "seed",
            "01 02",
            (
                "model",
                "loss.tree",
                "loss.null_weight",
                "loss.caption",
                "train_tree",
                "train_a1",
                "train_a2",
                "runtime",
                *TRAINED,
                *SCORED,
            ),
            (
                "log_captioner_a1.csv",
                "log_captioner_a2.csv",
                "captions.json",
                "nodes.csv",
                *SAMPLES,
            ),
        ),
        Stage(
            "04_train_deblurrer",
            "training B: deblurring network alone",
            "seed",
            "01",
            (
                "model",
                "loss",
                "-loss.tree",
                "-loss.null_weight",
                "-loss.caption",
                "train_b",
                "runtime",
                *TRAINED,
            ),
            ("log_deblurrer.csv",),
        ),
        Stage(
            "05_co_training",
            "training C (D without captions): both branches (variant full)",
            "variant",
            "01 02 03 04",
            ("model", "loss", "train_c", "runtime", *TRAINED, *SCORED),
            (
                "log_cotrain.csv",
                "scores.csv",
                "captions.json",
                "nodes.csv",
                "cost.json",
                "restored_test.npy",
                *SAMPLES,
            ),
        ),
        Stage(
            "06_ablation",
            "one ablation variant, one seed",
            "variant",
            "01 02 03 04",
            ("model", "loss", "train_c", "runtime", *TRAINED, *SCORED),
            (
                "log_cotrain.csv",
                "scores.csv",
                "captions.json",
                "cost.json",
                "restored_test.npy",
                *SAMPLES,
            ),
        ),
        Stage(
            "06b_semantic_fidelity",
            "a judge of its own reads what was restored",
            "once",
            "01 05 06",
            ("model", "loss.caption", "train_tree", "train_a1", "runtime", *TRAINED, *SCORED),
            ("fidelity_captions.json",),
        ),
        Stage(
            "07_evaluation",
            "collects all scores; statistics",
            "once",
            "01 03 05 06 06b",
            ("evaluation",),
            ("image_scores.csv", "differences.csv", "bins.csv", "cost.csv", *CAPTION_TABLES),
        ),
        Stage(
            "07b_metric_definitions",
            "one pair, many scores: what PSNR and SSIM can mean",
            "once",
            "01 05 06",
            (),
            ("definitions.csv",),
        ),
        Stage(DRAWS, "draws every figure and table", "once", "01 02 03 04 05 06 06b 07 07b"),
        Stage(EXPLORES, "plays with blur, tree, nodes and your own photo", "once", ""),
    )
}


def stage_named(text: str) -> Stage:
    """Find a stage by its name or number ("06"); raises `S3EError` that lists the stages."""
    for name, stage in STAGES.items():
        if text == name or name.split("_")[0] == text.zfill(2):
            return stage
    raise S3EError(f"unknown stage '{text}'; stages: {', '.join(STAGES)}.")


def select(config: Config, variants: Iterable[str] = (), seeds: Iterable[int] = ()) -> Selection:
    """The pairs to study: the given variants and seeds, or the profile's where a list is empty."""
    if not all(isinstance(items, list | tuple) for items in (variants, seeds)):
        raise S3EError(
            "variants and seeds must be lists, e.g. variants = ['baseline'] and seeds = [0, 1]."
        )
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise S3EError(f"seeds: {seed!r} is not a seed; give whole numbers from 0 on.")
    numbers = list(dict.fromkeys(seeds or config.seeds))
    once = [] if seeds else config.one_seed
    return tuple(
        (check_variant(name), seed)
        for name in dict.fromkeys(variants or config.variants)
        for seed in (numbers[:1] if name in once else numbers)
    )


def check_variant(name: str) -> str:
    """The name of a variant; raises `S3EError` that lists them."""
    if name not in VARIANTS:
        raise S3EError(f"unknown variant '{name}'; variants: {', '.join(VARIANTS)}.")
    return name


def instance(stage: str, variant: str = "", seed: int = 0) -> Instance:
    """The run of `stage` for a variant and a seed, of which it takes what it depends on."""
    per = STAGES[stage].per
    if per == "once":
        return Instance(stage)
    if per == "seed" or stage == "05_co_training":
        return Instance(stage, "full" if per == "variant" else "", seed)
    if variant == "full":
        raise S3EError(
            "the variant 'full' is trained by 05_co_training; choose another for 06_ablation."
        )
    return Instance(stage, check_variant(variant), seed)


def variant_run(variant: str, seed: int) -> Instance:
    """The run that trains `variant`: 05 for `full`, else 06."""
    return instance("05_co_training" if variant == "full" else "06_ablation", variant, seed)


def runs_of(stage: str, selection: Selection) -> list[Instance]:
    """The runs of a stage in a study."""
    if STAGES[stage].per != "variant":
        return list(dict.fromkeys(instance(stage, seed=seed) for _, seed in selection))
    return [run for run in (variant_run(*pair) for pair in selection) if run.stage == stage]


def all_runs(selection: Selection) -> list[Instance]:
    """Every run of a study, each after all that it reads."""
    return [run for stage in STAGES for run in runs_of(stage, selection)]


def upstream(run: Instance, selection: Selection, captioned: bool = True) -> list[Instance]:
    """The finished runs of the same study that `run` reads; `captioned`: its data have captions."""
    if run.seed >= 0:
        selection = (("", run.seed),)
    elif run.stage == "07b_metric_definitions":
        selection = tuple(pair for pair in selection if pair[1] == selection[0][1])
    stages = [stage_named(number).name for number in STAGES[run.stage].reads.split()]
    if run.variant and not (captioned and VARIANTS[run.variant].start == "shared"):
        stages = [name for name in stages if name not in SEMANTICS]
    return [other for name in stages for other in runs_of(name, selection)]


def borrowed(run: Instance) -> list[Instance]:
    """The runs of a captioned study that `run` reads where its own data have no captions."""
    variant = VARIANTS.get(run.variant)
    if variant is None or variant.semantics in (None, "noise", *TRUTH) or variant.start == "own":
        return []
    tree = [Instance("03_train_captioner", seed=run.seed)] if variant.start == "shared" else []
    return [Instance("01_data_blurring"), *tree]


def why_skipped(run: Instance, kind: str) -> str:
    """Why the notebook of `run` will only report, for a kind of data, that it is skipped; "" if it
    works.
    """
    variant = VARIANTS.get(run.variant)
    if variant and variant.semantics in TRUTH and kind != "scenes":
        return "these data have no true label maps"
    if kind in CAPTIONED:
        return ""
    if run.variant == "frozen":
        return "without captions the semantics of 'full' are frozen already"
    trains = run.stage in (*SEMANTICS, "06b_semantic_fidelity")
    return "these data have no captions" if trains or variant and variant.start == "own" else ""


def severities(kind: str) -> tuple[str, ...]:
    """How hard the images of a kind of data are blurred, in the order of tables."""
    return PAIRED if kind == "gopro" else tuple(SEVERITIES)


def outputs(stage: str, kind: str, trained: str) -> tuple[str, ...]:
    """The files that a stage must leave for a kind of data ("scenes", "coco", ...); `trained`:
    severity of train.
    """
    names = STAGES[stage].outputs
    if stage == "01_data_blurring":  # short videos of GoPro have no severe frames
        sure = dict.fromkeys(("released", trained)) if kind == "gopro" else severities(kind)
        blurred = [f"{split}_{severity}.npy" for split in ("val", "test") for severity in sure]
        names = (*names, f"train_{trained}.npy", *blurred)
    missing = () if kind in CAPTIONED else CAPTION_FILES
    return tuple(name for name in names if name not in missing)


@cache
def minutes(profile: str) -> dict[str, float]:
    """Measured minutes by notebook (two at a time on two cores); empty for a profile that nobody
    measured.

    Variants that pretrain semantics of their own count as "06_ablation (own semantics)".
    """
    with open(Path(__file__).with_name("minutes.csv"), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["profile"] == profile]
    return {row["stage"]: float(row["minutes"]) for row in rows}


def expected_minutes(run: Instance, profile: str) -> float:
    """Minutes of a run; of a profile that was not measured those of `laptop`."""
    known = minutes(profile) or minutes("laptop")
    own = run.variant and VARIANTS[run.variant].start == "own"
    return known.get(f"{run.stage} (own semantics)" if own else run.stage, known[run.stage])


def spoken(minutes: float) -> str:
    """Minutes in words: "2 s", "76 s", "5.6 minutes"."""
    return f"{max(1, round(60 * minutes))} s" if minutes < 1.5 else f"{minutes:.1f} minutes"


def fields(run: Instance, config: Config) -> dict[str, Any]:
    """The settings that `run` reads, flat: {"loss.pixel": 100.0, ...}; a variant's own rules are
    among them.
    """
    wanted, found = list(STAGES[run.stage].fields), {}
    if run.variant:
        variant = VARIANTS[run.variant]
        wanted += ["train_tree", "train_a1", "train_a2"] * (variant.start == "own")
        wanted += ["-loss.caption"] * (not variant.caption_loss)
        wanted += ["-loss.tree", "-loss.null_weight"] * (not variant.tree_loss)
        rules = variant.model_dump(mode="json", exclude={"description"})
        found = {f"variant.{name}": value for name, value in rules.items()}
    for section, values in config.model_dump(mode="json").items():
        for name, value in values.items() if isinstance(values, dict) else ():
            field = f"{section}.{name}"
            if {section, field} & {*wanted} and f"-{field}" not in wanted:
                found[field] = value
    return found
