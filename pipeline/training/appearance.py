"""How much drawn pictures differ for the eye: perceptual losses, and the line loss.

All take float `B 3 H W` in [-1, 1] and give a scalar, 0 for equal pictures, in float32 under
autocast too. `vqgan.loss.perceptual_loss` chooses:

- `vgg16`: LPIPS (Zhang et al., 2018, arXiv:1801.03924).
- `vgg19`, the thesis': sum over five layers of w * mean |F(drawn) - F(images)|, with the weights w
  of Chen and Koltun, 2017 (arXiv:1707.09405).
- `style`: sum of w * mean (G(drawn) - G(images))^2, where G = F F^T / (H W) says which features
  occur together, and not where (Gatys et al., 2015, arXiv:1508.06576).

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
from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline.params import VqganLoss
from pipeline.pretrained.lpips import Lpips
from pipeline.pretrained.vgg import DEVIATION, VggFeatures

LAYER_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
TO_PICTURES = sum(DEVIATION) / 3  # from the contrast of the networks' pictures to that of [0, 1]

LUMA = (0.299, 0.587, 0.114)
SIGMA, WIDER, REACH = 1.0, 1.6, 4  # pixels, how much wider, deviations: as in metrics/lines.py

Maps = Sequence[torch.Tensor]


class Perceptual:
    """Two sets of pictures to a loss, by what a frozen network sees in them."""

    def __init__(
        self,
        see: Callable[[torch.Tensor], Maps],
        compare: Callable[[Maps, Maps], torch.Tensor],
    ) -> None:
        self.see, self.compare = see, compare

    def __call__(self, drawn: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = [f.float() for f in self.see(images)]
        return self.compare([f.float() for f in self.see(drawn)], wanted).mean()


def perceptual_loss(settings: VqganLoss, device: torch.device) -> Perceptual | None:
    """What `perceptual_loss` asks for; UserError where its weights are missing."""
    if settings.network == "none":
        return None
    if settings.perceptual_loss == "vgg16":
        lpips = Lpips.pretrained().to(device, memory_format=torch.channels_last)
        return Perceptual(lpips.features, lpips.distance)
    vgg19 = settings.network == "vgg19"
    network = VggFeatures.vgg19(Path(settings.vgg19_file)) if vgg19 else VggFeatures.vgg16()
    compare = style_distance if settings.perceptual_loss == "style" else feature_distance
    return Perceptual(network.to(device), compare)


def feature_distance(drawn: Maps, wanted: Maps) -> torch.Tensor:
    """Of the five maps `B C H W` of both: the scalar of `vgg19`."""
    found = [F.l1_loss(a, b) for a, b in zip(drawn, wanted, strict=True)]
    return TO_PICTURES * _weighted(found)


def style_distance(drawn: Maps, wanted: Maps) -> torch.Tensor:
    """Of the five maps `B C H W` of both: the scalar of `style`."""
    pairs = zip(drawn, wanted, strict=True)
    return _weighted([F.mse_loss(_gram(a), _gram(b)) for a, b in pairs])


def line_loss(drawn: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of how far each pixel is a line.

    That is what a narrow Gaussian leaves darker (or lighter) than a wide one, as in the outlines of
    EISAI (Chen and Zwicker, 2022, arXiv:2111.12792), divided by its value on a straight line one
    pixel wide: a lost line counts there with its own contrast. It has a sign and no threshold, so
    the difference of two such maps is the map of the difference. Sobel's gradients, and a soft
    threshold (tanh), told lines from noise less well: at equal absolute error, lost thin lines cost
    2.5 times as much as noise by this map, 1.8 times by Sobel's, 1.7 to 2.1 times with tanh.
    """
    with torch.autocast(drawn.device.type, enabled=False):
        weights = torch.tensor(LUMA, device=drawn.device).view(3, 1, 1)
        luma = ((drawn.float() - images.float()) * weights).sum(1)  # B H W
        lines = _blur(luma, SIGMA * WIDER) - _blur(luma, SIGMA)
        return lines.abs().mean() / float(_bell(SIGMA).max() - _bell(SIGMA * WIDER).max())


def _weighted(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum(weight * layer for weight, layer in zip(LAYER_WEIGHTS, layers, strict=True))


def _gram(features: torch.Tensor) -> torch.Tensor:
    """`B C H W` to `B C C`; sums of up to H*W products, so never in bf16."""
    with torch.autocast(features.device.type, enabled=False):
        rows = features.flatten(2) * (TO_PICTURES / math.sqrt(features[0, 0].numel()))  # B C HW
        return rows @ rows.mT


def _blur(luma: torch.Tensor, sigma: float) -> torch.Tensor:
    """`B H W` to the same. Products with two matrices take a tenth of the time of convolutions."""
    down, across = (_blurring(side, sigma).to(luma.device) for side in luma.shape[1:])
    return down @ luma @ across.mT


def _blurring(side: int, sigma: float) -> torch.Tensor:
    """`side side`: blurs a row of pixels, whose ends are continued outwards."""
    bell = _bell(sigma)
    reach = len(bell) // 2
    places = torch.arange(side)[:, None] + torch.arange(-reach, reach + 1)
    matrix = torch.zeros(side, side)
    return matrix.scatter_add_(1, places.clamp(0, side - 1), bell.expand(side, -1))


def _bell(sigma: float) -> torch.Tensor:
    """Weights of a Gaussian that is cut off, which add up to 1."""
    reach = int(REACH * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    return bell / bell.sum()
