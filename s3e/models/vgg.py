"""The perceptual loss: distance of VGG19 features (specification 3.3 and 3.5)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.models.weights import load_public

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]


class Normalise(nn.Module):
    """Photos in [-1, 1] -> as networks trained on ImageNet take them: B x 3 x H x W -> the same."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return ((image + 1) / 2 - self.mean) / self.std


def vgg_features() -> nn.Sequential:
    """VGG19 up to conv3_3, before its ReLU: B x 3 x H x W -> B x 256 x H/4 x W/4; named as torchvision's `features`."""
    layers: list[nn.Module] = []
    channels = 3
    for widths in ((64, 64), (128, 128), (256, 256, 256)):
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-2])


class PerceptualLoss(nn.Module):
    """MSE of VGG19 features at conv3_3 before its ReLU; photos are B x 3 x H x W in [-1, 1].

    `weights`: the path of torchvision's VGG19 or of its safetensors twin, or the public name vgg19-dcbb9e9d.pth.
    `normalise`: photos are normalised as ImageNet's; without it they stay in [-1, 1], as in DeblurGAN's public code
    (specification 3.5). Raises `S3EError` where the file is missing or is not such a file.
    """

    def __init__(self, weights: str, normalise: bool = True):
        super().__init__()
        self.features = vgg_features()
        load_public(
            self.features, weights, "features.", foreign="features.17."
        )  # of VGG16, the same up to here
        self.requires_grad_(False)
        self.normalise = Normalise() if normalise else nn.Identity()

    @torch.no_grad()
    def target(self, sharp: Tensor) -> Tensor:
        """Features of the sharp photos, to be computed once a step."""
        return self.features(self.normalise(sharp))

    def forward(self, restored: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(self.features(self.normalise(restored)), target)
