"""PatchGAN discriminator (Isola et al., 2017, arXiv:1611.07004): image to a map of logits.

`num_layers` convolutions of stride 2, then two of stride 1, all 4x4 and padded so that a stride of
1 keeps the size (thesis, Table 3; its code is in TensorFlow, whose "same" padding this is). Norms:
`batch` is the thesis', `instance` has statistics of each picture alone, `none` is what later work
found sound for a discriminator. The statistics of `batch` are always those of the batch at hand:
the thesis' artifacts came where the generator's step saw other ones than D's own.
"""

import torch
from torch import nn

from pipeline import config

SAME = (1, 2, 1, 2)  # padding that keeps the size under 4x4: left, right, top, bottom
WEIGHT_DEVIATION = 0.02  # of the weights at the start, as in the source and the thesis


class Discriminator(nn.Module):
    """`B 3 H W` in [-1, 1] to logits `B 1 h w`, h = H / 2^num_layers; higher means more real.

    A logit sees 16, 34, 70, 142 pixels a side with 1, 2, 3, 4 layers.
    """

    def __init__(self, settings: config.Discriminator) -> None:
        super().__init__()
        width = settings.filters
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, settings.num_layers + 1):
            before, width = width, settings.filters * min(2**i, 8)
            bias, last = settings.norm == "none", i == settings.num_layers
            layers += [nn.ZeroPad2d(SAME)] if last else []
            stride, padding = (1, 0) if last else (2, 1)
            layers.append(nn.Conv2d(before, width, 4, stride, padding, bias=bias))
            if settings.norm == "instance":
                layers.append(nn.GroupNorm(width, width))
            elif settings.norm == "batch":
                layers.append(nn.BatchNorm2d(width, track_running_stats=False))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers)
        self.out = nn.Sequential(nn.ZeroPad2d(SAME), nn.Conv2d(width, 1, 4))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=WEIGHT_DEVIATION)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(images))  # B 1 h w
