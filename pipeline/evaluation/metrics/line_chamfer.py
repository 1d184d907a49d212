"""Line chamfer distance: how far the outlines of a drawing lie from those of the true one.

uint8 `B H W 3` in, one number a picture out, in per cent of its diagonal: 0 for equal outlines,
10 at most. Outlines are what a narrow Gaussian leaves darker than a wide one, as in Chen & Zwicker,
"Improving the Perceptual Quality of 2D Animation Interpolation" (ECCV 2022, arXiv:2111.12792).

Two departures. The threshold is 0.02 where theirs is 0.005, which marks a third of a 64x128 frame
as line. And the sum of the distances is divided by the number of line pixels, not by the area, so
that a sparse drawing weighs as much as a dense one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot

import cv2
import numpy as np
import torch

from pipeline.evaluation.metrics.image import check_pair

SIGMA, WIDER = 1.0, 1.6  # pixels; and how much wider the second Gaussian is
REACH = 4  # deviations at which both are cut off
THRESHOLD = 0.02  # of white's luma
CAP = 10.0  # per cent of the diagonal; otherwise pictures without lines would decide the mean


@dataclass(frozen=True)
class Outlines:
    """The outlines of B pictures, computed once and compared with many."""

    lines: torch.Tensor  # B H W, bool
    distance: torch.Tensor  # B H W, float32: to the nearest line, per cent of the diagonal, capped

    @classmethod
    def of(cls, images: torch.Tensor) -> "Outlines":
        """Of uint8 `B H W 3`. Where a picture has no line, every pixel is CAP away from one."""
        lines = outlines(images)
        fields = np.empty(lines.shape, np.float32)
        for field, drawn in zip(fields, lines.numpy(), strict=True):
            field[:] = _distance(drawn)
        return cls(lines, torch.from_numpy(fields))


def outlines(images: torch.Tensor) -> torch.Tensor:
    """Where uint8 `B H W 3` has a line: bool `B H W`."""
    _check(images)
    lines = np.empty(images.shape[:3], bool)
    for drawn, luma in zip(lines, _lumas(images), strict=True):
        drawn[:] = _blur(luma, SIGMA * WIDER) - _blur(luma, SIGMA) > THRESHOLD
    return torch.from_numpy(lines)


def chamfer(a: Outlines, b: Outlines) -> torch.Tensor:
    """Mean distance of the line pixels of each to the lines of the other: `B`.

    Two pictures without a line are 0 apart, one with and one without CAP.
    """
    if a.lines.shape != b.lines.shape:
        shapes = f"{tuple(a.lines.shape)} and {tuple(b.lines.shape)}"
        raise ValueError(f"expected outlines of two sets `B H W` of one shape, got {shapes}")
    fields = (x.numpy() for x in (a.lines, a.distance, b.lines, b.distance))
    return torch.tensor([_apart(*picture) for picture in zip(*fields, strict=True)])


def line_chamfer(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Line chamfer distance of each picture, both uint8 `B H W 3`: `B` in [0, CAP]."""
    check_pair(images, truth)
    return chamfer(Outlines.of(images), Outlines.of(truth))


def _lumas(images: torch.Tensor) -> Iterator[np.ndarray]:
    """float32 `H W` in [0, 1], unrounded, of each picture."""
    for image in images.cpu().numpy():
        yield cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2GRAY)


def _blur(luma: np.ndarray, sigma: float) -> np.ndarray:
    side = 2 * int(REACH * sigma) + 1
    return cv2.GaussianBlur(luma, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


def _distance(lines: np.ndarray) -> np.ndarray:
    """bool `H W` to the exact Euclidean distance of each pixel to a line, as `Outlines` has it."""
    if not lines.any():  # OpenCV's answer would depend on the size
        return np.full(lines.shape, CAP, np.float32)
    pixels = cv2.distanceTransform((~lines).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(pixels * np.float32(100 / hypot(*lines.shape)), np.float32(CAP))


def _apart(
    lines: np.ndarray, distance: np.ndarray, other_lines: np.ndarray, other_distance: np.ndarray
) -> float:
    """Two pictures, all `H W`: the mean over the line pixels of both."""
    sums, counts = 0.0, 0
    for drawn, field in ((lines, other_distance), (other_lines, distance)):
        mask = drawn.view(np.uint8)
        count = cv2.countNonZero(mask)
        sums += cv2.mean(field, mask)[0] * count  # 0 for an empty mask
        counts += count
    return sums / max(1, counts)


def _check(images: torch.Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"expected uint8 `B H W 3`, got {images.dtype} {tuple(images.shape)}")
