"""Every loss term of L_total, and all of its weights (specification 3.3, 6.3, 6.4 and 6.6)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.captions.tree import IGNORE, PAD
from s3e.config import Loss, Variant
from s3e.data.corpus import Batch
from s3e.models.encoders import PerceptualLoss
from s3e.models.semantics import S3EDeblur, Semantics
from s3e.models.tree import LEAVES, TreeOutput
from s3e.training.loop import Terms


def tree_loss(
    tree: TreeOutput, target: Tensor, null_weight: float, whole: Tensor | None = None
) -> Tensor:
    """Weighted mean over nodes of cross-entropy; NULL (class 0) counts `null_weight`,
    out-of-vocabulary nothing.

    target: B x 7 long, IGNORE where out of vocabulary. `whole`: the targets of all images of the
    step, where B are a part of them: the mean over equal parts is then the loss of the whole.
    """
    losses = []  # B x 4 and B x 3
    for logits, labels in (
        (tree.entity_logits, target[:, :LEAVES]),
        (tree.relation_logits, target[:, LEAVES:]),
    ):
        flat = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none"
        )
        losses.append(flat.view_as(labels))
    loss, whole = torch.cat(losses, 1), target if whole is None else whole
    total = _node_weights(whole, null_weight, loss.dtype).sum().clamp_min(1e-8)
    weighted = (_node_weights(target, null_weight, loss.dtype) * loss).sum()
    return weighted / total * (len(whole) / len(target))


def _node_weights(target: Tensor, null_weight: float, dtype: torch.dtype) -> Tensor:
    return (target != IGNORE) * torch.where(target == 0, null_weight, 1.0).to(dtype)


def caption_loss(logits: Tensor, words: Tensor, whole: Tensor | None = None) -> Tensor:
    """Mean cross-entropy per word under teacher forcing: logits B x (T - 1) x words, words B x T'
    with T' >= T.

    `whole`: the words of all images of the step, as for `tree_loss`.
    """
    target, whole = words[:, 1 : logits.shape[1] + 1], words if whole is None else whole
    loss = F.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="sum"
    )
    return loss / (whole[:, 1:] != PAD).sum() * (len(whole) / len(words))


def total_terms(
    loss: Loss,
    rules: Variant,
    model: S3EDeblur,
    critic: nn.Module,
    perceptual: PerceptualLoss | None,
    batch: Batch,
    restored: Tensor,
    semantics: Semantics | None,
) -> Terms:
    """L_total of a batch as it was restored and read: L_ImD, and what else a variant's rules
    have.
    """
    terms = image_terms(loss, critic, perceptual, restored, batch.sharp)
    if rules.tree_loss or rules.caption_loss:
        switches = {"tree": rules.tree_loss, "caption": rules.caption_loss}
        terms |= semantic_terms(loss, model.semantics, semantics, batch, **switches)
    return terms


def semantic_terms(
    loss: Loss,
    source: nn.Module,
    semantics: Semantics,
    batch: Batch,
    *,
    tree: bool,
    caption: bool,
) -> Terms:
    """Weighted L_tree and L_cap of what `source` reads in a batch, as far as they are switched
    on.
    """
    terms = {}
    if tree:
        value = tree_loss(semantics.tree, batch.tree, loss.null_weight, batch.all_trees)
        terms["tree"] = loss.tree * value
    if caption:
        logits = source.decoder(batch.words, semantics.context, semantics.items)
        terms["caption"] = loss.caption * caption_loss(logits, batch.words, batch.all_words)
    return terms


def image_terms(
    loss: Loss,
    critic: nn.Module,
    perceptual: PerceptualLoss | None,
    restored: Tensor,
    sharp: Tensor,
) -> Terms:
    """Weighted L_ImD of the generator: the pixel, adversarial and perceptual terms that are
    switched on.
    """
    terms = {"pixel": loss.pixel * (restored - sharp).abs().mean()} if loss.pixel else {}
    if loss.adversarial:
        score = critic(restored)
        lsgan = (score - 1).square().mean()  # (D(I_r) - 1)^2
        value = -score.mean() if loss.gan == "wgan-gp" else lsgan
        terms["adversarial"] = loss.adversarial * value
    if perceptual is not None:
        terms["perceptual"] = loss.perceptual * perceptual(restored, sharp)
    return terms


def critic_terms(loss: Loss, critic: nn.Module, batch: Batch, restored: Tensor) -> Terms:
    """Terms of L_D; their sum is minimised, without a gradient to the generator.

    The penalty is computed in full precision.
    """
    sharp, restored = batch.sharp, restored.detach()
    real, fake = critic(sharp), critic(restored)
    if loss.gan == "lsgan":
        return {"critic": ((real - 1).square().mean() + fake.square().mean()) / 2}
    with torch.autocast(sharp.device.type, enabled=False):
        penalty = gradient_penalty(critic, sharp, restored, batch.uniform("penalty0"))
    return {"critic": fake.mean() - real.mean(), "penalty": loss.gradient_penalty * penalty}


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor
) -> Tensor:
    """E[(|grad D(x)|_2 - 1)^2] at x = share real + (1 - share) fake; share: one of [0, 1] a sample.

    The norm is that of a sample's whole gradient (WGAN-GP, arXiv 1704.00028).
    """
    share = share.view(-1, 1, 1, 1)
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(2, 1) - 1).square().mean()
