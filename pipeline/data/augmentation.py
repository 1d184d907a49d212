"""Augmentation of training pictures: made larger, cropped back at random, flipped.

`crop_flip` is the thesis': the picture itself is enlarged, which softens it a little, and what is
trained on soft pictures draws soft ones. `shift_flip` mirrors its border instead: every pixel stays
as it was, at another place of the tokens' grid.

What happens to a picture is a function of (seed, epoch, row) alone: the same whatever the batch,
the number of workers, or the step at which a killed training goes on.
"""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

Kind = Literal["crop_flip", "shift_flip"]

ENLARGED = {  # height and width of 64x128 become these, of which 64x128 are seen
    "crop_flip": (72 / 64, 142 / 128),  # thesis, section 3.1.1
    "shift_flip": (72 / 64, 144 / 128),
}
DRAWS = 3  # random numbers a picture: row and column of the crop, flip


def augment(
    images: np.ndarray, rows: Sequence[int], seed: int, epoch: int, kind: Kind = "crop_flip"
) -> np.ndarray:
    """uint8 `B H W 3` to the same shape; `rows` are the numbers of the pictures in their set.

    Every second picture is flipped on average. Costs some 25 us a picture of 64x128.
    """
    assert len(images) == len(rows), (images.shape, len(rows))
    _, height, width, _ = images.shape
    rows_factor, columns_factor = ENLARGED[kind]
    large = round(height * rows_factor), round(width * columns_factor)
    draws = random_numbers(rows, seed, epoch)
    tops = draws[:, 0] % np.uint64(large[0] - height + 1)
    lefts = draws[:, 1] % np.uint64(large[1] - width + 1)
    flips = draws[:, 2] >> np.uint64(63)
    out = np.empty_like(images)
    places = (tops.tolist(), lefts.tolist(), flips.tolist())
    for target, image, top, left, flip in zip(out, images, *places, strict=True):
        crop = _enlarged(image, large, kind)[top : top + height, left : left + width]
        target[:] = cv2.flip(crop, 1) if flip else crop
    return out


def _enlarged(image: np.ndarray, size: tuple[int, int], kind: Kind) -> np.ndarray:
    if kind == "crop_flip":
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    rows, columns = size[0] - image.shape[0], size[1] - image.shape[1]  # added
    top, left = rows // 2, columns // 2
    return cv2.copyMakeBorder(image, top, rows - top, left, columns - left, cv2.BORDER_REFLECT_101)


def random_numbers(rows: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """uint64 `B DRAWS`, the same for a row in whatever company.

    The generator is SplitMix64 (Steele, Lea and Flood 2014), whose state is a counter, so that a
    row's numbers are had without those of the rows before it: (seed, epoch) says where the counter
    begins. numpy's own counter-based one, Philox, costs 14 us a picture to set up.
    """
    start = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    at = np.asarray(rows, np.uint64)[:, None] * np.uint64(DRAWS) + np.arange(DRAWS, dtype=np.uint64)
    z = start + (at + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # B DRAWS, modulo 2^64
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
