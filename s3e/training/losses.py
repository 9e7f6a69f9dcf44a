"""Every loss term of L_total (specification 3.3, 6.3, 6.4 and 6.6)."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.config import Loss
from s3e.data.text import PAD
from s3e.models.semantics import Semantics
from s3e.models.tree import LEAVES, TreeOutput
from s3e.parsing import IGNORE
from s3e.paths import S3EError


def tree_loss(tree: TreeOutput, target: Tensor, null_weight: float) -> Tensor:
    """Weighted mean over nodes of cross-entropy; NULL (class 0) counts `null_weight`, out-of-vocabulary nothing.

    target: B x 7 long, IGNORE where out of vocabulary.
    """
    losses, weights = [], []
    for logits, labels in ((tree.entity_logits, target[:, :LEAVES]), (tree.relation_logits, target[:, LEAVES:])):
        known = labels != IGNORE
        losses.append(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none"))
        weights.append((known * torch.where(labels == 0, null_weight, 1.0)).flatten())
    loss, weight = torch.cat(losses), torch.cat(weights)
    return (weight * loss).sum() / weight.sum().clamp_min(1e-8)


def caption_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Mean cross-entropy per word under teacher forcing: logits B x (T - 1) x words, words B x T' with T' >= T."""
    target = words[:, 1 : logits.shape[1] + 1]
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)


def distillation_loss(semantics: Semantics, sharp: Semantics) -> Tensor:
    """Distance of the features of the blurred photo to those of the sharp one (idea of arXiv 2302.06898)."""
    return F.mse_loss(semantics.features, sharp.features.detach())


def lsgan_generator(fake: Tensor) -> Tensor:
    """(D(G(b)) - 1)^2."""
    return F.mse_loss(fake, torch.ones_like(fake))


def lsgan_critic(real: Tensor, fake: Tensor) -> Tensor:
    """((D(s) - 1)^2 + D(G(b))^2) / 2."""
    return (F.mse_loss(real, torch.ones_like(real)) + fake.square().mean()) / 2


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """E[(|grad D(x)|_2 - 1)^2] at random points between real and fake, norm and mixing weight per sample (WGAN-GP)."""
    share = torch.rand(len(real), 1, 1, 1).to(real.device)  # drawn on the CPU: the same on every device
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(2, 1) - 1).square().mean()


def generator_adversarial(kind: str, critic: nn.Module, restored: Tensor) -> Tensor:
    """The adversarial term of the generator for "wgan-gp" (-D) or "lsgan"."""
    score = critic(restored)
    return -score.mean() if kind == "wgan-gp" else lsgan_generator(score)


def critic_loss(loss: Loss, critic: nn.Module, sharp: Tensor, restored: Tensor) -> dict[str, Tensor]:
    """Terms of L_D; their sum is minimised. `restored` carries no gradient to the generator."""
    restored = restored.detach()
    real, fake = critic(sharp), critic(restored)
    if loss.gan == "lsgan":
        return {"critic": lsgan_critic(real, fake)}
    penalty = gradient_penalty(critic, sharp, restored)
    return {"critic": fake.mean() - real.mean(), "penalty": loss.gradient_penalty * penalty}


class PerceptualLoss(nn.Module):
    """MSE of VGG19 features at conv3_3 before its ReLU; inputs in [-1, 1] are normalised as ImageNet photos.

    `weights`: a local file of torchvision's VGG19 (public name vgg19-dcbb9e9d.pth) or its safetensors twin. Raises
    `S3EError` where the file is missing or is not such a file. Source: specification 3.3 and 3.5.
    """

    WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256)

    def __init__(self, weights: str):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in self.WIDTHS:
            if width == "pool":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers[:-1])
        self._load(Path(weights))
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise S3EError(
                f"loss.perceptual needs VGG19 weights: put vgg19-dcbb9e9d.pth at loss.vgg19_weights "
                f"(now '{path}'), or set loss.perceptual=0 and loss.pixel=10."
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
        names = self.features.state_dict()
        try:
            self.features.load_state_dict({name: state[f"features.{name}"] for name in names})
        except (KeyError, RuntimeError) as error:
            raise S3EError(f"{path}: not torchvision's VGG19 ({error}).") from None

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.features(((sharp + 1) / 2 - self.mean) / self.std)
        return F.mse_loss(self.features(((restored + 1) / 2 - self.mean) / self.std), target)
