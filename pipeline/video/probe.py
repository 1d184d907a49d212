"""What a video says of itself, from the text that ffmpeg prints (its wheel ships no ffprobe).

In: the text of `ffmpeg -i FILE`. Out: a Header with the size as shown, that is after rotation and
with square pixels, or Unreadable with a status and a reason for the table of videos.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

UNKNOWN_FPS = Fraction(25)
WIDEST_PIXEL = 8  # a pixel aspect beyond 8:1 or 1:8 is a mistake in the file
NO_STREAM, UNDECODABLE = "no video stream", "undecodable"

STREAM = re.compile(r"^  Stream #0:\d+.*?: Video: (?P<codec>\w+)(?P<rest>.*)$")
SIZE = re.compile(r", ([1-9]\d*)x([1-9]\d*)(?=[ ,]|$)")
PIXEL = re.compile(r"\bSAR ([1-9]\d*):([1-9]\d*)")
RATES = [re.compile(rf", ([\d.]+k?) {unit}\b") for unit in ("fps", "tbr")]
DURATION = re.compile(r"^  Duration: (\d+):(\d+):([\d.]+)")
ROTATION = re.compile(r"display ?matrix: rotation of (-?[\d.]+) degrees", re.IGNORECASE)
FORMAT = re.compile(r"^Input #0, (.+?), from ")
STILL_FORMATS = {"image2", "tty", "ico", "lrc"}  # pictures, and text that ffmpeg would draw
PLAYLISTS = {"hls", "applehttp", "concat", "dash", "imf"}  # their pieces may lie anywhere

Size = tuple[int, int]  # height, width


class Unreadable(Exception):
    """A file that gives no frame. `status` is a word for the table, `reason` says why."""

    def __init__(self, status: str, reason: str):
        super().__init__(status, reason)
        self.status, self.reason = status, reason


class Crop(NamedTuple):
    """A part of the decoded picture, in its own pixels: after rotation, before pixel aspect."""

    top: int
    left: int
    height: int
    width: int


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

    @property
    def expected_frames(self) -> int:
        """An estimate, 0 where the header names no duration."""
        return round((self.duration or 0.0) * self.fps)

    @property
    def decoded_size(self) -> Size:
        """Height and width of ffmpeg's pictures: after rotation, before pixel aspect and crop."""
        return self.decoded or (self.height, self.width)


def parse_header(printed: str, stills: bool = False) -> Header:
    """The header in what `ffmpeg -i` prints. Raises Unreadable, for pictures unless `stills`."""
    lines = printed.splitlines()
    formats = [match[1] for match in map(FORMAT.match, lines) if match]
    if not formats:
        raise Unreadable(UNDECODABLE, first_error(printed))
    if not stills and (formats[0].endswith("_pipe") or formats[0] in STILL_FORMATS):
        raise Unreadable(NO_STREAM, f"a picture or a text, not a video ({formats[0]})")
    if PLAYLISTS & set(formats[0].split(",")):
        raise Unreadable(NO_STREAM, f"a playlist ({formats[0]}); its pieces are read by themselves")
    for at, line in enumerate(lines):
        stream = STREAM.match(line)
        if stream and "(attached pic)" not in line:
            return _parse_stream(stream, lines[at + 1 :], _parse_duration(lines))
    raise Unreadable(NO_STREAM, f"no moving pictures in it ({formats[0]})")


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
        if text and not text.startswith("Input #"):
            return text
    return "ffmpeg cannot open it"


def _parse_stream(stream: re.Match, following: list[str], duration: float | None) -> Header:
    size = SIZE.search(stream["rest"])
    if not size:
        raise Unreadable(UNDECODABLE, f"unknown picture size ({stream['codec']})")
    decoded = int(size[2]), int(size[1])
    shown = decoded[0], max(1, round(decoded[1] * _pixel_aspect(stream["rest"])))
    if _quarter_turns(following) % 2:
        decoded, shown = decoded[::-1], shown[::-1]
    rates = [match[1] for match in (rate.search(stream["rest"]) for rate in RATES) if match]
    fps = parse_fps(rates[0]) if rates else UNKNOWN_FPS
    return Header(stream["codec"], *shown, fps, duration, decoded if decoded != shown else None)


def _pixel_aspect(described: str) -> Fraction:
    """Width of a pixel over its height. The container's word, printed last, counts."""
    named = PIXEL.findall(described)
    aspect = Fraction(*map(int, named[-1])) if named else Fraction(1)
    return aspect if Fraction(1, WIDEST_PIXEL) <= aspect <= WIDEST_PIXEL else Fraction(1)


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
