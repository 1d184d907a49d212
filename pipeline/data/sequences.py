"""Made sequences to small frames: Moving MNIST in the form that `ingest.py` gives videos.

Out: frame files of SEQUENCES_A_FILE sequences each, one behind the other, and `videos.parquet`.
A file's metadata says how many frames a scene has and which split it belongs to, so no cut is
looked for and no test digit is trained on. One sequence is in memory at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import config, io
from pipeline.data.decoding import BlockChanges, fit_all
from pipeline.data.detector_features import DetectorTerms
from pipeline.data.frame_file import SUFFIX, frame_bytes, write_frames
from pipeline.data.moving_mnist import Part, open_parts
from pipeline.progress import bar

SEQUENCES_A_FILE = 500
BATCH_FRAMES = 64  # frames measured and written at once
FPS = 10  # of the written frames: only how fast they are shown, and the terms' `time`


@dataclass(frozen=True)
class Chunk:
    """The sequences of a part that stand in one frame file."""

    part: Part
    numbers: range
    video_id: str


def ingest_sequences(source: Path, out: Path, settings: config.Params) -> dict[str, int | float]:
    """Makes all sequences from the files in `source` into `out`; returns counts as `ingest` does.

    Raises a UserError, before anything in `out` is touched, for files that are missing or damaged.
    """
    rules, size = settings.source.moving_mnist, settings.ingest
    parts = open_parts(source, rules, rules.seed)
    _clear(out)
    total = sum(part.count for part in parts)
    with bar(what="sequences", unit="sequence", total=total) as progress:
        rows = [
            _write_chunk(chunk, out, settings, progress)
            for part in parts
            for chunk in _chunks(part)
        ]
    io.write_table(rows, io.VIDEOS, out / "videos.parquet")
    n_frames = sum(row["n_frames"] for row in rows)
    return {
        "videos": len(rows),
        "videos_truncated": 0,
        "videos_damaged": 0,
        "videos_duplicate": 0,
        "videos_too_short": 0,
        "videos_rejected": 0,
        "frames": n_frames,
        "megabytes": n_frames * frame_bytes(size.height, size.width) / 1e6,
    }


def _chunks(part: Part) -> Iterator[Chunk]:
    for index, first in enumerate(range(0, part.count, SEQUENCES_A_FILE)):
        numbers = range(first, min(first + SEQUENCES_A_FILE, part.count))
        yield Chunk(part, numbers, f"moving-mnist-{part.split}-{index:04d}")


def _write_chunk(chunk: Chunk, out: Path, settings: config.Params, progress) -> dict:
    """Writes one frame file; its row of `videos.parquet`."""
    part, size, path = chunk.part, settings.ingest, out / f"{chunk.video_id}{SUFFIX}"
    about = {"scene_frames": str(settings.source.moving_mnist.n_frames), "split": part.split}
    terms, changes = DetectorTerms(), BlockChanges()
    shape = size.height, size.width
    with write_frames(path, *shape, about, size.compression) as file:
        for number in chunk.numbers:
            for pictures in _batches(part.sequence(number)):
                images = fit_all(pictures, size)
                seconds = np.arange(file.n_frames, file.n_frames + len(images)) / FPS
                own = {"block_change": changes.measure(images), "time": seconds.astype(np.float32)}
                file.append(images, terms.measure(pictures) | own)
            progress.update()
    return _row(chunk, file.n_frames)


def _batches(sequence: np.ndarray) -> Iterator[np.ndarray]:
    """Grey uint8 `T H W` to RGB uint8 `B H W 3`."""
    for first in range(0, len(sequence), BATCH_FRAMES):
        yield np.repeat(sequence[first : first + BATCH_FRAMES, :, :, None], 3, axis=3)


def _row(chunk: Chunk, n_frames: int) -> dict:
    part = chunk.part
    return {
        "video_id": chunk.video_id,
        "path": part.file.name,
        "sha256": part.sha256,
        "codec": "moving_mnist",
        "fps": f"{FPS}/1",
        "n_frames": n_frames,
        "height": part.height,
        "width": part.width,
        "duration": n_frames / FPS,
        "status": "ok",
        "reason": "",
    }


def _clear(out: Path) -> None:
    """Removes what an earlier run left, whole or not: no file of other settings stays."""
    out.mkdir(parents=True, exist_ok=True)
    for path in [*out.glob(f"*{SUFFIX}*"), out / "videos.parquet"]:
        path.unlink(missing_ok=True)
