"""Every loss term of L_total with its weight (specification 3.3, 6.3, 6.4 and 6.6)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.captions.tree import IGNORE, PAD
from s3e.config import Loss
from s3e.data.corpus import Batch
from s3e.models.encoders import PerceptualLoss
from s3e.models.semantics import SemanticOutput
from s3e.models.tree import LEAVES, TreeOutput
from s3e.training.loop import Terms


def tree_loss(tree: TreeOutput, target: Tensor, null_weight: float, whole: Tensor) -> Tensor:
    """Weighted mean over nodes of cross-entropy; NULL (class 0) counts `null_weight`.

    target: B x 7 long, IGNORE where out of vocabulary, which counts nothing. `whole`: the targets
    of all images of the step, of which B are a part: the mean over equal parts is then the loss of
    the whole.
    """

    def errors(logits: Tensor, classes: Tensor) -> Tensor:
        flat = logits.flatten(0, 1), classes.flatten()
        return F.cross_entropy(*flat, ignore_index=IGNORE, reduction="none").view_as(classes)

    def weights(classes: Tensor) -> Tensor:
        return (classes != IGNORE) * torch.where(classes == 0, null_weight, 1.0).to(loss.dtype)

    leaves, relations = target[:, :LEAVES], target[:, LEAVES:]
    loss = [errors(tree.entity_logits, leaves), errors(tree.relation_logits, relations)]
    loss = torch.cat(loss, 1)  # B x 7
    total = weights(whole).sum().clamp_min(1e-8)
    return (weights(target) * loss).sum() / total * (len(whole) / len(target))


def caption_loss(logits: Tensor, words: Tensor, whole: Tensor) -> Tensor:
    """Mean cross-entropy per word under teacher forcing.

    logits: B x (T - 1) x words; words: B x T' with T' >= T. `whole`: the words of all images of the
    step, as for `tree_loss`.
    """
    flat = logits.flatten(0, 1), words[:, 1 : logits.shape[1] + 1].flatten()
    loss = F.cross_entropy(*flat, ignore_index=PAD, reduction="sum")
    return loss / (whole[:, 1:] != PAD).sum() * (len(whole) / len(words))


def semantic_terms(
    loss: Loss, source: nn.Module, read: SemanticOutput, batch: Batch, *, tree: bool, caption: bool
) -> Terms:
    """Weighted L_tree and L_cap of what `source` has read in a batch, as far as switched on."""
    terms = {}
    if tree:
        value = tree_loss(read.tree, batch.tree, loss.null_weight, batch.all_trees)
        terms["tree"] = loss.tree * value
    if caption:
        logits = source.decoder(batch.words, read.context, read.items)
        terms["caption"] = loss.caption * caption_loss(logits, batch.words, batch.all_words)
    return terms


def gan_loss(loss: Loss, score: Tensor, sharp: bool) -> Tensor:
    """How far a critic's scores are from those of sharp (1) or restored (0) images.

    LSGAN: the squared distance; WGAN: the higher the mean, the sharper.
    """
    if loss.gan == "lsgan":
        return (score - float(sharp)).square().mean()
    return -score.mean() if sharp else score.mean()


def image_terms(
    loss: Loss, critic: nn.Module, perceptual: PerceptualLoss | None, restored: Tensor,
    sharp: Tensor
) -> Terms:  # fmt: skip
    """Weighted L_ImD of the generator: pixel, adversarial and perceptual, as far as switched on."""
    terms = {"pixel": loss.pixel * (restored - sharp).abs().mean()} if loss.pixel else {}
    if loss.adversarial:
        terms["adversarial"] = loss.adversarial * gan_loss(loss, critic(restored), True)
    if perceptual is not None:
        terms["perceptual"] = loss.perceptual * perceptual(restored, sharp)
    return terms


def critic_terms(loss: Loss, critic: nn.Module, batch: Batch, restored: Tensor) -> Terms:
    """Terms of L_D; their sum is minimised, without a gradient to the generator."""
    sharp, restored = batch.sharp, restored.detach()
    error = gan_loss(loss, critic(sharp), True) + gan_loss(loss, critic(restored), False)
    if loss.gan == "lsgan":
        return {"critic": error / 2}
    with torch.autocast(sharp.device.type, enabled=False):  # in full precision
        penalty = gradient_penalty(critic, sharp, restored, batch.uniform("penalty0"))
    return {"critic": error, "penalty": loss.gradient_penalty * penalty}


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor
) -> Tensor:
    """E[(|grad D(x)|_2 - 1)^2] at x = share real + (1 - share) fake (WGAN-GP, arXiv 1704.00028).

    share: one number in [0, 1] a sample; the norm is that of a sample's whole gradient.
    """
    share = share.view(-1, 1, 1, 1)
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(2, 1) - 1).square().mean()
