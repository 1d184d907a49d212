"""What a video says of itself, from the text that ffmpeg prints (its wheel ships no ffprobe).

Out: a Header with the size as shown, that is after rotation and with square pixels, or Unreadable
with a status and a reason for the table of videos.
"""

import itertools
import re
import subprocess
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from pipeline.video import colours, interlace
from pipeline.video.ffmpeg_input import FfmpegInput, executable, open_input
from pipeline.video.folder import MAX_PIXELS, NO_STREAM, UNDECODABLE, Size, Unreadable
from pipeline.video.letterbox import Crop, find_crop

UNKNOWN_FPS = Fraction(25)
WIDEST_PIXEL = 8  # a pixel aspect beyond 8:1 or 1:8 is a mistake in the file
SAME_RATE = Fraction(101, 100)  # 24 asked for leaves 24.08 alone
TEXT_BYTES = 512  # read to know a text

STREAM = re.compile(r"^  Stream #0:(?P<number>\d+).*?: Video: (?P<codec>\w+)(?P<rest>.*)$")
SIZE = re.compile(r", ([1-9]\d*)x([1-9]\d*)(?=[ ,]|$)")
PIXEL = re.compile(r"\bSAR ([1-9]\d*):([1-9]\d*)")
RATES = [re.compile(rf", ([\d.]+k?) {unit}\b") for unit in ("fps", "tbr")]
DURATION = re.compile(r"^  Duration: (\d+):(\d+):([\d.]+)(?:, start: (-?[\d.]+))?")
START = re.compile(r", start (-?[\d.]+)")
ROTATION = re.compile(r"display ?matrix: rotation of (-?[\d.]+) degrees", re.IGNORECASE)
FORMAT = re.compile(r"^Input #0, (.+?), from ")
STILL = ", 1 tbn"  # of the still picture in an animated AVIF; a rare film has it too
STILL_FORMATS = {"ico"}
FROM_ZERO = {"matroska", "nut"}  # their duration is the time at which a film ends


@dataclass(frozen=True)
class Reading:
    """What is done to pictures before they are reduced; the default is nothing."""

    fps: float = 0.0  # frames a second at most: faster sources lose frames evenly; 0: keep all
    deinterlace: bool = False  # interlaced frames become whole pictures
    crop_letterbox: bool = False  # black bars are looked for, and cut


UNCHANGED = Reading()


@dataclass(frozen=True)
class Header:
    """Size in pixels as shown: after rotation, with square pixels, without bars that are cut."""

    codec: str
    height: int
    width: int
    fps: Fraction  # of the frames that `decode` gives
    duration: float | None  # seconds
    decoded: Size | None = None  # size of ffmpeg's pictures, where it is not that shown
    crop: Crop | None = None  # what is left of them when the bars are cut
    kept: Fraction = Fraction(1)  # share of the source's frames that `decode` gives
    filters: tuple[str, ...] = ()  # ffmpeg's, that make whole pictures of plain colours
    decoder: str | None = None  # None: ffmpeg's choice
    stream: int = 0  # number in the file
    notes: tuple[str, ...] = ()  # what is converted, or looks wrong
    field_order: str = ""  # as tagged: `Conversion.field_order`
    deinterlaced: bool = False

    @property
    def expected_frames(self) -> int:
        """An estimate, 0 where the header names no duration."""
        return round((self.duration or 0.0) * self.fps)

    @property
    def decoded_size(self) -> Size:
        """Height and width of ffmpeg's pictures: after rotation, before pixel aspect and crop."""
        return self.decoded or (self.height, self.width)


def probe(path: Path, reading: Reading = UNCHANGED) -> Header:
    """The header of a file, as `decode` will show it. Raises Unreadable with status and reason."""
    with open_input(path) as source:
        if _is_text(path):  # ffmpeg would open what a playlist names, a pipe say
            raise Unreadable(NO_STREAM, "a text or a playlist, not a video")
        header = parse_header(read_printed(source))
        source = source.read_by(header.decoder, header.stream)
        if reading.crop_letterbox:
            decoded = header.decoded_size
            length = header.duration, header.expected_frames
            crop = find_crop(source, decoded, *length, header.filters)
            if crop is not None:  # a pixel keeps its aspect
                height = max(1, round(crop.height * header.height / decoded[0]))
                width = max(1, round(crop.width * header.width / decoded[1]))
                header = replace(header, height=height, width=width, decoded=decoded, crop=crop)
        if reading.deinterlace:
            header = _deinterlaced(source, header)
    return limit_rate(header, reading)


def limit_rate(header: Header, reading: Reading) -> Header:
    """The same header, or that of as many frames a second as asked for."""
    limit = parse_fps(f"{reading.fps:f}")  # 29.97 means 30000/1001
    if reading.fps and header.fps > limit * SAME_RATE:
        header = replace(header, fps=limit, kept=limit / header.fps)
    return header


def _deinterlaced(source: FfmpegInput, header: Header) -> Header:
    """The header with filters that make whole pictures of interlaced frames."""
    tall = header.decoded_size[0] >= interlace.MIN_LINES
    printed = interlace.look(source, header.duration, header.fps) if tall else ""
    tagged = header.field_order
    order, telecined = interlace.verdict(printed, tagged)
    return replace(
        header,
        fps=header.fps * interlace.TELECINE if telecined else header.fps,
        filters=(*interlace.whole_pictures(order, tagged, telecined), *header.filters),
        notes=(*header.notes, *interlace.remarks(order, telecined, tagged, "deinterlaced")),
        deinterlaced=True,
    )


