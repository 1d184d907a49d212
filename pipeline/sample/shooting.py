"""Films a scene: its frames in order, held drawings drawn once and shown again.

A change that could not be seen is not drawn either: where a drawing differs from the one on
show by less than `VISIBLE` grey levels everywhere, the one on show stays. So two frames are
either equal or clearly different, as on film stock shot from cels.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from pipeline.sample.background import LINE, Background, paint
from pipeline.sample.camera import HEIGHT, View
from pipeline.sample.character import CAST, draw_character
from pipeline.sample.drawing import Brush
from pipeline.sample.effects import fade, flash
from pipeline.sample.script import Scene

VISIBLE = 3.0  # grey levels, mean of the most changed block of 8x8 pixels of a 64x128 picture
SMALL = (128, 64)  # width, height


def shoot(scene: Scene, fps: float, height: int, width: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Yields `(picture uint8 H W 3, new)` a frame; where `new` is False it is the one before."""
    background = paint(scene.place, scene.move, height, width, scene.front)
    cels = _Cels(scene, background, fps)
    shown, small = None, None
    for frame in range(scene.frames):
        picture = _finished(scene, cels.at(frame), frame, fps)
        if picture is shown:
            yield shown, False
            continue
        smaller = _small(picture)
        new = shown is None or _change(small, smaller) >= VISIBLE
        if new:
            shown, small = picture, smaller
        yield shown, new


class _Cels:
    """Background and characters; the same object again while camera and poses rest."""

    def __init__(self, scene: Scene, background: Background, fps: float):
        self.scene, self.background, self.fps = scene, background, fps
        self.key, self.picture = None, None

    def at(self, frame: int) -> np.ndarray:
        scene = self.scene
        poses = tuple(actor.pose(frame, scene.frames, self.fps) for actor in scene.actors)
        key = (scene.move.at(frame), poses)
        if key != self.key:
            self.key, self.picture = key, self._drawn(*key)
        return self.picture

    def _drawn(self, view: View, poses: tuple) -> np.ndarray:
        picture = self.background.behind(view)
        brush = _brush(picture, view)
        for actor, pose in zip(self.scene.actors, poses, strict=True):
            draw_character(brush, CAST[actor.name], pose)
        return self.background.before(picture, view)


def _brush(picture: np.ndarray, view: View) -> Brush:
    """Draws in world units under the camera; lines grow with the root of the zoom."""
    height, width = picture.shape[:2]
    scale = view.zoom * height / HEIGHT
    left, top = view.x - width / scale / 2, view.y - height / scale / 2
    return Brush.scaled(picture, scale, left, top, LINE * height / HEIGHT * view.zoom**0.5)


def _finished(scene: Scene, picture: np.ndarray, frame: int, fps: float) -> np.ndarray:
    if scene.snow is not None:
        picture = scene.snow.over(picture, frame / fps)
    if scene.flash_at is not None:
        picture = flash(picture, frame, scene.flash_at, fps)
    return fade(picture, frame, scene.frames, fps) if scene.fade else picture


def _small(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, SMALL, interpolation=cv2.INTER_AREA)


def _change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute change of the most changed 8x8 block of two small pictures, grey levels."""
    change = cv2.absdiff(before, after).astype(np.float32)
    return float(change.reshape(8, 8, 16, 8, 3).mean(axis=(1, 3, 4)).max())  # blocks 8 16
