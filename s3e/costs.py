"""What networks and trainings cost, found without training: shapes alone run through them.

Everything here works on PyTorch's fake tensors, which have a shape, a type and a size in bytes but no values: a network
of any size takes seconds and hardly any memory. Multiply-adds are those of convolutions and matrix products, half of
the operations that `torch.utils.flop_counter` knows of; normalisation and the like are left out.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from s3e.config import TRAININGS, Config, Loss
from s3e.data.corpus import Batch, Corpus
from s3e.models.build import (
    build_critic,
    build_generator,
    build_model,
    count_parameters,
    variant_rules,
)
from s3e.models.encoders import vgg_features
from s3e.models.semantics import S3EDeblur, Semantics
from s3e.models.tree import NODES, TreeOutput
from s3e.training.losses import caption_loss, critic_loss, generator_adversarial, tree_loss

DEBLURRING = ("train_b", "train_c")


class Meter(TorchDispatchMode):
    """Within it: `macs`, the multiply-adds so far, and `peak`, the most bytes that tensors held at one moment.

    Tensors `held` from the start count in `peak`. The library's `FlopCounterMode` has the same numbers, but follows
    modules by hooks with which a gradient penalty (`torch.autograd.grad`) does not run.
    """

    def __init__(self, held: Iterable[Tensor] = ()):
        super().__init__()
        self._operations, self._bytes, self._known = 0, 0, set()
        self.peak = 0
        for tensor in held:
            self._hold(tensor)

    @property
    def macs(self) -> int:
        return self._operations // 2

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        operations = flop_registry.get(function._overloadpacket)
        if operations:
            self._operations += operations(*args, **(kwargs or {}), out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        """Count a tensor's memory, unless another tensor has the same, until it is freed."""
        storage = tensor.untyped_storage()
        name, size = storage._cdata, storage.nbytes()
        if name not in self._known:
            self._known.add(name)
            self._bytes += size
            self.peak = max(self.peak, self._bytes)
            weakref.finalize(storage, self._free, name, size)

    def _free(self, name: int, size: int) -> None:
        self._known.discard(name)
        self._bytes -= size


@dataclass(frozen=True)
class NetworkCost:
    """A network: learned numbers; multiply-adds and shape of the result of one forward pass of one photo.

    The shape is C x H x W, words spoken x words known for the decoder, and what is embedded for the embedding.
    """

    name: str
    parameters: int
    macs: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TrainingCost:
    """One training (a section of the configuration), in multiply-adds and bytes.

    `macs`: of an update, that is of its whole batch, forward and backward, on all devices. On one device: `states`, the
    weights with Adam's two moments and the averaged weights; `memory`, the states and all other tensors of an update at
    the moment when they are largest (gradients, activations, photos).
    """

    name: str
    macs: int
    states: int
    memory: int


@contextmanager
def _shapes_only(config: Config) -> Iterator[None]:
    """Within it tensors have no values; their types are those of `runtime.precision`."""
    usual, precision = torch.get_default_dtype(), config.runtime.precision
    torch.set_default_dtype(torch.float64 if precision == "64" else usual)
    try:
        with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.set_default_dtype(usual)


def _without_files(config: Config) -> Config:
    """The same settings without files of weights: their values do not matter here."""
    return config.model_copy(
        update={"model": config.model.model_copy(update={"encoder_weights": ""})}
    )


def _batch(count: int, config: Config) -> Batch:
    """A batch of the right shapes; captions are as long as `text.max_words` allows."""
    photos, nodes = (
        torch.zeros(count, 3, config.data.size, config.data.size),
        torch.zeros(count, NODES).long(),
    )
    words = torch.zeros(
        count, config.text.max_words + 2
    ).long()  # with its signs of beginning and end
    return Batch([""] * count, photos, photos.clone(), words, nodes, None)


def network_costs(config: Config, corpus: Corpus) -> list[NetworkCost]:
    """The networks of S3E-Deblur (the arm `full`), and VGG19's features where a loss uses them.

    `corpus`: anything with the vocabularies of a `Corpus` (`words`, `labels`, `categories`).
    """
    with _shapes_only(config):
        model, batch = build_model(_without_files(config), corpus, "full").eval(), _batch(1, config)
        source, semantics = model.semantics, model.read(batch)
        alone = _forward("generator", build_generator(config), batch.sharp)
        rows = [alone, _forward("critic", build_critic(config), batch.sharp)]
        rows += [
            _forward("encoder", source.encoder, batch.sharp),
            _forward("tree", source.tree, semantics.features),
        ]
        read = (batch.words, semantics.context, semantics.items)
        rows.append(_forward("decoder", source.decoder, *read, length=batch.words.shape[1]))
        if config.loss.effective.perceptual:
            rows.append(_forward("VGG19", vgg_features(), batch.sharp))
        whole = _forward("", model.generator, batch.sharp, semantics.maps)
    parameters, macs = whole.parameters - alone.parameters, whole.macs - alone.macs
    embedding = NetworkCost("embedding", parameters, macs, tuple(semantics.maps.shape[1:]))
    return [*rows, embedding] if model.generator.embed else rows


