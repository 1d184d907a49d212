"""Pictures for people: strips of clips, panels side by side, reconstructions.

Frames in are uint8 `T H W 3`; pictures out are PNG files or uint8 arrays.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline.frames import resize

COLUMNS = 7  # frames of a clip that a strip shows
CELL_HEIGHT = 96
LABEL_WIDTH = 84
GAP = 3
ERROR_WHITE = 96  # grey levels of difference that an error map shows as its brightest
INK, PAPER = (30, 30, 30), (255, 255, 255)


def enlarge(image: np.ndarray, height: int) -> np.ndarray:
    """`H W 3` to a picture of that height, its width kept in proportion and even."""
    width = round(image.shape[1] * height / image.shape[0])
    return resize(image, height, width + width % 2)


def error_map(drawn: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Where two clips uint8 `T H W 3` differ: black for equal, white for ERROR_WHITE and more.

    The mean over the channels of the absolute difference, so that a colour error counts as well.
    """
    error = (drawn.float() - truth.float()).abs().mean(-1)  # T H W
    levels = (error * 255 / ERROR_WHITE).clamp(0, 255).round().byte().numpy()
    maps = [cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[..., ::-1] for level in levels]
    return torch.from_numpy(np.stack(maps))


def save_strips(clips: list[tuple[str, dict[str, torch.Tensor]]], path: Path) -> None:
    """A block a clip, a row a candidate, columns evenly over the clip from first to last frame."""
    blocks = [_block(title, rows) for title, rows in clips]
    page = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), PAPER)
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_small(page, path)


def _block(title: str, rows: dict[str, torch.Tensor]) -> Image.Image:
    length = len(next(iter(rows.values())))
    shown = np.unique(np.linspace(0, length - 1, COLUMNS).round().astype(int))
    some = next(iter(rows.values()))
    width = round(CELL_HEIGHT * some.shape[2] / some.shape[1])
    head = 22
    size = (
        LABEL_WIDTH + len(shown) * (width + GAP),
        head + len(rows) * (CELL_HEIGHT + GAP) + 8,
    )
    block = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(block), ImageFont.load_default(13)
    for column, i in enumerate(shown):
        given = ", given" if i in (0, length - 1) else ""
        left = LABEL_WIDTH + column * (width + GAP)
        draw.text((left + 2, 4), f"frame {i}{given}", INK, font)
        for row, (label, frames) in enumerate(rows.items()):
            top = head + row * (CELL_HEIGHT + GAP)
            cell = enlarge(frames[int(i)].numpy(), CELL_HEIGHT)[:, :width]
            block.paste(Image.fromarray(cell), (left, top))
            if column == 0:
                draw.text((4, top + CELL_HEIGHT // 2 - 8), label, INK, font)
    return block


def side_by_side(panels: dict[str, torch.Tensor], height: int = 160) -> Iterator[np.ndarray]:
    """Frames of a video with all panels beside each other, each under its name."""
    font = ImageFont.load_default(14)
    for frames in zip(*panels.values(), strict=True):
        cells = [enlarge(frame.numpy(), height) for frame in frames]
        width = sum(cell.shape[1] + GAP for cell in cells)
        page = Image.new("RGB", (width + width % 2, height + 24), PAPER)
        draw, left = ImageDraw.Draw(page), 0
        for name, cell in zip(panels, cells, strict=True):
            draw.text((left + 4, 4), name, INK, font)
            page.paste(Image.fromarray(cell), (left, 24))
            left += cell.shape[1] + GAP
        yield np.asarray(page)


def save_pairs(truth: torch.Tensor, drawn: torch.Tensor, path: Path) -> None:
    """True pictures above, their reconstructions below: uint8 `B H W 3` each."""
    rows = [
        np.concatenate([enlarge(image.numpy(), CELL_HEIGHT) for image in images], 1)
        for images in (truth, drawn)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_small(Image.fromarray(np.concatenate(rows)), path)


def _save_small(page: Image.Image, path: Path) -> None:
    """A palette of 128 colours keeps a picture small enough for git; cartoons need few."""
    small = page.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
