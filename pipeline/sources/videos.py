"""Video files: the only place that opens them. A folder in, decoded batches of frames out.

Headers are read from what ffmpeg prints (its wheel ships no ffprobe). Pictures are decoded once and
reduced twice by ffmpeg, and come through one pipe, in presentation order: no frame is duplicated or
dropped. Nothing of a video but the current batch is ever in memory.

The two reductions, one above the other in the pipe: `images`, area-averaged, to be looked at; and
`samples`, one source pixel each, for scene detectors. PySceneDetect reduces with OpenCV's linear
interpolation, which skips pixels just so: its cuts come out the same from samples (46 of 46 lists
of cuts on 23 videos), and not from averages (36 of 46).
"""

import hashlib
import os
import re
import stat
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

BATCH_BYTES = 8 * 2**20  # decoded pictures held at once
BATCH_FRAMES = 64
PIPE_BYTES = 2**20  # the default of 64 kB wakes both sides for every half picture
DECODER_THREADS = 2  # fixed: a damaged stream decodes differently with another number
UNKNOWN_FPS = Fraction(25)
EXACT = "bitexact+accurate_rnd"  # swscale: the same bytes on every processor
AVERAGED = f"area+full_chroma_int+full_chroma_inp+{EXACT}"

Size = tuple[int, int]  # height, width

NO_STREAM, UNDECODABLE = "no video stream", "undecodable"

STREAM = re.compile(r"^  Stream #0:\d+.*?: Video: (?P<codec>\w+)(?P<rest>.*)$")
SIZE = re.compile(r", ([1-9]\d*)x([1-9]\d*)(?=[ ,]|$)")
RATES = [re.compile(rf", ([\d.]+k?) {unit}\b") for unit in ("fps", "tbr")]
DURATION = re.compile(r"^  Duration: (\d+):(\d+):([\d.]+)")
ROTATION = re.compile(r"display ?matrix: rotation of (-?[\d.]+) degrees", re.IGNORECASE)
FORMAT = re.compile(r"^Input #0, (.+?), from ")
STILL_FORMATS = {"image2", "tty", "ico", "lrc"}  # pictures, and text that ffmpeg would draw
ENDED_EARLY = re.compile(r"ended prematurely|partial file", re.IGNORECASE)


class Unreadable(Exception):
    """A file that gives no frame. `status` is a word for the table, `reason` says why."""

    def __init__(self, status: str, reason: str):
        super().__init__(status, reason)
        self.status, self.reason = status, reason


class Batch(NamedTuple):
    """The same B frames twice, uint8 RGB in presentation order."""

    images: np.ndarray  # B H W 3, area-averaged
    samples: np.ndarray  # B h w 3, one source pixel each

    def __len__(self) -> int:
        return len(self.images)


class Truncated(Exception):
    """Raised by `decode` after the last readable frame of a file that ends early."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself. Size in pixels as shown, that is after rotation."""

    codec: str
    height: int
    width: int
    fps: Fraction
    duration: float | None  # seconds

    @property
    def expected_frames(self) -> int:
        """An estimate, 0 where the header names no duration."""
        return round((self.duration or 0.0) * self.fps)


def find_files(root: Path) -> list[str]:
    """All files below `root` as sorted relative paths with forward slashes.

    Hidden files and folders are skipped, links are followed, a folder is never entered twice.
    """
    found, entered = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        here = Path(folder).relative_to(root)
        found += [(here / name).as_posix() for name in names if not name.startswith(".")]
    return sorted(found, key=os.fsencode)


