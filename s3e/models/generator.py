"""DeblurGAN: generator, with places for node maps, and critic (specification 3.1, 3.2, 6.5)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _norm_relu(width: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(width), nn.ReLU()]


class ResidualBlock(nn.Module):
    """pad, conv, IN, ReLU, dropout, pad, conv, IN; identity skip, no ReLU after the sum.

    Two convolutions as in the paper's network; the public code of 2019 loses the second
    (specification 3.5).
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            *_norm_relu(width),
            nn.Dropout(dropout),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


class Embed(nn.Module):
    """Embed semantic maps M (B x M x h x w) into features F (B x C x H x W); at first: F.

    `concat`: F + Conv1x1([F ; M']); `sft`: F (1 + gamma(M')) + beta(M'), M' = the maps at F's size
    and width. The last convolutions are zero-initialised, so co-training starts exactly at the
    pretrained deblurrer.
    """

    def __init__(self, map_channels: int, width: int, fuse: str):
        super().__init__()
        self.project = nn.Conv2d(map_channels, width, 1)
        self.fuse = fuse
        inputs, outputs = (2 * width, width) if fuse == "concat" else (width, 2 * width)
        self.mix = nn.Conv2d(inputs, outputs, 1)
        self.zero()

    def zero(self) -> None:
        """Zero the last convolution (called again after an initialisation of all weights)."""
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, features: Tensor, maps: Tensor) -> Tensor:
        maps = self.project(maps)  # B x C x h x w
        maps = F.interpolate(maps, features.shape[2:], mode="bilinear", align_corners=False)
        if self.fuse == "concat":
            return features + self.mix(torch.cat([features, maps], 1))
        gamma, beta = self.mix(maps).chunk(2, 1)
        return features * (1 + gamma) + beta


def embeddings(map_channels: int, width: int, fuse: str, places: list[int]) -> nn.ModuleDict:
    """One `Embed` before each of the blocks numbered `places`; none without maps."""
    places = places if map_channels else []
    return nn.ModuleDict({str(place): Embed(map_channels, width, fuse) for place in places})


def run_trunk(
    trunk: nn.ModuleList, embed: nn.ModuleDict, features: Tensor, maps: Tensor | None
) -> Tensor:
    """The blocks of `trunk` in turn; `maps` are embedded before those that `embed` names."""
    for place, block in enumerate(trunk):
        if maps is not None and str(place) in embed:
            features = embed[str(place)](features, maps)
        features = block(features)
    return features


class Generator(nn.Module):
    """B x 3 x H x W in [-1, 1] -> clamp(input + tanh(...), -1, 1); H, W are multiples of 4.

    Instance normalisation without affine parameters and without running statistics, so that
    training and test agree; dropout acts in training only. `embed_at` lists residual blocks before
    which `maps` are embedded.
    """

    def __init__(
        self, *, width: int, blocks: int, dropout: float, map_channels: int, embed_at: list[int],
        fuse: str
    ):  # fmt: skip
        super().__init__()
        self.encoder = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), *_norm_relu(width),
            nn.Conv2d(width, 2 * width, 3, 2, 1), *_norm_relu(2 * width),
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1), *_norm_relu(4 * width)
        )  # fmt: skip
        self.trunk = nn.ModuleList(ResidualBlock(4 * width, dropout) for _ in range(blocks))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, 1), *_norm_relu(2 * width),
            nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), *_norm_relu(width),
            nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()
        )  # fmt: skip
        self.embed = embeddings(map_channels, 4 * width, fuse, embed_at)
        initialise(self)
        for embed in self.embed.values():
            embed.zero()

    def forward(self, blurred: Tensor, maps: Tensor | None = None) -> Tensor:
        features = self.encoder(blurred)  # B x 4 width x H/4 x W/4
        features = run_trunk(self.trunk, self.embed, features, maps)
        return (blurred + self.decoder(features)).clamp(-1, 1)


def initialise(module: nn.Module) -> None:
    """Convolution weights N(0, 0.02), biases 0, as in DeblurGAN."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            nn.init.zeros_(layer.bias)


class Critic(nn.Module):
    """The PatchGAN critic: B x 3 x H x W in [-1, 1] -> scores B x 1 x h x w (35 x 35 at 256 px).

    In training it sees images with Gaussian `noise` (its standard deviation), so that the finest
    detail, which restored images lack, does not decide alone.
    """

    def __init__(self, *, width: int, noise: float = 0.0):
        super().__init__()
        self.noise = noise
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 2), nn.LeakyReLU(0.2)]
        for inputs, outputs, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            layers.append(nn.Conv2d(inputs * width, outputs * width, 4, stride, 2))
            layers += [nn.InstanceNorm2d(outputs * width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 2))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        if self.training and self.noise:
            image = image + self.noise * torch.randn_like(image)
        return self.layers(image)
