"""Networks that read an image: the semantic encoder (specification 6.1) and VGG19 for the
perceptual loss (3.3, 3.5).

ResNet and VGG19 have torchvision's structure and names, so that its public files of weights fit
(`build.load_public`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.models import BatchNorm2d

GRID = 16  # side of the node maps: small enough to be cheap, large enough to keep the layout
LAYERS = {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23)}  # blocks in each layer
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]


def conv_block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU.

    Batch, not group normalisation: after 400 steps on scenes the tree named 99.6 % of the
    validation leaves with it and 40.6 % with group normalisation, all else equal.
    """
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, BatchNorm2d(outputs), nn.ReLU())


def halvings(size: int) -> int:
    """How often an image of `size` px is halved to 16 x 16. Raises ValueError unless that is one to
    four times.
    """
    steps = round(math.log2(size / GRID))
    if size != GRID * 2**steps or not 1 <= steps <= 4:
        raise ValueError(f"data.size = {size}: the semantic encoder takes 32, 64, 128 or 256 px")
    return steps


class ConvEncoder(nn.Module):
    """Five convolution stages, B x 3 x S x S in [-1, 1] -> B x C x 16 x 16.

    At 256 px the first four stages halve the side (stride 16). A smaller image needs fewer
    halvings; the stages that then lose their stride are dilated instead, so that the receptive
    field keeps covering the image (reconstruction).
    """

    def __init__(self, *, size: int, widths: list[int]):
        super().__init__()
        steps = halvings(size)
        strides = [2] * steps + [1] * (len(widths) - steps)
        dilations = [1] * steps + [2, 4, 4, 4][: len(widths) - steps]
        stages = zip([3, *widths[:-1]], widths, strides, dilations, strict=True)
        self.stages = nn.Sequential(*(conv_block(*stage) for stage in stages))
        self.channels = widths[-1]

    def forward(self, image: Tensor) -> Tensor:
        return self.stages(image)


class Normalise(nn.Module):
    """Images in [-1, 1] -> as networks trained on ImageNet take them: B x 3 x H x W -> the same."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return ((image + 1) / 2 - self.mean) / self.std


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution to 4 x `width` channels, added to the input, ReLU."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Identity()
        if stride > 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(features)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        return self.relu(self.bn3(self.conv3(inner)) + self.downsample(features))


class ResNet(nn.Module):
    """ResNet-50 or -101 up to layer3, then a 1x1 convolution: B x 3 x S x S in [-1, 1] -> B x
    `channels` x 16 x 16.

    torchvision's "v1.5" (the stride is in the 3x3 convolution). At 256 px convolution, pooling,
    layer2 and layer3 halve the side. For a smaller image the last of them lose their stride, and
    what follows is dilated instead: each weight then sees the same pixels as in the network that it
    was trained in.
    """

    def __init__(self, *, kind: str, size: int, channels: int):
        super().__init__()
        steps = halvings(size)
        blocks = LAYERS[kind]
        self.channels = channels
        self.normalise = Normalise()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2 if steps > 1 else 1, 1)
        # dilation of what follows the pooling, layer2 and layer3, whose strides may be gone
        pooled, second, third = (2 ** max(0, stage - steps) for stage in (2, 3, 4))
        self.layer1 = _layer(64, 64, blocks[0], 1, pooled, pooled)
        self.layer2 = _layer(256, 128, blocks[1], 2 if steps > 2 else 1, pooled, second)
        self.layer3 = _layer(512, 256, blocks[2], 2 if steps > 3 else 1, second, third)
        project = nn.Conv2d(1024, channels, 1, bias=False)
        self.project = nn.Sequential(project, BatchNorm2d(channels), nn.ReLU(inplace=True))

    def forward(self, image: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(self.normalise(image))))  # B x 64 x 128 x 128
        features = self.layer1(self.maxpool(features))  # B x 256 x 64 x 64
        return self.project(self.layer3(self.layer2(features)))


def _layer(
    inputs: int, width: int, blocks: int, stride: int, dilation: int, after: int
) -> nn.Sequential:
    """Blocks of which the first has the `stride` and the `dilation`, the others the dilation
    `after` it.
    """
    rest = (Bottleneck(4 * width, width, 1, after) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(inputs, width, stride, dilation), *rest)


def vgg_features() -> nn.Sequential:
    """VGG19 up to conv3_3, before its ReLU: B x 3 x H x W -> B x 256 x H/4 x W/4; named as
    torchvision's `features`.
    """
    layers: list[nn.Module] = []
    channels = 3
    for widths in ((64, 64), (128, 128), (256, 256, 256)):
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-2])


class PerceptualLoss(nn.Module):
    """MSE of VGG19 features at conv3_3 before its ReLU; images are B x 3 x H x W in [-1, 1].

    `normalise`: images are normalised as ImageNet's; without it they stay in [-1, 1], as in
    DeblurGAN's public code.
    """

    def __init__(self, features: nn.Module, normalise: bool = True):
        super().__init__()
        self.features = features.requires_grad_(False)
        self.normalise = Normalise() if normalise else nn.Identity()

    @torch.no_grad()
    def target(self, sharp: Tensor) -> Tensor:
        """Features of the sharp images, to be computed once a step."""
        return self.features(self.normalise(sharp))

    def forward(self, restored: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(self.features(self.normalise(restored)), target)
