"""Perceptual losses between decoded and true images, and the edge loss.

All take float `B 3 H W` in [-1, 1] and give 0 for equal images, in float32 under autocast
too: the perceptual losses a scalar, the edge loss `B`. `vqgan.loss.perceptual_loss` chooses:

- `vgg16`, `alexnet`: LPIPS with that network (Zhang et al., 2018, arXiv:1801.03924).
- `vgg19`, the thesis': sum over five layers of w * mean |F(decoded) - F(images)|, with the weights
  w of Chen and Koltun, 2017 (arXiv:1707.09405).
- `style` of VGG16, `style_vgg19` of VGG19: sum of w * mean (G(decoded) - G(images))^2, where
  G = F F^T / (H W) says which features occur together, and not where (Gatys et al., 2015,
  arXiv:1508.06576).

The thesis took the last two from FILM (Reda et al., 2022, arXiv:2202.04901), which divides the
features by 255, the contrast of the pictures that Caffe's VGG19 sees, and fed them [-1, 1] where
[0, 1] is wanted. Ours see [0, 1] and torchvision's networks, whose pictures have the contrast
1 / 0.226, ImageNet's deviation: so the features are multiplied by 0.226. Measured with VGG16 on
cartoon frames of 64x128 that went through half their size (25.8 dB): mean |F| 0.78, 1.07, 0.94,
0.27, 0.10 and their differences 0.34, 0.43, 0.41, 0.14, 0.05 before that factor, hence shares of
the layers in the loss of 0.19, 0.13, 0.16, 0.03, 0.50 (with max pooling 0.81 would be the last
layer's). The losses are then 0.16 and 0.0009 where the absolute error is 0.034 on [0, 1]: just the
sizes that FILM's weights 0.25, 40 and 1 make equal. So `style` wants a `perceptual_weight` 160
times that of `vgg19`. LPIPS is 0.17 there.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from pipeline.config import VqganLoss
from pipeline.models.pretrained.lpips import Lpips
from pipeline.models.pretrained.vgg import DEVIATION, VggFeatures

LAYER_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
TO_PICTURES = sum(DEVIATION) / 3  # from the contrast of the networks' pictures to that of [0, 1]

Maps = Sequence[torch.Tensor]


class Perceptual:
    """A loss of decoded against true images, by the features of a frozen network."""

    def __init__(
        self,
        features: Callable[[torch.Tensor], Maps],
        distance: Callable[[Maps, Maps], torch.Tensor],
    ) -> None:
        self.features, self.distance = features, distance

    def __call__(self, decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = [f.float() for f in self.features(images)]
        return self.distance([f.float() for f in self.features(decoded)], target).mean()


def perceptual_loss(settings: VqganLoss, device: torch.device) -> Perceptual | None:
    """What `perceptual_loss` asks for; UserError where its weights are missing."""
    kind = settings.perceptual_loss
    if kind == "none":
        return None
    if kind in ("vgg16", "alexnet"):
        lpips = Lpips.pretrained(kind)
        lpips = lpips.to(device, memory_format=torch.channels_last)
        return Perceptual(lpips.features, lpips.distance)
    network = VggFeatures.vgg19() if kind.endswith("vgg19") else VggFeatures.vgg16()
    distance = style_distance if kind.startswith("style") else feature_distance
    return Perceptual(network.to(device), distance)


def feature_distance(decoded: Maps, target: Maps) -> torch.Tensor:
    """Of the five maps `B C H W` of both: the scalar of `vgg19`."""
    layers = [F.l1_loss(a, b) for a, b in zip(decoded, target, strict=True)]
    return TO_PICTURES * _weighted(layers)


def style_distance(decoded: Maps, target: Maps) -> torch.Tensor:
    """Of the five maps `B C H W` of both: the scalar of `style`."""
    pairs = zip(decoded, target, strict=True)
    return _weighted([F.mse_loss(_gram(a), _gram(b)) for a, b in pairs])


def edge_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """`B`: mean absolute difference of the finite differences along x, and the same along y.

    A tint costs nothing, a lost or blurred line costs twice: at both of its sides.
    """
    error = decoded.float() - images.float()  # finite differences are linear: those of the error
    along_x = error.diff(dim=3).abs().mean((1, 2, 3))  # B
    along_y = error.diff(dim=2).abs().mean((1, 2, 3))
    return along_x + along_y


def _weighted(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum(weight * layer for weight, layer in zip(LAYER_WEIGHTS, layers, strict=True))


def _gram(features: torch.Tensor) -> torch.Tensor:
    """`B C H W` to `B C C`; sums of up to H*W products, so never in bf16."""
    with torch.autocast(features.device.type, enabled=False):
        rows = features.flatten(2) * (TO_PICTURES / math.sqrt(features[0, 0].numel()))  # B C HW
        return rows @ rows.mT
