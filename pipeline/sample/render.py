"""Renders all episodes, one a job, in as many processes as wished: the bytes stay the same."""

from pathlib import Path

from pipeline.config import SampleEpisodes
from pipeline.data.executor import LocalPool
from pipeline.sample.episode import FPS, write_episode

STRONG_MOTION = 3.0  # grey levels a frame, mean over a scene


def render_episodes(params: SampleEpisodes, seed: int, out: Path, workers: int) -> dict:
    """Writes `out/episodes/episode_NN.mp4` and `out/truth/episode_NN.json`; returns counts."""
    for old in [*out.glob("episodes/episode_*.mp4"), *out.glob("truth/episode_*.json")]:
        old.unlink()  # of an earlier run with more episodes
    jobs = [(params, seed, number, out) for number in range(1, params.episodes + 1)]
    frames = params.episodes * round(params.seconds * FPS)
    pool = LocalPool(workers)
    truths = pool.run(write_episode, jobs, what="sample_episodes", unit="frame", total=frames)
    scenes = [scene for truth in truths for scene in truth["scenes"]]
    drawings = sum(len(truth["drawings"]) for truth in truths)
    frames = sum(truth["n_frames"] for truth in truths)
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
