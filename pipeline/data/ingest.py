"""A folder of videos to small frames: every video is decoded once, a process a video.

Out: one frame file a readable video (`framefile.py`) and `decode.parquet` with a row for every
file of the folder, its status and the reason where something is wrong. The same bytes whatever
the number of workers and their machines, and whether a video was decoded now or comes from the
store.
"""

import shutil
import sys
from pathlib import Path

from pipeline import config, io
from pipeline.data import executor
from pipeline.data.decoding import Job, decode_video, examine, take_over
from pipeline.data.frame_cache import Store
from pipeline.data.frame_file import PARTIAL, READABLE, SUFFIX, frame_bytes, partial_of
from pipeline.errors import UserError
from pipeline.io import project_root
from pipeline.progress import bar
from pipeline.video import decode

DUPLICATE, TOO_SHORT, SAME_NAME = "duplicate", "too short", "same name"
FAILED = ("truncated", "damaged", "undecodable")  # what `on_error: fail` does not bear
SHOWN = 5  # files named in an error
STORE = Path(".store/ingest")


def ingest(
    source: Path, out: Path, size: config.Ingest, workers: int | executor.Place
) -> dict[str, int | float]:
    """Decodes everything below `source` into `out`; returns counts. Raises UserError.

    `workers`: how many processes of this machine, or where else.
    """
    names = list_source(source)
    _clear(out)
    store = Store(project_root() / STORE, size)
    jobs = [Job(source, name, out, size, store) for name in names]
    try:
        place = executor.Place.of(workers).at_most(len(jobs))
        rows = executor.again(lambda: _run_all(jobs, place), workers, lambda: _under_way(jobs))
    finally:
        _remove_partials(out)  # of a worker that was killed
    _require_whole(rows, jobs[0])
    rows = [_judge(row, size) for row in rows]
    readable = [row for row in rows if row["status"] in READABLE]
    if not readable:
        raise UserError(
            f"source.path = {source}: no readable video among {len(rows)} files: {_named(rows)}; "
            "put videos there that ffmpeg can read"
        )
    _remove_strangers(out, {row["video_id"] for row in readable})
    io.write_table(rows, io.VIDEOS, out / "videos.parquet")
    store.prune(sum(path.stat().st_size for path in out.glob(f"*{SUFFIX}")))
    return _summary(rows, size)


def list_source(source: Path) -> list[str]:
    """The entries below `source`; a UserError where there is no such folder or nothing in it."""
    remedy = "put videos there, or set source.path to a folder of videos"
    if not source.exists():
        raise UserError(f"source.path = {source}: no such folder; {remedy}")
    if not source.is_dir():
        raise UserError(f"source.path = {source}: a file, expected a folder; {remedy}")
    names = decode.find_files(source)
    if not names:
        raise UserError(f"source.path = {source}: the folder is empty; {remedy}")
    return names


def _run_all(jobs: list[Job], place: executor.Place) -> list[dict]:
    """Rows in the order of the jobs."""
    with executor.opened(place, decode_video.__module__) as pool:
        examined = bar(
            pool.executor.map(examine, jobs), what="headers", unit="file", total=len(jobs)
        )
        examined = dict(zip(jobs, examined, strict=True))
        _require_whole([row for row, _ in examined.values()], jobs[0])  # before hours of decoding
        return _decode_all(pool, examined)


def _decode_all(pool: executor.Pool, examined: dict[Job, tuple]) -> list[dict]:
    """Long videos start first, so that no worker is left alone with one at the end."""
    rows = _refused(examined)
    wanted = {job: found for job, found in examined.items() if job not in rows}
    rows |= _taken_over(pool, {job: row for job, (row, _) in wanted.items()})
    waiting = {job: header for job, (_, header) in wanted.items() if job not in rows}
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


def _refused(examined: dict[Job, tuple]) -> dict[Job, dict]:
    """Rows of what is not decoded: no video, a copy of another, or named like another.

    Of equal files the first is kept that is no link, then that with the shortest name: a "copy of"
    must not take the place of its original, whose split hangs on the name.
    """
    rows, first, named = {}, {}, {}
    for job in sorted(examined, key=lambda job: (job.path.is_symlink(), len(job.name), job.name)):
        row, header = examined[job]
        if header is None:
            rows[job] = row
            continue
        original = first.setdefault(row["sha256"] or job, row)
        namesake = named.setdefault(job.video_id, row)
        if original is not row:
            status = f"{DUPLICATE} of {original['path']}"
            rows[job] = row | {"status": status, "reason": "the same bytes"}
        elif namesake is not row:
            status = f"{SAME_NAME} as {namesake['path']}"
            rows[job] = row | {"status": status, "reason": "but for its Unicode form; rename one"}
    return rows


def _taken_over(pool: executor.Pool, wanted: dict[Job, dict]) -> dict[Job, dict]:
    """Rows of the videos that the store has."""
    kept = pool.executor.map(take_over, wanted, [row["sha256"] for row in wanted.values()])
    kept = list(bar(kept, what="store", unit="video", total=len(wanted)))
    rows = {job: wanted[job] | row for job, row in zip(wanted, kept, strict=True) if row}
    if rows:
        print(f"{len(rows)} videos were decoded before and are taken over", file=sys.stderr)
    return rows


def _check_disk(waiting: dict[Job, decode.Header]) -> None:
    """Says what the frames will take, and stops before a disk is filled."""
    if not waiting:
        return
    job = next(iter(waiting))
    frames = sum(header.expected_frames for header in waiting.values())
    needed = frames * frame_bytes(job.size.height, job.size.width) / 1e6
    free = shutil.disk_usage(job.out).free / 1e6
    packed = job.size.compression != "none"
    print(f"about {frames} frames, {'less than ' * packed}{needed:,.0f} MB", file=sys.stderr)
    if needed > free and not packed:
        raise UserError(
            f"{job.out}: about {frames} frames need {needed:,.0f} MB, {free:,.0f} MB of disk are "
            "free; free some, set ingest.compression or ingest.fps, or lower ingest.height and "
            "ingest.width"
        )


def _judge(row: dict, size: config.Ingest) -> dict:
    if row["status"] in READABLE and row["n_frames"] < size.min_frames:
        reason = f"{row['n_frames']} frames, at least {size.min_frames} needed"
        why = f"; {row['reason']}" if row["reason"] else ""
        return row | {"status": TOO_SHORT, "reason": reason + why}
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


def _summary(rows: list[dict], size: config.Ingest) -> dict[str, int | float]:
    readable = [row for row in rows if row["status"] in READABLE]
    n_frames = sum(row["n_frames"] for row in readable)
    counts = {
        "truncated": sum(row["status"] == "truncated" for row in rows),
        "damaged": sum(row["status"] == "damaged" for row in rows),
        "duplicate": sum(row["status"].startswith(DUPLICATE) for row in rows),
        "too_short": sum(row["status"] == TOO_SHORT for row in rows),
    }
    return {
        "videos": len(readable),
        **{f"videos_{key}": count for key, count in counts.items()},
        "videos_rejected": len(rows) - len(readable) - counts["duplicate"] - counts["too_short"],
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
