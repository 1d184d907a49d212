"""What the clip filters remove, and how many bits tell a scene that returns from another scene.

    python -m benchmarks.clips --videos FOLDER [--height 64 --width 128]

First, how many clips of the folder each value of `min_motion` and `max_luma_change` rejects.
Second, near-identical scenes: every video is encoded again, two frames later and worse (the ways
below), as an opening in another episode would be. For each number of bits: scenes of the copies
that are found among their originals, and pairs of different originals that are taken for one.
"""

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from unittest import mock

from benchmarks.lines import line, options, show
from pipeline import config
from pipeline.data.clips import chunk_clips
from pipeline.data.executor import LocalPool
from pipeline.data.frame_file import open_frames, read_videos
from pipeline.data.holds import index_frames
from pipeline.data.ingest import ingest
from pipeline.data.near_duplicates import HashedScene, hash_scene, is_near_duplicate
from pipeline.data.scenes import find_scenes, split_scenes
from pipeline.errors import run_main
from pipeline.video.ffmpeg_input import executable

LATER = 2  # frames that a copy begins later
COPIES = {
    "crf_23": ("-crf", "23"),
    "crf_32": ("-crf", "32"),
    "small_crf_28": ("-crf", "28", "-vf", "scale=256:144"),
    "small_crf_36": ("-crf", "36", "-vf", "scale=256:144"),
}
BITS = (4, 8, 16, 24, 32, 48)
MOTION, LUMA = (0.25, 0.5, 1.0, 2.0), (15.0, 25.0, 40.0)


def copy(path: Path, out: Path, how: tuple[str, ...]) -> None:
    """Encodes a video again from its frame LATER on."""
    later = f"select=gte(n\\,{LATER})"
    options = list(how)
    if "-vf" in options:
        options[options.index("-vf") + 1] += f",{later}"
    else:
        options += ["-vf", later]
    command = [executable(), "-v", "error", "-y", "-i", str(path), "-an", *options]
    subprocess.run([*command, "-preset", "fast", str(out)], check=True)


def scenes(folder: Path, rules: config.SceneSplit) -> dict[tuple[str, int], HashedScene]:
    """Hashed scenes by their video's name and first frame; short ones are left out."""
    found = {}
    for video in read_videos(folder).itertuples():
        footage, rate = open_frames(folder, video.video_id), Fraction(video.fps)
        small = footage.small
        for scene in find_scenes(footage, rate, rules)[0]:
            if scene.kept:
                name = Path(video.path).stem, scene.start
                found[name] = hash_scene(f"{name}", "train", small[scene.start : scene.end])
    return found


def returning(originals: dict, copies: dict) -> Iterator[tuple[HashedScene, HashedScene]]:
    """Scenes of the originals with those of their copies that begin where they should."""
    for (name, start), scene in originals.items():
        same = (copies.get((name, max(0, start - LATER + off))) for off in (0, -1, 1))
        again = next((one for one in same if one), None)
        if again:
            yield scene, again


def filtered(work: Path, settings: config.Params) -> Iterator[dict]:
    """Lines: clips in all, and those that a filter rejects at each of its values."""
    index = work / "index"
    split_scenes(work / "frames", work / "scenes", settings.scene_split)
    index_frames(work / "frames", work / "scenes", index, settings.frame_subsample)
    off = {"min_motion": 0.0, "max_luma_change": 0.0, "min_contrast": 0.0}
    values = [("min_motion", value, "still") for value in MOTION]
    values += [("max_luma_change", value, "flash") for value in LUMA]
    values += [("min_contrast", 3.0, "blank")]
    for key, value, name in values:
        filters = settings.clip_chunk.filters.model_copy(update=off | {key: value})
        rules = settings.clip_chunk.model_copy(
            update={"filters": filters, "near_duplicate_hamming": -1}
        )
        with mock.patch("pipeline.data.clips.check_splits"):  # few scenes may leave one empty
            found = chunk_clips(work / "frames", work / "scenes", index, work / "clips", rules)
        yield line(f"clips/{key}={value:g}", found[f"rejected_{name}"], "rejected")
    whole = sum(found[f"clips_{split}"] for split in ("train", "val", "test"))
    yield line("clips/all", whole + found["rejected_blank"], "clips")


def likeness(videos: Path, work: Path, settings: config.Params, workers: int) -> Iterator[dict]:
    """Lines: scenes found again by way of copying and bits, and wrong pairs by bits."""
    rules = settings.scene_split
    originals = scenes(work / "frames", rules)
    for name, how in COPIES.items():
        (work / name).mkdir()
        for video in read_videos(work / "frames").itertuples():
            path = videos / video.path
            copy(path, work / name / f"{path.stem}.mp4", how)
        ingest(work / name, work / f"frames-{name}", settings.ingest, LocalPool(workers))
        pairs = list(returning(originals, scenes(work / f"frames-{name}", rules)))
        yield line(f"clips/{name}/scenes", len(pairs), "scenes")
        for bits in BITS:
            found = sum(is_near_duplicate(*pair, bits) for pair in pairs)
            yield line(f"clips/{name}/bits={bits}", found, "found")
    others = list(itertools.combinations(originals.values(), 2))
    yield line("clips/different/pairs", len(others), "pairs")
    for bits in BITS:
        wrong = sum(is_near_duplicate(*pair, bits) for pair in others)
        yield line(f"clips/different/bits={bits}", wrong, "taken for one")


def main() -> None:
    parser = options(videos=Path, height=64, width=128, workers=2)
    given = parser.parse_args()
    settings = config.load()
    size = settings.ingest.model_copy(update={"height": given.height, "width": given.width})
    settings = settings.model_copy(update={"ingest": size})
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
        os.environ["DVC_ROOT"] = folder
        work = Path(folder)
        ingest(given.videos, work / "frames", size, LocalPool(given.workers))
        lines = [*filtered(work, settings)]
        lines += likeness(given.videos, work, settings, given.workers)
    show(lines, f"Clips and scenes of {given.videos.name}")


if __name__ == "__main__":
    run_main(main)
