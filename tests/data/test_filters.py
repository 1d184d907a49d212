"""Filters of clips: tables of clips made to break one rule, and the reason expected."""

import numpy as np
import pytest

from pipeline.data.filters import NAMES, Blank, Clip, Flash, Still, make_filters, rejection


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
    "still": (Still(0.5), stripes(50, 50, 50), "still: motion 0.00, at least 0.5 needed"),
    "moving": (Still(0.5), stripes(50, 51, 52), None),
    "black": (Blank(3.0), greys(0, 0, 0), "blank: contrast 0.00, at least 3 needed"),
    "white": (Blank(3.0), greys(255, 254), "blank: contrast 0.00, at least 3 needed"),
    "one frame shows something": (
        Blank(3.0),
        np.concatenate([greys(0, 0), stripes(90)]),
        None,
    ),
    "flash": (Flash(20.0), greys(50, 255, 50), "flash: mean luma changes by 205.0 in 8"),
    "fade": (Flash(20.0), greys(200, 150, 100), "flash: mean luma changes by 100.0 in 8"),
    "long fade": (Flash(25.0), greys(*range(120, 0, -5)), "flash: mean luma changes by 40.0"),
    "drift": (Flash(25.0), greys(*range(100, 130)), None),
    "steady": (Flash(20.0), greys(100, 110, 120), None),
    "one frame": (Flash(20.0), greys(100), None),
}


@pytest.mark.parametrize(("ask", "images", "reason"), TABLE.values(), ids=TABLE)
def test_each_filter_says_why(clip, ask, images, reason):
    answer = ask(clip(images))
    if reason is None:
        assert answer is True
    else:
        assert answer[0] is False and answer[1].startswith(reason)


def test_motion_is_the_mean_step_in_grey_levels(frame_file):
    footage = frame_file(greys(0, 10, 10, 40))
    assert Clip(footage, np.arange(4)).motion == pytest.approx((10 + 0 + 30) / 3)
    assert Clip(footage, np.array([0, 3])).motion == 40.0
    assert Clip(footage, np.array([2])).motion == 0.0


def test_the_first_refusal_counts(clip):
    both = [Blank(3.0), Still(0.5)]
    assert rejection(clip(greys(0, 0)), both)[0] == "blank"
    assert rejection(clip(stripes(50, 50)), both)[0] == "still"
    assert rejection(clip(stripes(50, 90)), both) == ("", "")


def test_zero_is_off(settings):
    rules = settings.clip_chunk.filters
    off = {"min_motion": 0.0, "min_contrast": 0.0, "max_luma_change": 0.0}
    assert make_filters(rules.model_copy(update=off)) == []
    on = {"min_motion": 1.0, "min_contrast": 1.0, "max_luma_change": 1.0}
    made = make_filters(rules.model_copy(update=on))
    assert tuple(ask.name for ask in made) == NAMES
