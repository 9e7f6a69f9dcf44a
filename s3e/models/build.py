"""The only place that knows sizes: networks for a configuration, a corpus and a variant; and the rules of a variant."""

from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file
from torch import nn

from s3e.config import TRUTH, VARIANTS, Config, Variant
from s3e.data.corpus import Corpus
from s3e.models.captioner import CaptionDecoder
from s3e.models.critic import Critic
from s3e.models.encoder import GRID, ConvEncoder
from s3e.models.generator import Generator
from s3e.models.nafnet import NAFNet
from s3e.models.resnet import ResNet
from s3e.models.s3e import S3EDeblur
from s3e.models.semantics import (
    VIEWS,
    FlatSemantics,
    GlobalSemantics,
    LabelMaps,
    NoiseMaps,
    TreeSemantics,
)
from s3e.models.tree import NODES, S3Tree, VectorTree
from s3e.utils import S3EError, atomic_write, seed_everything


def arm_of(variant: str, captioned: bool) -> Variant:
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
        encoder.load(model.encoder_weights)
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
