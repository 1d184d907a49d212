"""The thesis' augmentation of training pictures: resize up, random crop back, horizontal flip.

What happens to a picture is a function of (seed, epoch, row) alone: the same whatever the batch,
the number of workers, or the step at which a killed training goes on.
"""

from collections.abc import Sequence

import cv2
import numpy as np

ENLARGED = 1.125  # 64x128 becomes 72x144, of which 64x128 are seen
FLIPPED = 0.5  # share of the pictures


def augment(images: np.ndarray, rows: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """uint8 `B H W 3` to the same shape; `rows` are the numbers of the pictures in their set."""
    assert len(images) == len(rows), (images.shape, len(rows))
    return np.stack(
        [_augment_one(image, (seed, epoch, row)) for image, row in zip(images, rows, strict=True)]
    )


def _augment_one(image: np.ndarray, key: tuple[int, int, int]) -> np.ndarray:
    """uint8 `H W 3`, by the random numbers of its key."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    height, width, _ = image.shape
    large = round(height * ENLARGED), round(width * ENLARGED)
    top = int(random.integers(0, large[0] - height + 1))
    left = int(random.integers(0, large[1] - width + 1))
    enlarged = cv2.resize(image, (large[1], large[0]), interpolation=cv2.INTER_LINEAR)
    cropped = enlarged[top : top + height, left : left + width]
    return cropped[:, ::-1] if random.random() < FLIPPED else cropped
