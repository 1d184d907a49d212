"""Decodes a video to batches of small frames with their times.

Pictures are decoded once and reduced twice by ffmpeg, and come through one pipe, in presentation
order: no frame is duplicated or, unless `Reading` says so, dropped. Nothing of a video but the
current batch is ever in memory. Pictures of another size than the first are fitted into it, with
black bars.

The two reductions, one above the other in the pipe: `images`, area-averaged, to be looked at; and
`samples`, one source pixel each, for scene detectors. PySceneDetect reduces with OpenCV's linear
interpolation, which skips pixels just so: its cuts come out the same from samples (46 of 46 lists
of cuts on 23 videos), and not from averages (36 of 46).
"""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.video import interlace
from pipeline.video.colours import EXACT
from pipeline.video.ffmpeg_input import FfmpegInput, executable, open_input
from pipeline.video.folder import UNDECODABLE, Size, Unreadable
from pipeline.video.probe import Header, first_error

BATCH_BYTES = 8 * 2**20  # decoded pictures held at once
BATCH_FRAMES = 64
PIPE_BYTES = 2**20  # the default of 64 kB wakes both sides for every half picture
# One: a process a video fills the cores already, and two threads cost 13 % more processor time.
# Fixed: a damaged stream decodes differently with another number.
DECODER_THREADS = 1
AVERAGED = f"area+full_chroma_int+full_chroma_inp+{EXACT}"
COMPLAINT = re.compile(r"(?:\[[^\]]* @ [^\]]*\] )*\[(?:error|fatal|panic)\]")
CHANGED_SIZE = re.compile(r"Reconfiguring filter graph.* (\d+)x(\d+)(?:,|$)", re.MULTILINE)
NAMED_SIZES = 4
MAX_FRAMES = 2**20  # twelve hours; ten bytes a frame can be enough for a film of black
ENDED_EARLY = re.compile(r"ended prematurely|partial file", re.IGNORECASE)
PTS = re.compile(rb"pts:(\S+)")
MICROSECONDS = 1_000_000
INHERITS = os.name == "posix"  # elsewhere ffmpeg inherits no descriptor: times are frame / fps


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


def decode(
    path: Path, header: Header, images: Size, samples: Size, notes: list[str] | None = None
) -> Iterator[Batch]:
    """Yields all frames once, in the two sizes asked for. Closing it early ends ffmpeg.

    `header` is what `probe` said. What is only seen while decoding is added to `notes`. Raises
    Unreadable where there is no frame, and Truncated after the last frame of a file that ends
    before its header says. Killed says nothing of the file.
    """
    height, width = images[0] + samples[0], max(images[1], samples[1])
    times: list[float] = []
    with (
        open_input(path) as source,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryFile() as printed,
    ):
        timestamps = Timestamps(printed.fileno(), header.fps)
        source = source.read_by(header.decoder, header.stream)
        filters = [*_source_filters(header), *timestamps.filters]
        first = (header.crop.height, header.crop.width) if header.crop else header.decoded_size
        reductions = _reductions(first, images, samples, width)
        process = subprocess.Popen(
            _command(source, ",".join([*filters, reductions])),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            cwd=source.folder,
            pass_fds=[printed.fileno()] if INHERITS else [],
            start_new_session=True,  # Ctrl-C is ours to handle: it must not look like an end
        )
        try:
            _widen(process.stdout)
            size = batch_frames(images, samples)
            for stacked in _read_batches(process.stdout, height, width, size):
                batch = Batch(
                    np.ascontiguousarray(stacked[:, : images[0], : images[1]]),
                    np.ascontiguousarray(stacked[:, images[0] :, : samples[1]]),
                    timestamps.take(len(stacked)),
                )
                times += batch.times.tolist()
                yield batch
                if len(times) >= MAX_FRAMES:
                    raise Truncated(f"only the first {len(times)} frames are read")
            process.wait()
        finally:
            process.stdout.close()
            process.kill()
            process.wait()
        errors.seek(0)
        complaints = _complaints(errors.read().decode("utf-8", "replace"), header, notes)
        _check_ending(header, times, complaints, process.returncode)


