"""The only place that knows sizes: networks for a configuration, a corpus and a variant; and files
of weights.

No code in a file of weights is ever run: only plain tensors are read, from safetensors or from
PyTorch's own format (`weights_only`). VGG19's public file has torchvision's name and address; the
eight hexadecimal digits of the name are the first of the file's SHA-256.
"""

import zipfile
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from s3e.config import TRUTH, VARIANTS, Config, Variant
from s3e.data.corpus import Corpus
from s3e.data.download import fetch
from s3e.models.captioner import CaptionDecoder
from s3e.models.encoders import GRID, ConvEncoder, PerceptualLoss, vgg_features
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

ADDRESS = "https://download.pytorch.org/models"
FOLDER = RUNS / "weights"
PUBLIC = {  # file: the setting that takes it
    "vgg19-dcbb9e9d.pth": "loss.vgg19_weights",
}


def variant_rules(variant: str, captioned: bool) -> Variant:
    """The rules of a variant; on data without captions only the deblurring loss, pretrained
    semantics frozen.
    """
    rules = VARIANTS[variant]
    if captioned:
        return rules
    trained = rules.start == "scratch"
    return rules.model_copy(update={"caption_loss": False, "tree_loss": False, "trained": trained})


def map_channels(config: Config, corpus: Corpus, kind: str | None) -> int:
    """Channels of the embedded maps: 7 D, or one per category for the true label map."""
    if kind is None:
        return 0
    truth = {"labels": len(corpus.categories) + 1, "silhouettes": 2}
    return truth.get(kind, NODES * config.model.node_width)


def build_semantics(config: Config, corpus: Corpus, kind: str) -> nn.Module:
    """A semantic source: "tree", "vectors", "global", "flat", "noise", "labels", "silhouettes" (its
    attribute `kind`).

    Raises `S3EError` for the last two without label maps.
    """
    channels, node_width = map_channels(config, corpus, kind), config.model.node_width
    if kind in TRUTH and not corpus.categories:
        raise S3EError(
            "these data have no label maps: true label maps exist for the built-in scenes only."
        )
    if kind in TRUTH:
        source = LabelMaps(classes=channels)
    elif kind == "noise":
        source = NoiseMaps(map_channels=channels)
    else:
        encoder = ConvEncoder(size=config.data.size, widths=config.model.encoder_widths)
        width = encoder.channels
        if kind in ("tree", "vectors"):
            tree = build_tree(config, corpus, kind)
            decoder = _decoder(config, corpus, node_width + width, node_width, NODES)
            source = TreeSemantics(encoder=encoder, tree=tree, decoder=decoder)
        elif kind == "global":
            decoder = _decoder(config, corpus, channels, 0, 0)
            source = GlobalSemantics(encoder=encoder, map_channels=channels, decoder=decoder)
        else:
            decoder = _decoder(config, corpus, width, width, GRID**2)
            source = FlatSemantics(encoder=encoder, map_channels=channels, decoder=decoder)
    source.kind = kind
    return source


def build_tree(config: Config, corpus: Corpus, kind: str = "tree") -> S3Tree | VectorTree:
    """The S3-tree, or the tree of vectors, with one class per label of the corpus's vocabulary."""
    return (S3Tree if kind == "tree" else VectorTree)(
        channels=config.model.encoder_widths[-1],
        width=config.model.node_width,
        entities=len(corpus.labels.entities),
        relations=len(corpus.labels.relations),
    )


def _decoder(
    config: Config, corpus: Corpus, context: int, item_width: int, items: int
) -> CaptionDecoder:
    model = config.model
    return CaptionDecoder(
        words=len(corpus.words),
        context_width=context,
        item_width=item_width,
        items=items,
        word_width=model.word_width,
        lstm_width=model.lstm_width,
        attention_width=model.attention_width,
        dropout=model.caption_dropout,
    )


def build_generator(config: Config, maps: int = 0) -> Generator | NAFNet:
    """The deblurrer; `maps` channels can be embedded (0: the backbone alone)."""
    model = config.model
    sizes = {"width": model.generator_width, "blocks": model.blocks}
    embedding = {"map_channels": maps, "embed_at": model.embed_at, "fuse": model.fuse}
    if model.backbone == "nafnet":
        return NAFNet(**sizes, **embedding)
    return Generator(**sizes, **embedding, dropout=model.dropout)


def build_critic(config: Config) -> Critic:
    """The critic for the configured width."""
    return Critic(width=config.model.critic_width)


def build_perceptual(config: Config) -> PerceptualLoss | None:
    """The perceptual loss, or None without it. `S3EError`: VGG19's file is missing or is not such a
    file.
    """
    loss = config.loss.effective
    if not loss.perceptual:
        return None
    features = vgg_features()
    # VGG16 is the same up to here
    load_public(features, loss.vgg19_weights, "features.", foreign="features.17.")
    return PerceptualLoss(features)