def video_id(relative: str) -> str:
    """A readable, stable name: the path in ASCII letters, and 8 digits of the path's hash."""
    plain = unicodedata.normalize("NFKD", str(Path(relative).with_suffix("")))
    slug = re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode().lower()).strip("-")
    composed = unicodedata.normalize("NFC", relative)  # the same on every file system
    digest = hashlib.sha256(composed.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{slug[:40].strip('-') or 'video'}-{digest}"


def probe(path: Path) -> Header:
    """Reads a file's header. Raises Unreadable with status and reason."""
    _check_regular(path)
    done = subprocess.run(
        [_ffmpeg(), "-nostdin", "-hide_banner", *_input_options(), "-i", _url(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,  # without an output ffmpeg always ends with an error
    )
    return parse_header(done.stderr.decode("utf-8", "replace"))


def parse_header(printed: str) -> Header:
    """The header in what `ffmpeg -i` prints. Raises Unreadable."""
    lines = printed.splitlines()
    formats = [match[1] for match in map(FORMAT.match, lines) if match]
    if not formats:
        raise Unreadable(UNDECODABLE, _first_error(printed))
    if formats[0].endswith("_pipe") or formats[0] in STILL_FORMATS:
        raise Unreadable(NO_STREAM, f"a picture or a text, not a video ({formats[0]})")
    for at, line in enumerate(lines):
        stream = STREAM.match(line)
        if stream and "(attached pic)" not in line:
            return _parse_stream(stream, lines[at + 1 :], _parse_duration(lines))
    raise Unreadable(NO_STREAM, f"no moving pictures in it ({formats[0]})")


def decode(path: Path, header: Header, images: Size, samples: Size) -> Iterator[Batch]:
    """Yields all frames once, in the two sizes asked for. Closing it early ends ffmpeg.

    Raises Unreadable where there is no frame, and Truncated after the last frame of a file that
    ends before its header says.
    """
    count = 0
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            _decoder_command(path, images, samples),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is ours to handle: it must not look like an end
        )
        try:
            _widen(process.stdout)
            for stacked in _batches(process.stdout, *_stacked_size(images, samples)):
                count += len(stacked)
                yield _unstack(stacked, images, samples)
            process.wait()
        finally:
            process.stdout.close()
            process.kill()
            process.wait()
        _check_ending(header, count, _read_start(errors), process.returncode)


def _decoder_command(path: Path, images: Size, samples: Size) -> list[str]:
    import ffmpeg

    stream = ffmpeg.input(_url(path), threads=DECODER_THREADS, protocol_whitelist="file,pipe")
    stream = ffmpeg.output(
        stream,
        "pipe:1",
        map="0:V:0",  # the first stream of moving pictures: no cover art
        vf=_stacking(images, samples),
        format="rawvideo",
        pix_fmt="rgb24",
        fps_mode="passthrough",
    )
    stream = stream.global_args("-nostdin", "-v", "error", "-filter_threads", "1")
    return ffmpeg.compile(stream, cmd=_ffmpeg())


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


def _unstack(stacked: np.ndarray, images: Size, samples: Size) -> Batch:
    above, below = stacked[:, : images[0], : images[1]], stacked[:, images[0] :, : samples[1]]
    return Batch(np.ascontiguousarray(above), np.ascontiguousarray(below))


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


def _check_ending(header: Header, count: int, errors: str, returncode: int) -> None:
    if not count:
        raise Unreadable(UNDECODABLE, _first_error(errors) if errors else "no frame in it")
    promised = header.duration or 0.0
    short = bool(errors) and count + 2 < header.expected_frames
    if short or returncode or ENDED_EARLY.search(errors):
        seconds = float(count / header.fps)
        ended = f"{count} frames ({seconds:.1f} s) readable"
        raise Truncated(f"{ended}, the header promised {promised:.1f} s" if promised else ended)


def _parse_stream(stream: re.Match, following: list[str], duration: float | None) -> Header:
    size = SIZE.search(stream["rest"])
    if not size:
        raise Unreadable(UNDECODABLE, f"unknown picture size ({stream['codec']})")
    width, height = int(size[1]), int(size[2])
    if _quarter_turns(following) % 2:
        width, height = height, width
    rates = [match[1] for match in (rate.search(stream["rest"]) for rate in RATES) if match]
    fps = parse_fps(rates[0]) if rates else UNKNOWN_FPS
    return Header(stream["codec"], height, width, fps, duration)


def parse_fps(printed: str) -> Fraction:
    """ffmpeg's rounded rate to the fraction that is meant: "23.98" to 24000/1001."""
    thousands = printed.endswith("k")
    value = float(printed.removesuffix("k")) * (1000 if thousands else 1)
    nearby = [Fraction(round(value)), Fraction(round(value * 1.001) * 1000, 1001)]
    nearby += [Fraction(round(value * part), part) for part in range(2, 13)]
    for rate in nearby:
        if rate > 0 and abs(rate - Fraction(value)) < Fraction(6, 1000):
            return rate
    return Fraction(value).limit_denominator(1000) or UNKNOWN_FPS


def _parse_duration(lines: list[str]) -> float | None:
    for match in filter(None, map(DURATION.match, lines)):
        return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
    return None


def _quarter_turns(following: list[str]) -> int:
    for line in following:
        if line.startswith("  Stream #"):
            break
        turned = ROTATION.search(line)
        if turned:
            return round(float(turned[1]) / 90)
    return 0


def _check_regular(path: Path) -> None:
    """Refuses what must not be opened or holds nothing; a named pipe would block for ever."""
    try:
        info = path.stat()
    except FileNotFoundError:
        raise Unreadable(UNDECODABLE, "a link to a file that is missing") from None
    except OSError as error:
        raise Unreadable(UNDECODABLE, f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise Unreadable(UNDECODABLE, "not a regular file")
    if not info.st_size:
        raise Unreadable(UNDECODABLE, "empty file")
    if not os.access(path, os.R_OK):
        raise Unreadable(UNDECODABLE, "cannot be read: Permission denied")


def _first_error(printed: str) -> str:
    """ffmpeg's first complaint without its memory addresses, which differ from run to run."""
    for line in printed.splitlines():
        text = re.sub(r"^(\[[^\]]*\] ?)+", "", line).strip()
        if text and not text.startswith("Input #"):
            return text
    return "ffmpeg cannot open it"


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


def _input_options() -> list[str]:
    return ["-protocol_whitelist", "file,pipe"]  # a playlist in the folder opens no network


def _url(path: Path) -> str:
    return f"file:{path}"  # a colon, dash or percent sign in the name then means itself


def _ffmpeg() -> str:
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()
