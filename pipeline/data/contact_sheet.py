"""Contact sheets: first and last frame of every scene, to see at a glance if the cuts are right.

A cut that was missed shows as a pair of two different pictures, a false one as two pairs in a row
that look alike. A PNG of at most SCENES_A_SHEET scenes, read row by row.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import io
from pipeline.data.frame_file import FrameFile
from pipeline.frames import resize

SCENES_A_SHEET = 60
COLUMNS = 5
PICTURE_AREA = 100 * 56  # pixels of one picture, whatever its aspect
ASPECTS = 1 / 3, 3.0  # narrower and wider pictures are squeezed
MARGIN, GAP, HEAD, LABEL = 20, 14, 34, 18
INK, FAINT, DROPPED, PAPER = (30, 30, 30), (120, 120, 120), (190, 40, 40), (255, 255, 255)
FRAME = (190, 190, 190)  # a line around each pair: a white picture is seen on white paper
MOST_BYTES = 500_000
PALETTES = 128, 64, 32, 16  # colours of a sheet; fewer where it would be larger than MOST_BYTES


class Scene(NamedTuple):
    """The half-open range of frames of a scene, and if it is long enough to be kept."""

    start: int
    end: int
    kept: bool = True


def save_contact_sheets(
    footage: FrameFile, scenes: list[Scene], folder: Path, video_id: str
) -> list[Path]:
    """Writes `<video_id>.png`, and `<video_id>-1.png`, ... for what does not fit; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for sheet, first in enumerate(range(0, len(scenes), SCENES_A_SHEET)):
        path = folder / f"{video_id}{f'-{sheet}' if sheet else ''}.png"
        page = draw_sheet(footage, scenes, range(first, first + SCENES_A_SHEET), video_id)
        _save_small(page, path)
        paths.append(path)
    return paths


def draw_sheet(footage: FrameFile, scenes: list[Scene], shown: range, video_id: str) -> Image.Image:
    """A page of the scenes of these numbers; numbers past the last are no error."""
    shown = range(shown.start, min(shown.stop, len(scenes)))
    size = picture_size(*footage[0].shape[:2])
    columns = min(COLUMNS, len(shown))
    step = np.array([2 * size[1] + 1 + GAP, size[0] + LABEL + GAP])  # right, down
    rows = math.ceil(len(shown) / columns)
    width, height = step * (columns, rows) - GAP + (2 * MARGIN, 2 * MARGIN + HEAD)
    page = Image.new("RGB", (int(max(width, 480)), int(height)), PAPER)
    _write_head(page, video_id, scenes, shown)
    for place, number in enumerate(shown):
        at = step * (place % columns, place // columns) + (MARGIN, MARGIN + HEAD)
        _draw_pair(page, (int(at[0]), int(at[1])), footage, number, scenes[number], size)
    return page


def picture_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a frame is shown: one area for all, its own aspect."""
    aspect = min(max(width / height, ASPECTS[0]), ASPECTS[1])
    return round(math.sqrt(PICTURE_AREA / aspect)), round(math.sqrt(PICTURE_AREA * aspect))


def _write_head(page: Image.Image, video_id: str, scenes: list[Scene], shown: range) -> None:
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 4), video_id, INK, ImageFont.load_default(17))
    dropped = sum(not scene.kept for scene in scenes)
    count = f"scenes {shown[0] + 1}-{shown[-1] + 1} of {len(scenes)}" if scenes else ""
    count += f", {dropped} too short" if dropped else ""
    font = ImageFont.load_default(13)
    right = page.width - MARGIN - round(draw.textlength(count, font))
    draw.text((right, MARGIN), count, FAINT, font)


def _draw_pair(
    page: Image.Image,
    at: tuple[int, int],
    footage: FrameFile,
    number: int,
    scene: Scene,
    size: tuple[int, int],
) -> None:
    """The label of a scene, and below it its first and last frame beside each other."""
    (left, top), (height, width) = at, size
    draw = ImageDraw.Draw(page)
    ranged = f"{scene.start}-{scene.end - 1}" + ("" if scene.kept else "  too short")
    name = str(number + 1)
    bold = ImageFont.load_default(13)
    draw.text((left, top), name, INK if scene.kept else DROPPED, bold, stroke_width=0.4)
    indent = left + round(draw.textlength(name, bold)) + 8
    draw.text(
        (indent, top + 1), ranged, FAINT if scene.kept else DROPPED, ImageFont.load_default(12)
    )
    top += LABEL
    draw.rectangle((left - 1, top - 1, left + 2 * width + 1, top + height), FRAME)
    for place, frame in enumerate((scene.start, scene.end - 1)):
        picture = Image.fromarray(resize(footage[frame], height, width))
        page.paste(picture, (left + place * (width + 1), top))


def _save_small(page: Image.Image, path: Path) -> None:
    """A palette of as many colours as MOST_BYTES allow; the last is taken in any case."""
    for colours in PALETTES:
        io.write_png(page, path, colours)
        if path.stat().st_size <= MOST_BYTES:
            return
