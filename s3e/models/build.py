"""The only place that knows sizes: networks for settings, data and a variant; files of weights.

No code in a file of weights is ever run: only plain tensors are read, from safetensors or from
PyTorch's own format (`weights_only`).
"""

import re
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from s3e.config import GIVEN, TRUTH, VARIANTS, Config, Variant
from s3e.data.corpus import Sizes
from s3e.models.captioner import CaptionDecoder
from s3e.models.efficientnet import EfficientNet, PretrainedEncoder, Recogniser
from s3e.models.encoders import GRID, IMAGENET, ConvEncoder, PerceptualLoss, vgg_features
from s3e.models.generator import Critic, Generator
from s3e.models.nafnet import NAFNet
from s3e.models.semantics import Given, Labels, S3EDeblur, TreelessSemantics, TreeSemantics
from s3e.models.tree import NODES, S3Tree
from s3e.utils import S3EError, atomic_write, data_file, file_digest, seed_everything

VGG19 = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
PACKAGED, PUBLIC = data_file("models/public.toml").values()  # by encoder; by `model.backbone`
PREFIX = re.compile(r"^((module|features)\.)+")  # of parallel trainings, and of VGG19
WRAPPERS = ("params_ema", "params", "state_dict")  # names of the weights in a larger file


def variant_rules(variant: str, captioned: bool) -> Variant:
    """A variant's rules; without captions only the deblurring loss, pretrained parts frozen."""
    rules = VARIANTS[variant]
    if captioned:
        return rules
    trained = rules.start == "scratch"
    return rules.model_copy(update={"caption_loss": False, "tree_loss": False, "trained": trained})


def map_channels(config: Config, sizes: Sizes, kind: str | None) -> int:
    """Channels of the embedded maps: 7 D, or one per category for the true label map."""
    others = {None: 0, "labels": sizes.categories + 1, "silhouettes": 2}
    return others.get(kind, NODES * config.model.node_width)


def build_semantics(config: Config, sizes: Sizes, kind: str) -> nn.Module:
    """A fresh semantic source of a kind (see `Variant`; its attribute `kind`), from the seed.

    Raises `S3EError` for true label maps where there are none.
    """
    seed_everything(config.seed, "semantics")
    model, maps = config.model, map_channels(config, sizes, kind)
    if kind in TRUTH and not sizes.categories:
        raise S3EError(
            "these data have no label maps: true label maps exist for the built-in scenes only."
        )
    if kind == "caption":
        return Labels(width=model.node_width, counts=(sizes.entities, sizes.relations))
    if kind in GIVEN:
        return Given(kind=kind, map_channels=maps)
    size, widths = config.data.size, model.encoder_widths
    if model.encoder == "conv":
        encoder = ConvEncoder(size=size, widths=widths)
    else:
        backbone = pretrained(EfficientNet, model.encoder)
        encoder = PretrainedEncoder(size=size, channels=widths[-1], backbone=backbone)
    nodes, cells, tree = model.node_width, encoder.channels, None
    if kind in ("tree", "vectors"):
        tree = S3Tree(
            channels=cells, width=nodes, entities=sizes.entities, relations=sizes.relations,
            spatial=kind == "tree"
        )  # fmt: skip
    over_nodes = nodes + cells, nodes, NODES
    context, item_width, items = {  # widths of what starts the decoder and of what it attends
        "tree": over_nodes, "vectors": over_nodes, "flat": (cells, cells, GRID**2),
        "global": (maps, 0, 0)
    }[kind]  # fmt: skip
    decoder = CaptionDecoder(
        words=sizes.words, context_width=context, item_width=item_width, items=items,
        word_width=model.word_width, lstm_width=model.lstm_width,
        attention_width=model.attention_width, dropout=model.caption_dropout
    )  # fmt: skip
    if tree:
        source = TreeSemantics(encoder=encoder, tree=tree, decoder=decoder)
    else:
        parts = {"encoder": encoder, "map_channels": maps, "decoder": decoder}
        source = TreelessSemantics(**parts, spatial=kind == "flat")
    source.kind = kind
    return source


def build_generator(config: Config, maps: int) -> Generator | NAFNet:
    """A fresh deblurrer from the seed; `maps` channels can be embedded (0: the backbone alone)."""
    seed_everything(config.seed, "generator")
    model = config.model
    parts = {"width": model.generator_width, "map_channels": maps}
    parts |= model.model_dump(include={"blocks", "embed_at", "fuse"})
    if model.backbone == "nafnet":
        return NAFNet(**parts)
    return Generator(**parts, dropout=model.dropout)


