"""The semantic encoder of paper scale: a ResNet up to its third layer (specification 6.1, preset `resnet`).

Source: torchvision's ResNet ("v1.5": the stride is in the 3x3 convolution), so that its public files fit by name.
"""

from torch import Tensor, nn

from s3e.models.encoder import halvings
from s3e.models.vgg import Normalise
from s3e.models.weights import load_public
from s3e.ranks import BatchNorm2d

LAYERS = {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23)}  # blocks in each layer


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
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs)
            )

    def forward(self, features: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(features)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        return self.relu(self.bn3(self.conv3(inner)) + self.downsample(features))


class ResNet(nn.Module):
    """ResNet-50 or -101 up to layer3, then a 1x1 convolution: B x 3 x S x S in [-1, 1] -> B x `channels` x 16 x 16.

    `kind`: "resnet50" or "resnet101". Photos are normalised as ImageNet's. At 256 px convolution, pooling, layer2 and
    layer3 halve the side. For a smaller photo the last of them lose their stride, and what follows is dilated instead:
    each weight then sees the same pixels as in the network that it was trained in. Raises ValueError for other sizes.
    """

    def __init__(self, *, kind: str, size: int, channels: int):
        super().__init__()
        steps = halvings(size)
        self.kind, self.channels = kind, channels
        self.normalise = Normalise()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2 if steps > 1 else 1, 1)
        dilation = 1 if steps > 1 else 2
        blocks = LAYERS[kind]
        self.layer1, dilation = _layer(64, 64, blocks[0], 1, 1, dilation)
        self.layer2, dilation = _layer(256, 128, blocks[1], 2, 2 if steps > 2 else 1, dilation)
        self.layer3, dilation = _layer(512, 256, blocks[2], 2, 2 if steps > 3 else 1, dilation)
        self.project = nn.Sequential(
            nn.Conv2d(1024, channels, 1, bias=False), BatchNorm2d(channels), nn.ReLU(inplace=True)
        )

    def load(self, weights: str) -> None:
        """Start from a public file (see `s3e.models.weights`); the last convolution is not in it and stays random."""
        load_public(self, weights, own=("project.",), foreign=f"layer3.{LAYERS[self.kind][2]}.")

    def forward(self, image: Tensor) -> Tensor:
        features = self.maxpool(self.relu(self.bn1(self.conv1(self.normalise(image)))))
        return self.project(self.layer3(self.layer2(self.layer1(features))))


def _layer(
    inputs: int, width: int, blocks: int, wanted: int, stride: int, dilation: int
) -> tuple[nn.Sequential, int]:  # fmt: skip
    """Blocks of which the first has `stride` in place of `wanted`, and the dilation of what follows it."""
    after = dilation * wanted // stride
    first = Bottleneck(inputs, width, stride, dilation)
    return nn.Sequential(
        first, *(Bottleneck(4 * width, width, 1, after) for _ in range(blocks - 1))
    ), after
