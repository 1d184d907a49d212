"""Seconds from a folder of videos to frames and scenes: ours, ffmpeg's, and the thesis' data step.

    python -m benchmarks.ingest --videos FOLDER [--height 64 --width 128 --workers 2 --repeats 1]
                                [--thesis-videos N]

All ways read the same files in the same run. Ours is the whole process, from its start, with an
empty store. Beside it stand: ffmpeg decoding and reducing to the same size, into nothing, file by
file and as many files at once as we have workers; ffmpeg decoding alone, the floor under every
way; and the thesis' data step (`scenedetect detect-content list-scenes save-images split-video`
and reading its pieces with OpenCV), which is slow: `--thesis-videos` takes the first N files, and
the ratio is that of the times a frame. `ratio` is their time over ours: above 1 we are faster.
Then the same folder again with the store filled, and with one video added. What grows with the
length and the number of episodes: `benchmarks.season`.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import footage_ways as ways
from benchmarks.lines import line, options, show
from pipeline import errors
from pipeline.data.frame_file import read_videos
from pipeline.data.ingest import list_source
from pipeline.errors import UserError


@dataclass(frozen=True)
class Setup:
    """What is compared: a folder, its readable files with their frames, and how they are read."""

    videos: Path
    frames: dict[Path, int]  # of each file
    size: ways.Size
    workers: int
    work: Path  # a temporary folder

    @property
    def files(self) -> list[Path]:
        return list(self.frames)

    @property
    def total(self) -> int:
        return sum(self.frames.values())

    def ingest(self, name: str, videos: Path | None = None, store: str = "") -> ways.Ours:
        """A run into a new folder; its store is empty, or that of the run called `store`."""
        root = self.work / f"store-{store or name}"
        out = self.work / f"out-{name}"
        return ways.ours(videos or self.videos, out, root, self.size, self.workers)


def prepare(videos: Path, work: Path, size: ways.Size, workers: int) -> Setup:
    """Ingests once, untimed: it says which files can be read, and brings them into memory."""
    names = list_source(videos)
    ways.ours(videos, work / "first", work / "store-first", size, workers)
    table = read_videos(work / "first" / "frames")
    counts = dict(zip(table["path"], table["n_frames"], strict=True))
    frames = {videos / name: int(counts[name]) for name in names if name in counts}
    pictures = [path for path in frames if not path.is_file()]
    if pictures:
        raise UserError(
            f"--videos {videos}: {pictures[0].name} is an image sequence, expected video files; "
            "name a folder without any"
        )
    return Setup(videos, frames, size, workers, work)


def compare(setup: Setup, repeats: int, thesis_videos: int | None) -> list[dict]:
    """Rows of ours beside each other way; medians of `repeats` rounds of all but the thesis'."""
    n = setup.workers
    others = {
        "ffmpeg": lambda: ways.ffmpeg(setup.files, setup.size),
        f"ffmpeg_{n}_at_once": lambda: ways.ffmpeg(setup.files, setup.size, n),
        "decoding": lambda: ways.ffmpeg(setup.files, None),
        f"decoding_{n}_at_once": lambda: ways.ffmpeg(setup.files, None, n),
    }
    runs, spent = _rounds(setup, others, repeats)
    ours = statistics.median(run.seconds for run in runs)
    whole = statistics.median(run.whole for run in runs)
    rows = [
        line("ingest/videos", len(setup.files), "videos"),
        line("ingest/frames", setup.total, "frames"),
        line("ingest/ours", ours, "s"),
        line("ingest/ours/rate", setup.total / ours, "frames/s"),
        line("ingest/scene_split", statistics.median(run.scene_split for run in runs), "s"),
    ]
    for name, seconds in spent.items():
        rows += [
            line(f"ingest/{name}", seconds, "s"),
            line(f"ingest/ours_to_{name}", ours, "s", seconds / ours, name),
        ]
    rows += thesis_rows(setup, whole, thesis_videos)
    rows += [
        line("ingest/memory", max(run.memory for run in runs), "MB"),
        line("ingest/memory/largest_process", max(run.largest for run in runs), "MB"),
    ]
    return rows


def _rounds(
    setup: Setup, others: dict[str, Callable[[], float]], repeats: int
) -> tuple[list[ways.Ours], dict[str, float]]:
    """Ours and all others in turn, so that a slow minute of the machine meets every way."""
    runs, spent = [], {name: [] for name in others}
    for k in range(repeats):
        runs.append(setup.ingest(f"round-{k}"))
        for name, way in others.items():
            spent[name].append(way())
    return runs, {name: statistics.median(seconds) for name, seconds in spent.items()}


def thesis_rows(setup: Setup, whole: float, videos: int | None) -> list[dict]:
    """The thesis' step on the first files, and ours with scene_split, by their times a frame."""
    files = setup.files[:videos]
    if not files:
        return []
    cutting, reading = ways.thesis(files, setup.size)
    frames = sum(setup.frames[file] for file in files)
    ratio = per_frame_ratio(cutting + reading, frames, whole, setup.total)
    return [
        line("ingest/thesis/frames", frames, "frames"),
        line("ingest/thesis/scenedetect", cutting, "s"),
        line("ingest/thesis/reading_pieces", reading, "s"),
        line("ingest/ours_with_scene_split", whole, "s", ratio, "thesis"),
    ]


def per_frame_ratio(theirs: float, their_frames: int, ours: float, our_frames: int) -> float:
    """How many times as fast ours is a frame, where both did different numbers of frames."""
    return (theirs / their_frames) / (ours / our_frames)


def again(setup: Setup) -> list[dict]:
    """The folder once more, and once more with one video added, on the store of a first run."""
    folder = setup.work / "one_more"
    folder.mkdir()
    for k, file in enumerate(setup.files):
        (folder / f"{k:05d}{file.suffix}").symlink_to(file.resolve())
    shortest = min(setup.files, key=setup.frames.get)
    first = setup.ingest("empty", folder)
    second = setup.ingest("filled", folder, store="empty")
    ways.repackaged(shortest, folder / "added.mkv")
    added = setup.ingest("added", folder, store="empty")
    return [
        line("ingest/second_run", second.seconds, "s", first.seconds / second.seconds, "first run"),
        line(
            "ingest/one_video_added", added.seconds, "s", first.seconds / added.seconds, "first run"
        ),
    ]


def parse() -> argparse.Namespace:
    parser = options(videos=Path, height=64, width=128, workers=2, repeats=1)
    parser.add_argument("--thesis-videos", type=int, help="0: none; all where not given")
    return parser.parse_args()


def main() -> None:
    given = parse()
    size = given.height, given.width
    with tempfile.TemporaryDirectory() as work:
        setup = prepare(given.videos.resolve(), Path(work), size, given.workers)
        rows = compare(setup, given.repeats, given.thesis_videos) + again(setup)
    show(rows, f"{setup.total} frames to {size[0]}x{size[1]}, {given.workers} workers")


if __name__ == "__main__":
    errors.run_main(main)
