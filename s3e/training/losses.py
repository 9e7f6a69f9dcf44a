"""Every loss term of L_total (specification 3.3, 6.3, 6.4 and 6.6)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.captions.tree import IGNORE, PAD
from s3e.config import Loss
from s3e.models.encoders import PerceptualLoss
from s3e.models.semantics import Semantics
from s3e.models.tree import LEAVES, TreeOutput


def tree_loss(
    tree: TreeOutput, target: Tensor, null_weight: float, whole: Tensor | None = None
) -> Tensor:
    """Weighted mean over nodes of cross-entropy; NULL (class 0) counts `null_weight`, out-of-vocabulary nothing.

    target: B x 7 long, IGNORE where out of vocabulary. `whole`: the targets of all images of the update, where B are a
    part of them: the mean over equal parts is then the loss of the whole.
    """
    losses = []
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
    return (
        (_node_weights(target, null_weight, loss.dtype) * loss).sum()
        / total
        * (len(whole) / len(target))
    )


def _node_weights(target: Tensor, null_weight: float, dtype: torch.dtype) -> Tensor:
    return (target != IGNORE) * torch.where(target == 0, null_weight, 1.0).to(dtype)


def caption_loss(logits: Tensor, words: Tensor, whole: Tensor | None = None) -> Tensor:
    """Mean cross-entropy per word under teacher forcing: logits B x (T - 1) x words, words B x T' with T' >= T.

    `whole`: the words of all images of the update, as for `tree_loss`.
    """
    target, whole = words[:, 1 : logits.shape[1] + 1], words if whole is None else whole
    loss = F.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="sum"
    )
    return loss / (whole[:, 1:] != PAD).sum() * (len(whole) / len(words))


def distillation_loss(semantics: Semantics, sharp: Semantics) -> Tensor:
    """Distance of the features of the blurred photo to those of the sharp one (idea of arXiv 2302.06898)."""
    return F.mse_loss(semantics.features, sharp.features.detach())


def lsgan_generator(fake: Tensor) -> Tensor:
    """(D(G(b)) - 1)^2."""
    return F.mse_loss(fake, torch.ones_like(fake))


def lsgan_critic(real: Tensor, fake: Tensor) -> Tensor:
    """((D(s) - 1)^2 + D(G(b))^2) / 2."""
    return (F.mse_loss(real, torch.ones_like(real)) + fake.square().mean()) / 2


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    share: Tensor,
    norm: str = "sample",
) -> Tensor:
    """E[(|grad D(x)|_2 - 1)^2] at points x = share real + (1 - share) fake, share in [0, 1] with one value a sample.

    norm "sample": over a sample's values (WGAN-GP, arXiv 1704.00028); "pixel": over the channels of each pixel, with
    the first sample's share for all, as DeblurGAN's public code has it (specification 3.5).
    """
    share = (share if norm == "sample" else share[:1].expand(len(real))).view(-1, 1, 1, 1)
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    length = (
        gradient.flatten(1).norm(2, 1)
        if norm == "sample"
        else (gradient.square().sum(1) + 1e-16).sqrt()
    )
    return (length - 1).square().mean()


def generator_adversarial(kind: str, critic: nn.Module, restored: Tensor) -> Tensor:
    """The adversarial term of the generator for "wgan-gp" (-D) or "lsgan"."""
    score = critic(restored)
    return -score.mean() if kind == "wgan-gp" else lsgan_generator(score)


def image_terms(
    loss: Loss,
    critic: nn.Module,
    perceptual: PerceptualLoss | None,
    restored: Tensor,
    sharp: Tensor,
) -> dict[str, Tensor]:
    """Weighted L_ImD of the generator: the pixel, adversarial and perceptual terms that are switched on."""
    terms = {"pixel": loss.pixel * (restored - sharp).abs().mean()} if loss.pixel else {}
    if loss.adversarial:
        terms["adversarial"] = loss.adversarial * generator_adversarial(loss.gan, critic, restored)
    if perceptual is not None:
        terms["perceptual"] = loss.perceptual * perceptual(restored, perceptual.target(sharp))
    return terms


def critic_loss(
    loss: Loss, critic: nn.Module, sharp: Tensor, restored: Tensor, share: Tensor | None
) -> dict[str, Tensor]:
    """Terms of L_D; their sum is minimised. `restored` carries no gradient to the generator; `share`: for the penalty.

    The penalty is computed by `critic.forward`, eager and in full precision: compiled graphs have no double backward.
    """
    restored = restored.detach()
    real, fake = critic(sharp), critic(restored)
    if loss.gan == "lsgan":
        return {"critic": lsgan_critic(real, fake)}
    with torch.autocast(sharp.device.type, enabled=False):
        penalty = gradient_penalty(
            critic.forward, sharp, restored.to(sharp.dtype), share, loss.penalty_norm
        )
    return {"critic": fake.mean() - real.mean(), "penalty": loss.gradient_penalty * penalty}
