"""What each loss term does: which parts of the networks its gradient reaches, and what it asks of the restored photo.

All is computed on copies of the networks at rest (no dropout, fixed statistics): the training that they come from, its
gradients and its random numbers stay as they are.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from torch import nn

from s3e.config import Config, Variant
from s3e.data.corpus import Batch
from s3e.models.build import build_perceptual
from s3e.models.semantics import S3EDeblur
from s3e.training.losses import image_terms
from s3e.training.stages import Terms, distillation_terms, semantic_terms


def of_semantics(
    source: nn.Module,
    batch: Batch,
    config: Config,
    *,
    tree: bool,
    caption: bool,
    distillation: bool = False,
) -> pd.DataFrame:
    """Norm of the gradient of each weighted term (rows) in each part of a semantic source that reads `batch.blurred`.

    0 where a term does not reach a part. `tree`, `caption`, `distillation`: which terms, as far as they have weights.
    """
    (source,), batch = _at_rest(batch, source)
    semantics = source(batch.blurred)
    terms = semantic_terms(semantics, source, batch, config, tree=tree, caption=caption)
    terms |= distillation_terms(semantics, source, batch, config) if distillation else {}
    return _norms(terms, _parts(source))


def of_deblurring(
    model: S3EDeblur, critic: nn.Module, batch: Batch, config: Config, arm: Variant
) -> pd.DataFrame:
    """The same for every term of L_total that the arm has: parts of the semantics, the embedding and the generator.

    The critic's own loss is not among the terms; it reaches nothing but the critic.
    """
    (model, critic), batch = _at_rest(batch, model, critic)
    restored, semantics = model(batch)
    perceptual = build_perceptual(config)
    perceptual = perceptual and perceptual.to(restored)
    terms = image_terms(config.loss.effective, critic, perceptual, restored, batch.sharp)
    if semantics is not None and (arm.tree_loss or arm.caption_loss):
        wanted = {"tree": arm.tree_loss, "caption": arm.caption_loss}
        terms |= semantic_terms(semantics, model.semantics, batch, config, **wanted)
        terms |= distillation_terms(semantics, model.semantics, batch, config)
    parts = {} if model.semantics is None else _parts(model.semantics)
    embedding = list(model.generator.embed.parameters())
    parts |= {"embedding": embedding} if embedding else {}
    own = {id(parameter) for parameter in embedding}
    return _norms(
        terms,
        parts
        | {"generator": [item for item in model.generator.parameters() if id(item) not in own]},
    )


def on_photos(
    model: S3EDeblur, critic: nn.Module, batch: Batch, config: Config
) -> dict[str, np.ndarray]:
    """The direction in which each term would change the restored photos to fall: {term: signed n x H x W x 3}.

    It is the negative gradient of the weighted term with respect to the restored photos.
    """
    (model, critic), batch = _at_rest(batch, model, critic)
    with torch.no_grad():
        restored = model(batch)[0]
    restored.requires_grad_()
    perceptual = build_perceptual(config)
    perceptual = perceptual and perceptual.to(restored)
    terms = image_terms(config.loss.effective, critic, perceptual, restored, batch.sharp)
    wishes = {name: -torch.autograd.grad(value, restored)[0] for name, value in terms.items()}
    return {name: wish.permute(0, 2, 3, 1).float().cpu().numpy() for name, wish in wishes.items()}


def _at_rest(batch: Batch, *modules: nn.Module) -> tuple[list[nn.Module], Batch]:
    """Copies of networks that compute the same every time, and the batch where they are and as precise."""
    copies = [deepcopy(module).eval() for module in modules]
    first = next(parameter for module in copies for parameter in module.parameters())
    return copies, batch.to(first.device, first.dtype)


def _parts(source: nn.Module) -> dict[str, list[nn.Parameter]]:
    return {name: list(part.parameters()) for name, part in source.named_children()}


def _norms(terms: Terms, parts: Mapping[str, Iterable[nn.Parameter]]) -> pd.DataFrame:
    """Euclidean norm of the gradient of each term over the trained parameters of each part."""
    trained = [
        (name, item) for name, items in parts.items() for item in items if item.requires_grad
    ]
    rows = {}
    for term, value in terms.items():
        squares = dict.fromkeys(parts, 0.0)
        weights = [item for _, item in trained] if value.requires_grad else []
        found = (
            torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            if weights
            else []
        )
        for (part, _), gradient in zip(trained, found, strict=False):
            squares[part] += 0.0 if gradient is None else float(gradient.double().square().sum())
        rows[term] = {part: square**0.5 for part, square in squares.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(parts)).rename_axis("loss")
