"""A folder of videos to small frames: every video is decoded once, a process a video.

Out: one frame file a readable video (`framefile.py`) and `videos.parquet` with a row for every
file of the folder, its status and the reason where something is wrong. The same bytes whatever
the number of workers, and whether a video was decoded now or comes from the store.
"""

import shutil
import sys
from pathlib import Path

from pipeline import engine, params, schema
from pipeline.errors import UserError
from pipeline.footage.decoding import Job, decode_video, examine
from pipeline.footage.framefile import PARTIAL, READABLE, SUFFIX, frame_bytes, partial_of
from pipeline.footage.store import Store
from pipeline.progress import bar
from pipeline.records import project_root
from pipeline.sources import videos

DUPLICATE, TOO_SHORT = "duplicate", "too short"
FAILED = ("truncated", "undecodable", "no video stream")  # what `on_error: fail` does not bear
SHOWN = 5  # files named in an error
STORE = Path(".store/ingest")


def ingest(source: Path, out: Path, size: params.Ingest, workers: int) -> dict[str, int | float]:
    """Decodes everything below `source` into `out`; returns counts. Raises UserError."""
    names = list_source(source)
    _clear(out)
    store = Store(project_root() / STORE, size)
    jobs = [Job(source, name, out, size, store) for name in names]
    try:
        count = min(workers, len(jobs))
        rows = engine.again(lambda: _run_all(jobs, count), workers, lambda: _under_way(jobs))
    finally:
        _remove_partials(out)  # of a worker that was killed
    rows = [_judge(row, size) for row in rows]
    readable = [row for row in rows if row["status"] in READABLE]
    if not readable:
        raise UserError(
            f"source.path = {source}: no readable video among {len(rows)} files: {_named(rows)}; "
            "put videos there that ffmpeg can read"
        )
    _require_whole(rows, jobs[0])
    _remove_strangers(out, {row["video_id"] for row in readable})
    schema.write_table(rows, schema.VIDEOS, out / "videos.parquet")
    store.prune(sum(path.stat().st_size for path in out.glob(f"*{SUFFIX}")))
    return _summary(rows, size)


def list_source(source: Path) -> list[str]:
    """The entries below `source`; a UserError where there is no such folder or nothing in it."""
    remedy = "put videos there, or set source.path to a folder of videos"
    if not source.exists():
        raise UserError(f"source.path = {source}: no such folder; {remedy}")
    if not source.is_dir():
        raise UserError(f"source.path = {source}: a file, expected a folder; {remedy}")
    names = videos.find_files(source)
    if not names:
        raise UserError(f"source.path = {source}: the folder is empty; {remedy}")
    return names


def _run_all(jobs: list[Job], workers: int) -> list[dict]:
    """Rows in the order of the jobs."""
    with engine.opened(workers, __name__) as pool:
        examined = bar(
            pool.executor.map(examine, jobs), what="headers", unit="file", total=len(jobs)
        )
        examined = dict(zip(jobs, examined, strict=True))
        _require_whole([row for row, _ in examined.values()], jobs[0])  # before hours of decoding
        return _decode_all(pool, examined)


def _decode_all(pool: engine.Pool, examined: dict[Job, tuple]) -> list[dict]:
    """Long videos start first, so that no worker is left alone with one at the end."""
    rows, waiting = _known(examined)
    _check_disk(waiting)
    longest_first = sorted(waiting, key=lambda job: -waiting[job].expected_frames)
    futures = {
        job: pool.executor.submit(decode_video, job, examined[job][0], waiting[job])
        for job in longest_first
    }
    expected = sum(header.expected_frames for header in waiting.values())
    pool.watch(futures.values(), expected, what="decoding", unit="frame")
    rows |= {job: future.result() for job, future in futures.items()}
    return [rows[job] for job in examined]


