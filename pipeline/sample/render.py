"""Renders all episodes, one a task, in as many processes as wished: the bytes stay the same."""

import queue
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pipeline.config import SampleEpisodes
from pipeline.progress import bar
from pipeline.sample.episode import write_episode

STRONG_MOTION = 3.0  # grey levels a frame, mean over a scene

_done = None  # in a worker process: where it tells how many frames are done


def render_episodes(params: SampleEpisodes, seed: int, out: Path, workers: int) -> dict:
    """Writes `out/episodes/episode_NN.mp4` and `out/truth/episode_NN.json`; returns counts."""
    _clear(out)
    tasks = [(params, seed, number, out) for number in range(1, params.episodes + 1)]
    frames = params.episodes * round(params.seconds * params.fps)
    with bar(what="sample_episodes", unit="frame", total=frames) as shown:
        if min(workers, len(tasks)) == 1:
            truths = [write_episode(*task, shown.update) for task in tasks]
        else:
            truths = _in_processes(tasks, workers, shown.update)
        shown.update(frames - shown.n)
    return _summary(truths)


def _clear(out: Path) -> None:
    """Episodes of an earlier run with more of them must not stay behind."""
    for old in [*out.glob("episodes/episode_*.mp4"), *out.glob("truth/episode_*.json")]:
        old.unlink()


def _in_processes(tasks: list[tuple], workers: int, shown: Callable[[int], None]) -> list[dict]:
    context = get_context("spawn")
    done = context.Queue()
    with ProcessPoolExecutor(
        min(workers, len(tasks)), context, initializer=_enter, initargs=(done,)
    ) as pool:
        futures = [pool.submit(_work, task) for task in tasks]
        try:
            _watch(futures, done, shown)
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _watch(futures: list[Future], done, shown: Callable[[int], None]) -> None:
    """Moves the bar until all tasks are done or one has failed."""
    while not all(future.done() for future in futures):
        if any(future.done() and future.exception() for future in futures):
            return
        try:
            shown(done.get(timeout=0.5))
        except queue.Empty:
            continue


def _enter(done) -> None:
    global _done
    _done = done


def _work(task: tuple) -> dict:
    return write_episode(*task, _done.put)


def _summary(truths: list[dict]) -> dict:
    scenes = [scene for truth in truths for scene in truth["scenes"]]
    frames = sum(truth["n_frames"] for truth in truths)
    return {
        "episodes": len(truths),
        "frames": frames,
        "scenes": len(scenes),
        "cuts": sum(len(truth["cuts"]) for truth in truths),
        "drawings": sum(len(truth["drawings"]) for truth in truths),
        "held_frames": frames - sum(len(truth["drawings"]) for truth in truths),
        "overlay_frames": sum(s["end"] - s["start"] for s in scenes if s["overlay"]),
        "fades": sum(scene["fade"] for scene in scenes),
        "flashes": sum(scene["flash"] for scene in scenes),
        "strong_motion_scenes": sum(scene["motion"] >= STRONG_MOTION for scene in scenes),
        "mean_motion": sum(scene["motion"] for scene in scenes) / len(scenes),
    }
