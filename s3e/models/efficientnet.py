"""EfficientNet-Lite with ImageNet weights: encoder, recogniser, features of the perceptual loss.

Source: the "lite" networks of arXiv 1905.11946 in TensorFlow's repository: no squeeze and
excitation, ReLU6, one stem and head for all widths. Layers come in the order of the public files,
which are converted from TensorFlow: hence the padding and the `eps` of `_unit`. Of four readings
(its padding or a symmetric one, photos in [-1, 1] or normalised by ImageNet's mean and deviation)
this gives the channels of 60 photos the means and variances that the file has for them.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.models import BatchNorm

STEM, FEATURES = 32, 1280
SIDES, STRIDES = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)  # of kernels, in groups of blocks
SEEN = 128  # pixels of a side that the encoder sees: stride 8 is then the grid of node maps


def _unit(inputs: int, outputs: int, side: int = 1, stride: int = 1, groups: int = 1) -> list:
    """Convolution and batch normalisation; of stride 2 padded more at right and below."""
    half = side // 2
    pad = [nn.ZeroPad2d((half - 1, half) * 2)] if stride == 2 else []
    padding = 0 if pad else half
    conv = nn.Conv2d(inputs, outputs, side, stride, padding, groups=groups, bias=False)
    return [*pad, conv, BatchNorm(outputs, eps=1e-3)]


class Block(nn.Sequential):
    """Mobile inverted bottleneck, B x `inputs` x H x W -> B x `outputs` x H / stride x W / stride.

    1x1 to `factor` times the channels (where it is above 1), ReLU6, depthwise, ReLU6, 1x1 back,
    each with batch normalisation; the image is added where it has the shape of that.
    """

    def __init__(self, inputs: int, outputs: int, side: int, stride: int, factor: int):
        wide = inputs * factor
        expand = [*_unit(inputs, wide), nn.ReLU6()] if factor > 1 else []
        spread = [*_unit(wide, wide, side, stride, wide), nn.ReLU6()]
        super().__init__(*expand, *spread, *_unit(wide, outputs))

    def forward(self, image: Tensor) -> Tensor:
        narrow = super().forward(image)
        return image + narrow if image.shape == narrow.shape else narrow


class EfficientNet(nn.Module):
    """B x 3 x H x W in [-1, 1] -> maps after each of seven groups of blocks, one after the other.

    They have `widths` channels and the strides 2, 4, 8, 16, 16, 32, 32; what nobody asks for is not
    computed. `repeats`: number of blocks.
    """

    def __init__(self, *, widths: list[int], repeats: list[int]):
        super().__init__()
        self.widths, self.groups, inputs = widths, nn.ModuleList(), STEM
        layers = [*_unit(3, STEM, 3, 2), nn.ReLU6()]
        for outputs, count, side, stride in zip(widths, repeats, SIDES, STRIDES, strict=True):
            for step in (stride, *[1] * (count - 1)):
                layers.append(Block(inputs, outputs, side, step, 6 if self.groups else 1))
                inputs = outputs
            self.groups.append(nn.Sequential(*layers))
            layers = []

    def forward(self, image: Tensor) -> Iterator[Tensor]:
        image = image.contiguous(memory_format=torch.channels_last)  # 1.4 times as fast
        for group in self.groups:
            image = group(image)
            yield image


class Recogniser(EfficientNet):
    """The whole network: its last "map" are features B x 1280; `classes` makes logits of them."""

    def __init__(self, **sizes: list[int]):
        super().__init__(**sizes)
        head = [*_unit(self.widths[-1], FEATURES), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
        self.groups.append(nn.Sequential(*head, nn.Flatten()))
        self.classes = nn.Linear(FEATURES, 1000)  # of ImageNet


class PretrainedEncoder(nn.Module):
    """B x 3 x S x S in [-1, 1], scaled to `SEEN` pixels, -> B x `channels` x 16 x 16.

    Maps of strides 8, 16 and 32, each through a 1x1 convolution, are scaled to the first one's size
    and summed; batch normalisation, ReLU. S = `size`; the grid of other photos grows with them.
    """

    def __init__(self, *, size: int, channels: int, backbone: EfficientNet):
        super().__init__()
        self.factor, self.channels, self.backbone = SEEN / size, channels, backbone
        self.narrow = nn.ModuleList(
            nn.Conv2d(width, channels, 1) for width in backbone.widths[2::2]
        )
        self.end = nn.Sequential(BatchNorm(channels), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        scale = partial(F.interpolate, mode="bilinear")
        maps = [*self.backbone(scale(image, scale_factor=self.factor))][2::2]
        maps = [narrow(own) for narrow, own in zip(self.narrow, maps, strict=True)]
        return self.end(sum(scale(own, maps[0].shape[2:]) for own in maps))
