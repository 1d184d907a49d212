"""Black bars around a picture: rows and columns that stay black in every sampled picture.

Twelve pictures are decoded, spread over the video, and their brightest values taken pixel by
pixel: black pictures then say nothing, and one bright pixel (a subtitle in a bar, a night scene
that ends) keeps its row. What is cut starts and ends on even pixels, as 4:2:0 colours need.
"""

import subprocess
from typing import NamedTuple

import numpy as np

from pipeline.video.ffmpeg_input import FfmpegInput, executable
from pipeline.video.folder import Size

N_SAMPLES = 12
BLACK = 24  # of 255: the limit of ffmpeg's cropdetect
MIN_BAR = 2  # pixels
LONG_SECONDS = 30.0  # beyond it to look at some key frames takes less than to decode it all
UNKNOWN_STEP = 24  # frames between sampled pictures where the length is unknown


class Crop(NamedTuple):
    """A part of the decoded picture, in its own pixels: after rotation, before pixel aspect."""

    top: int
    left: int
    height: int
    width: int


def find_crop(
    source: FfmpegInput, size: Size, duration: float | None, n_frames: int, colours: tuple[str, ...]
) -> Crop | None:
    """What is left of the decoded pictures without bars; None where there are none to cut.

    A short file is decoded once, from its start; in a long one the key frames before the sampled
    places are looked at. `n_frames` is an estimate, `colours` are ffmpeg's filters.
    """
    filters = [*colours, f"scale={size[1]}:{size[0]}"]
    if (duration or 0.0) < LONG_SECONDS:
        step = max(1, n_frames // N_SAMPLES if duration else UNKNOWN_STEP)
        samples = [_brightest(source, size, filters, {}, step, N_SAMPLES)]
    else:
        seeks = [f"{(number + 0.5) / N_SAMPLES * duration:.3f}" for number in range(N_SAMPLES)]
        options = [{"noaccurate_seek": None, "ss": at} for at in seeks]
        samples = [_brightest(source, size, filters, option) for option in options]
    brightest = np.concatenate(samples)  # T H W
    return crop_of(brightest.max(axis=0)) if len(brightest) else None


def crop_of(brightest: np.ndarray) -> Crop | None:
    """uint8 `H W`, the brightest value of each pixel, to the part within black bars.

    None where nothing is to be cut: no bars, all black, or less than half of a side would be left,
    which is a dark film rather than a film with bars.
    """
    height, width = brightest.shape
    top, bottom = _picture_range(brightest.max(1))
    left, right = _picture_range(brightest.max(0))
    crop = Crop(top, left, bottom - top, right - left)
    if 2 * crop.height < height or 2 * crop.width < width:
        return None
    return None if crop == (0, 0, height, width) else crop


def _picture_range(brightest: np.ndarray) -> tuple[int, int]:
    """uint8 `n` to start and end of what is not black: even, or the side's own ends."""
    bright = np.flatnonzero(brightest > BLACK)
    if not len(bright):
        return 0, 0
    start, end, side = int(bright[0]), int(bright[-1]) + 1, len(brightest)
    start = start + start % 2 if start >= MIN_BAR else 0
    end = end - end % 2 if side - end >= MIN_BAR else side
    return start, max(start, end)


def _brightest(
    source: FfmpegInput,
    size: Size,
    filters: list[str],
    seek: dict,
    step: int = 1,
    n_pictures: int = 1,
) -> np.ndarray:
    """uint8 `T H W`, the brightest channel of every `step`-th picture; T is 0 where none can be."""
    import ffmpeg

    options = source.options | seek
    stream = ffmpeg.input(source.url, threads=1, **options)
    stream = ffmpeg.output(
        stream,
        "pipe:1",
        vf=",".join([f"select='not(mod(n,{step}))'", *filters]),
        **{"map": f"0:{source.stream}", "frames:v": n_pictures, "fps_mode": "passthrough"},
        **{"format": "rawvideo", "pix_fmt": "rgb24"},
    )
    process = subprocess.run(
        ffmpeg.compile(stream.global_args("-nostdin", "-v", "error"), cmd=executable()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=source.folder,
        check=False,  # a place that cannot be decoded says nothing about bars
    )
    n_complete = len(process.stdout) // (size[0] * size[1] * 3)
    pixels = np.frombuffer(process.stdout, np.uint8, n_complete * size[0] * size[1] * 3)
    return pixels.reshape(n_complete, *size, 3).max(3)
