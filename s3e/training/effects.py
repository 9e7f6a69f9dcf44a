"""What each loss term does: which parts of the networks its gradient reaches, and where it would
change the images.

Networks are put into eval mode (no dropout, fixed statistics); weights, their `grad` and random
numbers stay as they are.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from s3e.config import Config, Variant
from s3e.data.corpus import Batch
from s3e.models.build import build_perceptual
from s3e.models.semantics import S3EDeblur
from s3e.training.loop import Terms
from s3e.training.losses import image_terms, semantic_terms, total_terms


def semantic_gradients(
    source: nn.Module, batch: Batch, config: Config, *, tree: bool, caption: bool
) -> pd.DataFrame:
    """Norm of the gradient of each weighted term (rows) in each part of a semantic source that
    reads `batch.blurred`; 0 where a term does not reach a part.
    """
    batch = batch.to(*_place(source.eval()))
    read = source(batch.blurred)
    terms = semantic_terms(config.loss, source, read, batch, tree=tree, caption=caption)
    return _norms(terms, dict(source.named_children()))


def deblurring_gradients(
    model: S3EDeblur, critic: nn.Module, batch: Batch, config: Config, rules: Variant
) -> pd.DataFrame:
    """The same for each term of L_total that a variant has: parts of the semantics, the embedding
    and the generator.
    """
    batch = batch.to(*_place(model.eval()))
    networks = critic.eval(), _perceptual(config, batch)
    terms = total_terms(config.loss.effective, rules, model, *networks, batch, *model(batch))
    parts = {} if model.semantics is None else dict(model.semantics.named_children())
    if list(model.generator.embed.parameters()):
        parts["embedding"] = model.generator.embed
    return _norms(terms, parts | {"generator": model.generator})


def image_directions(
    model: S3EDeblur, critic: nn.Module, batch: Batch, config: Config
) -> dict[str, np.ndarray]:
    """How each weighted term would change the restored images to fall, its negative gradient:
    {term: signed n x H x W x 3}.
    """
    batch = batch.to(*_place(model.eval()))
    with torch.no_grad():
        restored = model(batch)[0]
    restored.requires_grad_()
    networks = critic.eval(), _perceptual(config, batch)
    terms = image_terms(config.loss.effective, *networks, restored, batch.sharp)
    found = {name: _gradients(value, [restored])[0] for name, value in terms.items()}
    return {n: -item.permute(0, 2, 3, 1).float().cpu().numpy() for n, item in found.items()}


def _place(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    first = next(network.parameters())
    return first.device, first.dtype


def _perceptual(config: Config, batch: Batch) -> nn.Module | None:
    perceptual = build_perceptual(config)
    return None if perceptual is None else perceptual.to(batch.sharp)


def _gradients(term: Tensor, inputs: Iterable[Tensor]) -> list[Tensor | None]:
    if not term.requires_grad:
        return [None for _ in inputs]
    return torch.autograd.grad(term, [*inputs], retain_graph=True, allow_unused=True)


def _norms(terms: Terms, parts: dict[str, nn.Module]) -> pd.DataFrame:
    """Norm of the gradient of each term over the trained weights of each part, the last of them
    without those of the parts before it.
    """
    owner = {}
    for name, part in parts.items():
        for weight in part.parameters():
            if weight.requires_grad:
                owner.setdefault(weight, name)
    table = pd.DataFrame(0.0, index=pd.Index(terms, name="loss"), columns=list(parts))
    for term, value in terms.items():
        for name, gradient in zip(owner.values(), _gradients(value, owner), strict=True):
            if gradient is not None:
                table.loc[term, name] += float(gradient.double().square().sum())
    return table**0.5
