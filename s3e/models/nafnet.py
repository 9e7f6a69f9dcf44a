"""A modern deblurrer behind the generator's interface: NAFNet's body, with embedded node maps.

Source: "Simple Baselines for Image Restoration" (arXiv 2204.04676), network of 32 channels for
GoPro. Ours are the maps, and photos in [-1, 1] outside: inside they are in [0, 1], as published, so
that the zeros around an image mean black and public weights give what they gave.
"""

import torch
from torch import Tensor, nn

from s3e.models.generator import embeddings, run_trunk


def _gate(features: Tensor) -> Tensor:
    """SimpleGate: one half of the channels times the other."""
    first, second = features.chunk(2, -1)
    return first * second


class NAFBlock(nn.Module):
    """x + beta A(norm(x)), then x + gamma B(norm(x)), B x C x H x W; beta and gamma start at 0.

    A: 1x1 to 2C, depthwise 3x3, gate, channel attention (scale = linear function of the channels'
    means), 1x1. B: 1x1 to 2C, gate, 1x1. No activation function. Seen as B x H x W x C, which costs
    nothing in the memory format `channels_last`, normalisation over channels and 1x1 convolutions
    are `LayerNorm` and `Linear`.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.widen = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.spread = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.attention = nn.Linear(width, width)
        self.beta, self.gamma = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        pixels = features.movedim(1, -1)
        mixed = self.widen[0](self.norms[0](pixels)).movedim(-1, 1)  # B x 2C x H x W
        mixed = _gate(self.spread(mixed).movedim(1, -1))  # B x H x W x C
        mixed = mixed * self.attention(mixed.mean((1, 2), keepdim=True))
        pixels = pixels + self.beta * self.narrow[0](mixed)
        feed = self.narrow[1](_gate(self.widen[1](self.norms[1](pixels))))
        return (pixels + self.gamma * feed).movedim(-1, 1)


class NAFNet(nn.Module):
    """B x 3 x H x W in [-1, 1] -> clamp(input + 2 body, -1, 1); H, W are multiples of 16.

    Four encoder stages of 1, 1, 1 and `blocks` blocks at strides 1, 2, 4, 8, one block at stride
    16, four decoder stages of one block, sums as skips. `maps` are embedded before the blocks
    `embed_at` of the deepest encoder stage (8 x `width` channels, stride 8). No dropout, and
    PyTorch's usual initial weights, as published.
    """

    def __init__(
        self, *, width: int, blocks: int, map_channels: int, embed_at: list[int], fuse: str
    ):
        super().__init__()
        widths = [width * 2**stage for stage in range(4)]
        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.encoder = nn.ModuleList(NAFBlock(channels) for channels in widths[:3])
        self.trunk = nn.ModuleList(NAFBlock(widths[3]) for _ in range(blocks))
        self.downs = nn.ModuleList(nn.Conv2d(channels, 2 * channels, 2, 2) for channels in widths)
        self.middle = NAFBlock(2 * widths[3])
        self.ups = nn.ModuleList(  # half the channels at twice the side
            nn.Sequential(nn.Conv2d(2 * channels, 4 * channels, 1, bias=False), nn.PixelShuffle(2))
            for channels in reversed(widths)
        )
        self.decoder = nn.ModuleList(NAFBlock(channels) for channels in reversed(widths))
        self.ending = nn.Conv2d(width, 3, 3, padding=1)
        self.embed = embeddings(map_channels, widths[3], fuse, embed_at)

    def forward(self, blurred: Tensor, maps: Tensor | None = None) -> Tensor:
        image = (blurred + 1) / 2
        features = self.intro(image.contiguous(memory_format=torch.channels_last))
        skips = []
        for block, down in zip(self.encoder, self.downs[:3], strict=True):
            skips.append(block(features))
            features = down(skips[-1])
        skips.append(run_trunk(self.trunk, self.embed, features, maps))
        features = self.middle(self.downs[3](skips[-1]))
        for up, block, skip in zip(self.ups, self.decoder, reversed(skips), strict=True):
            features = block(up(features) + skip)
        return (blurred + 2 * self.ending(features)).clamp(-1, 1)
