"""A folder of videos to small frames: every file is decoded once, streaming, a process a video.

Out: one frame file a readable video (`framefile.py`) and `videos.parquet` with a row for every
file of the folder, its status and the reason where something is wrong. The same bytes whatever
the number of workers.
"""

import hashlib
import multiprocessing
import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import cv2
import numpy as np

from pipeline import frames, params, schema
from pipeline.errors import UserError
from pipeline.footage.framefile import PARTIAL, READABLE, SUFFIX, write_frames
from pipeline.footage.terms import DetectorTerms, block_change, detector_size
from pipeline.progress import bar
from pipeline.sources import videos

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Shared:
    """What the workers share with the main process."""

    decoded: Synchronized  # frames, by all workers together
    stop: Event  # set when the run is over: by an error elsewhere, or by Ctrl-C


_shared: Shared | None = None  # set once in each worker


class Stopped(Exception):
    """Ends a worker's video when the run is over before it is done."""


@dataclass(frozen=True)
class Job:
    """One file of the folder, and what becomes of its frames."""

    root: Path
    name: str  # relative to root
    out: Path
    size: params.Ingest

    @property
    def video_id(self) -> str:
        return videos.video_id(self.name)


def ingest(source: Path, out: Path, size: params.Ingest, workers: int) -> dict[str, int | float]:
    """Decodes everything below `source` into `out`; returns counts. Raises UserError."""
    names = list_source(source)
    _clear(out)
    jobs = [Job(source, name, out, size) for name in names]
    rows = _run_all(jobs, min(workers, len(jobs)))
    readable = [row for row in rows if row["status"] in READABLE]
    if not readable:
        raise UserError(_nothing_readable(source, rows))
    _remove_strangers(out, {row["video_id"] for row in readable})
    schema.write_table(rows, schema.VIDEOS, out / "videos.parquet")
    n_frames = sum(row["n_frames"] for row in rows)
    return {
        "videos": len(readable),
        "videos_truncated": sum(row["status"] == "truncated" for row in rows),
        "videos_rejected": len(rows) - len(readable),
        "frames": n_frames,
        "megabytes": n_frames * size.height * size.width * 3 / 1e6,
    }


def list_source(source: Path) -> list[str]:
    """The files below `source`; a UserError where there is no such folder or nothing in it."""
    remedy = "put videos there, or set source.path to a folder of videos"
    if not source.exists():
        raise UserError(f"source.path = {source}: no such folder; {remedy}")
    if not source.is_dir():
        raise UserError(f"source.path = {source}: a file, expected a folder; {remedy}")
    names = videos.find_files(source)
    if not names:
        raise UserError(f"source.path = {source}: the folder is empty; {remedy}")
    return names


def examine(job: Job) -> tuple[dict, videos.Header | None]:
    """The row of one file as far as its header tells; no header where there is no video in it."""
    row = _empty_row(job)
    try:
        header = videos.probe(job.root / job.name)
    except videos.Unreadable as error:
        return row | {"status": error.status, "reason": error.reason}, None
    fps = f"{header.fps.numerator}/{header.fps.denominator}"
    shape = {"height": header.height, "width": header.width}
    return row | shape | {"codec": header.codec, "fps": fps}, header


def decode_video(job: Job, row: dict, header: videos.Header) -> dict:
    """Decodes one file; its finished row. What is in the file never makes it fail."""
    try:
        n_frames, reason = _write_video(job, header)
    except videos.Unreadable as error:
        return row | {"status": error.status, "reason": error.reason}
    duration = header.duration or float(n_frames / header.fps)
    status = "truncated" if reason else "ok"
    return row | {"n_frames": n_frames, "duration": duration, "status": status, "reason": reason}


def image_size(header: videos.Header, size: params.Ingest) -> videos.Size:
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


def _write_video(job: Job, header: videos.Header) -> tuple[int, str]:
    """Writes the frame file; number of frames, and why it ended early ("" if it did not)."""
    path = job.out / f"{job.video_id}{SUFFIX}"
    sizes = image_size(header, job.size), detector_size(header.height, header.width)
    terms, changes, reason = DetectorTerms(), BlockChanges(), ""
    with write_frames(path, job.size.height, job.size.width) as out:
        try:
            for batch in videos.decode(job.root / job.name, header, *sizes):
                images = _fit(batch.images, job.size)
                measured = terms.measure(batch.samples)
                out.append(images, measured | {"block_change": changes.measure(images)})
                _count(len(batch))
        except videos.Truncated as error:
            reason = str(error)
    return out.n_frames, reason


