"""Films a scene: its frames in order, held drawings drawn once and shown again.

A change that could not be seen is not drawn either: where a drawing differs from the one on
show by less than `VISIBLE` grey levels everywhere, the one on show stays. So two frames are
either equal or clearly different, as on film stock shot from cels.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from pipeline.sample.camera import HEIGHT, line_width, paint
from pipeline.sample.character import CAST, draw_character
from pipeline.sample.drawing import Brush
from pipeline.sample.effects import fade, flash, snow
from pipeline.sample.script import Scene

VISIBLE = 3.0  # grey levels, mean of the most changed block of 8x8 pixels of a 64x128 picture


def shoot(scene: Scene, fps: float, height: int, width: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Yields `(picture uint8 H W 3, new)` a frame; where `new` is False it is the one before."""
    far, near, front = paint(scene.place, scene.move, height, width)
    view = poses = shown = None
    for frame in range(scene.frames):
        before = view, poses
        view = scene.move.at(frame)
        poses = [actor.pose(frame, scene.frames, fps) for actor in scene.actors]
        if view != before[0]:
            behind = np.ascontiguousarray(far.under(view, height, width)[..., :3])
            behind = near.over(behind, view)
        if (view, poses) != before:
            cel = behind.copy()
            scale = view.zoom * height / HEIGHT
            left, top = view.x - width / scale / 2, view.y - height / scale / 2
            brush = Brush.scaled(cel, scale, left, top, line_width(view.zoom, height))
            for actor, pose in zip(scene.actors, poses, strict=True):
                draw_character(brush, CAST[actor.name], pose)
            if scene.front:
                cel = front.over(cel, view)
        picture = cel
        if scene.snow is not None:
            picture = snow(picture, scene.snow, frame / fps)
        if scene.flash_at is not None:
            picture = flash(picture, frame, scene.flash_at, fps)
        if scene.fade:
            picture = fade(picture, frame, scene.frames, fps)
        new = shown is None or change(shown, picture) >= VISIBLE
        if new:
            shown = picture
        yield shown, new


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean change of the most changed 8x8 block of both pictures at 64x128, in grey levels."""
    small = [cv2.resize(p, (128, 64), interpolation=cv2.INTER_AREA) for p in (before, after)]
    blocks = cv2.absdiff(*small).astype(np.float32).reshape(8, 8, 16, 8, 3)
    return float(blocks.mean(axis=(1, 3, 4)).max())
