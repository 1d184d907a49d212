"""A folder of videos to small frames: every video is decoded once, a process a video.

Out: one frame file a readable video (`frame_file.py`) and `videos.parquet` with a row for every
file of the folder, its status and the reason where something is wrong. The same bytes whatever
the number of workers and their machines, and whether a video was decoded now or comes from the
cache (`frame_cache.py`).
"""

import hashlib
import os
import re
import shutil
import socket
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import config, frames, io
from pipeline.data import executor
from pipeline.data.detector_features import FrameTerms, detector_size
from pipeline.data.digits import DIGITS_FILE
from pipeline.data.frame_cache import FrameCache
from pipeline.data.frame_file import READABLE, SUFFIX, frame_bytes, is_begun, write_frames
from pipeline.errors import UserError
from pipeline.io import project_root
from pipeline.video import decode, folder, image_sequence
from pipeline.video.folder import Size, Unreadable
from pipeline.video.probe import Header, Reading, probe

DUPLICATE, TOO_SHORT, SAME_NAME = "duplicate", "too short", "same name"
FAILED = ("truncated", "damaged", "undecodable")  # what `on_error: fail` does not bear
MIN_FRAMES = 3  # a first, a last, and one between
SEPARATOR = "; "  # of remarks
NAMED = 5  # files named in an error
CACHE = Path(".store/ingest")


