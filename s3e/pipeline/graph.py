"""The stage table: which notebook needs what, how often it runs, which settings it reads and which files it leaves."""

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
    *("corpus.json", "vocabulary.json", "references.json", "severity.csv"),
    *(f"{split}{end}" for split in SPLITS for end in (".json", "_sharp.npy")),
)
CAPTION_TABLES = ("caption_scores.csv", "node_accuracy.csv")  # tables of 07 that need captions
CAPTION_FILES = {"vocabulary.json", "captions.json", "nodes.csv", "restored_test.npy"}
CAPTIONED = ("scenes", "coco", "karpathy")  # kinds of data that teach a tree and a captioner
DRAWS, EXPLORES = "08_figures_and_tables", "09_explore"


@dataclass(frozen=True)
class Stage:
    """One notebook. `per`: "once", "seed" or "variant"; `fields`: config sections or dotted fields that it reads."""

    name: str
    what: str
    per: str
    fields: tuple[str, ...]
    outputs: tuple[str, ...]


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
        Stage("00_start_here", "map of the suite and of this machine", "once", (), ()),
        Stage(
            "01_data_blurring", "images, captions, trees, blur", "once",
            ("data", "-data.source", "blur", "text", "evaluation.samples"), (*CORPUS, *SAMPLES),
        ),
        Stage(
            "02_train_s3_tree", "training A1: encoder and S3-tree", "seed",
            ("model", "loss.tree", "loss.null_weight", "train_tree", "runtime", *TRAINED),
            ("log_tree.csv",),
        ),
        Stage(
            "03_train_captioner", "training A1 and A2: captioner and its baselines", "seed",
            ("model", "loss.tree", "loss.null_weight", "loss.caption", "loss.distillation", "train_tree", "train_a1",
             "train_a2", "runtime", *TRAINED, *SCORED),
            ("log_captioner_a1.csv", "log_captioner_a2.csv", "captions.json", "nodes.csv", *SAMPLES),
        ),
        Stage(
            "04_train_deblurrer", "training B: deblurring network alone", "seed",
            ("model", "loss", "-loss.tree", "-loss.null_weight", "-loss.caption", "-loss.distillation",
             "-loss.detach_semantics", "train_b", "runtime", *TRAINED),
            ("log_deblurrer.csv",),
        ),
        Stage(
            "05_co_training", "training C (D without captions): both branches (variant full)", "seed",
            ("model", "loss", "train_c", "runtime", *TRAINED, *SCORED),
            ("log_cotrain.csv", "scores.csv", "captions.json", "nodes.csv", "cost.json", "restored_test.npy",
             *SAMPLES),
        ),
        Stage(
            "06_ablation", "one ablation variant, one seed", "variant",
            ("model", "loss", "train_c", "runtime", *TRAINED, *SCORED),
            ("log_cotrain.csv", "scores.csv", "captions.json", "cost.json", "restored_test.npy", *SAMPLES),
        ),
        Stage(
            "06b_semantic_fidelity", "a judge of its own reads what was restored", "once",
            ("model", "loss.caption", "train_tree", "train_a1", "runtime", *TRAINED, *SCORED),
            ("fidelity_captions.json",),
        ),
        Stage(
            "07_evaluation", "collects all scores; statistics", "once", ("evaluation",),
            ("image_scores.csv", "differences.csv", "bins.csv", "cost.csv", *CAPTION_TABLES),
        ),
        Stage(
            "07b_metric_definitions", "one pair, many scores: what PSNR and SSIM can mean", "once", (),
            ("definitions.csv",),
        ),
        Stage(DRAWS, "draws every figure and table", "once", (), ()),
        Stage(EXPLORES, "plays with blur, tree, nodes and your own photo", "once", (), ()),
    )
}  # fmt: skip


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
    for name in variants:
        _check_variant(name)
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise S3EError(f"seeds: {seed!r} is not a seed; give whole numbers from 0 on.")
    names = dict.fromkeys(variants or config.variants)
    numbers = list(dict.fromkeys(seeds or config.seeds))
    once = [] if seeds else config.one_seed
    return tuple(
        (name, seed) for name in names for seed in (numbers[:1] if name in once else numbers)
    )