def _fit(images: np.ndarray, size: params.Ingest) -> np.ndarray:
    """uint8 `B h w 3` as decoded to the model's `B H W 3`."""
    return np.stack([frames.fit(image, size.height, size.width, size.fit) for image in images])


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


def _run_all(jobs: list[Job], workers: int) -> list[dict]:
    """Rows in the order of the jobs."""
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload([__name__])  # one import for all workers
    shared = Shared(context.Value("q", 0), context.Event())
    pool = ProcessPoolExecutor(workers, context, _start_worker, (shared,))
    try:
        headers = bar(pool.map(examine, jobs), what="headers", unit="file", total=len(jobs))
        return _decode_all(pool, dict(zip(jobs, headers, strict=True)), shared)
    except BrokenProcessPool:
        raise UserError(
            "a process that decoded videos was killed, most likely for want of memory; "
            f"free some, or set engine.workers = {workers} lower"
        ) from None
    finally:
        shared.stop.set()
        pool.shutdown(cancel_futures=True)
        _remove_partials(jobs[0].out)  # of a worker that was killed


def _decode_all(
    pool: ProcessPoolExecutor, examined: dict[Job, tuple], shared: Shared
) -> list[dict]:
    """Long videos start first, so that no worker is left alone with one at the end."""
    readable = {job: header for job, (_, header) in examined.items() if header}
    longest_first = sorted(readable, key=lambda job: -readable[job].expected_frames)
    futures = {
        job: pool.submit(decode_video, job, examined[job][0], readable[job])
        for job in longest_first
    }
    expected = sum(header.expected_frames for header in readable.values())
    _watch(set(futures.values()), shared, expected)
    return [futures[job].result() if job in futures else examined[job][0] for job in examined]


def _watch(running: set[Future], shared: Shared, total: int) -> None:
    """Moves the bar while workers decode; raises the first error that a worker raises."""
    with bar(what="decoding", unit="frame", total=total or None) as progress:
        while running:
            done, running = wait(running, timeout=POLL_SECONDS)
            for future in done:
                future.result()
            progress.update(shared.decoded.value - progress.n)
        progress.total = progress.n  # the headers' durations were estimates


def _start_worker(shared: Shared) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    cv2.setNumThreads(1)  # a process a core is all the parallelism there is to have


def _count(frames_done: int) -> None:
    """Reports progress; raises Stopped when the run is over."""
    if _shared is None:
        return
    with _shared.decoded.get_lock():
        _shared.decoded.value += frames_done
    if _shared.stop.is_set():
        raise Stopped


def _empty_row(job: Job) -> dict:
    row = dict.fromkeys(("codec", "fps", "status", "reason"), "")
    row |= {"n_frames": 0, "height": 0, "width": 0, "duration": 0.0}
    shown = os.fsencode(job.name).decode("utf-8", "replace")  # parquet takes valid text only
    return row | {"video_id": job.video_id, "path": shown, "sha256": _sha256(job.root / job.name)}


def _sha256(path: Path) -> str:
    """Of the content; "" for what cannot be read."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _clear(out: Path) -> None:
    """Removes what a killed run left; frame files stay until new ones take their names."""
    out.mkdir(parents=True, exist_ok=True)
    _remove_partials(out)
    (out / "videos.parquet").unlink(missing_ok=True)


def _remove_partials(out: Path) -> None:
    for partial in out.glob(f"*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def _remove_strangers(out: Path, video_ids: set[str]) -> None:
    """Removes frame files of videos that are no longer in the folder."""
    for path in out.glob(f"*{SUFFIX}"):
        if path.name.removesuffix(SUFFIX) not in video_ids:
            path.unlink()


def _nothing_readable(source: Path, rows: list[dict]) -> str:
    named = [f"{row['path']} ({row['status']}: {row['reason']})" for row in rows[:5]]
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return (
        f"source.path = {source}: no readable video among {len(rows)} files: {', '.join(named)}"
        f"{more}; put videos there that ffmpeg can read"
    )