def _known(examined: dict[Job, tuple]) -> tuple[dict[Job, dict], dict[Job, videos.Header]]:
    """Rows that need no decoding, and the headers of the videos that do."""
    rows, waiting, first = {}, {}, {}
    reused = 0
    for job, (row, header) in examined.items():
        original = first.setdefault(row["sha256"], row) if row["sha256"] and header else row
        if original is not row:
            status = f"{DUPLICATE} of {original['path']}"
            rows[job] = row | {"status": status, "reason": "the same bytes"}
        elif header is None:
            rows[job] = row
        elif kept := job.store.take(row["sha256"], job.frame_file):
            rows[job], reused = row | kept, reused + 1
        else:
            waiting[job] = header
    if reused:
        print(f"{reused} videos were decoded before and are taken over", file=sys.stderr)
    return rows, waiting


def _check_disk(waiting: dict[Job, videos.Header]) -> None:
    """Says what the frames will take, and stops before a disk is filled."""
    if not waiting:
        return
    job = next(iter(waiting))
    frames = sum(header.expected_frames for header in waiting.values())
    needed = frames * frame_bytes(job.size.height, job.size.width)
    free = shutil.disk_usage(job.out).free
    print(f"about {frames} frames, {needed / 1e9:.2f} GB on disk", file=sys.stderr)
    if needed > free:
        raise UserError(
            f"{job.out}: about {frames} frames need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB of "
            "disk are free; free some, set ingest.fps, or lower ingest.height and ingest.width"
        )


def _judge(row: dict, size: params.Ingest) -> dict:
    if row["status"] in READABLE and row["n_frames"] < size.min_frames:
        reason = f"{row['n_frames']} frames, at least {size.min_frames} needed"
        return row | {"status": TOO_SHORT, "reason": reason}
    return row


def _require_whole(rows: list[dict], job: Job) -> None:
    """Raises a UserError where a file cannot be read whole and that is asked for."""
    failed = [row for row in rows if row["status"] in FAILED]
    if failed and job.size.on_error == "fail":
        raise UserError(
            f"source.path = {job.root}: {len(failed)} of {len(rows)} files cannot be read whole: "
            f"{_named(failed)}; mend or remove them, or set ingest.on_error to reject"
        )


def _under_way(jobs: list[Job]) -> list[str]:
    """Names of the videos whose frame files are half-written."""
    return [job.name for job in jobs if partial_of(job.frame_file).exists()]


def _named(rows: list[dict]) -> str:
    named = [f"{row['path']} ({row['status']}: {row['reason']})" for row in rows[:SHOWN]]
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return ", ".join(named) + more


def _summary(rows: list[dict], size: params.Ingest) -> dict[str, int | float]:
    readable = [row for row in rows if row["status"] in READABLE]
    n_frames = sum(row["n_frames"] for row in readable)
    return {
        "videos": len(readable),
        "videos_truncated": sum(row["status"] == "truncated" for row in rows),
        "videos_duplicate": sum(row["status"].startswith(DUPLICATE) for row in rows),
        "videos_too_short": sum(row["status"] == TOO_SHORT for row in rows),
        "videos_rejected": len(rows) - len(readable),
        "frames": n_frames,
        "megabytes": n_frames * frame_bytes(size.height, size.width) / 1e6,
    }


def _clear(out: Path) -> None:
    """Removes what a killed run left; frame files stay until new ones take their names."""
    out.mkdir(parents=True, exist_ok=True)
    _remove_partials(out)
    (out / "videos.parquet").unlink(missing_ok=True)


def _remove_partials(out: Path) -> None:
    for pattern in (f"*{PARTIAL}", "*.partial"):
        for partial in out.glob(pattern):
            partial.unlink(missing_ok=True)


def _remove_strangers(out: Path, video_ids: set[str]) -> None:
    """Removes frame files of videos that are no longer in the folder, or were too short."""
    for path in out.glob(f"*{SUFFIX}"):
        if path.name.removesuffix(SUFFIX) not in video_ids:
            path.unlink()
