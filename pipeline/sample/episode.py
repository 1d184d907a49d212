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
    write_video(out / "episodes" / f"{name}.mp4", film(params, scenes, log), params.fps, crf=CRF)
    truth = {
        "fps": params.fps,
        "n_frames": scenes[-1].end,
        "height": params.height,
        "width": params.width,
        "cuts": [scene.start for scene in scenes[1:]],
        "scenes": [_truth_of(*pair) for pair in zip(scenes, log.motion, strict=True)],
        "drawings": log.drawings,
    }
    write_json(out / "truth" / f"{name}.json", truth)
    return truth


def episode_script(params: SampleEpisodes, seed: int, number: int) -> list[Scene]:
    rng = np.random.default_rng([seed, number])
    frames = round(params.seconds * params.fps)
    return write_script(rng, frames, params.fps, params.width / params.height)


def film(params: SampleEpisodes, scenes: list[Scene], log: Log) -> Iterator[np.ndarray]:
    """All frames of the episode, uint8 `H W 3`; fills `log` on the way."""
    for scene in scenes:
        before, total = None, 0.0
        pictures = shoot(scene, params.fps, params.height, params.width)
        for number, (picture, new) in enumerate(pictures, scene.start):
            if new:
                log.drawings.append(number)
                if before is not None:
                    total += cv2.norm(before, picture, cv2.NORM_L1) / picture.size
                before = picture
            yield picture
            if number % params.fps == params.fps - 1:
                executor.count(params.fps)
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
