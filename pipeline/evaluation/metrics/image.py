"""PSNR, SSIM and LPIPS of images: uint8 `B H W 3` in [0, 255], one number each.

PSNR in dB, capped at 60 (equal images have none). SSIM as Wang et al. (2004): Gaussian window of
11 with sigma 1.5, over all positions where the window fits, mean of the three channels. LPIPS:
Zhang et al. (2018).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipeline import frames, runtime
from pipeline.models.pretrained.lpips import Lpips

PSNR_CAP = 60.0
WINDOW, SIGMA = 11, 1.5
MIDDLE = 127.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image: `B`, at most 60 dB."""
    check_pair(images, truth)
    error = (images.double() - truth.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error.clamp_min(1e-12))).clamp_max(PSNR_CAP).float()


def ssim(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image: `B`, 1 for equal ones."""
    check_pair(images, truth)
    if min(images.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} pixels, got {images.shape}")
    # Around middle grey: where an image is flat and bright, a variance is a small difference of
    # squares, and those of 255 lose the digits that count.
    a = images.movedim(-1, 1).float() - MIDDLE  # B 3 H W
    b = truth.movedim(-1, 1).float() - MIDDLE
    mean_a, mean_b = _gaussian_blur(a), _gaussian_blur(b)
    var_a, var_b = _gaussian_blur(a * a) - mean_a**2, _gaussian_blur(b * b) - mean_b**2
    covariance = _gaussian_blur(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + MIDDLE, mean_b + MIDDLE
    similarity = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return (similarity / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))).flatten(1).mean(1)


def _gaussian_blur(x: torch.Tensor) -> torch.Tensor:
    """`B 3 H W` to `B 3 H-10 W-10`, one axis after the other."""
    at = torch.arange(WINDOW, dtype=torch.float32, device=x.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (at / SIGMA) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, WINDOW)
    with runtime.exact():
        x = F.conv2d(x, weights[..., None], groups=3)
        return F.conv2d(x, weights[:, :, None], groups=3)


def check_pair(images: torch.Tensor, truth: torch.Tensor) -> None:
    """Both are uint8 and of one shape."""
    assert images.dtype == truth.dtype == torch.uint8, (images.dtype, truth.dtype)
    assert images.shape == truth.shape, (images.shape, truth.shape)


@dataclass(frozen=True)
class LpipsFeatures:
    """Features of a clip's distinct images, and which of them each frame is.

    Held drawings, and the baselines that hold a frame, repeat images to the byte: each is passed
    through the network once.
    """

    maps: list[torch.Tensor]  # a level each: U C' H' W'
    index: torch.Tensor  # T


class LpipsMetric:
    """LPIPS on one device, in float32."""

    def __init__(self, network: str, device: torch.device) -> None:
        self.lpips = Lpips.pretrained(network).to(device, memory_format=torch.channels_last)
        self.device = device

    @torch.inference_mode()
    def features(self, clip: torch.Tensor) -> LpipsFeatures:
        """Of uint8 `T H W 3`."""
        seen: dict[bytes, int] = {}
        index = [seen.setdefault(frame.tobytes(), len(seen)) for frame in clip.numpy()]
        distinct = [index.index(number) for number in range(len(seen))]
        images = frames.to_float(clip[distinct].to(self.device))  # U 3 H W
        images = images.contiguous(memory_format=torch.channels_last)
        with runtime.exact():
            return LpipsFeatures(self.lpips.features(images), torch.tensor(index).to(self.device))

    @torch.inference_mode()
    def distance(self, a: LpipsFeatures, b: LpipsFeatures) -> torch.Tensor:
        """float32 `T`, 0 for equal images: each pair of distinct images is compared once."""
        pairs, index = torch.stack([a.index, b.index]).unique(dim=1, return_inverse=True)
        maps_a = [level[pairs[0]] for level in a.maps]
        maps_b = [level[pairs[1]] for level in b.maps]
        return self.lpips.distance(maps_a, maps_b)[index].cpu()
