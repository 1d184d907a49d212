"""PatchGAN discriminator (Isola et al., 2017, arXiv:1611.07004): image to a map of logits.

`num_layers` strided convolutions; with 2 each logit sees 34 pixels a side, with 3 it sees 70
(thesis, Table 3). Instance statistics (group norm with one group a channel) in place of batch
norm, whose statistics differ between training and evaluation (the thesis' artifacts).
"""

import torch
from torch import nn

from pipeline.params import Discriminator as Settings


class Discriminator(nn.Module):
    """`B 3 H W` in [-1, 1] to logits `B 1 h w`; higher means more real."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.filters
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, settings.num_layers + 1):
            before, width = width, settings.filters * min(2**i, 8)
            stride = 2 if i < settings.num_layers else 1
            layers += [
                nn.Conv2d(before, width, 4, stride, 1),
                nn.GroupNorm(width, width),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)
