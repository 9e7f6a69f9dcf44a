"""The stage table: which notebook needs what, how often it runs, which settings it reads and which files it leaves."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from s3e.blur import SEVERITIES
from s3e.config import TRUTH, VARIANTS, Config
from s3e.data.readers import PAIRED
from s3e.pipeline import minutes
from s3e.utils import S3EError

Selection = tuple[tuple[str, int], ...]  # the (variant, seed) pairs of a study

TRAINED = ("-runtime.save_every", "-runtime.explosion")  # a leading minus takes a field out again
SCORED = ("evaluation", "-evaluation.resamples")
SAMPLES = ("samples.npz", "samples.json")
CORPUS = (
    *(
        "corpus.json",
        "vocabulary.json",
        "references.json",
        "severity.csv",
        "train.json",
        "val.json",
        "test.json",
    ),
    *(f"{split}_sharp.npy" for split in ("train", "val", "test")),
)
TABLES = ("image_scores", "differences", "bins", "cost")
SPOKEN = ("caption_scores", "node_accuracy")  # tables of 07 that need captions
WORDED = {
    "vocabulary.json",
    "captions.json",
    "nodes.csv",
    "restored_test.npy",
    *(f"{name}.csv" for name in SPOKEN),
}
CAPTIONED = ("scenes", "coco", "karpathy")  # kinds of data that teach a tree and a captioner


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
    """One run of a stage; `seed` is -1 and `variant` empty where a stage runs once.

    `of`: "" or the other study that it belongs to, with keys and a store of its own: "captioned" lends tree and
    captioner to data without captions, "random" is the falsifier (the same scenes with textures drawn by lot).
    """

    stage: str
    variant: str = ""
    seed: int = -1
    of: str = ""

    @property
    def own(self) -> "Instance":
        """The same run as its own study knows it."""
        return replace(self, of="")

    @property
    def folder(self) -> str:
        """Folder name inside the stage's folder: `all`, `s0` or `baseline-s0`."""
        return (
            "all"
            if self.seed < 0
            else f"{self.variant}-s{self.seed}"
            if self.variant
            else f"s{self.seed}"
        )

    def __str__(self) -> str:
        return f"{self.of + ':' if self.of else ''}{self.stage}/{self.folder}"


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("00_start_here", "map of the suite and of this machine", "once", (), ()),
        Stage(
            "01_data_blurring", "photos or scenes, captions, trees, blur", "once",
            ("data", "-data.source", "-data.captioned", "blur", "text", "evaluation.samples"), (*CORPUS, *SAMPLES),
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
            tuple(f"{name}.csv" for name in (*TABLES, *SPOKEN)),
        ),
        Stage(
            "07b_metric_definitions", "one pair, many scores: what PSNR and SSIM can mean", "once", (),
            ("definitions.csv",),
        ),
        Stage("08_figures_and_tables", "draws every figure and table", "once", (), ()),
        Stage("09_explore", "plays with blur, tree, nodes and your own photo", "once", (), ()),
    )
}  # fmt: skip


def stage_named(text: str) -> Stage:
    """Find a stage by its name or number ("06"); raises `S3EError` that lists the stages."""
    matches = [
        stage
        for name, stage in STAGES.items()
        if name == text or name.split("_")[0] == text.zfill(2)
    ]
    if len(matches) != 1:
        raise S3EError(f"unknown stage '{text}'; stages: {', '.join(STAGES)}.")
    return matches[0]


def select(config: Config, variants: Iterable[str] = (), seeds: Iterable[int] = ()) -> Selection:
    """The pairs to study: the given variants and seeds, or the profile's where a list is empty."""
    if (
        isinstance(variants, str)
        or not isinstance(variants, Iterable)
        or not isinstance(seeds, Iterable)
    ):
        raise S3EError(
            "variants and seeds must be lists, e.g. variants = ['baseline'] and seeds = [0, 1]."
        )
    for name in variants:
        if name not in VARIANTS:
            raise S3EError(f"unknown variant '{name}'; variants: {', '.join(VARIANTS)}.")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise S3EError(f"seeds: {seed!r} is not a seed; give whole numbers from 0 on.")
    names, numbers = (
        list(dict.fromkeys(variants or config.variants)),
        list(dict.fromkeys(seeds or config.seeds)),
    )
    once = set() if seeds else set(config.one_seed)
    return tuple(
        (name, seed) for name in names for seed in (numbers[:1] if name in once else numbers)
    )


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
    if variant not in VARIANTS:
        raise S3EError(f"unknown variant '{variant}'; variants: {', '.join(VARIANTS)}.")
    return Instance(stage, variant, seed)


def arm(variant: str, seed: int) -> Instance:
    """The run that trains `variant`: 05 for `full`, else 06."""
    return instance("05_co_training" if variant == "full" else "06_ablation", variant, seed)


def severities(kind: str) -> tuple[str, ...]:
    """How hard the photos of a kind of data are blurred, in the order of tables."""
    return PAIRED if kind == "gopro" else tuple(SEVERITIES)


def outputs(stage: str, kind: str, trained: str) -> tuple[str, ...]:
    """The files that a stage must leave for a kind of data ("scenes", "coco", ...); `trained`: severity of train."""
    names = STAGES[stage].outputs
    if stage == "01_data_blurring":
        sure = (
            dict.fromkeys(("released", trained)) if kind == "gopro" else severities(kind)
        )  # short videos: none severe
        blurred = [f"{split}_{severity}.npy" for split in ("val", "test") for severity in sure]
        names = (*names, f"train_{trained}.npy", *blurred)
    return names if kind in CAPTIONED else tuple(name for name in names if name not in WORDED)


