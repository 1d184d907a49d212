"""An image sequence as a video: a Header and batches of frames, as `probe` and `decode` give them.

Every image is read as `generate` reads its pictures. The first that can be read says the size: one
of another size is scaled to it, and its middle is taken where the aspect differs. One that cannot
be read is left out; the others keep their times.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline import frames
from pipeline.video.decode import Batch, Truncated, batch_frames
from pipeline.video.folder import UNDECODABLE, Size, Unreadable, sequence_images
from pipeline.video.letterbox import N_SAMPLES, Crop, crop_of
from pipeline.video.pictures import FITTED, read_picture, size_text
from pipeline.video.probe import UNCHANGED, Header, Reading, limit_rate

SEQUENCE_FPS = 24  # animation's; images name no rate


def probe(path: Path, reading: Reading = UNCHANGED) -> Header:
    """The header of the sequence that `sequence_images` knows by this path. Raises Unreadable."""
    images = sequence_images(path)
    first, reason = None, ""
    for image in images:
        try:
            first = read_picture(image)
            break
        except Unreadable as error:
            reason = reason or f"{image.name}: {error.reason}"
    if first is None:
        raise Unreadable(
            UNDECODABLE, f"none of {len(images)} numbered pictures is readable; {reason}"
        )
    size = first.pixels.shape[:2]
    fps, crop = Fraction(SEQUENCE_FPS), None
    if reading.crop_letterbox:
        crop = _find_crop(images, size)
    shown = crop[2:] if crop else size
    duration = len(images) / SEQUENCE_FPS
    header = Header(first.codec, *shown, fps, duration, size if crop else None, crop)
    return limit_rate(header, reading)


def _find_crop(images: list[Path], size: Size) -> Crop | None:
    """What is left without black bars, as some images show, spread over the sequence."""
    brightest = np.zeros(size, np.uint8)
    for number in sorted({int((k + 0.5) / N_SAMPLES * len(images)) for k in range(N_SAMPLES)}):
        try:
            pixels = frames.fit(read_picture(images[number]).pixels, *size, "crop")
        except Unreadable:  # it says nothing about bars
            continue
        np.maximum(brightest, pixels.max(2), out=brightest)
    return crop_of(brightest)


def decode(
    path: Path, header: Header, images: Size, samples: Size, notes: list[str]
) -> Iterator[Batch]:
    """Yields all frames once, in the two sizes asked for, as `decode.decode` does for a file.

    `header` is what `probe` said. What was done to images is added to `notes`. Raises Unreadable
    where there is no frame, and Truncated after the last one where an image could not be read.
    """
    paths = sequence_images(path)
    kept = [
        number
        for number in range(len(paths))
        if math.floor(number * header.kept) > math.floor((number - 1) * header.kept)
    ]
    size = header.decoded_size
    top, left, height, width = header.crop or (0, 0, *size)
    # the pixel in the middle of each sample's place
    rows = ((np.arange(samples[0]) + 0.5) * height / samples[0]).astype(int)
    columns = ((np.arange(samples[1]) + 0.5) * width / samples[1]).astype(int)
    broken: list[str] = []
    changes = defaultdict(list)  # names of images by what was done to them
    batch = []
    for number in kept:
        name = paths[number].name
        try:
            picture = read_picture(paths[number])
        except Unreadable as error:
            broken.append(f"{name} ({error.reason})")
            continue
        for note in picture.notes:
            changes[note].append(name)
        pixels = picture.pixels
        if pixels.shape[:2] != size:
            changes[f"scaled to {size[0]}x{size[1]}, {FITTED}"].append(
                f"{name} ({size_text(pixels)})"
            )
            pixels = frames.fit(pixels, *size, "crop")
        pixels = pixels[top : top + height, left : left + width]
        sampled = pixels[rows[:, None], columns]  # h w 3
        batch.append((frames.resize(pixels, *images), sampled, number / SEQUENCE_FPS))
        if len(batch) == batch_frames(images, samples):
            yield _stacked(batch)
            batch = []
    if batch:
        yield _stacked(batch)
    n_kept = len(kept)
    for change, names in changes.items():
        notes.append(f"{change}: {len(names)} of {n_kept} pictures, first {names[0]}")
    if broken:
        lost = f"{len(broken)} of {n_kept} pictures broken and left out: {broken[0]}"
        if len(broken) == n_kept:
            raise Unreadable(UNDECODABLE, lost)
        raise Truncated(lost)


def _stacked(batch: list[tuple[np.ndarray, np.ndarray, float]]) -> Batch:
    images, samples, times = zip(*batch, strict=True)
    return Batch(np.stack(images), np.stack(samples), np.array(times))