def read_printed(source: FfmpegInput) -> str:
    """What ffmpeg prints of an input that it is given without anything to do."""
    process = subprocess.run(
        [executable(), "-nostdin", "-hide_banner", *source.words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=source.folder,
        check=False,  # without an output ffmpeg always ends with an error
    )
    return process.stderr.decode("utf-8", "replace")


def _is_text(path: Path) -> bool:
    """Whether a file begins as subtitles, notes and playlists do, and as no video does."""
    with path.open("rb") as file:
        start = file.read(TEXT_BYTES)
    if start.startswith(b"YUV4MPEG2"):
        return False
    if start.startswith((b"ffconcat", b"#EXTM3U")):
        return True
    try:
        text = start[:-4].decode("utf-8") if len(start) == TEXT_BYTES else start.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\r\n\t\f\ufeff" for letter in text)


def parse_header(printed: str) -> Header:
    """The header in what `ffmpeg -i` prints. Raises Unreadable."""
    lines = printed.splitlines()
    formats = [match[1] for match in map(FORMAT.match, lines) if match]
    if not formats:
        reason = first_error(printed)
        if reason.startswith("Format not on whitelist"):
            raise Unreadable(NO_STREAM, "no film, or in a format that is not read")
        raise Unreadable(UNDECODABLE, reason)
    if formats[0].endswith("_pipe") or formats[0] in STILL_FORMATS:
        animated = "; an animated one must be saved as numbered pictures"  # ffmpeg reads none
        animated = animated if formats[0] == "webp_pipe" else ""
        raise Unreadable(NO_STREAM, f"a picture, not a video ({formats[0]}){animated}")
    streams = {
        at: STREAM.match(line) for at, line in enumerate(lines) if "(attached pic)" not in line
    }
    streams = {at: stream for at, stream in streams.items() if stream}
    if not streams:
        raise Unreadable(NO_STREAM, f"no moving pictures in it ({formats[0]})")
    at = min(streams, key=lambda at: (STILL in lines[at], "(default)" not in lines[at]))
    following = itertools.takewhile(lambda line: not line.startswith("  Stream #"), lines[at + 1 :])
    header = _parse_stream(streams[at], list(following), _parse_duration(lines, lines[at]))
    n_films = sum(STILL not in lines[at] for at in streams)
    if n_films > 1:
        note = f"{n_films} video streams: only that with number {header.stream} is read"
        header = replace(header, notes=(*header.notes, note))
    return header


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


def first_error(printed: str) -> str:
    """ffmpeg's first complaint without its memory addresses, which differ from run to run."""
    for line in printed.splitlines():
        text = re.sub(r"^(\[[^\]]*\] ?)+", "", line).strip()
        if text and not text.startswith("Input #") and "misdetection possible" not in text:
            return text
    return "ffmpeg cannot open it"


def _parse_stream(stream: re.Match, following: list[str], duration: float | None) -> Header:
    size = SIZE.search(stream["rest"])
    if not size:
        raise Unreadable(UNDECODABLE, f"unknown picture size ({stream['codec']})")
    decoded = int(size[2]), int(size[1])
    if decoded[0] * decoded[1] > MAX_PIXELS:
        raise Unreadable(UNDECODABLE, f"{decoded[0]}x{decoded[1]} pixels are too many")
    named = PIXEL.findall(stream["rest"])  # width of a pixel over its height
    aspect = Fraction(*map(int, named[-1])) if named else Fraction(1)  # the container's is last
    notes = []
    if not Fraction(1, WIDEST_PIXEL) <= aspect <= WIDEST_PIXEL:
        notes = [f"impossible pixel aspect, taken for square: {aspect}"]
        aspect = Fraction(1)
    shown = decoded[0], max(1, round(decoded[1] * aspect))
    pixels = colours.conversion(stream["codec"], stream["rest"], following, decoded)
    if _quarter_turns(following) % 2:
        decoded, shown = decoded[::-1], shown[::-1]
    rates = [parse_fps(m[1]) for m in (rate.search(stream["rest"]) for rate in RATES) if m]
    fps = rates[0] if rates else UNKNOWN_FPS
    if len(rates) == 2 and fps >= 2 * rates[1]:  # DV says "60k fps, 25 tbr"
        fps = rates[1]
    return Header(
        stream["codec"],
        *shown,
        fps,
        duration,
        decoded if decoded != shown else None,
        filters=pixels.filters,
        decoder=pixels.decoder,
        stream=int(stream["number"]),
        notes=(*pixels.notes, *notes),
        field_order=pixels.field_order,
    )


def _parse_duration(lines: list[str], stream: str) -> float | None:
    """Seconds from the first moving picture to the end."""
    for match in filter(None, map(DURATION.match, lines)):
        end = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        start = float(match[4] or 0)
        own = START.search(stream)  # where it differs from that of the file
        late = float(own[1]) if own else start
        formats = next(filter(None, map(FORMAT.match, lines)))[1].split(",")
        return max(0.0, end - (late if FROM_ZERO & set(formats) else late - start))
    return None


def _quarter_turns(following: list[str]) -> int:
    for line in following:
        turned = ROTATION.search(line)
        if turned:
            return round(float(turned[1]) / 90)
    return 0
