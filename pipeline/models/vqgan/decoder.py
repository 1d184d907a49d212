"""Decoder: feature map `B z H/s W/s` to image `B 3 H W`, the encoder's mirror image."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models.vqgan.blocks import (
    AttentionBlock,
    Layers,
    ResidualBlock,
    group_norm,
    middle,
    upsampling,
)
from pipeline.params import Autoencoder


class Decoder(nn.Module):
    """As `Encoder`, from the smallest level to the largest; the output is not clamped."""

    def __init__(self, sizes: Autoencoder, side: int) -> None:
        super().__init__()
        before = sizes.channels * sizes.channels_multiplier[-1]
        layers: list[nn.Module] = [nn.Conv2d(sizes.z_channels, before, 3, padding=1)]
        layers += middle(before, sizes)
        resolutions, blocks = sizes.resolutions(side), sizes.num_res_blocks
        for level, multiplier in reversed(list(enumerate(sizes.channels_multiplier))):
            width = sizes.channels * multiplier
            for _ in range(blocks if sizes.symmetric else blocks + 1):
                layers.append(ResidualBlock(before, width, sizes))
                before = width
                if resolutions[level] in sizes.attention_resolution:
                    layers.append(AttentionBlock(width, sizes))
            if level:
                layers.append(upsampling(before, sizes.upsampling))
        self.layers = Layers(*layers)
        self.norm = group_norm(before, sizes.norm_groups)
        self.out = nn.Conv2d(before, 3 * sizes.patch_size**2, 3, padding=1)
        self.pixels = nn.PixelShuffle(sizes.patch_size)
        self.tanh = sizes.output == "tanh"

    @property
    def last_layer(self) -> nn.Parameter:
        """Where the adaptive weight compares gradients (thesis, eq. 7)."""
        return self.out.weight

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        images = self.pixels(self.out(F.silu(self.norm(self.layers(features)))))
        return images.tanh() if self.tanh else images
