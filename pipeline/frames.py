"""Frames: the only place where uint8 becomes float, and where a picture is fitted to the model.

At the border frames are uint8 `... H W 3` RGB in [0, 255]; inside they are float `... 3 H W` in
[-1, 1]. Resizing is OpenCV's area (smaller) or cubic (larger) interpolation.
"""

import cv2
import numpy as np
import torch


def to_float(frames: torch.Tensor) -> torch.Tensor:
    """uint8 `... H W 3` in [0, 255] to float32 `... 3 H W` in [-1, 1]."""
    assert frames.dtype == torch.uint8 and frames.shape[-1] == 3, (frames.dtype, frames.shape)
    return frames.movedim(-1, -3).float().div_(127.5).sub_(1.0)


def to_uint8(frames: torch.Tensor) -> torch.Tensor:
    """float `... 3 H W` in [-1, 1] to uint8 `... H W 3`; rounds to nearest, clamps outside."""
    assert frames.is_floating_point() and frames.shape[-3] == 3, (frames.dtype, frames.shape)
    scaled = frames.detach().float().add(1.0).mul(127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).movedim(-3, -1).contiguous()


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `H W 3` to `height width 3`; the aspect follows the target."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def fit(image: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
    """Fits uint8 `H W 3` into the model's size: `squeeze`, `crop` (centre) or `pad` (black)."""
    if how == "squeeze":
        return resize(image, height, width)
    in_height, in_width = image.shape[:2]
    scale = (max if how == "crop" else min)(height / in_height, width / in_width)
    new_height, new_width = max(1, round(in_height * scale)), max(1, round(in_width * scale))
    scaled = resize(image, new_height, new_width)
    if how == "crop":
        top, left = max(0, (new_height - height) // 2), max(0, (new_width - width) // 2)
        return np.ascontiguousarray(
            resize(scaled[top : top + height, left : left + width], height, width)
        )
    new_height, new_width = min(new_height, height), min(new_width, width)
    framed = np.zeros((height, width, 3), np.uint8)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    framed[top : top + new_height, left : left + new_width] = scaled[:new_height, :new_width]
    return framed


def unfit(image: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
    """Undoes `fit`: the model's frame to `height width 3` (after `crop`, what was left of it)."""
    if how != "pad":
        return resize(image, height, width)
    model_height, model_width = image.shape[:2]
    scale = min(model_height / height, model_width / width)
    inner_height = min(model_height, max(1, round(height * scale)))
    inner_width = min(model_width, max(1, round(width * scale)))
    top, left = (model_height - inner_height) // 2, (model_width - inner_width) // 2
    return resize(image[top : top + inner_height, left : left + inner_width], height, width)
