"""The episodes: script, film, mp4, and the truth about each, one job an episode."""

from collections.abc import Iterator
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
STRONG_MOTION = 3.0  # grey levels a frame, mean over a scene


def render_episodes(params: SampleEpisodes, seed: int, out: Path, workers: int) -> dict:
    """Writes `out/episodes/episode_NN.mp4` and `out/truth/episode_NN.json`; returns counts.

    The bytes depend on the parameters and the seed only, not on the number of `workers`.
    """
    for old in [*out.glob("episodes/episode_*.mp4"), *out.glob("truth/episode_*.json")]:
        old.unlink()  # of an earlier run with more episodes
    jobs = [(params, seed, number, out) for number in range(1, params.episodes + 1)]
    frames = params.episodes * round(params.seconds * FPS)
    pool = executor.LocalPool(workers)
    truths = pool.run(write_episode, jobs, what="sample_episodes", unit="frame", total=frames)
    scenes = [scene for truth in truths for scene in truth["scenes"]]
    drawings = sum(len(truth["drawings"]) for truth in truths)
    return {
        "episodes": len(truths),
        "frames": frames,
        "scenes": len(scenes),
        "cuts": sum(len(truth["cuts"]) for truth in truths),
        "drawings": drawings,
        "held_frames": frames - drawings,
        "overlay_frames": sum(s["end"] - s["start"] for s in scenes if s["overlay"]),
        "fades": sum(scene["fade"] for scene in scenes),
        "flashes": sum(scene["flash"] for scene in scenes),
        "strong_motion_scenes": sum(scene["motion"] >= STRONG_MOTION for scene in scenes),
        "mean_motion": sum(scene["motion"] for scene in scenes) / len(scenes),
    }


def write_episode(params: SampleEpisodes, seed: int, number: int, out: Path) -> dict:
    """Writes episode `number` (from 1) as mp4 and JSON under `out`; returns the truth."""
    cv2.setNumThreads(1)
    scenes = episode_script(params, seed, number)
    drawings, motion = [], []
    frames = film(scenes, drawings, motion)
    name = f"episode_{number:02d}"
    write_video(out / "episodes" / f"{name}.mp4", frames, FPS, crf=CRF, bt709=False)
    truth = {
        "fps": FPS,
        "n_frames": scenes[-1].end,
        "height": PICTURE[0],
        "width": PICTURE[1],
        "cuts": [scene.start for scene in scenes[1:]],
        "scenes": [
            {
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
                "motion": moved,
            }
            for scene, moved in zip(scenes, motion, strict=True)
        ],
        "drawings": drawings,
    }
    write_json(out / "truth" / f"{name}.json", truth)
    return truth


def episode_script(params: SampleEpisodes, seed: int, number: int) -> list[Scene]:
    rng = np.random.default_rng([seed, number])
    return write_script(rng, round(params.seconds * FPS), FPS, PICTURE[1] / PICTURE[0])


def film(
    scenes: list[Scene], drawings: list, motion: list, size: tuple[int, int] = PICTURE
) -> Iterator[np.ndarray]:
    """All frames of the episode, uint8 `H W 3` of `size`. On the way `drawings` gets the frames at
    which the picture changes, `motion` the mean change of each scene."""
    for scene in scenes:
        before, total = None, 0.0
        for number, (picture, new) in enumerate(shoot(scene, FPS, *size), scene.start):
            if new:
                drawings.append(number)
                if before is not None:
                    total += cv2.norm(before, picture, cv2.NORM_L1) / picture.size
                before = picture
            yield picture
            if number % FPS == FPS - 1:
                executor.count(FPS)
        motion.append(total / max(scene.frames - 1, 1))
