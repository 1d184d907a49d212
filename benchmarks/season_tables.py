"""What the tables of a season cost: made rows without pixels, fed to the functions that read them.

    python -m benchmarks.season_tables [--episodes 11 44] [--parts near_duplicates index ...]

An episode has 24 minutes of 24 frames a second, 360 scenes of 96 frames, and 1,728 clips of
20; one scene in eight comes again in every episode, as an opening does. Each part runs in a process
of its own and tells its CPU seconds, and the memory that it needed beyond what it was given.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.lines import line, show
from pipeline import config, io
from pipeline.data.datasets import ClipSet
from pipeline.data.near_duplicates import HashedScene, find_near_duplicates
from pipeline.data.shard_writer import clip_schema, open_shard, pack
from pipeline.data.splits import Keyed, fill_empty_splits, split_of
from pipeline.errors import run_main

SCENES, FRAMES, CLIP, METHODS = 360, 96, 20, 10
RETURNING = 45  # scenes of each episode that every episode has
CLIPS = SCENES * FRAMES // CLIP


def names(episodes: int) -> np.ndarray:
    return np.array([f"season-1-episode-{k:04d}-0123abcd" for k in range(episodes)], object)


def clip_table(episodes: int) -> pd.DataFrame:
    """The columns of clips.parquet that its readers use."""
    videos = np.repeat(names(episodes), CLIPS)
    scene = np.tile(np.arange(CLIPS) * SCENES // CLIPS, episodes)
    scenes = [f"{video}-{number * FRAMES:06d}" for video, number in zip(videos, scene, strict=True)]
    rules = config.load().clip_chunk
    split = {name: split_of(Keyed(name), rules) for name in dict.fromkeys(scenes)}
    frames = np.tile(np.arange(CLIPS * CLIP, dtype=np.int32).reshape(CLIPS, CLIP), (episodes, 1))
    numbers = np.tile(np.arange(CLIPS), episodes)
    return pd.DataFrame({
        "clip_id": [f"{scene}-{k:02d}" for scene, k in zip(scenes, numbers, strict=True)],
        "scene_id": scenes, "video_id": videos, "frames": list(frames), "n_frames": CLIP,
        "motion": np.random.default_rng(0).gamma(2, 3, len(videos)),
        "split": [split[name] for name in scenes], "reason": "",
    })  # fmt: skip


def near_duplicates(episodes: int, folder: Path) -> Callable:
    """Also which splits the scenes have, by their hash."""
    rng, rules = np.random.default_rng(0), config.load().clip_chunk
    opening = rng.integers(0, 2**64, (RETURNING, 4), np.uint64)
    at, scenes = np.arange(FRAMES), []
    for name in names(episodes):
        for number in range(SCENES):
            start = opening[number] if number < RETURNING else rng.integers(0, 2**64, 4, np.uint64)
            hashes = np.repeat(start[None], FRAMES, 0)  # T 4; a few bits change from frame to frame
            flips = np.uint64(1) << rng.integers(0, 64, (FRAMES, 4), np.uint64)
            scene_id = f"{name}-{number * FRAMES:06d}"
            split = split_of(Keyed(scene_id), rules)
            scenes.append(HashedScene(scene_id, split, hashes ^ flips, at, FRAMES))

    def run() -> None:
        splits = {Keyed(scene.scene_id): scene.split for scene in scenes}
        fill_empty_splits(splits, rules, lambda splits: set(splits))
        assert find_near_duplicates(scenes, rules.near_duplicate_hamming)

    return run


def index(episodes: int, folder: Path) -> Callable:
    """frame_index.parquet written, read, and packed by a pool that does nothing."""
    clips, count = clip_table(episodes), SCENES * FRAMES
    scene = [f"{name}-{k * FRAMES:06d}" for name in names(episodes) for k in range(SCENES)]
    frame = np.tile(np.arange(count, dtype=np.int32), episodes)

    class Nothing:
        def run(self, function: Callable, jobs: list, **_) -> list:
            return [{"file": shard.path.name, "rows": 0, "bytes": 0} for shard, _ in jobs]

    def run() -> None:
        rows = pd.DataFrame({
            "video_id": np.repeat(names(episodes), count), "frame": frame,
            "scene_id": np.repeat(np.array(scene, object), FRAMES),
            "hold": np.ones(len(frame), np.int32), "use_image": frame % 5 == 0,
            "use_clip": np.ones(len(frame), bool), "reason": np.full(len(frame), "", object),
        })  # fmt: skip
        io.write_table(rows, io.FRAME_INDEX, folder / "index.parquet")
        io.write_table(clips, io.CLIPS, folder / "clips.parquet")
        del rows
        table = io.read_table(folder / "index.parquet", io.FRAME_INDEX)
        again = io.read_table(folder / "clips.parquet", io.CLIPS)
        pack(folder, table, again, folder / "out", (64, 128), Nothing())

    return run


def shards(episodes: int, folder: Path) -> Callable:
    """Shards of as many files and rows as a season's, of frames of one pixel: opened, and read."""
    a_file = 192_000_000 // (CLIP * 64 * 128 * 3)
    for number in range(-(-episodes * CLIPS * 8 // 10 // a_file)):
        with open_shard(folder / f"clips-train-{number:05d}.arrow", clip_schema(1, 1)) as add:
            for k in range(a_file):
                add({"clip_id": f"{number}-{k}", "n_frames": CLIP, "images": bytes(3 * CLIP)})

    def run() -> None:
        clips = ClipSet(folder, "train")
        rng = np.random.default_rng(0)
        for row in rng.integers(0, len(clips), 10_000).tolist():
            clips.clip_id(row)
            clips.view(row)
        print(f"{len([*Path('/proc/self/fd').iterdir()])} open files")

    return run


def numbers(episodes: int, folder: Path) -> Callable:
    """The tables of `evaluate` for all test clips, and its distances of sets."""
    from pipeline.evaluation.metrics.distances import frechet, polynomial_mmd, split_half
    from pipeline.evaluation.significance import N_BOOTSTRAP, paired_differences
    from pipeline.evaluation.summary import group_table, motion_groups, summarize

    rng = np.random.default_rng(0)
    clips = clip_table(episodes)
    clips = clips[clips.split == "test"].set_index("clip_id")
    clips["group"] = motion_groups(clips.motion)
    parts = []
    for number in range(METHODS):
        scores = rng.normal(25, 3, (len(clips), 8))
        columns = ("psnr", "ssim", "lpips", "line_chamfer", "motion", "motion_true", "step_last")
        part = pd.DataFrame(scores, clips.index, [*columns, "step_last_true"]).reset_index()
        part["method"] = "model" if number == 0 else f"baseline_{number}"
        parts.append(part.assign(group=clips.group.to_numpy(), video_id=clips.video_id.to_numpy()))
    rows = pd.concat(parts)
    video = rng.normal(size=(2, len(clips), 400)).astype(np.float32)
    images = rng.normal(size=(2, 4 * len(clips), 512)).astype(np.float32)

    def run() -> None:
        group_table(rows), summarize(rows), paired_differences(rows, N_BOOTSTRAP, 1)
        print(f"tables {time.process_time():.1f} s of CPU since the start")
        split_half(*video, frechet, 20), split_half(*video, polynomial_mmd, 20)
        print(f"FVD and KVD of {len(clips)} clips {time.process_time():.1f} s")
        frechet(*images), split_half(*images, frechet, 20)

    return run


PARTS = {f.__name__: f for f in (near_duplicates, index, shards, numbers)}


def timed(name: str, episodes: int, queue) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = PARTS[name](episodes, Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        queue.put((time.process_time() - started, (peak - before) / 1024, peak / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.season_tables", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--episodes", type=int, nargs="+", default=[11, 44])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    given = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    for name in given.parts:
        for episodes in given.episodes:
            queue = context.Queue()
            process = context.Process(target=timed, args=(name, episodes, queue))
            process.start()
            process.join()
            if process.exitcode:
                rows.append(line(f"tables/{name}/{episodes} episodes failed", process.exitcode, ""))
                continue
            for value, unit in zip(queue.get(), ("s", "MB more", "MB in all"), strict=True):
                rows.append(line(f"tables/{name}/{episodes} episodes", value, unit))
    show(rows, "Tables of a season")


if __name__ == "__main__":
    run_main(main)
