"""The one config model: sections, profiles, ablation variants. Unknown names are refused.

Order of overrides: defaults <- profile <- `--set section.name=value` <- seed. `load_config` is the
only way in.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from s3e.utils import S3EError, data_file

Width = Annotated[int, Field(ge=4)]  # channels
Dropout = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen group of settings; a name that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    def broken_rules(self) -> Iterator[str]:
        """What is wrong with the settings together, each of which is right by itself."""
        yield from ()

    @model_validator(mode="after")
    def _obey(self) -> Self:
        for sentence in self.broken_rules():
            raise ValueError(sentence)
        return self


class Data(Section):
    """What is read. `source`: "scenes" or a data folder, of which 0 photos mean all.

    See `s3e.data.annotations`. `kind`: "photos" reads no captions or pairs, "" finds out what
    is there. `subset` and `whole_frames` concern pairs: which blurred frames, and test frames in
    full or as central crops.
    """

    source: str = "scenes"
    kind: Literal["", "photos"] = ""
    subset: str = "blur"
    whole_frames: bool = False
    skip_broken: bool = False
    size: Literal[32, 64, 128, 256] = 64
    train: NonNegativeInt = 3000
    val: NonNegativeInt = 200
    test: NonNegativeInt = 200
    texture: Literal["category", "random"] = "category"
    seed: int = 0

    def broken_rules(self) -> Iterator[str]:
        if {self.train, self.val, self.test} & ({0, 1} if self.source == "scenes" else {1}):
            counts = "data.train, data.val and data.test"
            yield f"{counts} must be at least 2 (of a data folder, 0 is all)"


class Blur(Section):
    """The severity of training; validation and test have all (specification 3.8, 4.3).

    Photos: light, moderate or severe. Pairs: released, or severe = the mean of `frames` neighbours
    of the released blurred frames (specification 4.3, variant B).
    """

    severity: Literal["light", "moderate", "severe", "released"] = "severe"
    frames: Literal[3, 5] = 3
    seed: int = 0
    gamma: float = Field(1.0, ge=1, le=3)  # 2.2: blurred in linear light
    noise: float = Field(0.0, ge=0, le=0.5)


class Text(Section):
    """Vocabulary rules (specification 4.1, 6.2): what is rarer than its count is unknown."""

    max_words: int = Field(16, ge=4)
    min_count: PositiveInt = 1
    entities: int = Field(800, ge=2)
    relations: int = Field(250, ge=2)
    label_min_count: PositiveInt = 1


class Model(Section):
    """Kinds and sizes of all networks; the defaults are the preset `tiny` (specification 6.8).

    `backbone`: DeblurGAN's generator, or NAFNet's body, a modern one (`blocks` then counts those of
    its deepest encoder stage; `dropout` concerns DeblurGAN alone). `pretrained`: the path of a file
    of public weights that stage B starts from, and that is scored as it is; "": none. `encoder`: of
    the semantics, "conv" from scratch or with ImageNet weights (then only the last of
    `encoder_widths` counts); lite2 is the judge's, since metrics rest on it.
    """

    backbone: Literal["deblurgan", "nafnet"] = "deblurgan"
    pretrained: str = ""
    generator_width: Width = 16
    blocks: PositiveInt = 4
    dropout: Dropout = 0.5
    embed_at: list[int] = [0]
    fuse: Literal["concat", "sft"] = "sft"
    critic_width: Width = 16
    encoder: Literal["conv", "efficientnet_lite0", "efficientnet_lite2"] = "conv"
    encoder_widths: list[int] = Field([32, 64, 64, 64, 64], min_length=5, max_length=5)
    node_width: Width = 32
    word_width: Width = 96
    lstm_width: Width = 128
    attention_width: Width = 64
    caption_dropout: Dropout = 0.3

    def broken_rules(self) -> Iterator[str]:
        if not all(0 <= place < self.blocks for place in self.embed_at):
            yield f"model.embed_at must name residual blocks, 0 to {self.blocks - 1}"


class Loss(Section):
    """Weights of L_total = adversarial + perceptual + pixel + caption + tree (specification 6.6).

    `critic_rate`: the critic's learning rate over the generator's. `critic_noise`: the standard
    deviation of noise on all images that the critic trains on. `vgg19_weights`: the path of that
    public file; "" takes features of EfficientNet-Lite0.
    """

    gan: Literal["wgan-gp", "lsgan"] = "lsgan"
    adversarial: NonNegativeFloat = 1.0
    gradient_penalty: NonNegativeFloat = 10.0
    critic_steps: PositiveInt = 1
    critic_rate: PositiveFloat = 1.0
    critic_noise: NonNegativeFloat = 0.0
    perceptual: NonNegativeFloat = 0.0
    vgg19_weights: str = ""
    pixel: NonNegativeFloat = 100.0
    caption: NonNegativeFloat = 0.1
    tree: NonNegativeFloat = 0.1
    null_weight: NonNegativeFloat = 0.1

    def broken_rules(self) -> Iterator[str]:
        if not (self.pixel or self.adversarial or self.perceptual):
            weights = "loss.pixel, loss.adversarial and loss.perceptual"
            yield f"{weights} are all 0: the generator would learn nothing"


class Training(Section):
    """One training: steps, images a step, learning rates and how they fall.

    `clip` limits single gradients, `clip_norm` the norm of all of a network's. Every
    `validate_every` steps (0: never) a part of validation is scored.
    """

    steps: PositiveInt
    batch: int = Field(16, ge=2)
    learning_rate: PositiveFloat = 1e-3
    semantics_learning_rate: NonNegativeFloat = 1e-4
    schedule: Literal["constant", "linear", "half_linear", "cosine"] = "linear"
    sharp_share: float = Field(0.0, ge=0, le=1)
    clip: NonNegativeFloat = 0.0
    clip_norm: NonNegativeFloat = 0.0
    validate_every: NonNegativeInt = 0


class Evaluation(Section):
    """Decoding and statistics."""

    beam: PositiveInt = 3
    batch: int = Field(50, ge=3)
    resamples: int = Field(2000, ge=100)
    samples: int = Field(8, ge=2)


class Runtime(Section):
    """Where, how precisely and how often.

    `devices`: processes that share one training, each with a part of every batch, on a GPU of its
    own or on the CPU. `precision`: 32 bits; bf16 (autocast; the gradient penalty stays in 32); 64
    for tests. `save_every` never changes what is computed; the rest may, in the last digits.
    """

    threads: PositiveInt = 1
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    devices: PositiveInt = 1
    precision: Literal["32", "bf16", "64"] = "32"
    save_every: PositiveInt = 100
    log_every: PositiveInt = 20

    def broken_rules(self) -> Iterator[str]:
        if self.save_every % self.log_every:
            multiple = "runtime.save_every must be a multiple of runtime.log_every"
            yield f"{multiple}, so that no log row is lost"


class Config(Section):
    """Everything a run depends on.

    `one_seed`: variants of the study that are trained with its first seed only. `semantics_from`:
    for data without captions, the store of a finished study that has some (runs/NAME), whose
    vocabulary, tree and captioner they use. `figures`: the folder below `figures/` for its results
    ("": named after profile and data). `pictures`: whose photos figures show, those of the "data",
    or "public" ones for data that may not be published (see `s3e.report.sheets`).
    """

    profile: str
    seed: NonNegativeInt = 0
    seeds: list[NonNegativeInt] = Field([0], min_length=1)
    one_seed: list[str] = []
    semantics_from: str = ""
    figures: str = Field("", pattern=r"^[\w.@-]*$")
    pictures: Literal["data", "public"] = "data"
    variants: list[str] = Field(
        ["baseline", "full", "oracle_map", "shuffled", "no_semantics_loss"], min_length=1
    )
    data: Data = Data()
    blur: Blur = Blur()
    text: Text = Text()
    model: Model = Model()
    loss: Loss = Loss()
    train_tree: Training = Training(steps=300, batch=32, learning_rate=2e-3, schedule="constant")
    train_a1: Training = Training(steps=250, batch=32, learning_rate=4e-3)
    train_a2: Training = Training(steps=450, batch=32, learning_rate=3e-3, sharp_share=0.5)
    train_b: Training = Training(steps=800, batch=16, learning_rate=1e-3, schedule="constant")
    train_c: Training = Training(
        steps=600, batch=16, learning_rate=1e-3, semantics_learning_rate=1e-3
    )
    evaluation: Evaluation = Evaluation()
    runtime: Runtime = Runtime()

    def broken_rules(self) -> Iterator[str]:
        if self.data.source == "scenes" and self.blur.severity == "released":
            yield "blur.severity = 'released' does not fit scenes: choose severe"
        parts = f"runtime.devices = {self.runtime.devices} equal parts"
        for name, section in self:
            if isinstance(section, Training) and section.batch % self.runtime.devices:
                yield f"{name}.batch = {section.batch} cannot be cut into {parts}"

    def about_weights(self) -> list[str]:
        """What public weights have a part in the training; every output says so."""
        public, encoder = Path(self.model.pretrained).name, self.model.encoder
        features = "VGG19" if self.loss.vgg19_weights else "EfficientNet-Lite0"
        notes = {
            f"perceptual loss by features of {features}": self.loss.perceptual,
            f"the encoder starts from ImageNet weights, {encoder}": encoder != "conv",
            f"the deblurrer starts from public weights, {public}": public,
        }
        return [note for note, holds in notes.items() if holds]


TRUTH = ("labels", "silhouettes")  # kinds of maps that are the true ones, of scenes alone
GIVEN = ("caption", *TRUTH)  # kinds that look at no image


class Variant(Section):
    """The rules of one variant of the ablation (specification 6.9, table 4).

    `kind`: of the semantic source whose maps are embedded (None: the deblurrer alone); `start`:
    whose A weights it begins from ("shared": notebooks 02-03, "own": trained by the run itself,
    "scratch": none); `view`: which photo it reads; losses apply from A1 on, and without both the
    source is co-trained by the deblurring loss alone; `trained`: False freezes it in co-training;
    `detached`: the deblurring loss does not reach it (so that an oracle cannot pass on pixels).
    """

    description: str
    kind: Literal["tree", "vectors", "global", "flat", *GIVEN] | None = "tree"
    start: Literal["shared", "own", "scratch"] = "shared"
    view: Literal["blurred", "sharp"] = "blurred"
    caption_loss: bool = True
    tree_loss: bool = True
    trained: bool = True
    shuffled: bool = False
    detached: bool = False

    def broken_rules(self) -> Iterator[str]:
        if self.tree_loss and self.kind not in ("tree", "vectors"):
            yield f"kind {self.kind} has no tree: set tree_loss: false"
        if self.caption_loss and self.kind in (None, *GIVEN):
            yield f"kind {self.kind} has no captioner: set caption_loss: false"
        if self.start == "shared" and self.kind != "tree":
            yield f"the shared start is of kind tree, not {self.kind}: set start: own"


def _explain(item: Any, model: type[Section]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "value_error":  # a rule of ours over several settings
        return item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        for section in item["loc"][:-1]:
            model = model.model_fields[section].annotation
        return f"unknown setting '{name}'; known there: {', '.join(model.model_fields)}"
    return f"setting '{name}' = {item['input']!r}: {item['msg'].lower()}"


_FILE = data_file("profiles.yaml")
PROFILES: dict[str, dict[str, Any]] = _FILE["profiles"]
VARIANTS: dict[str, Variant] = {}
for _name, _rules in _FILE["variants"].items():
    try:
        VARIANTS[_name] = Variant(**_rules)
    except ValidationError as _error:
        _wrong = _explain(_error.errors()[0], Variant)
        raise S3EError(f"profiles.yaml: variant {_name}: {_wrong}.") from None


def load_config(
    profile: str, data: str = "scenes", seed: int = 0, overrides: dict[str, Any] | None = None
) -> Config:
    """Resolve a profile.

    `data`: "scenes" or a data folder. `overrides`: flat, e.g. `{"loss.caption": 0.5}`.
    Raises `S3EError` that names the profile, field or folder that is wrong.
    """
    if profile not in PROFILES:
        raise S3EError(f"unknown profile '{profile}'; known: {', '.join(PROFILES)}.")
    overrides = overrides or {}
    if not isinstance(overrides, dict):
        example = "a dictionary such as {'loss.caption': 0.5}"
        raise S3EError(f"overrides must be {example}, not {overrides!r}.")
    tree = Config(profile=profile).model_dump() | {"seed": seed}
    for name, value in PROFILES[profile].items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    if data == "scenes" and not tree["data"]["source"]:
        raise S3EError(
            f"the profile '{profile}' needs photographs: add --data FOLDER (docs/data.md)."
        )
    if data != "scenes":
        if not Path(data).is_dir():
            raise S3EError(
                f"--data {data}: no such folder; give a data folder (docs/data.md), or 'scenes'."
            )
        tree["data"]["source"] = str(Path(data).resolve())
    for name, value in overrides.items():
        _put(tree, name, value)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        wrong = "; ".join(_explain(item, Config) for item in error.errors())
        raise S3EError(f"{wrong}.") from None
    if unknown := [name for name in [*config.variants, *config.one_seed] if name not in VARIANTS]:
        raise S3EError(f"unknown variant '{unknown[0]}'; known: {', '.join(VARIANTS)}.")
    return config


def parse_setting(text: str) -> tuple[str, Any]:
    """Split "loss.caption=0.5" into ("loss.caption", 0.5); values are JSON, or else plain words."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise S3EError(f"--set {text}: write it as section.name=value, e.g. loss.caption=0.5.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# Settings that have parameters of their own
FIXED = {"profile": "--profile", "seed": "--seeds", "data.source": "--data"}


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    if name in FIXED:
        raise S3EError(
            f"setting '{name}' cannot be overridden: use {FIXED[name]} (or the notebook's"
            " parameter)."
        )
    section, _, field = name.rpartition(".")
    group = tree.setdefault(section, {}) if section else tree
    if not isinstance(group, dict):
        raise S3EError(f"setting '{name}': '{section}' is no section.")
    group[field] = value
