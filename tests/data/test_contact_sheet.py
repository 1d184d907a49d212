"""Contact sheets: the right pictures in the right places, small files, any number of scenes."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.contact_sheet import (
    MOST_BYTES,
    SCENES_A_SHEET,
    Scene,
    draw_sheet,
    picture_size,
    save_contact_sheets,
)

RED, GREEN, BLUE, GOLD = (220, 20, 20), (20, 200, 20), (30, 30, 220), (230, 180, 20)


def of_colours(*colours):
    return np.stack([np.full((16, 32, 3), colour, np.uint8) for colour in colours])


def spread(page, colour):
    """Left and right end of a colour on a page, and its number of pixels."""
    found = (np.array(page) == colour).all(axis=-1)
    columns = np.flatnonzero(found.any(axis=0))
    return columns[0], columns[-1], found.sum()


def test_a_pair_is_the_first_and_the_last_frame(frame_file):
    footage = frame_file(of_colours(RED, GOLD, GREEN, BLUE, GOLD, BLUE))
    page = draw_sheet(footage, [Scene(0, 3), Scene(3, 6)], range(2), "film")
    height, width = picture_size(16, 32)
    (_, red_ends, red), (green, green_ends, _) = spread(page, RED), spread(page, GREEN)
    blue, _, both = spread(page, BLUE)
    assert red == height * width and both == 2 * red
    assert red_ends < green and green_ends < blue
    assert not (np.array(page) == GOLD).all(axis=-1).any()  # what lies between is not shown


def test_a_page_has_the_scenes_asked_for_and_grows_by_rows(frame_file):
    footage = frame_file(of_colours(*[RED] * 12))
    scenes = [Scene(at, at + 1) for at in range(12)]
    pages = {n: draw_sheet(footage, scenes, range(n), "film") for n in (1, 5, 6, 99)}
    assert pages[5].height == pages[1].height < pages[6].height < pages[99].height
    area = np.prod(picture_size(16, 32))
    assert [spread(pages[n], RED)[2] for n in (1, 5, 6, 99)] == [
        2 * n * area for n in (1, 5, 6, 12)
    ]


def test_dropped_scenes_are_marked(frame_file):
    footage = frame_file(of_colours(*[GREEN] * 9))
    marked, plain = (
        np.array(draw_sheet(footage, [Scene(0, 9, kept)], range(1), "film")).astype(int)
        for kept in (False, True)
    )
    reddish = [((page[..., 0] - page[..., 1]) > 100).any() for page in (marked, plain)]
    assert reddish == [True, False]


@pytest.mark.parametrize(
    ("count", "names"),
    [(1, ["film.png"]), (SCENES_A_SHEET, ["film.png"]),
     (SCENES_A_SHEET + 1, ["film.png", "film-1.png"]),
     (2 * SCENES_A_SHEET + 1, ["film.png", "film-1.png", "film-2.png"])],
)  # fmt: skip
def test_more_scenes_make_more_sheets(frame_file, tmp_path, count, names):
    footage = frame_file(of_colours(RED, BLUE))
    scenes = [Scene(0, 2)] * count
    paths = save_contact_sheets(footage, scenes, tmp_path / "sheets", "film")
    assert [path.name for path in paths] == names
    assert sorted(paths) == sorted((tmp_path / "sheets").iterdir())


def test_the_noisiest_footage_stays_small(frame_file, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (SCENES_A_SHEET * 2, 64, 128, 3), np.uint8)
    scenes = [Scene(at, at + 2) for at in range(0, len(noise), 2)]
    (path,) = save_contact_sheets(frame_file(noise), scenes, tmp_path, "film")
    assert path.stat().st_size <= MOST_BYTES
    assert Image.open(path).width < 1400


@pytest.mark.parametrize(("height", "width"), [(64, 128), (64, 64), (180, 100), (4, 900), (900, 4)])
def test_pictures_keep_their_aspect_within_bounds(height, width):
    shown = picture_size(height, width)
    aspect = min(max(width / height, 1 / 3), 3.0)
    assert shown[1] / shown[0] == pytest.approx(aspect, rel=0.05)
    assert np.prod(shown) == pytest.approx(5600, rel=0.03)
