"""Five layers of VGG16 or VGG19, which perceptual losses compare (Simonyan and Zisserman, 2014,
arXiv:1409.1556).

In: float `B 3 H W` in [-1, 1], sides of at least 16. Out: what follows the ReLU of conv1_2,
conv2_2, conv3_2, conv4_2 and conv5_2, `B C H' W'` with C = 64, 128, 256, 512, 512 and half the
height and width each time. The thesis' choice of layers, after Chen and Koltun, 2017
(arXiv:1707.09405).

2x2 pixels are averaged between the groups, as the thesis' code does, although both networks were
trained with the maximum: with it the activations of deep layers are larger, and nearly all of the
thesis' loss would come from the last layer (numbers in training/perceptual.py).

VGG16's convolutions are those that LPIPS brings. VGG19's come from torchvision's file, which no
package has: the user downloads it to FILE.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.errors import UserError
from pipeline.models.pretrained.lpips import Lpips
from pipeline.models.pretrained.weights import check_sha256

VGG16, VGG19 = (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)  # convolutions of each group
CHANNELS = (64, 128, 256, 512, 512)
SEEN = 2  # the convolution of each group whose activations are given out
LEAST = 16  # shortest side of a picture of which every group sees something
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for [0, 1]
URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
FILE, DIGITS = Path("data/weights/vgg19-dcbb9e9d.pth"), "dcbb9e9d"  # of its sha256, the first

Layer = tuple[torch.Tensor, torch.Tensor]  # a convolution's weight and bias


class VggFeatures(nn.Module):
    """The network up to conv5_2; weights are frozen."""

    def __init__(self, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.groups, before = nn.ModuleList(), 3
        for depth, channels in zip((*depths[:-1], SEEN), CHANNELS, strict=True):
            sizes = (before, *[channels] * depth)
            self.groups.append(nn.ModuleList(_conv(*sizes[i : i + 2]) for i in range(depth)))
            before = channels
        mean, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
        self.register_buffer("shift", (2 * mean - 1).view(1, 3, 1, 1))
        self.register_buffer("scale", (2 * deviation).view(1, 3, 1, 1))
        self.requires_grad_(False)

    @classmethod
    def vgg16(cls) -> "VggFeatures":
        """From the package that brings LPIPS; UserError where it is missing."""
        convs = Lpips.pretrained("vgg16").convs
        return cls(VGG16)._filled((conv.weight, conv.bias) for conv in convs)

    @classmethod
    def vgg19(cls) -> "VggFeatures":
        """From torchvision's file; UserError where it is missing or another."""
        verify()
        state = torch.load(FILE, map_location="cpu", weights_only=True)
        places = sorted({int(name.split(".")[1]) for name in state if name.startswith("features")})
        names = [f"features.{place}" for place in places]
        return cls(VGG19)._filled((state[f"{n}.weight"], state[f"{n}.bias"]) for n in names)

    def _filled(self, layers: Iterable[Layer]) -> "VggFeatures":
        convs = (conv for group in self.groups for conv in group)
        for conv, (weight, bias) in zip(convs, layers, strict=False):  # the file has more of them
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)
        return self.eval().to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        assert images.ndim == 4 and images.shape[1] == 3, images.shape
        if min(images.shape[-2:]) < LEAST:
            raise ValueError(
                f"the perceptual loss needs pictures of at least {LEAST} pixels a side, "
                f"got {tuple(images.shape[-2:])} (height, width)"
            )
        x, maps = (images.float() - self.shift) / self.scale, []
        for i, group in enumerate(self.groups):
            if i:
                x = F.avg_pool2d(x, 2)  # B C H/2 W/2
            for j, conv in enumerate(group, 1):
                x = F.relu(conv(x), inplace=True)
                if j == SEEN:
                    maps.append(x)
        return maps


def verify() -> None:
    """UserError where torchvision's file is missing, or another."""
    if not FILE.is_file():
        raise UserError(f"VGG19: {FILE} is missing; download it from {URL}")
    check_sha256("VGG19", FILE, DIGITS, f"download {URL} again")


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)
