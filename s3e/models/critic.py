"""The PatchGAN critic of DeblurGAN (specification 3.2): it sees the restored or sharp photo alone."""

from torch import Tensor, nn

from s3e.models.generator import initialise


class Critic(nn.Module):
    """B x 3 x H x W in [-1, 1] -> B x 1 x h x w scores without sigmoid (35 x 35 at 256 px)."""

    def __init__(self, *, width: int):
        super().__init__()
        channels = [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 2), nn.LeakyReLU(0.2)]
        for inputs, outputs, stride in zip(channels[:-1], channels[1:], (2, 2, 1), strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, 4, stride, 2),
                nn.InstanceNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 4, 1, 2))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)
