"""Filters of clips: tables of clips made to break one rule, and the reason expected."""

import numpy as np
import pytest

from pipeline import config
from pipeline.data.filters import Clip, rejection


def greys(*levels: int) -> np.ndarray:
    """A picture a level, of one colour: uint8 `T 8 8 3`."""
    return np.multiply.outer(np.array(levels, np.uint8), np.ones((8, 8, 3), np.uint8))


def stripes(*levels: int) -> np.ndarray:
    """As `greys`, with a dark half: it has contrast."""
    images = greys(*levels)
    images[:, :4] = 0
    return images


@pytest.fixture
def clip(frame_file):
    def make(images: np.ndarray) -> Clip:
        return Clip(frame_file(images), np.arange(len(images)))

    return make


TABLE = {
    "still": ({"min_motion": 0.5}, stripes(50, 50, 50), "still: motion 0.00, at least 0.5 needed"),
    "moving": ({"min_motion": 0.5}, stripes(50, 51, 52), None),
    "black": ({"min_contrast": 3.0}, greys(0, 0, 0), "blank: contrast 0.00, at least 3 needed"),
    "white": ({"min_contrast": 3.0}, greys(255, 254), "blank: contrast 0.00, at least 3 needed"),
    "one frame shows something": (
        {"min_contrast": 3.0},
        np.concatenate([greys(0, 0), stripes(90)]),
        None,
    ),
    "flash": (
        {"max_luma_change": 20.0},
        greys(50, 255, 50),
        "flash: mean luma changes by 205.0 in 8",
    ),
    "fade": (
        {"max_luma_change": 20.0},
        greys(200, 150, 100),
        "flash: mean luma changes by 100.0 in 8",
    ),
    "long fade": (
        {"max_luma_change": 25.0},
        greys(*range(120, 0, -5)),
        "flash: mean luma changes by 40.0",
    ),
    "drift": ({"max_luma_change": 25.0}, greys(*range(100, 130)), None),
    "steady": ({"max_luma_change": 20.0}, greys(100, 110, 120), None),
    "one frame": ({"max_luma_change": 20.0}, greys(100), None),
}


def rules(**thresholds: float) -> config.ClipFilters:
    off = {"min_motion": 0.0, "min_contrast": 0.0, "max_luma_change": 0.0}
    return config.ClipFilters(**off | thresholds)


@pytest.mark.parametrize(("threshold", "images", "reason"), TABLE.values(), ids=TABLE)
def test_each_rule_says_why(clip, threshold, images, reason):
    name, said = rejection(clip(images), rules(**threshold))
    if reason is None:
        assert (name, said) == ("", "")
    else:
        assert said.startswith(reason) and reason.startswith(f"{name}: ")
    assert rejection(clip(images), rules()) == ("", ""), "0 is off"


def test_motion_is_the_mean_step_in_grey_levels(frame_file):
    footage = frame_file(greys(0, 10, 10, 40))
    assert Clip(footage, np.arange(4)).motion == pytest.approx((10 + 0 + 30) / 3)
    assert Clip(footage, np.array([0, 3])).motion == 40.0
    assert Clip(footage, np.array([2])).motion == 0.0


def test_the_first_refusal_counts(clip):
    both = rules(min_contrast=3.0, min_motion=0.5)
    assert rejection(clip(greys(0, 0)), both)[0] == "blank"
    assert rejection(clip(stripes(50, 50)), both)[0] == "still"
    assert rejection(clip(stripes(50, 90)), both) == ("", "")