@dataclass(frozen=True)
class Job:
    """One entry of the folder, and what becomes of its frames."""

    root: Path
    name: str  # relative to root; an image sequence ends in "/"
    out: Path
    size: config.Ingest
    cache: FrameCache

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def is_sequence(self) -> bool:
        return self.name.endswith("/")

    @property
    def video_id(self) -> str:
        """A readable, stable name: the path in ASCII letters, and 8 digits of the path's hash."""
        path = Path(self.name)
        plain = unicodedata.normalize("NFKD", str(path.with_suffix("") if path.name else path))
        slug = re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode().lower())
        composed = unicodedata.normalize("NFC", self.name)  # the same on every file system
        digest = hashlib.sha256(composed.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        return f"{slug.strip('-')[:40].strip('-') or 'video'}-{digest}"

    @property
    def frame_file(self) -> Path:
        return self.out / f"{self.video_id}{SUFFIX}"

    def require(self) -> None:
        """UserError where the file is gone since the folder was listed.

        Or where a node of a cluster does not see the folder: a film must not count as unreadable.
        """
        if not os.path.lexists(self.path):
            raise UserError(
                f"{_valid_text(str(self.path))}: no such file on {socket.gethostname()}, expected "
                f"what was listed; leave {self.root} as it is, visible to all nodes, and run again"
            )

    @property
    def reading(self) -> Reading:
        return Reading(self.size.fps, self.size.deinterlace, self.size.crop_letterbox)


def ingest(
    source: Path, out: Path, size: config.Ingest, pool: executor.Pool
) -> dict[str, int | float]:
    """Decodes everything below `source` into `out`; returns counts. Raises UserError."""
    names = list_source(source)
    ends = source.resolve(), out.resolve()
    if ends[0] in (ends[1], *ends[1].parents) or ends[1] in ends[0].parents:
        raise UserError(
            f"source.path = {source}: is, holds or lies in {out}, which is written; name a folder "
            "in which there is only footage"
        )
    out.mkdir(parents=True, exist_ok=True)
    _remove_partials(out)  # of a killed run; frame files stay until new ones take their names
    (out / "videos.parquet").unlink(missing_ok=True)
    cache = FrameCache(project_root() / CACHE, size)
    jobs = [Job(source, name, out, size, cache) for name in names]
    try:
        rows = _ingest_all(jobs, pool)
    finally:
        _remove_partials(out)  # of a worker that was killed
    for row in rows:
        if row["status"] in READABLE and row["n_frames"] < MIN_FRAMES:
            reason = f"{row['n_frames']} frames, at least {MIN_FRAMES} needed"
            before = f"; {row['reason']}" if row["reason"] else ""
            row |= {"status": TOO_SHORT, "reason": reason + before}
    readable = [row for row in rows if row["status"] in READABLE]
    if not readable:
        raise UserError(
            f"source.path = {source}: no readable video among {len(rows)} files: {_named(rows)}; "
            "put videos there that ffmpeg can read"
        )
    written = {row["video_id"] for row in readable}
    for path in out.glob(f"*{SUFFIX}"):  # of videos that are no longer there, or were too short
        if path.name.removesuffix(SUFFIX) not in written:
            path.unlink()
    (out / DIGITS_FILE).unlink(missing_ok=True)  # of Moving MNIST, before
    io.write_table(rows, io.VIDEOS, out / "videos.parquet")
    _say_notes(readable)
    cache.prune(sum(path.stat().st_size for path in out.glob(f"*{SUFFIX}")))
    return summary(rows, size)


def _say_notes(rows: list[dict]) -> None:
    """One line for each kind of remark; details are in the table."""
    remarks = defaultdict(list)
    for row in rows:
        for remark in filter(None, row["notes"].split(SEPARATOR)):
            remarks[remark.partition(":")[0]].append((row["path"], remark))
    for kind, found in sorted(remarks.items()):
        texts = {remark for _, remark in found}
        said = texts.pop() if len(texts) == 1 else f"{kind} (notes in videos.parquet)"
        films = found[0][0] if len(found) == 1 else f"{len(found)} of {len(rows)} videos"
        print(f"{films}: {said}", file=sys.stderr)


def list_source(source: Path) -> list[str]:
    """The entries below `source`; a UserError where there is no such folder or nothing in it."""
    remedy = "put videos there, or set source.path to a folder of videos"
    if not source.exists():
        raise UserError(f"source.path = {source}: no such folder; {remedy}")
    if not source.is_dir():
        raise UserError(f"source.path = {source}: a file, expected a folder; {remedy}")
    names = folder.find_files(source)
    if not names:
        raise UserError(f"source.path = {source}: the folder is empty; {remedy}")
    return names


def _ingest_all(jobs: list[Job], pool: executor.Pool) -> list[dict]:
    """Rows in the order of the jobs."""
    probed = pool.run(probe_video, [(job,) for job in jobs], what="headers", unit="file")
    _require_whole([row for row, _ in probed], jobs[0])  # before hours of decoding
    probed = dict(zip(jobs, probed, strict=True))
    rows = _refused(probed)
    accepted = [job for job in jobs if job not in rows]
    uncached = [job for job in accepted if not job.cache.has(probed[job][0]["sha256"])]
    if len(accepted) > len(uncached):
        n_cached = len(accepted) - len(uncached)
        print(f"{n_cached} of {len(accepted)} videos come from the cache", file=sys.stderr)
    _check_disk(jobs[0], sum(probed[job][1].expected_frames for job in uncached))
    # long videos start first, so that no worker is left alone with one at the end
    longest_first = sorted(accepted, key=lambda job: -probed[job][1].expected_frames)
    decoded = pool.run(
        ingest_video,
        [(job, *probed[job]) for job in longest_first],
        what="decoding",
        unit="frame",
        total=sum(probed[job][1].expected_frames for job in accepted),
        in_progress=lambda: [
            job.name
            for job in uncached
            if is_begun(job.frame_file) and not job.cache.has(probed[job][0]["sha256"])
        ],
    )
    rows |= dict(zip(longest_first, decoded, strict=True))
    rows = [rows[job] for job in jobs]
    _require_whole(rows, jobs[0])
    return rows


def probe_video(job: Job) -> tuple[dict, Header | None]:
    """The row of one file as far as its header tells; no header where there is no video in it."""
    job.require()
    row = dict.fromkeys(("codec", "fps", "status", "reason", "notes"), "")
    row |= {"n_frames": 0, "height": 0, "width": 0, "duration": 0.0}
    row |= {"video_id": job.video_id, "path": _valid_text(job.name)}
    row["sha256"] = content_hash(job.path, job.is_sequence)
    try:
        opened = image_sequence.probe if job.is_sequence else probe
        header = opened(job.path, job.reading)
    except Unreadable as error:
        return row | {"status": error.status, "reason": _valid_text(error.reason)}, None
    row["notes"] = _one_text(header.notes)
    row |= {"codec": header.codec, "fps": f"{header.fps.numerator}/{header.fps.denominator}"}
    return row | {"height": header.height, "width": header.width}, header


def content_hash(path: Path, is_sequence: bool) -> str:
    """SHA-256 of a file, or of the names and contents of an image sequence in its order.

    "" for what cannot be read.
    """
    if not is_sequence:
        return _sha256(path)
    digest = hashlib.sha256()
    for part in folder.sequence_images(path):
        digest.update(os.fsencode(part.name) + b"\0" + _sha256(part).encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    if not path.is_file() or not os.access(path, os.R_OK):
        return ""
    return io.sha256(path)


def _refused(probed: dict[Job, tuple[dict, Header | None]]) -> dict[Job, dict]:
    """Rows of what is not decoded: no video, a copy of another, or named like another.

    Of equal files the first is kept that is no link, then that with the shortest name: a "copy of"
    must not take the place of its original, whose split depends on the name.
    """
    rows, by_content, by_name = {}, {}, {}
    for job in sorted(probed, key=lambda job: (job.path.is_symlink(), len(job.name), job.name)):
        row, header = probed[job]
        if header is None:
            rows[job] = row
            continue
        original = by_content.setdefault(row["sha256"] or job, row)
        namesake = by_name.setdefault(job.video_id, row)
        if original is not row:
            status = f"{DUPLICATE} of {original['path']}"
            rows[job] = row | {"status": status, "reason": "the same bytes"}
        elif namesake is not row:
            status = f"{SAME_NAME} as {namesake['path']}"
            rows[job] = row | {"status": status, "reason": "but for its Unicode form; rename one"}
    return rows


def _check_disk(job: Job, n_frames: int) -> None:
    """Says what the frames will take, and stops before a disk is filled."""
    if not n_frames:
        return
    needed = n_frames * frame_bytes(job.size.height, job.size.width) / 1e6
    free = shutil.disk_usage(job.out).free / 1e6
    packed = job.size.compression != "none"
    print(f"about {n_frames} frames, {'less than ' * packed}{needed:,.0f} MB", file=sys.stderr)
    if needed > free and not packed:
        raise UserError(
            f"{job.out}: about {n_frames} frames need {needed:,.0f} MB, {free:,.0f} MB of disk are "
            "free; free some, set ingest.compression or ingest.fps, or lower ingest.height and "
            "ingest.width"
        )


def ingest_video(job: Job, row: dict, header: Header) -> dict:
    """Restores one video from the cache, or decodes it; its finished row.

    What is in the file never makes it fail. Raises executor.Died where the decoder was killed: a
    good film must not be kept as truncated.
    """
    job.require()
    cached = job.cache.restore(row["sha256"], job.frame_file)
    if cached:
        executor.count(cached["n_frames"])
        return row | cached
    status, reason, terms = "ok", "", FrameTerms()
    notes, first, last = [*header.notes], None, 0.0
    shape = job.size.height, job.size.width
    sizes = image_size(header, job.size), detector_size(header.height, header.width)
    try:
        with write_frames(job.frame_file, *shape, compression=job.size.compression) as out:
            try:
                opened = image_sequence.decode if job.is_sequence else decode.decode
                for batch in opened(job.path, header, *sizes, notes):
                    first = batch.times[0] if first is None else first
                    last = batch.times[-1]
                    fitted = [frames.fit(image, *shape, job.size.fit) for image in batch.images]
                    images = np.stack(fitted)  # B H W 3
                    out.append(images, terms.measure(images, batch.samples, batch.times))
                    executor.count(len(batch))
            except decode.Truncated as error:
                status, reason = error.status, _valid_text(str(error))
    except Unreadable as error:
        return row | {"status": error.status, "reason": _valid_text(error.reason)}
    except decode.Killed as error:
        raise executor.Died(job.name, str(error)) from None
    row = row | {"n_frames": out.n_frames, "status": status, "reason": reason}
    row |= {"notes": _one_text(notes), "duration": round(last - first + 1 / header.fps, 3)}
    job.cache.keep(row, job.frame_file)
    return row


def image_size(header: Header, size: config.Ingest) -> Size:
    """Size to which ffmpeg averages a picture, so that `frames.fit` need not resize it again.

    `fit` then only crops or adds bars, to the nearest of the model's pixels. Where the model's
    frames are larger than the source it is the source's size, and `fit` enlarges.
    """
    ratios = size.height / header.height, size.width / header.width
    if size.fit == "squeeze":
        height, width = size.height, size.width
    else:
        scale = max(ratios) if size.fit == "crop" else min(ratios)
        height, width = max(1, round(header.height * scale)), max(1, round(header.width * scale))
    return min(height, header.height), min(width, header.width)


def summary(rows: list[dict], size: config.Ingest) -> dict[str, int | float]:
    """Counts for `metrics/ingest.json`, from the rows of `videos.parquet`."""
    readable = [row for row in rows if row["status"] in READABLE]
    n_frames = sum(row["n_frames"] for row in readable)
    duplicates = sum(row["status"].startswith(DUPLICATE) for row in rows)
    too_short = sum(row["status"] == TOO_SHORT for row in rows)
    return {
        "videos": len(readable),
        "videos_truncated": sum(row["status"] == "truncated" for row in rows),
        "videos_damaged": sum(row["status"] == "damaged" for row in rows),
        "videos_duplicate": duplicates,
        "videos_too_short": too_short,
        "videos_rejected": len(rows) - len(readable) - duplicates - too_short,
        "frames": n_frames,
        "megabytes": n_frames * frame_bytes(size.height, size.width) / 1e6,
    }


def _require_whole(rows: list[dict], job: Job) -> None:
    """Raises a UserError where a file cannot be read whole and that is asked for."""
    failed = [row for row in rows if row["status"] in FAILED]
    if failed and job.size.on_error == "fail":
        raise UserError(
            f"source.path = {job.root}: {len(failed)} of {len(rows)} files cannot be read whole: "
            f"{_named(failed)}; mend or remove them, or set ingest.on_error to reject"
        )


def _named(rows: list[dict]) -> str:
    names = [f"{row['path']} ({row['status']}: {row['reason']})" for row in rows[:NAMED]]
    return ", ".join(names) + (f" and {len(rows) - NAMED} more" if len(rows) > NAMED else "")


def _one_text(notes: Iterable[str]) -> str:
    """Remarks as one text, parted by SEPARATOR alone."""
    return _valid_text(SEPARATOR.join(note.replace(SEPARATOR, ", ") for note in notes))


def _valid_text(name: str) -> str:
    """What of a file's name or remark is printable text: parquet takes no other, and a terminal
    obeys control characters.
    """
    text = os.fsencode(name).decode("utf-8", "replace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", text)


def _remove_partials(out: Path) -> None:
    for partial in out.glob("*.partial"):
        partial.unlink(missing_ok=True)
