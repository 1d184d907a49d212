"""Encoder: image `B 3 H W` to feature map `B z H/s W/s`, s = patch_size * 2^(levels - 1)."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models.vqgan.blocks import (
    AttentionBlock,
    Layers,
    ResidualBlock,
    downsampling,
    group_norm,
    middle,
)
from pipeline.params import Autoencoder


class Encoder(nn.Module):
    """Channels at level i are `channels * channels_multiplier[i]`, after cutting into patches.

    `side` is the longer one of the image, in pixels: it decides at which levels attention is used.
    """

    def __init__(self, sizes: Autoencoder, side: int) -> None:
        super().__init__()
        before = sizes.channels
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(sizes.patch_size),
            nn.Conv2d(3 * sizes.patch_size**2, before, 3, padding=1),
        ]
        resolutions = sizes.resolutions(side)
        for level, multiplier in enumerate(sizes.channels_multiplier):
            if level:
                layers.append(downsampling(before, sizes.downsampling))
            width = sizes.channels * multiplier
            for _ in range(sizes.num_res_blocks):
                layers.append(ResidualBlock(before, width, sizes))
                before = width
                if resolutions[level] in sizes.attention_resolution:
                    layers.append(AttentionBlock(width, sizes))
        self.layers = Layers(*layers, *middle(before, sizes))
        self.norm = group_norm(before, sizes.norm_groups)
        self.out = nn.Conv2d(before, sizes.z_channels, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(F.silu(self.norm(self.layers(images))))
