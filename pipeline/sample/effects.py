"""What is laid over the finished picture: falling snow, a fade to black, a flash."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from pipeline.sample.camera import HEIGHT
from pipeline.sample.drawing import Brush, ellipse
from pipeline.sample.palette import WHITE
from pipeline.sample.timing import ease

FADE_SECONDS, DARK_SECONDS = 1.8, 0.35
PENUMBRA = 0.4  # of the fade's time that one point takes to darken
FLASH_RISE, FLASH_FALL = 0.3, 0.5  # seconds; slow enough not to look like a cut
FLASH_STRENGTH = 0.42


@dataclass(frozen=True)
class Snow:
    """Flakes `K` in picture units; each falls at its own speed and sways, on every frame."""

    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    speed: np.ndarray  # units a second

    @staticmethod
    def fresh(rng: np.random.Generator, aspect: float) -> "Snow":
        count = round(15 * aspect)
        size = rng.uniform(4.0, 8.5, count)
        x, y = rng.uniform(0, HEIGHT * aspect, count), rng.uniform(0, HEIGHT, count)
        return Snow(x, y, size, 60.0 + 14.0 * size)

    def over(self, picture: np.ndarray, time: float) -> np.ndarray:
        """A copy of uint8 `H W 3` with the flakes where they are after `time` seconds."""
        picture = picture.copy()
        width = HEIGHT * picture.shape[1] / picture.shape[0]
        brush = Brush.scaled(picture, picture.shape[0] / HEIGHT, 0.0, 0.0, 0.0)
        xs = self.x - 0.35 * self.speed * time + 9.0 * np.sin(2.0 * time + self.size * 9)
        ys = self.y + self.speed * time
        for x, y, size in zip(xs, ys, self.size, strict=True):
            at = (x + 20) % (width + 40) - 20, (y + 20) % (HEIGHT + 40) - 20
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
