"""Figures: sizes, places and labels' room; charts as SVG."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline import io
from pipeline.evaluation.report import figures


def flat(n: int, grey: int, height: int = 16, width: int = 32) -> torch.Tensor:
    return torch.full((n, height, width, 3), grey, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "wanted"), [((16, 32), (96, 192)), ((16, 33), (96, 198)), ((10, 7), (96, 68))]
)
def test_enlarging_keeps_the_aspect_and_an_even_width(size, wanted):
    assert figures.enlarge(np.zeros((*size, 3), np.uint8), 96).shape[:2] == wanted


def test_a_strip_shows_first_and_last_and_a_row_a_method():
    clip = torch.stack([flat(1, grey)[0] for grey in range(0, 250, 25)])  # ten frames
    image = np.asarray(figures.strip({"model": clip, "true": 255 - clip}))
    step, left = 192 + figures.GAP, figures.LABEL_WIDTH
    height = figures.LABEL_HEIGHT + 2 * (96 + figures.GAP) + figures.GAP
    assert image.shape == (height, left + figures.STRIP_FRAMES * step, 3)
    middle = [left + column * step + 96 for column in range(figures.STRIP_FRAMES)]
    top = figures.LABEL_HEIGHT + 48
    above, below = image[top, middle, 0], image[top + 96 + figures.GAP, middle, 0]
    shown = [0, 2, 3, 4, 6, 8, 9]  # of ten, seven evenly
    assert np.abs(above.astype(int) - [25 * i for i in shown]).max() <= 2
    assert np.abs(below.astype(int) - [255 - 25 * i for i in shown]).max() <= 2


def test_strips_of_other_lengths_share_an_image(tmp_path):
    strips = [figures.strip({"true": flat(n, 9)}) for n in (9, 3)]
    assert strips[1].width == figures.LABEL_WIDTH + 3 * (192 + figures.GAP), "each frame once"
    io.write_png(figures.stack(strips), tmp_path / "new/strip.png")
    page = np.asarray(Image.open(tmp_path / "new/strip.png").convert("RGB"))
    assert page.shape[0] == sum(strip.height for strip in strips)
    assert (page[-50, -50] == 255).all(), "paper beside the shorter"


def test_side_by_side_is_a_grid_with_every_panel():
    panels = {name: flat(4, 50 * k) for k, name in enumerate("abcde")}
    pages = list(figures.side_by_side(panels))
    assert len(pages) == 4 + figures.PAUSE and np.array_equal(pages[3], pages[-1])
    height, width = figures.VIDEO_HEIGHT + figures.LABEL_HEIGHT, 320 + figures.GAP
    assert pages[0].shape == (2 * height, 3 * width, 3)
    middles = [(k // 3 * height + 100, k % 3 * width + 160) for k in range(5)]
    assert [pages[2][top, left, 0] for top, left in middles] == [0, 50, 100, 150, 200]


def test_panels_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        list(figures.side_by_side({"a": flat(3, 0), "b": flat(4, 0)}))


def test_a_chart_names_its_lines_and_gives_equal_bytes():
    lines = pd.DataFrame({"model": [20.0, 19.0, np.nan], "rife": [18.0, 18.5, 19.0]}, [1, 2, 3])
    lines.index.name = "frame"
    svg = figures.line_chart(lines, "PSNR dB")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True}):  # a user's matplotlibrc
        assert svg == figures.line_chart(lines, "PSNR dB")
    for words in ("<svg", "Nakawari", "RIFE", "frame", "PSNR dB"):
        assert words in svg
    assert "nan" not in svg


def test_an_error_map_is_black_where_nothing_differs_and_bright_where_much_does():
    truth = torch.full((2, 4, 6, 3), 100, dtype=torch.uint8)
    drawn = truth.clone()
    drawn[1, 0, 0] = 100 + figures.ERROR_WHITE  # all channels
    drawn[1, 0, 1, 0] = 100 + figures.ERROR_WHITE  # one of three
    errors = figures.error_map(drawn, truth)
    assert errors.shape == truth.shape and errors.dtype == torch.uint8
    darkest, brightest, between = errors[0, 0, 0], errors[1, 0, 0], errors[1, 0, 1]
    assert int(darkest.sum()) < 30 and int(brightest.sum()) > 600
    assert int(darkest.sum()) < int(between.sum()) < int(brightest.sum())
    assert torch.equal(errors[0], darkest.expand_as(errors[0]))
    assert torch.equal(figures.error_map(truth, drawn), errors)