def build_model(config: Config, corpus: Corpus, variant: str) -> S3EDeblur:
    """The whole model of one variant, initialised from the configuration's seed."""
    rules = VARIANTS[variant]
    kind = rules.semantics
    seed_everything(config.seed, "semantics")
    semantics = None if kind is None else build_semantics(config, corpus, kind)
    seed_everything(config.seed, "generator")
    return S3EDeblur(
        generator=build_generator(config, map_channels(config, corpus, kind)),
        semantics=semantics,
        view=kind if kind in VIEWS else rules.view,
        shuffled=rules.shuffled,
        detach=rules.detached,
    )


def count_parameters(module: nn.Module | None) -> int:
    """Learned numbers of a module, frozen ones included (0 for none)."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights as safetensors, whole or not at all."""
    state = {name: value.cpu().contiguous() for name, value in module.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, str(temporary))


def load_weights(module: nn.Module, path: Path, ignore: tuple[str, ...] = ()) -> nn.Module:
    """Load safetensors into `module`; names that start with one of `ignore` may be missing from the
    file.

    Raises `S3EError` for a missing, damaged or foreign file.
    """
    try:
        missing, unexpected = module.load_state_dict(load_file(path), strict=False)
    except (OSError, safetensors.SafetensorError) as error:
        raise S3EError(
            f"{path}: weights cannot be read ({error}); run the stage that makes them again."
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise S3EError(f"{path}: made with other sizes ({reason}).") from None
    missing = [name for name in missing if not name.startswith(ignore)]
    if missing or unexpected:
        raise S3EError(
            f"{path}: made by another network (missing {missing[:3]}, unexpected {unexpected[:3]});"
            " run its stage again."
        )
    return module


def download_weights(name: str, to: Path | None = None) -> int:
    """Fetch one of `PUBLIC` into a folder (an interrupted call resumes), check it, print how to use
    it; returns 0.
    """
    path = (to or FOLDER) / name
    remedy = f"run the command again, or fetch the file with a browser and put it at {path}"
    fetch(f"{ADDRESS}/{name}", path, sha256=path.stem[-8:], remedy=remedy, archive=False)
    print(f"{path} is ready: --set {PUBLIC[name]}={path.resolve() if to else name}")
    return 0


def locate(weights: str) -> Path:
    """The file that a setting means: a path, or a public name, then looked for in `runs/weights`.

    A file under a public name has the digest that its name promises. Raises `S3EError` where it has
    not, or is missing.
    """
    path = Path(weights)
    public = weights in PUBLIC
    if public and not path.is_file():
        path = FOLDER / weights
    if not path.is_file():
        names = f" (one of {', '.join(PUBLIC)}), or give the path of a file of weights"
        raise S3EError(
            f"{path} does not exist: fetch it by `python -m s3e weights download "
            f"{weights if public else 'NAME'}`{'' if public else names}."
        )
    if path.name in PUBLIC:
        found = file_digest(path)
        if not found.startswith(path.stem[-8:]):
            raise S3EError(
                f"{path} is damaged or another file (its SHA-256 begins with {found[:8]}): delete"
                f" it, then fetch it by `python -m s3e weights download {path.name}`."
            )
    return path


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, left on the disk where the format allows it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # damaged bytes make the readers fail in every possible way
        reason = type(error).__name__
        raise S3EError(
            f"{path} is damaged, or holds more than plain weights ({reason}): give another file."
        ) from None


def load_public(module: nn.Module, weights: str, prefix: str = "", foreign: str = "") -> None:
    """Fill `module` from the file that `weights` means, where its names begin with `prefix`.

    Raises `S3EError` as `locate` does, and for a file that is damaged, holds more than plain
    tensors (nothing of it is run) or belongs to another network: one that lacks a name, has another
    size, or has a name that begins with `foreign`.
    """
    path, fault = locate(weights), ""
    state = _read(path)
    wanted = {name: state.get(prefix + name) for name in module.state_dict()}
    for name, value in module.state_dict().items():
        if wanted[name] is None:
            fault = fault or f"it has no weights '{prefix}{name}'"
        elif wanted[name].shape != value.shape:
            shapes = f"{tuple(wanted[name].shape)}, not {tuple(value.shape)}"
            fault = fault or f"'{prefix}{name}' is {shapes}"
    if foreign and any(name.startswith(foreign) for name in state):
        fault = f"it has weights '{foreign}*'"
    if fault:
        raise S3EError(
            f"{path} belongs to another network ({fault}): give the file of the network that is"
            " set."
        )
    module.load_state_dict(wanted)
