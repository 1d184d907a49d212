"""One episode: script, film, mp4, and the truth about it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from pipeline.config import SampleEpisodes
from pipeline.data import executor
from pipeline.io import write_json
from pipeline.sample.script import Scene, write_script
from pipeline.sample.shooting import shoot
from pipeline.video.writer import write_video

FPS, PICTURE = 24, (288, 512)  # height, width in pixels
CRF = 14  # held drawings must stay held after decoding


@dataclass
class Log:
    """What is noted while filming."""

    drawings: list[int] = field(default_factory=list)  # frames at which the picture changes
    motion: list[float] = field(default_factory=list)  # a scene each


def write_episode(params: SampleEpisodes, seed: int, number: int, out: Path) -> dict:
    """Writes episode `number` (from 1) as mp4 and JSON under `out`; returns the truth.

    Depends on the parameters, the seed and the number only.
    """
    cv2.setNumThreads(1)
    scenes = episode_script(params, seed, number)
    name, log = f"episode_{number:02d}", Log()
    write_video(out / "episodes" / f"{name}.mp4", film(scenes, log), FPS, crf=CRF, bt709=False)
    truth = {
        "fps": FPS,
        "n_frames": scenes[-1].end,
        "height": PICTURE[0],
        "width": PICTURE[1],
        "cuts": [scene.start for scene in scenes[1:]],
        "scenes": [_truth_of(*pair) for pair in zip(scenes, log.motion, strict=True)],
        "drawings": log.drawings,
    }
    write_json(out / "truth" / f"{name}.json", truth)
    return truth


def episode_script(params: SampleEpisodes, seed: int, number: int) -> list[Scene]:
    rng = np.random.default_rng([seed, number])
    frames = round(params.seconds * FPS)
    return write_script(rng, frames, FPS, PICTURE[1] / PICTURE[0])


def film(scenes: list[Scene], log: Log, size: tuple[int, int] = PICTURE) -> Iterator[np.ndarray]:
    """All frames of the episode, uint8 `H W 3` of `size`; fills `log` on the way."""
    for scene in scenes:
        before, total = None, 0.0
        pictures = shoot(scene, FPS, *size)
        for number, (picture, new) in enumerate(pictures, scene.start):
            if new:
                log.drawings.append(number)
                if before is not None:
                    total += cv2.norm(before, picture, cv2.NORM_L1) / picture.size
                before = picture
            yield picture
            if number % FPS == FPS - 1:
                executor.count(FPS)
        log.motion.append(total / max(scene.frames - 1, 1))


def _truth_of(scene: Scene, motion: float) -> dict:
    return {
        "start": scene.start,
        "end": scene.end,
        "background": scene.place,
        "shot": scene.shot,
        "characters": [actor.name for actor in scene.actors],
        "holds": [actor.on for actor in scene.actors],
        "camera": scene.move.kind,
        "camera_hold": scene.move.on,
        "action": scene.kind,
        "overlay": scene.snow is not None,
        "fade": scene.fade,
        "flash": scene.flash_at is not None,
        "motion": motion,
    }