def _forward(name: str, network: nn.Module, *inputs: Tensor, **options: int) -> NetworkCost:
    with Meter() as meter:
        result = network.eval()(*inputs, **options)
    result = result.maps if isinstance(result, TreeOutput) else result
    return NetworkCost(name, count_parameters(network), meter.macs, tuple(result.shape[1:]))


def training_costs(config: Config, corpus: Corpus) -> list[TrainingCost]:
    """Every training of S3E-Deblur (the arm `full`); those of semantics alone only where `corpus` is `captioned`."""
    return [
        training_cost(name, config, corpus)
        for name in (TRAININGS if corpus.captioned else DEBLURRING)
    ]


def training_cost(name: str, config: Config, corpus: Corpus) -> TrainingCost:
    """One update of the training `name` (a section of the configuration), run on shapes."""
    with _shapes_only(config):
        return _training(name, _without_files(config), corpus)


def _training(name: str, config: Config, corpus: Corpus) -> TrainingCost:
    settings, loss = getattr(config, name), config.loss.effective
    parts = settings.accumulate * config.runtime.devices
    batch, modules = _batch(settings.batch // parts, config), _modules(name, config, corpus)
    held = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    trained = [tensor for tensor in held if tensor.requires_grad]
    with Meter([*held, batch.sharp, batch.blurred]) as meter:
        if name in DEBLURRING:
            _update_deblurrer(
                *modules, loss=loss, batch=batch, stage=name, cut=settings.accumulate > 1
            )
        else:
            _semantic_loss(modules[0](batch.blurred), modules[0], loss, batch, name).backward()
    adam = 2 * sum(tensor.nbytes for tensor in trained)
    averaged = (
        sum(tensor.nbytes for tensor in modules[0].state_dict().values()) if settings.ema else 0
    )
    states = sum(tensor.nbytes for tensor in held) + adam + averaged
    return TrainingCost(name, parts * meter.macs, states, meter.peak + adam + averaged)


def _modules(name: str, config: Config, corpus: Corpus) -> list[nn.Module]:
    """The networks of a training, that whose weights are its result first."""
    model = build_model(config, corpus, "baseline" if name == "train_b" else "full")
    if name not in DEBLURRING:
        return [model.semantics]
    if model.semantics is not None:
        model.semantics.requires_grad_(variant_rules("full", corpus.captioned).trained)
    vgg = [vgg_features().requires_grad_(False)] if config.loss.effective.perceptual else []
    return [model, build_critic(config), *vgg]


def _semantic_loss(
    semantics: Semantics, source: nn.Module, loss: Loss, batch: Batch, stage: str
) -> Tensor:
    """What semantics learn by in the phases tree, A1 and A2, and in stage C (specification 6.7)."""
    result = tree_loss(semantics.tree, batch.tree, loss.null_weight)
    if stage != "train_tree":
        logits = source.decoder(
            batch.words, semantics.context, semantics.items, length=batch.words.shape[1]
        )
        result = result + caption_loss(logits, batch.words)
    if loss.distillation and stage in ("train_a2", "train_c"):
        with torch.no_grad():
            source(batch.sharp)
    return result


def _update_deblurrer(
    model: S3EDeblur, critic: nn.Module, vgg: nn.Module | None = None, *, loss: Loss, batch: Batch, stage: str,
    cut: bool,
) -> None:  # fmt: skip
    """Gradients of an update of stage B, C or D (specification 6.6 and 6.7), those of the critic's steps included.

    `cut`: the batch is a part that is computed after others; its photos are then restored anew for the generator.
    """
    steps = loss.critic_steps if loss.adversarial else 0
    unseen = steps if cut else 0 if loss.critic_reuse else max(steps - 1, 0)
    for _ in range(unseen):
        with torch.no_grad():
            restored = model(batch)[0]
        _update_critic(critic, loss, batch, restored)
    restored, semantics = model(batch)
    for _ in range(steps - unseen):
        _update_critic(critic, loss, batch, restored)
    critic.requires_grad_(False)
    total = (restored - batch.sharp).abs().mean()
    if loss.adversarial:
        total = total + generator_adversarial(loss.gan, critic, restored)
    if vgg is not None:
        with torch.no_grad():
            target = vgg(batch.sharp)
        total = total + F.mse_loss(vgg(restored), target)
    if semantics is not None and semantics.features.requires_grad:
        total = total + _semantic_loss(semantics, model.semantics, loss, batch, stage)
    total.backward()


def _update_critic(critic: nn.Module, loss: Loss, batch: Batch, restored: Tensor) -> None:
    critic.zero_grad()
    sum(
        critic_loss(loss, critic, batch.sharp, restored, torch.rand(len(restored))).values()
    ).backward()
