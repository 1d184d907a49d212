"""Building blocks of encoder and decoder: residual, attention, down- and up-sampling.

Source: Esser et al., Taming Transformers (2021, arXiv:2012.09841), as in the thesis, section 3.2.
All take and give `B C H W`. One departure: attention divides by the root of the channels, as its
source does; the thesis' layer does not.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.params import Autoencoder


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
