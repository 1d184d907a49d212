"""The page in a headless browser: it shows something, its clips play, nothing leaves it."""

import re

import headless_browser
import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.report.page import Clip, Curve, Interval, Page, Picture, Table, write_page
from pipeline.video.writer import write_video


@pytest.fixture(scope="module")
def visit(moving, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    videos = {}
    for seed, name in enumerate(("generated", "true")):
        videos[name] = folder / f"{name}.mp4"
        write_video(videos[name], moving(12, seed, 64, 128).numpy(), 24)
    Image.fromarray(moving(1, 5, 64, 128)[0].numpy()).save(folder / "strip.png")
    page = Page(
        title="A run",
        verdict="The model beats nothing.",
        parameters={"base.seed": 1},
        tables=[
            Table("All clips", "n = 2", ["method", "PSNR"], [["a", Interval(20.0, 19.0, 21.0)]])
        ],
        curves=[Curve("Loss", "step", "loss", {"train": [(0, 2.0), (1, 1.0)]})],
        pictures=[Picture("Strip", "first, generated, true", folder / "strip.png")],
        clips=[Clip("One <clip>", videos)],
    )
    write_page(folder / "report.html", page)
    return headless_browser.visit(folder / "report.html", folder)


def test_a_screenshot_is_not_blank(visit):
    assert visit.picture.shape == (2000, 1200, 3)
    assert visit.colours() > 500
    drawn = np.abs(visit.picture.astype(int) - visit.picture[0, 0]).max(-1) > 16
    assert drawn.mean() > 0.02 and drawn[1000:].any()


def test_no_request_leaves_the_page(visit):
    assert visit.requests == []


def test_clips_are_decoded(visit):
    """The page names a frame when each video has shown one; `broken` says otherwise."""
    (frame,) = re.findall(r'<output class="frame">([^<]*)</output>', visit.dom)
    assert re.fullmatch(r"frame \d+ of 11", frame)
    assert '<div class="player">' in visit.dom  # no longer hidden


def test_a_request_would_have_been_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<p>a</p><img src="http://example.invalid/a.png">')
    seen = headless_browser.visit(page, tmp_path, (200, 200))
    assert seen.requests == ["http://example.invalid/a.png"]
