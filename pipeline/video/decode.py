"""Video files: the only place that opens them. A folder in, decoded batches of frames out.

Headers are read from what ffmpeg prints (its wheel ships no ffprobe). Pictures are decoded once and
reduced twice by ffmpeg, and come through one pipe, in presentation order, each with its time: no
frame is duplicated or, unless `Reading.fps` says so, dropped. Nothing of a video but the current
batch is ever in memory. Transparent pictures show their colours as if they were opaque.

The two reductions, one above the other in the pipe: `images`, area-averaged, to be looked at; and
`samples`, one source pixel each, for scene detectors. PySceneDetect reduces with OpenCV's linear
interpolation, which skips pixels just so: its cuts come out the same from samples (46 of 46 lists
of cuts on 23 videos), and not from averages (36 of 46).
"""

import hashlib
import math
import re
import signal
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.video.ffmpeg_input import PICTURES_FPS, PROTOCOLS, Opened, executable, opened, parts
from pipeline.video.image_sequence import find_files
from pipeline.video.letterbox import find_crop
from pipeline.video.probe import (
    NO_STREAM,
    UNDECODABLE,
    Crop,
    Header,
    Size,
    Unreadable,
    first_error,
    parse_fps,
    parse_header,
)
from pipeline.video.pts import PRINTS, Times, printing

__all__ = [
    "NO_STREAM",
    "UNDECODABLE",
    "Batch",
    "Crop",
    "Damaged",
    "Header",
    "Killed",
    "Reading",
    "Size",
    "Truncated",
    "Unreadable",
    "decode",
    "find_files",
    "parse_fps",
    "parse_header",
    "parts",
    "probe",
    "version",
    "video_id",
]

BATCH_BYTES = 8 * 2**20  # decoded pictures held at once
BATCH_FRAMES = 64
TEXT_BYTES = 512  # read of a file that ffmpeg does not know
PIPE_BYTES = 2**20  # the default of 64 kB wakes both sides for every half picture
# One: a process a video fills the cores already, and two threads cost 13 % more processor time.
# Fixed: a damaged stream decodes differently with another number.
DECODER_THREADS = 1
EXACT = "bitexact+accurate_rnd"  # swscale: the same bytes on every processor
AVERAGED = f"area+full_chroma_int+full_chroma_inp+{EXACT}"

