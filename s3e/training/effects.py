"""What each loss term does: which parts of the networks its gradient reaches, and where it would
change the images.

All is computed on copies of the networks in eval mode (no dropout, fixed statistics): the training
that they come from, its gradients and its random numbers stay as they are.
"""

from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from torch import nn

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
    reads `batch.blurred`.

    0 where a term does not reach a part. `tree`, `caption`: which terms.
    """
    (source,), batch = _in_eval_mode(batch, source)
    semantics = source(batch.blurred)
    terms = semantic_terms(config.loss, source, semantics, batch, tree=tree, caption=caption)
    return _norms(terms, dict(source.named_children()))


def deblurring_gradients(
    model: S3EDeblur, critic: nn.Module, batch: Batch, config: Config, rules: Variant
) -> pd.DataFrame:
    """The same for each term of L_total that a variant has: parts of the semantics, the embedding
    and the generator.

    The critic's own loss is not among the terms; it reaches nothing but the critic.
    """
    (model, critic), batch = _in_eval_mode(batch, model, critic)
    output = model(batch)
    perceptual = build_perceptual(config)
    perceptual = perceptual and perceptual.to(output[0])
    terms = total_terms(config.loss.effective, rules, model, critic, perceptual, batch, *output)
    parts = {} if model.semantics is None else dict(model.semantics.named_children())
    if list(model.generator.embed.parameters()):
        parts["embedding"] = model.generator.embed
    return _norms(terms, parts | {"generator": model.generator})


def image_directions(
    model: S3EDeblur, critic: nn.Module, batch: Batch, config: Config
) -> dict[str, np.ndarray]:
    """The direction in which each term would change the restored images to fall: {term: signed n x
    H x W x 3}.

    It is the negative gradient of the weighted term with respect to the restored images.
    """
    (model, critic), batch = _in_eval_mode(batch, model, critic)
    with torch.no_grad():
        restored = model(batch)[0]
    restored.requires_grad_()
    perceptual = build_perceptual(config)
    perceptual = perceptual and perceptual.to(restored)
    terms = image_terms(config.loss.effective, critic, perceptual, restored, batch.sharp)
    gradients = {name: torch.autograd.grad(value, restored)[0] for name, value in terms.items()}
    return {n: -item.permute(0, 2, 3, 1).float().cpu().numpy() for n, item in gradients.items()}


def _in_eval_mode(batch: Batch, *modules: nn.Module) -> tuple[list[nn.Module], Batch]:
    """Copies of networks in eval mode, and the batch where they are and as precise."""
    copies = [deepcopy(module).eval() for module in modules]
    first = next(parameter for module in copies for parameter in module.parameters())
    return copies, batch.to(first.device, first.dtype)


def _norms(terms: Terms, parts: dict[str, nn.Module]) -> pd.DataFrame:
    """Euclidean norm of the gradient of each term over the trained parameters of each part (each
    counted once).
    """
    owner = {}
    for name, part in parts.items():
        for item in part.parameters():
            if item.requires_grad:
                owner.setdefault(item, name)
    table = pd.DataFrame(0.0, index=pd.Index(terms, name="loss"), columns=list(parts))
    for term, value in terms.items():
        weights = list(owner) if value.requires_grad else []
        options = {"retain_graph": True, "allow_unused": True}
        found = torch.autograd.grad(value, weights, **options) if weights else ()
        for weight, gradient in zip(weights, found, strict=True):
            if gradient is not None:
                table.loc[term, owner[weight]] += float(gradient.double().square().sum())
    return table**0.5
