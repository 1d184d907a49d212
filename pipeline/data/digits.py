"""Draws sequences of Moving MNIST: digits that bounce about (Srivastava et al., 2015).

Each digit starts at a random place of a unit square, in a random direction, goes STEP a frame and
bounces at the walls; where digits overlap, the brighter pixel is seen. A sequence depends on its
key alone. It is drawn in a millisecond, so training draws its sequences anew in every epoch.
"""

import math
from collections.abc import Sequence

import numpy as np

DIGIT, CANVAS = 28, 64  # pixels a side
DIGITS, N_FRAMES = 2, 20  # of a sequence, as the authors have it
STEP = 0.1  # of the square in which a digit's corner moves, a frame
# What training draws its sequences from: `digits`, uint8 `n 28 28`, and how many an epoch has,
# `epoch_sequences`.
DIGITS_FILE = "digits-train.npz"


def draw(
    digits: np.ndarray,
    count: int,
    n_frames: int,
    key: tuple[int, ...],
    numbers: Sequence[int] | None = None,
) -> np.ndarray:
    """One sequence of `n_frames` frames, uint8 `T 64 64`, of `count` of the digits `n 28 28`.

    numbers: draws these of its frames only. `key` is all that chance depends on; more frames or
    digits leave what there was.
    """
    random = np.random.default_rng(key)
    numbers = range(n_frames) if numbers is None else numbers
    canvas = np.zeros((len(numbers), CANVAS, CANVAS), np.uint8)
    for _ in range(count):
        which, y, x, turn = random.random(4)
        digit = digits[int(which * len(digits))]
        path = trajectory(y, x, 2 * math.pi * turn, n_frames)  # T 2
        corners = (path * (CANVAS - DIGIT)).astype(int)
        for picture, number in zip(canvas, numbers, strict=True):
            top, left = corners[number]
            place = picture[top : top + DIGIT, left : left + DIGIT]
            np.maximum(place, digit, out=place)
    return canvas


def trajectory(y: float, x: float, angle: float, n_frames: int) -> np.ndarray:
    """Places in the unit square after each step, float64 `T 2` (y, x): the authors' bouncing.

    A step that would cross a wall ends on it, and that direction is turned around.
    """
    places = np.empty((n_frames, 2))
    speed_y, speed_x = STEP * math.sin(angle), STEP * math.cos(angle)
    for frame in range(n_frames):
        y, speed_y = _bounce(y, speed_y)
        x, speed_x = _bounce(x, speed_x)
        places[frame] = y, x
    return places


def _bounce(at: float, speed: float) -> tuple[float, float]:
    at += speed
    if 0.0 < at < 1.0:
        return at, speed
    return min(max(at, 0.0), 1.0), -speed