def falsifier(config: Config, selection: Selection) -> Selection:
    """The pairs that are trained again on textures drawn by lot: the profile's, with the first seed, on scenes.

    A choice of variants or seeds that is not the profile's goes without.
    """
    scenes = config.data.source == "scenes" and config.data.texture == "category"
    return tuple(
        (name, config.seeds[0])
        for name in config.falsifier
        if scenes and selection == select(config)
    )


def upstream(
    run: Instance, selection: Selection, captioned: bool = True, falsifier: Selection = ()
) -> list[Instance]:
    """The finished runs that `run` reads.

    Without captions of its own (`captioned`), a study has its vocabulary and its tree lent by a captioned one.
    """
    if run.of:
        return [replace(other, of=run.of) for other in upstream(run.own, selection)]
    data, seed = instance("01_data_blurring"), run.seed
    if run.stage in ("00_start_here", "01_data_blurring", "09_explore"):
        return []
    if run.stage in ("02_train_s3_tree", "04_train_deblurrer"):
        return [data]
    if run.stage == "03_train_captioner":
        return [data, instance("02_train_s3_tree", seed=seed)]
    if run.variant:
        shared = VARIANTS[run.variant].start == "shared"
        tree = (
            [instance(name, seed=seed) for name in ("02_train_s3_tree", "03_train_captioner")]
            if shared
            else []
        )
        before = (
            tree if captioned else [replace(other, of="captioned") for other in (data, *tree[1:])]
        )
        return [data, *before, instance("04_train_deblurrer", seed=seed)]
    arms = [arm(*pair) for pair in selection]
    if run.stage == "06b_semantic_fidelity":
        return [data, *arms]
    if run.stage == "07b_metric_definitions":
        return [data, *(other for other in arms if other.seed == arms[0].seed)]
    seeds = list(dict.fromkeys(seed for _, seed in selection))
    judged = [instance("06b_semantic_fidelity")]
    lots = [replace(arm(*pair), of="random") for pair in falsifier]
    if run.stage == "07_evaluation":
        return [
            data,
            *(instance("03_train_captioner", seed=seed) for seed in seeds),
            *arms,
            *judged,
            *lots,
        ]
    shared = [instance(name, seed=seed) for name in tuple(STAGES)[2:5] for seed in seeds]
    return [
        data,
        *shared,
        *arms,
        *judged,
        instance("07_evaluation"),
        instance("07b_metric_definitions"),
        *lots,
    ]


def why_skipped(run: Instance, kind: str) -> str:
    """Why the notebook of `run` will only say, for a kind of data, that it is skipped; "" if it works."""
    variant = VARIANTS.get(run.variant)
    if variant and variant.semantics in TRUTH and kind != "scenes":
        return "these data have no true label maps"
    schooled = variant and (variant.start == "own" or run.variant == "frozen")
    schooled = schooled or run.stage in (
        "02_train_s3_tree",
        "03_train_captioner",
        "06b_semantic_fidelity",
    )
    return (
        "these data have no captions" if schooled and kind not in CAPTIONED and not run.of else ""
    )


def plan(selection: Selection, captioned: bool = True, falsifier: Selection = ()) -> list[Instance]:
    """Every run of the study, each after all that it reads; of a stage the lent ones first, the falsifier's last."""
    seen: dict[Instance, None] = {instance("00_start_here"): None}

    def visit(run: Instance) -> None:
        for before in upstream(run, selection, captioned, falsifier):
            visit(before)
        seen.setdefault(run)

    visit(instance("08_figures_and_tables"))
    visit(instance("09_explore"))
    return sorted(
        seen,
        key=lambda run: (
            run.stage,
            ("captioned", "", "random").index(run.of),
            list(seen).index(run),
        ),
    )


MEASURED = minutes.PROFILES  # profiles whose runs were measured


def expected_minutes(run: Instance, profile: str) -> float:
    """Minutes as measured (see `s3e.pipeline.minutes`), for the run card and for scheduling."""
    own = bool(run.variant) and VARIANTS[run.variant].start == "own"
    return minutes.expected(run.stage, profile, own)


def fields(run: Instance, config: Config) -> dict[str, Any]:
    """The settings that `run` reads, flat: {"loss.pixel": 100.0, ...}; a variant's own rules are among them."""
    wanted = list(STAGES[run.stage].fields)
    flat = {
        f"{section}.{name}": value
        for section, values in config.model_dump(mode="json").items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
    rules: dict[str, Any] = {}
    if run.variant:
        variant = VARIANTS[run.variant]
        wanted += ["train_tree", "train_a1", "train_a2"] * (variant.start == "own")
        wanted += ["-loss.caption"] * (not variant.caption_loss)
        wanted += ["-loss.tree", "-loss.null_weight"] * (not variant.tree_loss)
        wanted += ["-loss.distillation", "-loss.detach_semantics"] * (
            variant.semantics in (None, "noise", *TRUTH)
        )
        rules = variant.model_dump(mode="json", exclude={"description"})
    names = {
        "+": {name for name in wanted if name[0] != "-"},
        "-": {name[1:] for name in wanted if name[0] == "-"},
    }
    read = {
        key: v
        for key, v in flat.items()
        if {key, key.split(".")[0]} & names["+"] and key not in names["-"]
    }
    return {**read, **{f"variant.{key}": value for key, value in rules.items()}}
