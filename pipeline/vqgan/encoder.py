"""Encoder: image `B 3 H W` to feature map `B z H/s W/s`, s = patch_size * 2^(levels - 1)."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.params import Autoencoder
from pipeline.vqgan.blocks import AttentionBlock, Downsample, ResidualBlock, norm


class Encoder(nn.Module):
    """Channels at level i are `channels * channels_multiplier[i]`, after cutting into patches.

    `height` is the image's, in pixels: it decides at which levels attention is used.
    """

    def __init__(self, sizes: Autoencoder, height: int) -> None:
        super().__init__()
        widths = [sizes.channels * m for m in sizes.channels_multiplier]
        patch = sizes.patch_size
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(patch),
            nn.Conv2d(3 * patch**2, widths[0], 3, padding=1),
        ]
        before, height = widths[0], height // patch
        for level, width in enumerate(widths):
            if level:
                layers.append(Downsample(before))
                height //= 2
            for _ in range(sizes.num_res_blocks):
                layers.append(ResidualBlock(before, width, sizes.dropout))
                before = width
                if height in sizes.attention_resolution:
                    layers.append(AttentionBlock(width))
        layers.append(ResidualBlock(before, before, sizes.dropout))
        self.layers = nn.Sequential(*layers)
        self.norm = norm(before)
        self.out = nn.Conv2d(before, sizes.z_channels, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(F.silu(self.norm(self.layers(images))))