def _check_variant(name: str) -> None:
    if name not in VARIANTS:
        raise S3EError(f"unknown variant '{name}'; variants: {', '.join(VARIANTS)}.")


def instance(stage: str, variant: str = "", seed: int = 0) -> Instance:
    """The run of `stage` for a variant and a seed, of which it takes what it depends on."""
    per = stage_named(stage).per
    if per == "once":
        return Instance(stage)
    if per == "seed":
        return Instance(stage, "full" if stage == "05_co_training" else "", seed)
    if variant == "full":
        raise S3EError(
            "the variant 'full' is trained by 05_co_training; choose another for 06_ablation."
        )
    _check_variant(variant)
    return Instance(stage, variant, seed)


def variant_run(variant: str, seed: int) -> Instance:
    """The run that trains `variant`: 05 for `full`, else 06."""
    return instance("05_co_training" if variant == "full" else "06_ablation", variant, seed)


def severities(kind: str) -> tuple[str, ...]:
    """How hard the images of a kind of data are blurred, in the order of tables."""
    return PAIRED if kind == "gopro" else tuple(SEVERITIES)


def outputs(stage: str, kind: str, trained: str) -> tuple[str, ...]:
    """The files that a stage must leave for a kind of data ("scenes", "coco", ...); `trained`: severity of train."""
    names = STAGES[stage].outputs
    if stage == "01_data_blurring":  # short videos of GoPro have no severe frames
        sure = dict.fromkeys(("released", trained)) if kind == "gopro" else severities(kind)
        blurred = [f"{split}_{severity}.npy" for split in ("val", "test") for severity in sure]
        names = (*names, f"train_{trained}.npy", *blurred)
    if kind in CAPTIONED:
        return names
    return tuple(name for name in names if name not in CAPTION_FILES | {*CAPTION_TABLES})


def upstream(run: Instance, selection: Selection, captioned: bool = True) -> list[Instance]:
    """The finished runs of the same study that `run` reads; `captioned`: its data have captions."""
    data, seed = instance("01_data_blurring"), run.seed
    if run.stage in ("00_start_here", "01_data_blurring", EXPLORES):
        return []
    if run.stage in ("02_train_s3_tree", "04_train_deblurrer"):
        return [data]
    if run.stage == "03_train_captioner":
        return [data, instance("02_train_s3_tree", seed=seed)]
    if run.variant:
        names = ["02_train_s3_tree", "03_train_captioner"]
        shared = captioned and VARIANTS[run.variant].start == "shared"
        names = [*(names if shared else []), "04_train_deblurrer"]
        return [data, *(instance(name, seed=seed) for name in names)]
    trained = [variant_run(*pair) for pair in selection]
    if run.stage == "06b_semantic_fidelity":
        return [data, *trained]
    if run.stage == "07b_metric_definitions":
        return [data, *(other for other in trained if other.seed == trained[0].seed)]
    seeds = list(dict.fromkeys(seed for _, seed in selection))
    judge = instance("06b_semantic_fidelity")
    if run.stage == "07_evaluation":
        captioners = [instance("03_train_captioner", seed=seed) for seed in seeds]
        return [data, *captioners, *trained, judge]
    shared = [instance(name, seed=seed) for name in tuple(STAGES)[2:5] for seed in seeds]
    tables = [instance("07_evaluation"), instance("07b_metric_definitions")]
    return [data, *shared, *trained, judge, *tables]


