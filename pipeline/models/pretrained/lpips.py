"""LPIPS: distance of two images in a network's features (Zhang et al., 2018, arXiv:1801.03924).

A perceptual loss of the tokenizer (thesis, section 3.2, there plain VGG features), and a metric.
In: float `B 3 H W` in [-1, 1], sides of at least 16 (VGG16) or 31 (AlexNet). Out: `B`, 0 for equal
images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models.pretrained import weights


@dataclass(frozen=True)
class Trunk:
    """A network's convolutions, each followed by a ReLU, in groups that end with a head."""

    weights: weights.Weights
    section: str  # the trunk's name in the weight file
    groups: tuple[tuple[int, ...], ...]  # channels of the convolutions
    kernels: dict[int, tuple[int, int, int]]  # size, stride, padding where not (3, 1, 1)
    pooled: tuple[int, ...]  # groups that begin with max pooling of stride 2
    window: int  # of that pooling
    least: int  # shortest side of a picture of which every group sees something


TRUNKS = {
    "vgg16": Trunk(
        weights=weights.LPIPS_VGG16,
        section="VGG16_0",
        groups=((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
        kernels={},
        pooled=(1, 2, 3, 4),
        window=2,
        least=16,
    ),
    "alexnet": Trunk(
        weights=weights.LPIPS_ALEXNET,
        section="AlexNet_0",
        groups=((64,), (192,), (384,), (256,), (256,)),
        kernels={0: (11, 4, 2), 1: (5, 1, 2)},
        pooled=(1, 2),
        window=3,
        least=31,
    ),
}


class Lpips(nn.Module):
    """The trunk up to its last ReLU and one non-negative head a group; weights are frozen."""

    def __init__(self, network: Literal["vgg16", "alexnet"] = "vgg16") -> None:
        super().__init__()
        self.network, self.trunk = network, TRUNKS[network]
        sizes = [3, *(channels for group in self.trunk.groups for channels in group)]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, *self.trunk.kernels.get(i, (3, 1, 1)))
            for i, (before, after) in enumerate(pairwise(sizes))
        )
        self.heads = nn.ParameterList(
            nn.Parameter(torch.rand(group[-1])) for group in self.trunk.groups
        )
        # ImageNet's mean and deviation, for images in [-1, 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    @classmethod
    def pretrained(cls, network: Literal["vgg16", "alexnet"] = "vgg16") -> "Lpips":
        """The published network, from its package; UserError where that is missing."""
        model = cls(network)
        content = weights.read(model.trunk.weights)
        for i, conv in enumerate(model.convs):
            layer = content[model.trunk.section][f"Conv_{i}"]
            # kernel: height width in out -> out in height width
            conv.weight.copy_(torch.from_numpy(layer["kernel"].copy()).permute(3, 2, 0, 1))
            conv.bias.copy_(torch.from_numpy(layer["bias"].copy()))
        for i, head in enumerate(model.heads):
            kernel = content[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]  # 1 1 C 1
            head.copy_(torch.from_numpy(kernel.copy()).flatten())
        return model.eval()

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Five feature maps, each `B C H' W'` of unit length along the channels."""
        maps = [f.float() for f in self._maps(images)]  # bf16 rounds small differences away
        return [f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in maps]

    def trunk_features(self, images: torch.Tensor) -> torch.Tensor:
        """`B C` for a Fréchet distance: the last ReLU (VGG16: relu5_3, C = 512), mean in space."""
        return self._maps(images)[-1].mean((2, 3))

    def distance(
        self, features_a: Sequence[torch.Tensor], features_b: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """`B`, of two results of `features`: those of the truth serve every candidate."""
        distances = [
            ((a - b).square() * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
            for a, b, head in zip(features_a, features_b, self.heads, strict=True)
        ]
        return torch.stack(distances).sum(0)  # B

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.features(targets)
        return self.distance(self.features(images), wanted)

    def _maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The trunk's activations at the end of each group."""
        if min(images.shape[-2:]) < self.trunk.least:
            raise ValueError(
                f"LPIPS with {self.network} needs pictures of at least {self.trunk.least} pixels "
                f"a side, got {tuple(images.shape[-2:])} (height, width)"
            )
        x = (images - self.shift) / self.scale
        maps, convs = [], iter(self.convs)
        for i, group in enumerate(self.trunk.groups):
            if i in self.trunk.pooled:
                x = F.max_pool2d(x, self.trunk.window, 2)
            for _ in group:
                x = F.relu(next(convs)(x), inplace=True)
            maps.append(x)
        return maps
