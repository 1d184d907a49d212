"""Which frames are given and what is drawn between them, as tables of frame numbers."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.inference.keyframes import Segment, frames_to_draw, given_frames, last_step, segments

A, B, M = Path("a.png"), Path("b.png"), Path("mid.png")


@pytest.mark.parametrize(
    ("n_frames", "on", "shown"),
    [  # the drawing on show at each frame; the last one is given
        (5, 1, [0, 1, 2, 3, 4]),
        (5, 2, [0, 0, 1, 1, 2]),
        (6, 2, [0, 0, 1, 1, 2, 3]),  # the last drawing before the given one is cut short
        (5, 3, [0, 0, 0, 1, 2]),
        (7, 3, [0, 0, 0, 1, 1, 1, 2]),
        (8, 3, [0, 0, 0, 1, 1, 1, 2, 3]),
        (5, 4, [0, 0, 0, 0, 1]),  # nothing is drawn: the first is held
        (5, 5, [0, 0, 0, 0, 1]),
        (5, 99, [0, 0, 0, 0, 1]),
        (3, 1, [0, 1, 2]),
        (3, 2, [0, 0, 1]),
        (2, 1, [0, 1]),
        (2, 2, [0, 1]),
    ],
)
def test_drawings_are_held(n_frames, on, shown):
    segment = Segment(10, 10 + n_frames - 1, on)
    assert [*segment.shown, segment.n_drawings - 1] == shown
    assert segment.drawn == (max(shown) >= 2)


@pytest.mark.parametrize("on", range(1, 12))
@pytest.mark.parametrize("n_frames", range(2, 12))
def test_any_timing_fills_the_segment(n_frames, on):
    segment = Segment(0, n_frames - 1, on)
    assert len(segment.shown) == n_frames - 1
    assert sorted(set(segment.shown)) == list(range(segment.n_drawings - 1))
    assert all(segment.shown.count(k) == on for k in range(segment.n_drawings - 2))
    assert 1 <= segment.shown.count(segment.n_drawings - 2) <= on


@pytest.mark.parametrize(
    ("given", "on", "found", "count"),
    [
        ([0, 19], 1, [(0, 19, 20)], 18),
        ([0, 9, 19], 1, [(0, 9, 10), (9, 19, 11)], 17),
        ([19, 0, 9], 1, [(0, 9, 10), (9, 19, 11)], 17),
        ([0, 1, 4, 5], 1, [(0, 1, 2), (1, 4, 4), (4, 5, 2)], 2),
        ([0, 9, 19], 2, [(0, 9, 6), (9, 19, 6)], 8),
        ([0, 2, 4], 2, [(0, 2, 2), (2, 4, 2)], 0),
    ],
)
def test_given_frames_cut_the_clip_into_segments(given, on, found, count):
    """First, last, and drawings with both given ones; how many are drawn in all."""
    parts = segments(given, on)
    assert [(part.first, part.last, part.n_drawings) for part in parts] == found
    assert frames_to_draw(parts) == count


def test_the_last_step_is_the_jump_into_the_given_frame():
    clip = np.full((3, 2, 2, 3), 100, np.uint8)
    clip[0], clip[-1] = 255, 90  # frame 0 is far away and does not count
    assert last_step(clip) == 10
    clip[-2] = 90
    assert last_step(clip) == 0


@pytest.mark.parametrize(
    ("first", "last", "more", "n_frames", "given"),
    [
        (A, B, [], None, {0: A, 19: B}),
        (A, B, [], 5, {0: A, 4: B}),
        (A, B, ["3=mid.png"], 8, {0: A, 3: M, 7: B}),
        (A, None, ["9=b.png"], None, {0: A, 9: B}),
        (None, B, ["0=a.png"], 4, {0: A, 3: B}),
        (None, None, ["9=b.png", "4=mid.png", "0=a.png"], None, {0: A, 4: M, 9: B}),
        (None, None, ["0=a.png", "9=b.png"], 10, {0: A, 9: B}),
        (None, None, ["0=a=b.png", "007=b.png"], None, {0: Path("a=b.png"), 7: B}),
        (None, None, ["0=a.png", "1=mid.png", "3=b.png"], None, {0: A, 1: M, 3: B}),
    ],
)
def test_given_frames_are_known_by_number(first, last, more, n_frames, given):
    found = given_frames(first, last, more, n_frames)
    assert found == given and list(found) == sorted(given)


@pytest.mark.parametrize(
    ("first", "last", "more", "n_frames", "words"),
    [
        (None, None, [], None, "no frame is given; expected --first and --last, or --frame 0="),
        (A, B, ["mid.png"], 9, r"--frame mid\.png: expected INDEX=PICTURE such as 9=mid\.png"),
        (A, B, ["x=mid.png"], 9, r"--frame x=mid\.png: expected INDEX=PICTURE"),
        (A, B, ["-1=mid.png"], 9, r"--frame -1=mid\.png: expected INDEX=PICTURE"),
        (A, B, ["1.5=mid.png"], 9, r"--frame 1\.5=mid\.png: expected INDEX=PICTURE"),
        (A, B, ["²=mid.png"], 9, r"--frame ²=mid\.png: expected INDEX=PICTURE"),
        (A, B, ["3="], 9, r"--frame 3=: expected INDEX=PICTURE"),
        (A, B, ["=mid.png"], 9, r"--frame =mid\.png: expected INDEX=PICTURE"),
        (A, B, ["9" * 5000 + "=mid.png"], 9, "expected INDEX=PICTURE"),
        (A, B, ["9=mid.png"], 9, r"--frame 9=mid\.png: expected an index from 0 to 8, as --n-fr"),
        (A, B, ["3=mid.png", "3=c.png"], 9, r"frame 3 is given twice, by --frame 3=mid\.png and"),
        (A, B, ["0=mid.png"], 9, r"frame 0 is given twice, by --first a\.png and by --frame 0="),
        (A, B, ["8=mid.png"], 9, r"frame 8 is given twice, by --frame 8=mid\.png and by --last b"),
        (A, B, ["3=mid.png"], None, r"--last b\.png: its frame is not known beside --frame; add"),
        (A, B, [], 2, "--n-frames 2: expected at least 3"),
        (A, B, [], -4, "--n-frames -4: expected at least 3"),
        (A, None, [], None, "frame 19, the last one of --n-frames 20, is not given; add --last"),
        (None, B, [], None, "frame 0 is not given; add --first PICTURE or --frame 0=PICTURE"),
        (None, None, ["4=a.png", "9=b.png"], None, "frame 0 is not given"),
        (None, None, ["0=a.png", "9=b.png"], 20, "frame 19, the last one of --n-frames 20, is no"),
        (None, None, ["0=a.png", "25=b.png"], 20, r"--frame 25=b\.png: expected an index from 0"),
        (None, None, ["0=a.png"], None, "frame 0 is the only one given; add the last one"),
        (A, None, ["1=b.png"], None, "all 2 frames are given and none is left to draw"),
        (A, B, ["1=mid.png"], 3, "all 3 frames are given and none is left to draw"),
    ],
)
def test_wrong_frames_get_a_sentence(first, last, more, n_frames, words):
    with pytest.raises(UserError, match=words):
        given_frames(first, last, more, n_frames)