SAME_RATE = Fraction(101, 100)  # 24 asked for leaves 24.08 alone
ENDED_EARLY = re.compile(r"ended prematurely|partial file", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What is done to pictures before they are reduced; the default is nothing."""

    fps: float = 0.0  # frames a second at most: faster sources lose frames evenly; 0: keep all
    deinterlace: bool = False  # frames marked as interlaced become whole pictures (bwdif)
    cut_bars: bool = False  # black bars are looked for, and cut


PLAIN = Reading()


class Batch(NamedTuple):
    """The same B frames twice, uint8 RGB in presentation order, and when they are shown."""

    images: np.ndarray  # B H W 3, area-averaged
    samples: np.ndarray  # B h w 3, one source pixel each
    times: np.ndarray  # B, float64 seconds from the start of the file, strictly increasing

    def __len__(self) -> int:
        return len(self.images)


class Truncated(Exception):
    """Raised by `decode` after the last readable frame of a file that is not all readable."""

    status = "truncated"


class Damaged(Truncated):
    """The same where all frames came, but ffmpeg complained: some of them may look wrong."""

    status = "damaged"


class Killed(Exception):
    """Raised by `decode` where ffmpeg was killed, for want of memory say. The file may be good."""


def video_id(relative: str) -> str:
    """A readable, stable name: the path in ASCII letters, and 8 digits of the path's hash."""
    path = Path(relative)
    plain = unicodedata.normalize("NFKD", str(path.with_suffix("") if path.name else path))
    slug = re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode().lower()).strip("-")
    composed = unicodedata.normalize("NFC", relative)  # the same on every file system
    digest = hashlib.sha256(composed.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{slug[:40].strip('-') or 'video'}-{digest}"


def probe(path: Path, reading: Reading = PLAIN) -> Header:
    """The header of a file or a folder of pictures, as `decode` will show them.

    Raises Unreadable with status and reason.
    """
    with opened(path) as source:
        header = _header(path, source)
        crop = find_crop(source, header) if reading.cut_bars else None
    return _at_most(_cropped(header, crop), reading.fps)


def _header(path: Path, source: Opened) -> Header:
    try:
        return parse_header(_printed(source), stills=bool(source.pictures))
    except Unreadable as error:
        if error.status == UNDECODABLE and path.is_file() and _is_text(path):
            raise Unreadable(NO_STREAM, "a text, not a video") from None
        raise


def _is_text(path: Path) -> bool:
    """Whether a file begins as subtitles and notes do, and as no video does."""
    with path.open("rb") as file:
        start = file.read(TEXT_BYTES)
    try:
        text = start[:-4].decode("utf-8") if len(start) == TEXT_BYTES else start.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\r\n\t\f\ufeff" for letter in text)


def decode(
    path: Path, header: Header, images: Size, samples: Size, reading: Reading = PLAIN
) -> Iterator[Batch]:
    """Yields all frames once, in the two sizes asked for. Closing it early ends ffmpeg.

    `header` is what `probe` said with the same `reading`. Raises Unreadable where there is no
    frame, and Truncated after the last frame of a file that ends before its header says, or of a
    folder of which a picture is broken. Killed says nothing of the file.
    """
    shown: list[float] = []  # times
    with (
        opened(path) as source,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryFile() as printed,
    ):
        filters = [*_before(source, header, reading), *printing(printed.fileno())]
        process = subprocess.Popen(
            _decoder_command(source, ",".join([*filters, _stacking(images, samples)])),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            cwd=source.folder,
            pass_fds=[printed.fileno()] if PRINTS else [],
            start_new_session=True,  # Ctrl-C is ours to handle: it must not look like an end
        )
        times = Times(printed.fileno(), header.fps)
        try:
            _widen(process.stdout)
            for stacked in _batches(process.stdout, *_stacked_size(images, samples)):
                batch = _unstack(stacked, images, samples, times.take(len(stacked)))
                shown += batch.times.tolist()
                yield batch
            process.wait()
        finally:
            process.stdout.close()
            process.kill()
            process.wait()
        _check_ending(source, header, shown, _read_start(errors), process.returncode)


def version() -> tuple[str, int]:
    """Tells one build of ffmpeg from another: the program's name, and its size in bytes."""
    program = Path(executable())
    return program.name, program.stat().st_size if program.is_file() else 0


def _printed(source: Opened) -> str:
    """What ffmpeg says of a file that it is given without anything to do."""
    options = [word for name, value in source.options.items() for word in (f"-{name}", str(value))]
    first = ["-nostdin", "-hide_banner", "-protocol_whitelist", PROTOCOLS]
    done = subprocess.run(
        [executable(), *first, *options, "-i", source.url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=source.folder,
        check=False,  # without an output ffmpeg always ends with an error
    )
    return done.stderr.decode("utf-8", "replace")


def _cropped(header: Header, crop: Crop | None) -> Header:
    """The header of what is left; a pixel keeps its aspect."""
    if crop is None:
        return header
    decoded = header.decoded_size
    height = max(1, round(crop.height * header.height / decoded[0]))
    width = max(1, round(crop.width * header.width / decoded[1]))
    return replace(header, height=height, width=width, decoded=decoded, crop=crop)


def _at_most(header: Header, fps: float) -> Header:
    limit = parse_fps(f"{fps:f}")  # 29.97 means 30000/1001
    if not fps or header.fps <= limit * SAME_RATE:
        return header
    return replace(header, fps=limit, kept=limit / header.fps)


def _before(source: Opened, header: Header, reading: Reading) -> list[str]:
    """ffmpeg's filters before a frame is reduced; none for plain files.

    Single pictures are never interlaced, and bwdif loses a frame wherever the size changes.
    """
    woven = reading.deinterlace and not source.pictures
    filters = ["bwdif=mode=send_frame:deint=interlaced"] if woven else []
    if header.crop:
        (height, width), (top, left, *size) = header.decoded_size, header.crop
        filters.append(f"scale={width}:{height}")  # pictures may change their size midway
        filters.append(f"crop={size[1]}:{size[0]}:{left}:{top}")
    if header.kept < 1:
        share = f"{header.kept.numerator}/{header.kept.denominator}"
        filters.append(f"select='floor(n*{share})-floor((n-1)*{share})'")
    return filters


def _decoder_command(source: Opened, filters: str) -> list[str]:
    import ffmpeg

    options = {"threads": DECODER_THREADS, "protocol_whitelist": PROTOCOLS} | source.options
    stream = ffmpeg.output(
        ffmpeg.input(source.url, **options),
        "pipe:1",
        map="0:V:0",  # the first stream of moving pictures: no cover art
        vf=filters,
        format="rawvideo",
        pix_fmt="rgb24",
        fps_mode="passthrough",
    )
    stream = stream.global_args("-nostdin", "-v", "error", "-filter_threads", "1")
    return ffmpeg.compile(stream, cmd=executable())


def _stacking(images: Size, samples: Size) -> str:
    """ffmpeg's filters: both reductions of a frame as one picture, images above samples.

    Frames get a second each, because stacking pairs by time and films have wrong times. Samples
    take their colours through yuv444p: converted from 4:2:0 they would blur to half the width.
    """
    _, width = _stacked_size(images, samples)
    return (
        "setpts=N/TB,split[a][b];"
        f"[a]scale={images[1]}:{images[0]}:flags={AVERAGED},format=rgb24,"
        f"pad={width}:{images[0]}[above];"
        f"[b]scale={samples[1]}:{samples[0]}:flags=neighbor+{EXACT},format=yuv444p,"
        f"scale=flags={EXACT},format=rgb24,pad={width}:{samples[0]}[below];"
        "[above][below]vstack"
    )


def _stacked_size(images: Size, samples: Size) -> Size:
    return images[0] + samples[0], max(images[1], samples[1])


def _unstack(stacked: np.ndarray, images: Size, samples: Size, times: np.ndarray) -> Batch:
    above, below = stacked[:, : images[0], : images[1]], stacked[:, images[0] :, : samples[1]]
    return Batch(np.ascontiguousarray(above), np.ascontiguousarray(below), times)


def _batches(pipe, height: int, width: int) -> Iterator[np.ndarray]:
    frame_bytes = height * width * 3
    size = max(1, min(BATCH_FRAMES, BATCH_BYTES // frame_bytes))
    while True:
        buffer = np.empty(size * frame_bytes, np.uint8)
        complete = _fill(pipe, memoryview(buffer)) // frame_bytes
        if complete:
            yield buffer[: complete * frame_bytes].reshape(complete, height, width, 3)
        if complete < size:
            return


def _fill(pipe, view: memoryview) -> int:
    """Reads until the view is full or the pipe ends; the number of bytes read."""
    at = 0
    while at < len(view):
        got = pipe.readinto(view[at:])
        if not got:
            break
        at += got
    return at


def _check_ending(
    source: Opened, header: Header, shown: list[float], errors: str, returncode: int
) -> None:
    if returncode == -signal.SIGKILL:
        raise Killed(f"ffmpeg was killed after {len(shown)} frames")
    if not shown:
        raise Unreadable(UNDECODABLE, first_error(errors) if errors else "no frame in it")
    if source.pictures:
        return _check_pictures(source, header, shown)
    promised = header.duration or 0.0
    short = bool(errors) and len(shown) + 2 < header.expected_frames
    if short or returncode or ENDED_EARLY.search(errors):
        seconds = float(len(shown) / header.fps)
        ended = f"{len(shown)} frames ({seconds:.1f} s) readable"
        raise Truncated(f"{ended}, the header promised {promised:.1f} s" if promised else ended)
    complaints = [line for line in errors.splitlines() if "to muxer" not in line]  # times are ours
    if complaints:
        raise Damaged(f"some frames may look wrong: {first_error(complaints[0])}")


def _check_pictures(source: Opened, header: Header, shown: list[float]) -> None:
    """A picture that is broken is left out, the others keep their times. Raises Truncated."""
    numbers = {round(time * PICTURES_FPS) for time in shown}
    lost = [name for number, name in enumerate(source.pictures) if number not in numbers]
    n_lost = math.ceil(len(source.pictures) * header.kept) - len(shown) + len(source.unread)
    if n_lost > 0:
        named = [*source.unread, *(lost if header.kept == 1 else [])][:1]
        first = f": {named[0]}" if named else ""
        n_pictures = len(source.pictures) + len(source.unread)
        raise Truncated(f"{n_lost} of {n_pictures} pictures broken and left out{first}")


def _read_start(errors) -> str:
    errors.seek(0)
    return errors.read(2**16).decode("utf-8", "replace")


def _widen(pipe) -> None:
    """Enlarges the pipe where the system can (Linux); elsewhere it is only slower."""
    try:
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass
