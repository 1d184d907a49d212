"""Writes a film in parts that are joined without being encoded again, beside the sound of another.

    look = read_look(source, header)
    write_part(folder / "000000.h264", frames, rate, look)
    join(parts, out, rate, source, 0.0, None, 0.0)

Colours get the matrix, range, primaries and transfer of the source; what was shown as BT.709 (HDR,
RGB, grey) is written as that. H.264 with 4:2:0, which every player knows. A part is a bare stream
of frames: parts in a row are one, and their times are counted.
"""

import os
import re
import shutil
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import UserError
from pipeline.io import atomic
from pipeline.video import clip_writer
from pipeline.video.clip_writer import MARK
from pipeline.video.colours import EXACT, NO_MATRIX, PIXELS
from pipeline.video.ffmpeg_input import open_input
from pipeline.video.probe import PIXEL, STREAM, Header, read_printed
from pipeline.video.writer import encode

USUAL = ("yuv420p", "yuvj420p", "nv12")  # written as they are read
GUESSED = "setparams=colorspace="  # begins the filter by which an untagged film is read
SPEED = ("-preset", "fast", "-tune", "animation", "-crf", "17")
# No B-frames, so that bare frames come in the order in which they are shown; delimiters, so that
# two parts that begin alike stay two pictures.
BARE = ("-bf", "0", "-x264-params", "aud=1:scenecut=40", "-f", "h264")


class Look(NamedTuple):
    """How pixels become a film's colours, and what the film says of them."""

    matrix: str = "bt709"  # by which they are converted
    tags: tuple[str, str, str] = ("bt709", "bt709", "bt709")  # matrix, primaries, transfer
    limits: str = "tv"  # or "pc", full range
    pixel: Fraction = Fraction(1)  # width over height
    notes: tuple[str, ...] = ()


def read_look(path: Path, header: Header) -> Look:
    """What to write so that a film looks as the source does in a player."""
    with open_input(path) as source:
        lines = map(STREAM.match, read_printed(source).splitlines())
    streams = {int(line["number"]): line["rest"] for line in lines if line}
    pixels = PIXELS.search(streams.get(header.stream, ""))
    pixel = Fraction(1)  # width over height, as the container says
    if header.decoded:
        pixel = Fraction(*map(int, PIXEL.findall(streams[header.stream])[-1]))
        height, width = header.decoded_size
        if (pixel > 1) != (header.width * height > header.height * width):  # it was turned
            pixel = 1 / pixel
    if pixels is None:
        return Look(pixel=pixel)
    name, said = pixels[1], (pixels[2] or "").split(", ")
    notes = () if name in USUAL else (f"{name}: written as yuv420p, which players know",)
    if NO_MATRIX.match(name) or any("zscale" in step for step in header.filters):
        return Look(pixel=pixel, notes=notes)
    tags = ("unknown", "unknown", "unknown")
    for words in said:
        if words.count("/") == 2:
            tags = tuple(words.replace("reserved", "unknown").split("/"))
        elif re.fullmatch(r"bt\w+|smpte\w+|fcc", words):
            tags = (words, words, words)
    matrix = tags[0]
    if matrix == "unknown":  # as it was read
        guessed = [step for step in header.filters if step.startswith(GUESSED)]
        matrix = guessed[0].removeprefix(GUESSED) if guessed else "smpte170m"
    return Look(matrix, tags, "pc" if "pc" in said else "tv", pixel, notes)


def write_part(path: Path, frames: Iterable[np.ndarray], rate: Fraction, look: Look) -> None:
    """Writes uint8 `H W 3` frames with even sides; the file is complete or absent."""
    frames = iter(frames)
    first = next(frames)
    height, width = first.shape[:2]
    space, primaries, transfer = look.tags
    filters = [
        f"scale=out_color_matrix={look.matrix}:out_range={look.limits}:flags=bicubic+{EXACT}",
        "format=yuv420p",
        f"setparams=colorspace={space}:color_primaries={primaries}:color_trc={transfer}"
        f":range={look.limits}",
        f"setsar={look.pixel.numerator}/{look.pixel.denominator}",
    ]
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    with atomic(path) as partial:
        command = [*given, "-framerate", str(rate), "-i", "pipe:0", "-vf", ",".join(filters)]
        command += ["-c:v", "libx264", *SPEED, *BARE, f"file:{partial}"]

        def feed(pipe) -> None:
            pipe.write(np.ascontiguousarray(first))
            for frame in frames:
                pipe.write(np.ascontiguousarray(frame))

        encode(command, feed, path)


def check(out: Path) -> None:
    """UserError where `out` cannot be written or would cost a file."""
    if out.suffix.lower() != ".mp4":
        raise UserError(f"{out}: expected a name ending in .mp4")
    try:
        clip_writer.check(out, [])
    except UserError as error:
        raise UserError(str(error).removeprefix("--out ")) from None


def join(
    parts: list[Path],
    out: Path,
    rate: Fraction,
    source: Path,
    start: float,
    length: float | None,
    delay: float,
) -> list[str]:
    """Writes `out`, an mp4, from parts and the sound of `source`; what could not be kept, in words.

    start, length: seconds of the sound (None: all of it); delay: when the first frame is shown.
    """
    span = ["-ss", f"{start:.6f}", "-t", f"{length:.6f}"] if length else []
    timescale = rate.numerator * -(-10_000 // rate.numerator)  # a frame has whole ticks
    times = f"setts=ts='round((N/({rate})+{delay:.6f})/TB)':duration='round(1/({rate})/TB)'"
    ways = (
        (["-map", "1:a?", "-map", "1:s?", "-c:s", "mov_text"], []),
        (["-map", "1:a?"], ["subtitles that mp4 cannot hold are left out"]),
        (["-map", "1:a?", "-c:a", "aac", "-b:a", "192k"], ["sound that mp4 cannot hold: now AAC"]),
        ([], ["sound that cannot be read is left out"]),
    )

    def feed(pipe) -> None:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, pipe)

    place = Path(os.path.realpath(out))
    with open_input(source) as given, atomic(place) as partial:
        for k, (options, notes) in enumerate(ways):
            command = ["-f", "h264", "-framerate", str(rate), "-i", "pipe:0", *span]
            command += [*given.words, "-map", "0:v:0"]
            command += ["-c", "copy", *options, "-bsf:v", times, "-map_metadata", "-1"]
            command += ["-metadata:s:v:0", f"handler_name={MARK}", "-fflags", "+bitexact"]
            command += ["-video_track_timescale", str(timescale)]
            command += ["-movflags", "+faststart", "-f", "mp4", f"file:{partial}"]
            try:
                encode(command, feed, out, given.folder)
            except UserError:
                if k == len(ways) - 1:
                    raise
            else:
                check(out)  # again: the drawing may have taken hours
                return notes
    raise AssertionError
