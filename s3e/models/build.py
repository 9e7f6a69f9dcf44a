"""The only place that knows sizes: networks for a configuration, a corpus and a variant; and the rules of a variant."""

import zipfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from s3e.config import TRUTH, VARIANTS, Config, Variant
from s3e.data.corpus import Corpus
from s3e.data.download import fetch
from s3e.models.captioner import CaptionDecoder
from s3e.models.encoders import GRID, LAYERS, ConvEncoder, PerceptualLoss, ResNet, vgg_features
from s3e.models.generator import Critic, Generator
from s3e.models.nafnet import NAFNet
from s3e.models.semantics import (
    VIEWS,
    FlatSemantics,
    GlobalSemantics,
    LabelMaps,
    NoiseMaps,
    S3EDeblur,
    TreeSemantics,
)
from s3e.models.tree import NODES, S3Tree, VectorTree
from s3e.utils import RUNS, S3EError, atomic_write, file_digest, seed_everything


def variant_rules(variant: str, captioned: bool) -> Variant:
    """The rules of an arm; on data without captions (stage D) only the deblurring loss, pretrained semantics frozen."""
    arm = VARIANTS[variant]
    if captioned:
        return arm
    return arm.model_copy(
        update={"caption_loss": False, "tree_loss": False, "trained": arm.start == "scratch"}
    )


def map_channels(config: Config, corpus: Corpus, kind: str | None) -> int:
    """Channels of the embedded maps: 7 D, or one per category for the true label map."""
    if kind is None:
        return 0
    truth = {"labels": len(corpus.categories) + 1, "silhouettes": 2}
    return truth.get(kind, NODES * config.model.node_width)


def build_semantics(config: Config, corpus: Corpus, kind: str) -> nn.Module:
    """A semantic source: "tree", "vectors", "global", "flat", "noise", "labels", "silhouettes" (its attribute `kind`).

    Raises `S3EError` for the last two without label maps.
    """
    source = _semantics(config, corpus, kind)
    source.kind = kind
    return source


def _semantics(config: Config, corpus: Corpus, kind: str) -> nn.Module:
    channels = map_channels(config, corpus, kind)
    if kind in TRUTH:
        if not corpus.categories:
            raise S3EError(
                "these data have no label maps: true label maps exist for the built-in scenes only."
            )
        return LabelMaps(classes=channels)
    if kind == "noise":
        return NoiseMaps(map_channels=channels)
    encoder = build_encoder(config)
    if kind in ("tree", "vectors"):
        return TreeSemantics(
            encoder=encoder,
            tree=build_tree(config, corpus, kind),
            decoder=_decoder(
                config,
                corpus,
                config.model.node_width + encoder.channels,
                config.model.node_width,
                NODES,
            ),
        )
    source = {"global": GlobalSemantics, "flat": FlatSemantics}[kind]
    context, items = (channels, 0) if kind == "global" else (encoder.channels, encoder.channels)
    decoder = _decoder(config, corpus, context, items, GRID**2)
    return source(
        encoder=encoder, channels=encoder.channels, map_channels=channels, decoder=decoder
    )


def build_encoder(config: Config) -> ConvEncoder | ResNet:
    """The semantic encoder for the configured photo size; `S3EError` where its public weights cannot be used."""
    model, size = config.model, config.data.size
    if model.encoder == "conv":
        return ConvEncoder(size=size, widths=model.encoder_widths)
    encoder = ResNet(kind=model.encoder, size=size, channels=model.encoder_widths[-1])
    if model.encoder_weights:
        foreign = f"layer3.{LAYERS[model.encoder][2]}."  # of a deeper ResNet
        load_public(encoder, model.encoder_weights, own=("project.",), foreign=foreign)
    return encoder


def build_tree(config: Config, corpus: Corpus, kind: str = "tree") -> nn.Module:
    """The S3-tree, or the tree of vectors, with one class per label of the corpus's vocabulary."""
    return (S3Tree if kind == "tree" else VectorTree)(
        channels=config.model.encoder_widths[-1],
        width=config.model.node_width,
        entities=len(corpus.labels.entities),
        relations=len(corpus.labels.relations),
        share_sub_relations=config.model.share_sub_relations,
    )


