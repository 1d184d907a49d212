"""Encoder and decoder of the tokenizer, and the blocks that they are made of.

Encoder: image `B 3 H W` to feature map `B z H/s W/s`, s = `stride(sizes)`. Decoder: the way back.
Source: Esser et al., Taming Transformers (2021, arXiv:2012.09841). All blocks take and give
`B C H W`. Two architectures:

    fast     downsampling by strided convolutions, as many residual blocks in both networks, a
             linear output, and a linear path around both networks (models/vqgan/model.py)
    thesis   section 3.2: downsampling by averages, one more residual block a level in the decoder,
             tanh at the end. One departure: attention divides by the root of the channels, as its
             source does; the thesis' layer does not.

`attention_resolution` puts attention after the residual blocks of these levels, and between two
residual blocks at the smallest level; without it one block stands there and nothing attends.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.config import Autoencoder


def stride(sizes: Autoencoder) -> int:
    """Pixels a side that one token stands for."""
    return sizes.patch_size * 2 ** (len(sizes.channels_multiplier) - 1)


def resolutions(sizes: Autoencoder, side: int) -> list[int]:
    """Sides of the feature maps, a level each, for an image's side."""
    return [side // sizes.patch_size // 2**level for level in range(len(sizes.channels_multiplier))]


def group_norm(channels: int, sizes: Autoencoder) -> nn.GroupNorm:
    """Group norm, with fewer groups where their number does not divide the channels."""
    groups = 32 if sizes.architecture == "thesis" else 16
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a skip connection."""

    def __init__(self, channels_in: int, channels_out: int, sizes: Autoencoder) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in, sizes)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out, sizes)
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
        self.norm = group_norm(channels, sizes)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)  # B HW C
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(1, 2).unflatten(2, (height, width)))


def downsampling(channels: int, sizes: Autoencoder) -> nn.Module:
    """Halves height and width: a mean of 2x2 and a convolution, or a strided convolution."""
    if sizes.architecture == "thesis":
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


def mid_blocks(channels: int, sizes: Autoencoder) -> list[nn.Module]:
    """What stands at the smallest level of both networks."""
    if not sizes.attention_resolution:
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
        sides = resolutions(sizes, side)
        for level, multiplier in enumerate(sizes.channels_multiplier):
            if level:
                layers.append(downsampling(before, sizes))
            width = sizes.channels * multiplier
            for _ in range(sizes.num_res_blocks):
                layers.append(ResidualBlock(before, width, sizes))
                before = width
                if sides[level] in sizes.attention_resolution:
                    layers.append(AttentionBlock(width, sizes))
        self.layers = Layers(*layers, *mid_blocks(before, sizes))
        self.norm = group_norm(before, sizes)
        self.out = nn.Conv2d(before, sizes.z_channels, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(F.silu(self.norm(self.layers(images))))


class Decoder(nn.Module):
    """The encoder's mirror image, from the smallest level to the largest; output not clamped."""

    def __init__(self, sizes: Autoencoder, side: int) -> None:
        super().__init__()
        before = sizes.channels * sizes.channels_multiplier[-1]
        layers: list[nn.Module] = [nn.Conv2d(sizes.z_channels, before, 3, padding=1)]
        layers += mid_blocks(before, sizes)
        sides = resolutions(sizes, side)
        self.tanh = sizes.architecture == "thesis"
        blocks = sizes.num_res_blocks + (sizes.architecture == "thesis")
        for level, multiplier in reversed(list(enumerate(sizes.channels_multiplier))):
            width = sizes.channels * multiplier
            for _ in range(blocks):
                layers.append(ResidualBlock(before, width, sizes))
                before = width
                if sides[level] in sizes.attention_resolution:
                    layers.append(AttentionBlock(width, sizes))
            if level:
                layers.append(upsampling(before, sizes.upsampling))
        self.layers = Layers(*layers)
        self.norm = group_norm(before, sizes)
        self.out = nn.Conv2d(before, 3 * sizes.patch_size**2, 3, padding=1)
        self.pixels = nn.PixelShuffle(sizes.patch_size)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where the adaptive weight compares gradients (thesis, eq. 7)."""
        return self.out.weight

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        images = self.pixels(self.out(F.silu(self.norm(self.layers(features)))))
        return images.tanh() if self.tanh else images