def borrowed(run: Instance) -> list[Instance]:
    """The runs of a captioned study that `run` reads where its own data have no captions."""
    variant = VARIANTS.get(run.variant)
    if variant is None or variant.semantics in (None, "noise", *TRUTH) or variant.start == "own":
        return []
    tree = [instance("03_train_captioner", seed=run.seed)] if variant.start == "shared" else []
    return [instance("01_data_blurring"), *tree]


def why_skipped(run: Instance, kind: str) -> str:
    """Why the notebook of `run` will only report, for a kind of data, that it is skipped; "" if it works."""
    variant = VARIANTS.get(run.variant)
    if variant and variant.semantics in TRUTH and kind != "scenes":
        return "these data have no true label maps"
    if kind in CAPTIONED:
        return ""
    if run.variant == "frozen":
        return "without captions the semantics of 'full' are frozen already"
    captions = ("02_train_s3_tree", "03_train_captioner", "06b_semantic_fidelity")
    own = variant is not None and variant.start == "own"
    return "these data have no captions" if own or run.stage in captions else ""


def all_runs(selection: Selection, captioned: bool = True) -> list[Instance]:
    """Every run of the study, each after all that it reads."""
    found = {instance(name) for name, stage in STAGES.items() if stage.per == "once"}
    waiting = list(found)
    while waiting:
        before = set(upstream(waiting.pop(), selection, captioned)) - found
        found |= before
        waiting += before
    order = {pair: number for number, pair in enumerate(selection)}
    return sorted(
        found, key=lambda run: (run.stage, order.get((run.variant, run.seed), 0), run.seed)
    )


@cache
def _measured() -> dict[tuple[str, str], float]:
    with open(Path(__file__).with_name("minutes.csv"), encoding="utf-8", newline="") as file:
        return {
            (row["stage"], row["profile"]): float(row["minutes"]) for row in csv.DictReader(file)
        }


def minutes(profile: str) -> dict[str, float]:
    """Measured minutes by notebook (two at a time on two cores); empty for a profile that nobody measured.

    Variants that pretrain semantics of their own count as "06_ablation (own semantics)".
    """
    return {stage: time for (stage, name), time in _measured().items() if name == profile}


def expected_minutes(run: Instance, profile: str) -> float:
    """Minutes for the run card and for scheduling; of a profile that was not measured those of another."""
    own = run.variant and VARIANTS[run.variant].start == "own"
    names = (run.stage + " (own semantics)" * bool(own), run.stage)
    profiles = (profile, "laptop", "study", "smoke")
    pairs = [(name, item) for item in profiles for name in names if (name, item) in _measured()]
    return _measured()[pairs[0]] if pairs else 1.0


def spoken(minutes: float) -> str:
    """Minutes in words: "2 s", "76 s", "5.6 minutes"."""
    return f"{max(1, round(60 * minutes))} s" if minutes < 1.5 else f"{minutes:.1f} minutes"


def fields(run: Instance, config: Config) -> dict[str, Any]:
    """The settings that `run` reads, flat: {"loss.pixel": 100.0, ...}; a variant's own rules are among them."""
    wanted = list(STAGES[run.stage].fields)
    rules: dict[str, Any] = {}
    if run.variant:
        variant = VARIANTS[run.variant]
        wanted += ["train_tree", "train_a1", "train_a2"] * (variant.start == "own")
        wanted += ["-loss.caption"] * (not variant.caption_loss)
        wanted += ["-loss.tree", "-loss.null_weight"] * (not variant.tree_loss)
        if variant.semantics in (None, "noise", *TRUTH):
            wanted += ["-loss.distillation", "-loss.detach_semantics"]
        rules = variant.model_dump(mode="json", exclude={"description"})
    found = {f"variant.{name}": value for name, value in rules.items()}
    for section, values in config.model_dump(mode="json").items():
        for name, value in values.items() if isinstance(values, dict) else ():
            field = f"{section}.{name}"
            if {section, field} & {*wanted} and f"-{field}" not in wanted:
                found[field] = value
    return found
