"""Figures of a run: strips of clips, videos of methods side by side, reconstructions, charts.

Frames in are uint8 `T H W 3`; out come PNG and mp4 files, and charts as SVG text.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline.evaluation.methods import GeneratedClip
from pipeline.evaluation.significance import display_name
from pipeline.evaluation.summary import MODEL
from pipeline.frames import resize
from pipeline.io import write_png
from pipeline.video.writer import write_video

TRUE = "true frames"
STRIP_FRAMES = 7  # of a clip
STRIP_HEIGHT = 96  # of a frame
VIDEO_HEIGHT = 160
PANELS = (MODEL, TRUE, "rife", "untrained", "optical_flow", "cross_fade")  # of a video
COLUMNS = 3
FPS = 24  # speed at which videos play, whatever the source's
PAUSE = 12  # frames for which the last one stays, before a video starts again
LABEL_WIDTH, LABEL_HEIGHT, GAP = 108, 24, 4
ERROR_WHITE = 96  # grey levels of difference that an error map shows as its brightest
INK, PAPER = (30, 30, 30), (255, 255, 255)
COLORS = ("#0b62b8", "#c2410c", "#15803d", "#7e3fb0", "#b0791a", "#0e7490", "#64748b")


def panels(generated: GeneratedClip) -> dict[str, torch.Tensor]:
    """What is shown of a clip, uint8 `n H W 3` by method."""
    clips = generated.methods | {TRUE: generated.clip.frames}
    return {name: clips[name] for name in PANELS if name in clips}


def save_example(panels: dict[str, torch.Tensor], folder: Path, number: int) -> Image.Image:
    """The generated clip, all methods side by side, and a strip, which is returned as well."""
    write_video(folder / f"{number:02d}_compare.mp4", side_by_side(panels), FPS)
    generated = (enlarge(frame, VIDEO_HEIGHT) for frame in panels[MODEL].numpy())
    write_video(folder / f"{number:02d}_generated.mp4", generated, FPS)
    rows = {name: panels[name] for name in list(panels)[:3]}
    rows["error"] = error_map(panels[MODEL], panels[TRUE])
    image = strip(rows)
    write_png(image, folder / f"{number:02d}_strip.png")
    return image


def enlarge(image: np.ndarray, height: int) -> np.ndarray:
    """`H W 3` to an image of that height, its width kept in proportion and even."""
    width = round(image.shape[1] * height / image.shape[0])
    return resize(image, height, width + width % 2)


def error_map(generated: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Where two clips uint8 `T H W 3` differ: black for equal, white for ERROR_WHITE and more.

    The mean over the channels of the absolute difference, so that a colour error counts as well.
    """
    error = (generated.float() - truth.float()).abs().mean(-1)  # T H W
    levels = (error * 255 / ERROR_WHITE).clamp(0, 255).round().byte().numpy()
    maps = [cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[..., ::-1] for level in levels]
    return torch.from_numpy(np.stack(maps))


def strip(rows: dict[str, torch.Tensor]) -> Image.Image:
    """A row a method, columns evenly over the clip from first to last frame."""
    last = len(next(iter(rows.values()))) - 1
    numbers = np.unique(np.linspace(0, last, STRIP_FRAMES).round().astype(int)).tolist()
    titles = [f"frame {i} (given)" if i in (0, last) else f"frame {i}" for i in numbers]
    return grid({name: frames[numbers] for name, frames in rows.items()}, titles)


def grid(rows: dict[str, torch.Tensor], titles: list[str]) -> Image.Image:
    """A row a method, uint8 `T H W 3` each, under T titles."""
    height, width = next(iter(rows.values())).shape[1:3]
    step = enlarge(np.empty((height, width, 3), np.uint8), STRIP_HEIGHT).shape[1] + GAP
    size = LABEL_WIDTH + len(titles) * step, LABEL_HEIGHT + len(rows) * (STRIP_HEIGHT + GAP) + GAP
    image = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for column, title in enumerate(titles):
        draw.text((LABEL_WIDTH + column * step + 2, 4), title, INK, font)
    for row, (name, frames) in enumerate(rows.items()):
        top = LABEL_HEIGHT + row * (STRIP_HEIGHT + GAP)
        draw.text((4, top + STRIP_HEIGHT // 2 - 8), display_name(name), INK, font)
        for column, frame in enumerate(frames.numpy()):
            enlarged = Image.fromarray(enlarge(frame, STRIP_HEIGHT))
            image.paste(enlarged, (LABEL_WIDTH + column * step, top))
    return image


def stack(images: list[Image.Image]) -> Image.Image:
    """One below the other."""
    size = max(image.width for image in images), sum(image.height for image in images)
    page, top = Image.new("RGB", size, PAPER), 0
    for image in images:
        page.paste(image, (0, top))
        top += image.height
    return page


def side_by_side(panels: dict[str, torch.Tensor]) -> Iterator[np.ndarray]:
    """Frames of a video: all panels in a grid, each under its name; the last frame stays."""
    font = ImageFont.load_default(15)
    page = None
    for frames in zip(*panels.values(), strict=True):
        cells = [enlarge(frame.numpy(), VIDEO_HEIGHT) for frame in frames]
        width, height = cells[0].shape[1] + GAP, VIDEO_HEIGHT + LABEL_HEIGHT
        columns, rows = min(COLUMNS, len(cells)), -(-len(cells) // COLUMNS)
        page = Image.new("RGB", (columns * width - columns * width % 2, rows * height), PAPER)
        draw = ImageDraw.Draw(page)
        for k, (name, cell) in enumerate(zip(panels, cells, strict=True)):
            left, top = k % COLUMNS * width, k // COLUMNS * height
            draw.text((left + 2, top + 3), display_name(name), INK, font)
            page.paste(Image.fromarray(cell), (left, top + LABEL_HEIGHT))
        yield np.asarray(page)
    for _ in range(PAUSE):
        yield np.asarray(page)


def line_chart(lines: pd.DataFrame, y_label: str, y_scale: str = "linear") -> str:
    """SVG, equal bytes for equal data: a line a column over the index, whose name labels x."""
    from matplotlib import style as styles
    from matplotlib.figure import Figure

    # not a user's own matplotlibrc, which draws otherwise
    with styles.context(["default", {"svg.hashsalt": "nakawari", "svg.fonttype": "none"}]):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for k, name in enumerate(lines):
            values = lines[name].dropna()
            style = {"marker": "o" if len(values) <= 30 else None, "markersize": 3}
            style |= {"color": COLORS[k % len(COLORS)], "linewidth": 2.6 if name == MODEL else 1.5}
            axes.plot(values.index, values, label=display_name(name), **style)
        axes.set(xlabel=lines.index.name, ylabel=y_label, yscale=y_scale)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        if len(lines.columns) > 1:
            figure.legend(loc="outside right upper", frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