def _decoder(
    config: Config, corpus: Corpus, context: int, item_width: int, items: int
) -> CaptionDecoder:
    model = config.model
    return CaptionDecoder(
        words=len(corpus.words), context_width=context, item_width=item_width, items=items,
        word_width=model.word_width, lstm_width=model.lstm_width, attention_width=model.attention_width,
        dropout=model.caption_dropout,
    )  # fmt: skip


def build_generator(config: Config, maps: int = 0) -> Generator | NAFNet:
    """The deblurrer; `maps` channels can be embedded (0: the backbone alone)."""
    model = config.model
    sizes = {"width": model.generator_width, "blocks": model.blocks}
    embedding = {"map_channels": maps, "embed_at": model.embed_at, "fuse": model.fuse}
    if model.backbone == "nafnet":
        return NAFNet(**sizes, **embedding)
    return Generator(**sizes, **embedding, dropout=model.dropout, upsampling=model.upsampling)


def build_critic(config: Config) -> Critic:
    """The critic for the configured width."""
    return Critic(width=config.model.critic_width)


def build_perceptual(config: Config) -> PerceptualLoss | None:
    """The perceptual loss, or None without it. `S3EError`: VGG19's file is missing or is not such a file."""
    loss = config.loss.effective
    if not loss.perceptual:
        return None
    features = vgg_features()
    # VGG16 is the same up to here
    load_public(features, loss.vgg19_weights, "features.", foreign="features.17.")
    return PerceptualLoss(features, loss.vgg_normalise)


def build_model(config: Config, corpus: Corpus, variant: str) -> S3EDeblur:
    """The whole model of one ablation arm, initialised from the configuration's seed."""
    arm = VARIANTS[variant]
    seed_everything(config.seed, "semantics")
    semantics = None if arm.semantics is None else build_semantics(config, corpus, arm.semantics)
    seed_everything(config.seed, "generator")
    generator = build_generator(config, map_channels(config, corpus, arm.semantics))
    view = arm.semantics if arm.semantics in VIEWS else arm.view
    detach = arm.detached or config.loss.detach_semantics
    return S3EDeblur(
        generator=generator, semantics=semantics, view=view, shuffled=arm.shuffled, detach=detach
    )


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights as safetensors, whole or not at all."""
    state = {
        name: value.detach().cpu().contiguous()
        for name, value in module.state_dict(keep_vars=True).items()
    }
    seen: dict[int, str] = {}
    unique = {
        name: value
        for name, value in state.items()
        if seen.setdefault(value.data_ptr(), name) == name
    }
    with atomic_write(path) as temporary:
        save_file(unique, str(temporary))


def load_weights(module: nn.Module, path: Path, ignore: tuple[str, ...] = ()) -> nn.Module:
    """Load safetensors into `module`; names that start with one of `ignore` may be missing from the file.

    Raises `S3EError` for a missing, damaged or foreign file.
    """
    try:
        state = load_file(str(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise S3EError(
            f"{path}: weights cannot be read ({error}); run the stage that makes them again."
        ) from None
    shared = _shared_names(module)
    state.update({name: state[first] for name, first in shared.items() if first in state})
    missing, unexpected = _load(module, state, path)
    missing = [name for name in missing if not name.startswith(ignore)] if ignore else missing
    if missing or unexpected:
        raise S3EError(
            f"{path}: made by another network (missing {list(missing)[:3]}, unexpected {list(unexpected)[:3]}); "
            "run its stage again."
        )
    return module


def _shared_names(module: nn.Module) -> dict[str, str]:
    seen: dict[int, str] = {}
    shared = {}
    for name, value in module.state_dict(keep_vars=True).items():
        first = seen.setdefault(id(value), name)
        if first != name:
            shared[name] = first
    return shared


def _load(module: nn.Module, state: dict, path: Path) -> tuple[list[str], list[str]]:
    try:
        result = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise S3EError(
            f"{path}: made with other sizes ({str(error).splitlines()[-1].strip()})."
        ) from None
    return result.missing_keys, result.unexpected_keys


def count_parameters(module: nn.Module | None) -> int:
    """Learned numbers of a module, frozen ones included (0 for none)."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


