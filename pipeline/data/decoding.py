"""One file, or folder of pictures, to its frame file and its row of `decode.parquet`.

Decoded once, streaming. The frame file is also put into the store, from which it is taken when the
same content is met again with the same parameters and code.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import config, frames
from pipeline.data import executor
from pipeline.data.detector_features import DetectorTerms, block_change, detector_size
from pipeline.data.frame_cache import Store
from pipeline.data.frame_file import SUFFIX, write_frames
from pipeline.video import decode


@dataclass(frozen=True)
class Job:
    """One entry of the folder, and what becomes of its frames."""

    root: Path
    name: str  # relative to root; a folder of pictures ends in "/"
    out: Path
    size: config.Ingest
    store: Store

    @property
    def video_id(self) -> str:
        return decode.video_id(self.name)

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def frame_file(self) -> Path:
        return self.out / f"{self.video_id}{SUFFIX}"

    @property
    def reading(self) -> decode.Reading:
        return decode.Reading(self.size.fps, self.size.deinterlace, self.size.cut_bars)


def examine(job: Job) -> tuple[dict, decode.Header | None]:
    """The row of one file as far as its header tells; no header where there is no video in it."""
    row = empty_row(job)
    try:
        header = decode.probe(job.path, job.reading)
    except decode.Unreadable as error:
        return row | {"status": error.status, "reason": _text(error.reason)}, None
    fps = f"{header.fps.numerator}/{header.fps.denominator}"
    shape = {"height": header.height, "width": header.width}
    return row | shape | {"codec": header.codec, "fps": fps}, header


def decode_video(job: Job, row: dict, header: decode.Header) -> dict:
    """Decodes one file; its finished row. What is in the file never makes it fail.

    Raises executor.Died where the decoder was killed: a good film must not be kept as truncated.
    """
    try:
        n_frames, ending = _write_video(job, header)
    except decode.Unreadable as error:
        return row | {"status": error.status, "reason": _text(error.reason)}
    except decode.Killed as error:
        raise executor.Died(job.name, str(error)) from None
    status, reason = (ending.status, _text(str(ending))) if ending else ("ok", "")
    promised = None if status == "truncated" else header.duration
    duration = promised or float(n_frames / header.fps)
    row = row | {"n_frames": n_frames, "duration": duration, "status": status, "reason": reason}
    job.store.keep(row, job.frame_file)
    return row


def take_over(job: Job, sha256: str) -> dict | None:
    """What the store has of a content, its frame file put into place; None if it has nothing."""
    return job.store.take(sha256, job.frame_file)


def image_size(header: decode.Header, size: config.Ingest) -> decode.Size:
    """Size to which ffmpeg averages a picture, so that `frames.fit` need not resize it again.

    `fit` then only crops or adds bars, to the nearest of the model's pixels. Where the model's
    frames are larger than the source it is the source's size, and `fit` enlarges.
    """
    ratios = size.height / header.height, size.width / header.width
    if size.fit == "squeeze":
        fitted = size.height, size.width
    else:
        scale = (max if size.fit == "crop" else min)(ratios)
        fitted = max(1, round(header.height * scale)), max(1, round(header.width * scale))
    return min(fitted[0], header.height), min(fitted[1], header.width)


class BlockChanges:
    """`block_change` of every model frame against the one before, across batches."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None

    def measure(self, images: np.ndarray) -> np.ndarray:
        """uint8 `B H W 3` to float32 `B`; 0 for a video's first frame."""
        first = images[0] if self._last is None else self._last
        before = [first, *images[:-1]]
        self._last = images[-1]
        changes = [block_change(now, then) for now, then in zip(images, before, strict=True)]
        return np.array(changes, np.float32)


def empty_row(job: Job) -> dict:
    """The row of a file of which nothing is known but its content."""
    row = dict.fromkeys(("codec", "fps", "status", "reason"), "")
    row |= {"n_frames": 0, "height": 0, "width": 0, "duration": 0.0}
    named = {"video_id": job.video_id, "path": _text(job.name)}
    return row | named | {"sha256": content_hash(job.path)}


def _text(name: str) -> str:
    """What of a file's name is valid text: parquet takes no other."""
    return os.fsencode(name).decode("utf-8", "replace")


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's pictures in their order.

    "" for what cannot be read.
    """
    if path.is_file():
        return _sha256(path)
    digest = hashlib.sha256()
    for part in decode.parts(path) if path.is_dir() else []:
        digest.update(os.fsencode(part.name) + b"\0" + _sha256(part).encode())
    return digest.hexdigest() if path.is_dir() else ""


def _sha256(path: Path) -> str:
    if not path.is_file() or not os.access(path, os.R_OK):
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_video(job: Job, header: decode.Header) -> tuple[int, decode.Truncated | None]:
    """Writes the frame file; number of frames, and what was wrong at its end."""
    sizes = image_size(header, job.size), detector_size(header.height, header.width)
    terms, changes, ending = DetectorTerms(), BlockChanges(), None
    shape = job.size.height, job.size.width
    with write_frames(job.frame_file, *shape, compression=job.size.compression) as out:
        try:
            for batch in decode.decode(job.path, header, *sizes, job.reading):
                images = fit_all(batch.images, job.size)
                measured = terms.measure(batch.samples)
                measured["block_change"] = changes.measure(images)
                out.append(images, measured | {"time": batch.times.astype(np.float32)})
                executor.count(len(batch))
        except decode.Truncated as error:
            ending = error
    return out.n_frames, ending


def fit_all(images: np.ndarray, size: config.Ingest) -> np.ndarray:
    """uint8 `B h w 3` as decoded to the model's `B H W 3`."""
    return np.stack([frames.fit(image, size.height, size.width, size.fit) for image in images])