def build_deblurrer(config: Config) -> S3EDeblur:
    """The deblurrer alone (`baseline`), with the public weights `model.pretrained`, if given.

    Raises `S3EError` for a file that is missing, of another network or of other settings.
    """
    generator, model, needed = build_generator(config, 0), config.model, {}
    if model.pretrained:
        source = PUBLIC[model.backbone]["file"]
        path = locate(model.pretrained, source)
        state = _read(path)
        for backbone, rules in PUBLIC.items():
            own = [state[name].numel() for name in state if re.fullmatch(rules["block"], name)]
            if own:
                width = own[0] // rules["times"]
                needed = {"backbone": backbone, "generator_width": width, "blocks": len(own)}
        if needed != model.model_dump(include={"backbone", "generator_width", "blocks"}):
            words = "".join(f" model.{name}={value}" for name, value in needed.items())
            remedy = f"--set{words}" if words else f"give {source}"
            raise S3EError(f"{path} holds another network than is set: {remedy}.")
        for pattern, ours in PUBLIC[model.backbone]["names"].items():
            pattern = pattern.format(*range(model.blocks, model.blocks + 18))
            state = {re.sub(pattern, ours, name): value for name, value in state.items()}
        state.pop("", None)
        _fill(generator, state, path, f"give {source}")
    return S3EDeblur(generator=generator, semantics=None, rules=VARIANTS["baseline"])


def build_critic(config: Config) -> Critic:
    """The critic for the configured width and noise."""
    return Critic(width=config.model.critic_width, noise=config.loss.critic_noise)


def build_perceptual(config: Config) -> PerceptualLoss | None:
    """The perceptual loss, or None without it; `S3EError` for files of weights that do not fit."""
    loss = config.loss
    if not loss.perceptual:
        return None
    if not loss.vgg19_weights:
        return PerceptualLoss(pretrained(EfficientNet, "efficientnet_lite0").eval(), [0.5], [0.5])
    features, path = vgg_features(), locate(loss.vgg19_weights, VGG19)
    state = _read(path)
    if "17.weight" in state:  # VGG16, which is the same up to here
        raise S3EError(f"{path} belongs to another network: give the file of VGG19, {VGG19}.")
    wanted = {name: state[name] for name in features.state_dict() if name in state}
    return PerceptualLoss(_fill(features, wanted, path), *IMAGENET)


@cache
def build_recogniser() -> Recogniser:
    """The network that judges what images show; no part of any variant. Errors: `pretrained`."""
    return pretrained(Recogniser, "efficientnet_lite2").eval().requires_grad_(False)


def pretrained(kind: type[EfficientNet], name: str) -> EfficientNet:
    """A network of `kind` with the ImageNet weights of an installed package (`public.toml`).

    Raises `S3EError` if that is missing, or its file is not the known one.
    """
    known = PACKAGED[name]
    network, package = kind(**known["sizes"]), find_spec(known["module"])
    path = Path(package.origin).with_name("models") / known["file"] if package else Path("")
    if not path.is_file() or file_digest(path) != known["sha256"]:
        raise S3EError(
            f"{known['file']} is not installed, damaged or of another version:"
            f" pip install --force-reinstall {known['package']}."
        )
    state = zip(network.state_dict(), _read(path).values(), strict=False)  # the same order
    return _fill(network, dict(state), path)


def build_model(config: Config, sizes: Sizes, variant: str) -> S3EDeblur:
    """The whole model of one variant, initialised from the configuration's seed."""
    rules = VARIANTS[variant]
    semantics = None if rules.kind is None else build_semantics(config, sizes, rules.kind)
    generator = build_generator(config, map_channels(config, sizes, rules.kind))
    return S3EDeblur(generator=generator, semantics=semantics, rules=rules)


def count_parameters(module: nn.Module | None) -> int:
    """Learned numbers of a module, frozen ones included (0 for none)."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights as safetensors, whole or not at all."""
    state = {name: value.cpu().contiguous() for name, value in module.state_dict().items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state))


def load_weights(module: nn.Module, path: Path, ignore: tuple[str, ...] = ()) -> nn.Module:
    """Load safetensors into `module`; names that begin like one of `ignore` may be missing there.

    Raises `S3EError` for a missing, damaged or foreign file.
    """
    kept = {n: value for n, value in module.state_dict().items() if n.startswith(ignore)}
    return _fill(module, kept | _read(path), path)


def _fill(
    module: nn.Module, state: dict[str, Tensor], path: Path,
    remedy: str = "run its stage again, or give the file of the network that is set"
) -> nn.Module:  # fmt: skip
    for name, value in module.state_dict().items():  # 1x1 convolutions may be linear layers here
        if name in state and state[name].dim() > value.dim():
            state[name] = state[name].squeeze()
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[1].strip()[:200]
        raise S3EError(f"{path} was made by another network ({why}): {remedy}.") from None
    return module


def locate(weights: str, source: str) -> Path:
    """The file of weights that a setting means; `S3EError` with its `source` if it is missing."""
    path = Path(weights)
    if not path.is_file():
        raise S3EError(f"{path} is no file: fetch {source} and give the path of that file.")
    return path


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, left on the disk where the format allows it.

    Those inside one of `WRAPPERS` where there is such; without `PREFIX`.
    """
    try:
        if path.suffix == ".safetensors":
            state = load(path.read_bytes())  # it takes no path outside UTF-8
        else:
            mapped = zipfile.is_zipfile(path)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        state = next((state[name] for name in WRAPPERS if name in state), state)
        items = state.items()
        return {PREFIX.sub("", name): value for name, value in items if isinstance(value, Tensor)}
    except Exception as error:  # damaged bytes make the readers fail in every possible way
        raise S3EError(
            f"{path} cannot be read as plain weights ({type(error).__name__}): run the stage that"
            " makes it again, or give another file."
        ) from None
