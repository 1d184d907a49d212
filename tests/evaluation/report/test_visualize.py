"""Pictures for people: sizes, places and labels' room."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.evaluation.report import visualize


def flat(n: int, grey: int, height: int = 16, width: int = 32) -> torch.Tensor:
    return torch.full((n, height, width, 3), grey, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "wanted"), [((16, 32), (96, 192)), ((16, 33), (96, 198)), ((10, 7), (96, 68))]
)
def test_enlarging_keeps_the_aspect_and_an_even_width(size, wanted):
    assert visualize.enlarge(np.zeros((*size, 3), np.uint8), 96).shape[:2] == wanted


def test_a_strip_shows_first_and_last_and_a_row_a_candidate(tmp_path):
    clip = torch.stack([flat(1, grey)[0] for grey in range(0, 250, 25)])  # ten frames
    rows = {"generated": clip, "true": 255 - clip}
    visualize.save_strips([("a", rows), ("b", rows)], tmp_path / "new/strip.png")
    page = np.asarray(Image.open(tmp_path / "new/strip.png").convert("RGB"))
    cell, left = 192 + visualize.GAP, visualize.LABEL_WIDTH
    block = 22 + 2 * (96 + visualize.GAP) + 8
    assert page.shape == (2 * block, left + visualize.COLUMNS * cell, 3)
    middle = [left + column * cell + 96 for column in range(visualize.COLUMNS)]
    for top in (0, block):
        above, below = page[top + 22 + 48, middle, 0], page[top + 22 + 99 + 48, middle, 0]
        shown = [0, 2, 3, 4, 6, 8, 9]  # of ten, seven evenly
        assert np.abs(above.astype(int) - [25 * i for i in shown]).max() <= 2
        assert np.abs(below.astype(int) - [255 - 25 * i for i in shown]).max() <= 2


def test_a_clip_shorter_than_a_strip_shows_each_frame_once(tmp_path):
    visualize.save_strips([("a", {"true": flat(3, 9)})], tmp_path / "strip.png")
    width = Image.open(tmp_path / "strip.png").width
    assert width == visualize.LABEL_WIDTH + 3 * (192 + visualize.GAP)


def test_clips_of_other_sizes_share_a_page(tmp_path):
    clips = [("a", {"true": flat(9, 9)}), ("b", {"true": flat(3, 9)})]
    visualize.save_strips(clips, tmp_path / "strip.png")
    page = np.asarray(Image.open(tmp_path / "strip.png").convert("RGB"))
    assert (page[-50, -50] == 255).all(), "paper beside the shorter"


def test_side_by_side_gives_even_frames_with_every_panel():
    panels = {"generated": flat(4, 50), "true": flat(4, 150), "cross-fade": flat(4, 250)}
    pages = list(visualize.side_by_side(panels, height=40))
    assert len(pages) == 4
    assert pages[0].shape[0] == 64 and pages[0].shape[1] % 2 == 0
    assert [pages[2][40, 83 * k + 40, 0] for k in range(3)] == [50, 150, 250]


def test_panels_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        list(visualize.side_by_side({"a": flat(3, 0), "b": flat(4, 0)}))


def test_pairs_stand_above_each_other(tmp_path):
    visualize.save_pairs(flat(3, 200), flat(3, 100), tmp_path / "new/pairs.png")
    page = np.asarray(Image.open(tmp_path / "new/pairs.png").convert("RGB"))
    assert page.shape == (192, 3 * 192, 3)
    assert (page[:96] == 200).all() and (page[96:] == 100).all()


def test_an_error_map_is_black_where_nothing_differs_and_bright_where_much_does():
    truth = torch.full((2, 4, 6, 3), 100, dtype=torch.uint8)
    drawn = truth.clone()
    drawn[1, 0, 0] = 100 + visualize.ERROR_WHITE  # all channels
    drawn[1, 0, 1, 0] = 100 + visualize.ERROR_WHITE  # one of three
    errors = visualize.error_map(drawn, truth)
    assert errors.shape == truth.shape and errors.dtype == torch.uint8
    darkest, brightest, between = errors[0, 0, 0], errors[1, 0, 0], errors[1, 0, 1]
    assert int(darkest.sum()) < 30 and int(brightest.sum()) > 600
    assert int(darkest.sum()) < int(between.sum()) < int(brightest.sum())
    assert torch.equal(errors[0], darkest.expand_as(errors[0]))
    assert torch.equal(visualize.error_map(truth, drawn), errors)