def batch_frames(images: Size, samples: Size) -> int:
    """How many frames of both sizes, one above the other, are a batch."""
    frame_bytes = (images[0] + samples[0]) * max(images[1], samples[1]) * 3
    return max(1, min(BATCH_FRAMES, BATCH_BYTES // frame_bytes))


def version() -> tuple[str, int]:
    """Tells one build of ffmpeg from another: the program's name, and its size in bytes."""
    program = Path(executable())
    return program.name, program.stat().st_size if program.is_file() else 0


def _source_filters(header: Header) -> list[str]:
    """ffmpeg's filters before a frame is reduced; plain files are only watched."""
    filters = [*header.filters]
    if header.decoded_size[0] >= interlace.MIN_LINES and not header.deinterlaced:
        filters.insert(0, interlace.WATCH)
    if header.crop:
        height, width = header.decoded_size
        crop = header.crop
        filters.append(f"scale={_within(header.decoded_size, header.decoded_size)}")
        filters.append(f"pad={width + width % 2}:{height + height % 2}:-1:-1")  # even, for 4:2:0
        filters.append(f"crop={crop.width}:{crop.height}:{crop.left}:{crop.top}")
    if header.kept < 1:
        share = f"{header.kept.numerator}/{header.kept.denominator}"
        filters.append(f"select='floor(n*{share})-floor((n-1)*{share})'")
    return filters


def _within(first: Size, out: Size) -> str:
    """`scale`'s width and height: `out`, or the part of it that keeps the aspect of a picture.

    `first` is the size of the first picture, which has the aspect of `out`. (A pixel keeps its
    aspect, as in ffplay.)
    """
    wider = f"(iw*{first[0]})/(ih*{first[1]})"
    return (
        f"w='max(1,round({out[1]}*min(1,{wider})))':h='max(1,round({out[0]}*min(1,1/({wider}))))'"
    )


def _reductions(first: Size, images: Size, samples: Size, width: int) -> str:
    """ffmpeg's filters: both reductions of a frame as one picture, images above samples.

    Frames get a second each, because stacking pairs by time and films have wrong times. Samples
    take their colours through yuv444p: converted from 4:2:0 they would blur to half the width.
    """
    above = f"pad={width}:{images[0]}:({images[1]}-iw)/2:({images[0]}-ih)/2"
    below = f"pad={width}:{samples[0]}:({samples[1]}-iw)/2:({samples[0]}-ih)/2"
    return (
        "setpts=N/TB,split[a][b];"
        f"[a]scale={_within(first, images)}:flags={AVERAGED},format=rgb24,{above}[above];"
        f"[b]scale={_within(first, samples)}:flags=neighbor+{EXACT},format=yuv444p,"
        f"scale=flags={EXACT},format=rgb24,{below}[below];"
        "[above][below]vstack"
    )


def _command(source: FfmpegInput, filters: str) -> list[str]:
    import ffmpeg

    stream = ffmpeg.output(
        ffmpeg.input(source.url, threads=DECODER_THREADS, **source.options),
        "pipe:1",
        map=f"0:{source.stream}",
        vf=filters,
        format="rawvideo",
        pix_fmt="rgb24",
        fps_mode="passthrough",
    )
    log = ["-hide_banner", "-nostats", "-v", "level+info"]
    stream = stream.global_args("-nostdin", *log, "-filter_threads", "1")
    return ffmpeg.compile(stream, cmd=executable())


class Timestamps:
    """Presentation times (PTS) as ffmpeg's filters print them, one line a frame.

    The lines go through a file of their own, whose descriptor ffmpeg inherits: each is written
    before its picture leaves the filters, so it is there when the picture is read.
    """

    def __init__(self, descriptor: int, fps: Fraction) -> None:
        self._descriptor, self._step = descriptor, float(1 / fps)
        self._offset, self._rest = 0, b""
        self._lines: list[bytes] = []
        self._last: float | None = None

    @property
    def filters(self) -> list[str]:
        """Filters that print the time of each passing frame, in microseconds."""
        if not INHERITS:
            return []
        printing = f"metadata=mode=print:key=time:direct=1:file='pipe\\:{self._descriptor}'"
        return [f"settb=1/{MICROSECONDS}", "metadata=mode=add:key=time:value=0", printing]

    def take(self, count: int) -> np.ndarray:
        """Times of the next `count` frames, float64 `B` in seconds, strictly increasing.

        A time that is missing or no later than the one before is put one frame after it.
        """
        while INHERITS and (block := os.pread(self._descriptor, 2**16, self._offset)):
            self._offset += len(block)  # the descriptor's own position is ffmpeg's
            *lines, self._rest = (self._rest + block).split(b"\n")
            self._lines += [match[1] for match in map(PTS.search, lines) if match]
        lines, self._lines = self._lines[:count], self._lines[count:]
        lines += [b"NOPTS"] * (count - len(lines))
        times = np.empty(count)
        for frame, line in enumerate(lines):
            try:
                time = int(line) / MICROSECONDS
            except ValueError:
                time = None
            following = 0.0 if self._last is None else self._last + self._step
            if time is None or (self._last is not None and time <= self._last):
                time = following
            times[frame] = self._last = time
        return times


def _widen(pipe) -> None:
    """Enlarges the pipe where the system can (Linux); elsewhere it is only slower."""
    try:
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass


def _read_batches(pipe, height: int, width: int, size: int) -> Iterator[np.ndarray]:
    """uint8 `B height width 3` until the pipe ends, B = `size` but for the last.

    A frame that is not whole is left out.
    """
    frame_bytes = height * width * 3
    while True:
        buffer = np.empty(size * frame_bytes, np.uint8)
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (n_bytes := pipe.readinto(view[filled:])):
            filled += n_bytes
        complete = filled // frame_bytes
        if complete:
            yield buffer[: complete * frame_bytes].reshape(complete, height, width, 3)
        if complete < size:
            return


def _complaints(log: str, header: Header, notes: list[str] | None) -> str:
    """The errors in ffmpeg's log, one a line. What else it says of the film goes into `notes`."""
    if notes is not None:
        if not header.deinterlaced:
            tagged = header.field_order
            fields = interlace.verdict(log, tagged)
            notes += interlace.remarks(*fields, tagged, "set ingest.deinterlace")
        sizes = [(int(match[2]), int(match[1])) for match in CHANGED_SIZE.finditer(log)]
        notes += _size_notes(header.decoded_size, sizes)
    return "\n".join(line for line in log.splitlines() if COMPLAINT.match(line))


def _size_notes(first: Size, others: list[Size]) -> list[str]:
    """A remark on pictures of several sizes, written as players do: width x height."""
    sizes = list(dict.fromkeys([first, *others]))
    if len(sizes) == 1:
        return []
    bars = any(height * first[1] != width * first[0] for height, width in sizes)
    names = ", then ".join(f"{width}x{height}" for height, width in sizes[:NAMED_SIZES])
    rest = f" and {len(sizes) - NAMED_SIZES} more" if len(sizes) > NAMED_SIZES else ""
    return [f"picture size changes: {names}{rest}, fitted {'with bars' if bars else 'by scaling'}"]


def _check_ending(header: Header, times: list[float], errors: str, returncode: int) -> None:
    if returncode == -signal.SIGKILL:
        raise Killed(f"ffmpeg was killed after {len(times)} frames")
    if not times:
        raise Unreadable(UNDECODABLE, first_error(errors) if errors else "no frame in it")
    promised = header.duration or 0.0
    short = bool(errors) and len(times) + 2 < header.expected_frames
    if short or returncode or ENDED_EARLY.search(errors):
        seconds = float(len(times) / header.fps)
        readable = f"{len(times)} frames ({seconds:.1f} s) readable"
        remark = f", the header promised {promised:.1f} s" if promised else ""
        raise Truncated(readable + remark)
    complaints = [line for line in errors.splitlines() if "to muxer" not in line]  # times are ours
    if complaints:
        raise Damaged(f"some frames may look wrong: {first_error(complaints[0])}")
