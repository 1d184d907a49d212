"""Filters of clips: tables of clips made to break one rule, and the reason expected."""

import cv2
import numpy as np
import pytest

from pipeline.data.filters import NAMES, Blank, Clip, Flash, Still, Text, make_filters, refusal
from pipeline.data.text import has_text

CREDITS = ["DIRECTED BY", "Kenji Tanaka", "MUSIC    K. Ito", "Art director  M. Sato"]


def greys(*levels: int) -> np.ndarray:
    """A picture a level, of one colour: uint8 `T 8 8 3`."""
    return np.multiply.outer(np.array(levels, np.uint8), np.ones((8, 8, 3), np.uint8))


def stripes(*levels: int) -> np.ndarray:
    """As `greys`, with a dark half: it has contrast."""
    images = greys(*levels)
    images[:, :4] = 0
    return images


def credits(lines: int = 6, shift: int = 0, scale: float = 1.0, ground: int = 0) -> np.ndarray:
    """Light lines on a dark ground of 288x512, reduced to a model's frame: uint8 `64 128`."""
    image = np.full((288, 512), ground, np.uint8)
    for line in range(lines):
        words, at = CREDITS[line % len(CREDITS)], (60, 40 + 44 * line + shift)
        cv2.putText(image, words, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 235, 2, cv2.LINE_AA)
    return cv2.resize(image, (128, 64), interpolation=cv2.INTER_AREA)


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
    assert refusal(clip(greys(0, 0)), both)[0] == "blank"
    assert refusal(clip(stripes(50, 50)), both)[0] == "still"
    assert refusal(clip(stripes(50, 90)), both) == ("", "")


def test_zero_is_off(settings):
    rules = settings.clip_chunk.filters
    off = {"min_motion": 0.0, "min_contrast": 0.0, "max_luma_change": 0.0, "text": False}
    assert make_filters(rules.model_copy(update=off)) == []
    on = {"min_motion": 1.0, "min_contrast": 1.0, "max_luma_change": 1.0, "text": True}
    made = make_filters(rules.model_copy(update=on))
    assert tuple(ask.name for ask in made) == NAMES


TITLES = [{}, {"shift": 7}, {"scale": 0.8}, {"scale": 1.2}, {"lines": 3}, {"ground": 30}]


@pytest.mark.parametrize("changes", TITLES, ids=str)
def test_drawn_credits_are_text(changes):
    assert has_text(credits(**changes))


def test_rolling_credits_are_rejected(clip):
    rolling = np.stack([credits(shift=-2 * frame) for frame in range(15)])
    answer = Text()(clip(np.repeat(rolling[..., None], 3, axis=-1)))
    assert answer[0] is False and answer[1].startswith("text: in ")


def cartoon(seed: int) -> np.ndarray:
    """Flat shapes with dark outlines on a ground of any brightness: uint8 `64 128`."""
    rng = np.random.default_rng(seed)
    image = np.full((288, 512), rng.integers(0, 256), np.uint8)
    for _ in range(rng.integers(3, 15)):
        at = tuple(int(x) for x in rng.integers(0, (512, 288)))
        axes = tuple(int(x) for x in rng.integers(10, 120, 2))
        cv2.ellipse(image, at, axes, 0, 0, 360, int(rng.integers(0, 256)), -1, cv2.LINE_AA)
        cv2.ellipse(image, at, axes, 0, 0, 360, 10, 3, cv2.LINE_AA)
    return cv2.resize(image, (128, 64), interpolation=cv2.INTER_AREA)


def test_cartoons_and_night_skies_are_no_text():
    assert not any(has_text(cartoon(seed)) for seed in range(200))
    rng = np.random.default_rng(0)
    for share in (0.005, 0.01, 0.02):
        stars = np.where(rng.random((64, 128)) < share, 255, 10).astype(np.uint8)
        assert not has_text(cv2.GaussianBlur(stars, (3, 3), 0.6))
    assert not has_text(np.zeros((64, 128), np.uint8))
