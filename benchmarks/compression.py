"""What `ingest.compression` saves on disk and costs in time, on a folder of videos.

    python -m benchmarks.compression --videos FOLDER [--workers 2]

For each kind: megabytes of the frame files, seconds of ingest with an empty store, and milliseconds
a frame to read them in order, as every stage does, and at random.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.lines import line, options, show
from pipeline import config
from pipeline.data.executor import LocalPool
from pipeline.data.frame_file import SUFFIX, FrameFile
from pipeline.data.ingest import ingest
from pipeline.errors import run_main

KINDS = ("none", "lz4", "zstd")


def measure(kind: str, videos: Path, work: Path, workers: int) -> list[dict]:
    size = config.load().ingest.model_copy(update={"compression": kind})
    with mock.patch.dict(os.environ, {"DVC_ROOT": str(work / kind)}):
        started = time.perf_counter()
        ingest(videos, work / kind / "frames", size, LocalPool(workers))
        spent = time.perf_counter() - started
    paths = sorted((work / kind / "frames").glob(f"*{SUFFIX}"))
    random = np.random.default_rng(0)
    in_order = reading(paths, range)
    at_random = reading(paths, random.permutation)
    return [
        line(f"compression/{kind}/size", sum(p.stat().st_size for p in paths) / 1e6, "MB"),
        line(f"compression/{kind}/ingest", spent, "s"),
        line(f"compression/{kind}/read_in_order", in_order, "ms/frame"),
        line(f"compression/{kind}/read_at_random", at_random, "ms/frame"),
    ]


def reading(paths: list[Path], order) -> float:
    """Milliseconds a frame; `order` gives the numbers of so many frames."""
    count, started = 0, time.perf_counter()
    for path in paths:
        footage = FrameFile(path)
        count += touch(footage, order(len(footage)))
    return 1000 * (time.perf_counter() - started) / count


def touch(footage: FrameFile, numbers: Iterable[int]) -> int:
    """Reads every byte of the frames; how many they are."""
    return sum(footage[number].sum() >= 0 for number in numbers)


def main() -> None:
    parser = options(videos=Path, workers=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = [measure(kind, given.videos, Path(work), given.workers) for kind in KINDS]
    show([one for lines in found for one in lines], f"Frame files of {given.videos.name}")


if __name__ == "__main__":
    run_main(main)
