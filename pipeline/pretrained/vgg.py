"""LPIPS: distance of two images in VGG16's features (Zhang et al., 2018, arXiv:1801.03924).

The perceptual loss of the tokenizer (thesis, section 3.2, there plain VGG features). In: float
`B 3 H W` in [-1, 1], sides of at least 16. Out: `B`, 0 for equal images.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.pretrained import weights

# Channels of VGG16's thirteen convolutions, grouped by the pooling before each group.
GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Lpips(nn.Module):
    """VGG16 trunk up to relu5_3 and one non-negative head a group; weights are frozen."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, *(channels for group in GROUPS for channels in group)]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(sizes)
        )
        self.heads = nn.ParameterList(nn.Parameter(torch.rand(group[-1])) for group in GROUPS)
        # ImageNet's mean and deviation, for images in [-1, 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    @classmethod
    def pretrained(cls) -> "Lpips":
        """The published network; raises UserError where its package is not installed."""
        content = weights.read(weights.LPIPS_VGG16)
        model = cls()
        for i, conv in enumerate(model.convs):
            layer = content["VGG16_0"][f"Conv_{i}"]
            # kernel: height width in out -> out in height width
            conv.weight.copy_(torch.from_numpy(layer["kernel"].copy()).permute(3, 2, 0, 1))
            conv.bias.copy_(torch.from_numpy(layer["bias"].copy()))
        for i, head in enumerate(model.heads):
            kernel = content[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]  # 1 1 C 1
            head.copy_(torch.from_numpy(kernel.copy()).flatten())
        return model.eval()

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Five feature maps, each `B C H' W'` of unit length along the channels."""
        x = (images - self.shift) / self.scale
        maps, convs = [], iter(self.convs)
        for group in GROUPS:
            if maps:
                x = F.max_pool2d(x, 2)
            for _ in group:
                x = F.relu(next(convs)(x), inplace=True)
            maps.append(x)
        return [f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in maps]

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.features(targets)
        distances = [
            ((a - b).square() * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
            for a, b, head in zip(self.features(images), wanted, self.heads, strict=True)
        ]
        return torch.stack(distances).sum(0)  # B
