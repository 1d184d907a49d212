"""Encoder and decoder of the tokenizer, and the blocks that they are made of.

Encoder: image `B 3 H W` to feature map `B z H/s W/s`, s = patch_size * 2^(levels - 1). Decoder: the
way back. Source: Esser et al., Taming Transformers (2021, arXiv:2012.09841), as in the thesis,
section 3.2. All blocks take and give `B C H W`. One departure: attention divides by the root of the
channels, as its source does; the thesis' layer does not.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.config import Autoencoder


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group norm, whose statistics do not depend on the batch, with up to `groups` groups."""
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a skip connection."""

    def __init__(self, channels_in: int, channels_out: int, sizes: Autoencoder) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in, sizes.norm_groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out, sizes.norm_groups)
        self.dropout = nn.Dropout(sizes.dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.skip(x) + h


class AttentionBlock(nn.Module):
    """Single-head attention over all positions of the feature map."""

    def __init__(self, channels: int, sizes: Autoencoder) -> None:
        super().__init__()
        self.norm = group_norm(channels, sizes.norm_groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)  # B HW C
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(1, 2).unflatten(2, (height, width)))


def downsampling(channels: int, mode: str) -> nn.Module:
    """Halves height and width: a strided convolution, or a mean of 2x2 and a convolution."""
    if mode == "average":
        return nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, channels, 3, padding=1))
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))


def upsampling(channels: int, mode: str) -> nn.Module:
    """Doubles height and width by interpolation and a convolution, or `transposed`.

    Thesis, appendix B. A transposed convolution of 3x3 and stride 2 reaches some pixels more often
    than others: the checkerboards of the thesis' figure 46.
    """
    if mode == "transposed":
        return nn.ConvTranspose2d(channels, channels, 3, 2, padding=1, output_padding=1)
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode=mode), nn.Conv2d(channels, channels, 3, padding=1)
    )


def middle(channels: int, sizes: Autoencoder) -> list[nn.Module]:
    """What stands at the smallest level of both networks."""
    if sizes.middle == "block":
        return [ResidualBlock(channels, channels, sizes)]
    return [
        ResidualBlock(channels, channels, sizes),
        AttentionBlock(channels, sizes),
        ResidualBlock(channels, channels, sizes),
    ]


class Layers(nn.Sequential):
    """Layers one after another; with `checkpointing` their insides are computed again backwards."""

    checkpointing = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return x


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


class Decoder(nn.Module):
    """The encoder's mirror image, from the smallest level to the largest; output not clamped."""

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
