"""Black bars around a picture: rows and columns that stay black in every sampled picture.

Twelve pictures are decoded, spread over the video, and their brightest values taken pixel by
pixel: black pictures then say nothing, and one bright pixel (a subtitle in a bar, a night scene
that ends) keeps its row. What is cut starts and ends on even pixels, as 4:2:0 colours need.
"""

import subprocess

import numpy as np

from pipeline.video.ffmpeg_input import PROTOCOLS, Opened, executable
from pipeline.video.probe import Crop, Header, Size

SAMPLED = 12
BLACK = 24  # of 255: the limit of ffmpeg's cropdetect
THINNEST = 2  # pixels
LONG_SECONDS = 30.0  # beyond it to look at some key frames takes less than to decode it all
UNKNOWN_STEP = 24  # frames between sampled pictures where the length is unknown


def find_crop(source: Opened, header: Header) -> Crop | None:
    """What is left of the decoded pictures without bars; None where there are none to cut."""
    pictures = [
        picture
        for place in _places(source, header)
        for picture in _decoded(source, header.decoded_size, **place)
    ]
    return without_bars(np.max(pictures, axis=0)) if pictures else None


def without_bars(brightest: np.ndarray) -> Crop | None:
    """uint8 `H W`, the brightest value of each pixel, to the part within black bars.

    None where nothing is to be cut: no bars, all black, or less than half of a side would be left,
    which is a dark film rather than a film with bars.
    """
    height, width = brightest.shape
    top, bottom = _lit(brightest.max(1))
    left, right = _lit(brightest.max(0))
    crop = Crop(top, left, bottom - top, right - left)
    if 2 * crop.height < height or 2 * crop.width < width:
        return None
    return None if crop == (0, 0, height, width) else crop


def _lit(brightest: np.ndarray) -> tuple[int, int]:
    """uint8 `n` to start and end of what is not black: even, or the side's own ends."""
    lit = np.flatnonzero(brightest > BLACK)
    if not len(lit):
        return 0, 0
    start, end, side = int(lit[0]), int(lit[-1]) + 1, len(brightest)
    start = start + start % 2 if start >= THINNEST else 0
    end = end - end % 2 if side - end >= THINNEST else side
    return start, max(start, end)


def _places(source: Opened, header: Header) -> list[dict]:
    """Arguments of `_decoded` that give the sampled pictures.

    A short file is decoded once, from its start; in a long one the key frames before the sampled
    places are shown, in a folder the pictures there.
    """
    shares = [(number + 0.5) / SAMPLED for number in range(SAMPLED)]
    if source.pictures:
        numbers = sorted({int(share * len(source.pictures)) for share in shares})
        return [{"seek": {"start_number": number}} for number in numbers]
    if (header.duration or 0.0) < LONG_SECONDS:
        step = header.expected_frames // SAMPLED if header.duration else UNKNOWN_STEP
        return [{"seek": {}, "step": max(1, step), "n_pictures": SAMPLED}]
    return [
        {"seek": {"noaccurate_seek": None, "ss": f"{share * header.duration:.3f}"}}
        for share in shares
    ]


def _decoded(
    source: Opened, size: Size, seek: dict, step: int = 1, n_pictures: int = 1
) -> np.ndarray:
    """uint8 `T H W`, the brightest channel of every `step`-th picture; T is 0 where none can be."""
    import ffmpeg

    stream = ffmpeg.input(
        source.url, **({"protocol_whitelist": PROTOCOLS, "threads": 1} | source.options | seek)
    )
    stream = ffmpeg.output(
        stream,
        "pipe:1",
        vf=f"select='not(mod(n,{step}))',scale={size[1]}:{size[0]}",
        **{"map": "0:V:0", "frames:v": n_pictures, "fps_mode": "passthrough"},
        **{"format": "rawvideo", "pix_fmt": "rgb24"},
    )
    done = subprocess.run(
        ffmpeg.compile(stream.global_args("-nostdin", "-v", "error"), cmd=executable()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=source.folder,
        check=False,  # a place that cannot be decoded says nothing about bars
    )
    n_complete = len(done.stdout) // (size[0] * size[1] * 3)
    pixels = np.frombuffer(done.stdout, np.uint8, n_complete * size[0] * size[1] * 3)
    return pixels.reshape(n_complete, *size, 3).max(3)
