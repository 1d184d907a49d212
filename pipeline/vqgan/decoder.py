"""Decoder: feature map `B z H/s W/s` to image `B 3 H W`, the encoder's mirror image."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.params import Autoencoder
from pipeline.vqgan.blocks import AttentionBlock, ResidualBlock, Upsample, norm


class Decoder(nn.Module):
    """As `Encoder`, from the smallest level to the largest; the output is not clamped."""

    def __init__(self, sizes: Autoencoder, height: int) -> None:
        super().__init__()
        widths = [sizes.channels * m for m in sizes.channels_multiplier]
        height //= sizes.stride
        before = widths[-1]
        layers: list[nn.Module] = [
            nn.Conv2d(sizes.z_channels, before, 3, padding=1),
            ResidualBlock(before, before, sizes.dropout),
        ]
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(sizes.num_res_blocks):
                layers.append(ResidualBlock(before, width, sizes.dropout))
                before = width
                if height in sizes.attention_resolution:
                    layers.append(AttentionBlock(width))
            if level:
                layers.append(Upsample(before, sizes.upsampling))
                height *= 2
        self.layers = nn.Sequential(*layers)
        self.norm = norm(before)
        self.out = nn.Conv2d(before, 3 * sizes.patch_size**2, 3, padding=1)
        self.pixels = nn.PixelShuffle(sizes.patch_size)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where the adaptive weight compares gradients (thesis, eq. 7)."""
        return self.out.weight

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.pixels(self.out(F.silu(self.norm(self.layers(features)))))
