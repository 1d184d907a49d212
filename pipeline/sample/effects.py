"""What is laid over the finished picture: falling snow, a fade to black, a flash."""

from functools import lru_cache

import cv2
import numpy as np

from pipeline.sample.acting import ease
from pipeline.sample.camera import HEIGHT
from pipeline.sample.drawing import WHITE, Brush, ellipse

FADE_SECONDS, DARK_SECONDS = 1.8, 0.35
PENUMBRA = 0.4  # of the fade's time that one point takes to darken
FLASH_RISE, FLASH_FALL = 0.3, 0.5  # seconds; slow enough not to look like a cut
FLASH_STRENGTH = 0.42


def snowflakes(rng: np.random.Generator, aspect: float) -> np.ndarray:
    """`K 3`: size and where a flake is at first, in picture units."""
    count = round(15 * aspect)
    size = rng.uniform(4.0, 8.5, count)
    x, y = rng.uniform(0, HEIGHT * aspect, count), rng.uniform(0, HEIGHT, count)
    return np.stack([size, x, y], axis=1)


def snow(picture: np.ndarray, flakes: np.ndarray, time: float) -> np.ndarray:
    """Each flake falls at its own speed and sways, on every frame; `time` in seconds."""
    picture = picture.copy()
    height, width = picture.shape[:2]
    brush = Brush.scaled(picture, height / HEIGHT, 0.0, 0.0, 0.0)
    for size, x, y in flakes:
        fallen = (60.0 + 14.0 * size) * time
        x = x - 0.35 * fallen + 9.0 * np.sin(2.0 * time + size * 9)
        at = (x + 20) % (HEIGHT * width / height + 40) - 20, (y + fallen + 20) % (HEIGHT + 40) - 20
        brush.shape(ellipse(*at, size), WHITE, 0)
    return picture


def fade(picture: np.ndarray, frame: int, frames: int, fps: float) -> np.ndarray:
    """Darkens to black towards the end of a scene of `frames` frames, and stays black for a moment.

    The rim goes first: black has no hue, and a picture that loses its hue everywhere in the same
    frame looks like a cut.
    """
    left = (frames - 1 - frame) / fps - DARK_SECONDS
    if left >= FADE_SECONDS:
        return picture
    done = (1.0 - max(left, 0.0) / FADE_SECONDS) * (1.0 + PENUMBRA)
    lost = np.clip((done - 1.0 + _rim(*picture.shape[:2])) / PENUMBRA, 0.0, 1.0)  # H W
    light = (1.0 - lost * lost * (3.0 - 2.0 * lost))[..., None]
    return np.round(picture * light).astype(np.uint8)


@lru_cache(maxsize=2)
def _rim(height: int, width: int) -> np.ndarray:
    """0 in the middle, 1 in the corners, `H W`; rings of equal step have equal area."""
    y, x = np.linspace(-1.0, 1.0, height)[:, None], np.linspace(-1.0, 1.0, width)[None, :]
    order = np.argsort((x * x + y * y).ravel(), kind="stable")
    rank = np.empty(order.size)
    rank[order] = np.linspace(0.0, 1.0, order.size)
    return rank.reshape(height, width)


def flash(picture: np.ndarray, frame: int, at: int, fps: float) -> np.ndarray:
    """White light that is brightest at frame `at`."""
    time = (frame - at) / fps
    rest = 1.0 + time / FLASH_RISE if time < 0 else 1.0 - time / FLASH_FALL
    share = FLASH_STRENGTH * ease(max(rest, 0.0))
    return cv2.addWeighted(picture, 1.0 - share, np.full_like(picture, WHITE), share, 0.0)