ADDRESS = "https://download.pytorch.org/models"
FOLDER = RUNS / "weights"
PUBLIC = {  # file: the setting that takes it
    "vgg19-dcbb9e9d.pth": "loss.vgg19_weights",
    "resnet50-0676ba61.pth": "model.encoder_weights",
    "resnet50-11ad3fa6.pth": "model.encoder_weights",
    "resnet101-63fe2227.pth": "model.encoder_weights",
    "resnet101-cd907fc2.pth": "model.encoder_weights",
}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of `python -m s3e weights download`."""
    parser.add_argument(
        "name", choices=PUBLIC, metavar="NAME", help=f"what to fetch: {', '.join(PUBLIC)}"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where to (default: runs/weights)"
    )


def execute(arguments: Namespace) -> int:
    """Fetch one file (an interrupted call goes on where it stopped), check its digest, and say how to use it."""
    name, path = arguments.name, (arguments.to or FOLDER) / arguments.name
    remedy = f"run the command again, or fetch the file with a browser and put it at {path}"
    fetch(f"{ADDRESS}/{name}", path, sha256=_published(name), remedy=remedy, archive=False)
    print(f"{path} is ready: --set {PUBLIC[name]}={path.resolve() if arguments.to else name}")
    return 0


def locate(weights: str) -> Path:
    """The file that a setting means: a path, or a public name, then looked for in `runs/weights`.

    A file under a public name has the digest that its name tells. Raises `S3EError` where it has not, or is missing.
    """
    path = Path(weights)
    if weights in PUBLIC and not path.is_file():
        path = FOLDER / weights
    if not path.is_file():
        name = weights if weights in PUBLIC else "NAME"
        known = (
            ""
            if weights in PUBLIC
            else f" (one of {', '.join(PUBLIC)}), or give the path of a file of weights"
        )
        raise S3EError(
            f"{path} does not exist: fetch it by `python -m s3e weights download {name}`{known}."
        )
    if path.name in PUBLIC:
        status = path.stat()
        found = _digest(path, status.st_size, status.st_mtime_ns)
        if not found.startswith(_published(path.name)):
            raise S3EError(
                f"{path} is damaged or another file (its SHA-256 begins with {found[:8]}): delete it, then fetch it "
                f"by `python -m s3e weights download {path.name}`."
            )
    return path


@lru_cache
def _digest(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, computed once as long as it has the same size and date."""
    return file_digest(path)


def _published(name: str) -> str:
    return Path(name).stem.rpartition("-")[2]


def read_state(path: Path, names: Iterable[str], foreign: str = "") -> dict[str, Tensor]:
    """The tensors `names` of a .pth or .safetensors file.

    Raises `S3EError` for a damaged file, one with other contents than tensors (nothing of it is run), one without a
    name, or with a name that begins with `foreign`, by which a similar network is told.
    """
    try:
        state = _read(path)
    except Exception as error:  # damaged bytes make the readers fail in every possible way
        reason = type(error).__name__
        raise S3EError(
            f"{path} is damaged, or holds more than plain weights ({reason}): give another file."
        ) from None
    missing = [name for name in names if not isinstance(state.get(name), Tensor)]
    if missing or (foreign and any(str(name).startswith(foreign) for name in state)):
        reason = f"it has no weights '{missing[0]}'" if missing else f"it has weights '{foreign}*'"
        raise S3EError(
            f"{path} belongs to another network ({reason}): give the file of the network that is set."
        )
    return {name: state[name] for name in names}


def _read(path: Path) -> dict:
    """All tensors of a file by name, left on the disk where the format allows it."""
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(state, dict):
        raise TypeError("not named tensors")
    return state


def load_public(
    module: nn.Module, weights: str, prefix: str = "", own: tuple[str, ...] = (), foreign: str = ""
) -> None:  # fmt: skip
    """Fill `module` from the file that `weights` means, where its names begin with `prefix`.

    Names of `module` that begin with one of `own` keep their values. Raises `S3EError` as `locate` and `read_state` do,
    and for other sizes.
    """
    path = locate(weights)
    wanted = {
        name: value
        for name, value in module.state_dict().items()
        if not name.startswith(own)
        and not name.endswith("num_batches_tracked")  # older files do not have them
    }
    state = read_state(path, [prefix + name for name in wanted], foreign)
    for name, value in wanted.items():
        found = state[prefix + name].shape
        if found != value.shape:
            raise S3EError(
                f"{path} belongs to another network ('{prefix}{name}' is {tuple(found)}, not {tuple(value.shape)}): "
                "give the file of the network that is set."
            )
    module.load_state_dict({name: state[prefix + name] for name in wanted}, strict=False)
