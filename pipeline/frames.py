"""Frames: the only place where uint8 becomes float, and where a picture is fitted to the model.

At the border frames are uint8 `... H W 3` RGB in [0, 255]; inside they are float `... 3 H W` in
[-1, 1]. Resizing is OpenCV's area (smaller) or cubic (larger) interpolation.
"""

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import, and the decoding processes do without it
    import torch


def to_float(frames: "torch.Tensor") -> "torch.Tensor":
    """uint8 `... H W 3` in [0, 255] to float32 `... 3 H W` in [-1, 1]."""
    assert str(frames.dtype) == "torch.uint8" and frames.shape[-1] == 3, (
        frames.dtype,
        frames.shape,
    )
    return frames.movedim(-1, -3).float().div_(127.5).sub_(1.0)


def to_uint8(frames: "torch.Tensor") -> "torch.Tensor":
    """float `... 3 H W` in [-1, 1] to uint8 `... H W 3`; rounds to nearest, clamps outside."""
    assert frames.is_floating_point() and frames.shape[-3] == 3, (frames.dtype, frames.shape)
    scaled = frames.detach().float().add(1.0).mul(127.5).round().clamp(0, 255)
    return scaled.byte().movedim(-3, -1).contiguous()


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `H W 3` to `height width 3`; the aspect follows the target."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def canvas(image: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
    """What of uint8 `H W 3` a model of that size sees, in the picture's own resolution.

    `squeeze`: all of it, the aspect changes later. `crop`: the largest part from the middle with
    the model's aspect. `pad`: all of it between black bars that make up the model's aspect.
    """
    if how == "squeeze":
        return image
    in_height, in_width = image.shape[:2]
    least = how == "crop"
    scale = (min if least else max)(in_height / height, in_width / width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = abs(new_height - in_height) // 2, abs(new_width - in_width) // 2
    if least:
        return np.ascontiguousarray(image[top : top + new_height, left : left + new_width])
    framed = np.zeros((max(new_height, in_height), max(new_width, in_width), 3), np.uint8)
    framed[top : top + in_height, left : left + in_width] = image
    return framed


def fit(image: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
    """Fits uint8 `H W 3` into the model's size: `squeeze`, `crop` (centre) or `pad` (black)."""
    return resize(canvas(image, height, width, how), height, width)


def without_bars(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a padded canvas: uint8 `H W 3` cut to `height width 3`."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])
