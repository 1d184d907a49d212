"""PSNR and SSIM of pictures, by the `correct` ruler: uint8 `B H W 3` in [0, 255], one number each.

PSNR in dB, capped at 60 (equal pictures have none). SSIM as Wang et al. (2004): Gaussian window of
11 with deviation 1.5, over all places where the window fits, mean of the three channels.
"""

import torch
import torch.nn.functional as F

PSNR_CAP = 60.0
WINDOW, SIGMA = 11, 1.5
MIDDLE = 127.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each picture: `B`, at most 60 dB."""
    check_pair(images, truth)
    error = (images.double() - truth.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error.clamp_min(1e-12))).clamp_max(PSNR_CAP).float()


def ssim(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each picture: `B`, 1 for equal ones."""
    check_pair(images, truth)
    if min(images.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW} pixels, got {images.shape}")
    # Around middle grey: where a picture is flat and bright, a variance is a small difference of
    # squares, and those of 255 lose the digits that count.
    a, b = (x.movedim(-1, 1).float() - MIDDLE for x in (images, truth))  # B 3 H W
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + MIDDLE, mean_b + MIDDLE
    likeness = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return (likeness / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))).flatten(1).mean(1)


def _blur(x: torch.Tensor) -> torch.Tensor:
    """`B 3 H W` to `B 3 H-10 W-10`, one axis after the other."""
    at = torch.arange(WINDOW, dtype=torch.float32, device=x.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (at / SIGMA) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, WINDOW)
    x = F.conv2d(x, weights[..., None], groups=3)
    return F.conv2d(x, weights[:, :, None], groups=3)


def check_pair(images: torch.Tensor, truth: torch.Tensor) -> None:
    """ValueError unless both are uint8 and of one shape."""
    if images.dtype != torch.uint8 or truth.dtype != torch.uint8 or images.shape != truth.shape:
        raise ValueError(
            f"expected two uint8 sets `B H W 3` of one shape, got {images.dtype} "
            f"{tuple(images.shape)} and {truth.dtype} {tuple(truth.shape)}"
        )
