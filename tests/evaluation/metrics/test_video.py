"""Each diagnostic says what was put into the clip by hand."""

import pytest
import torch

from pipeline.evaluation.metrics.video import diagnose, diversity

N, HEIGHT, WIDTH = 8, 16, 24  # 6 inner frames, 5 inner steps, 4 inner triples
PIXELS = HEIGHT * WIDTH
NAMES = ("motion", "flicker", "flicker_still", "step_last", "repeated")


def flicker_still(clip: torch.Tensor, truth: torch.Tensor) -> float | None:
    return diagnose(clip, truth, 1.5)["flicker_still"]


def held(level: int = 100, n: int = N) -> torch.Tensor:
    return torch.full((n, HEIGHT, WIDTH, 3), level, dtype=torch.uint8)


def levels(*values: int) -> torch.Tensor:
    """A clip of plain frames: `n H W 3`."""
    return torch.cat([held(value, 1) for value in values])


@pytest.fixture
def walker() -> torch.Tensor:
    """A white 4x4 block that walks 2 pixels a frame over a still ground of two greys."""
    clip = held()
    clip[:, :, WIDTH // 2 :] = 60
    for i in range(N):
        clip[i, 6:10, 2 * i : 2 * i + 4] = 255
    return clip


def blinking(clip: torch.Tensor, row: int, column: int, by: int) -> torch.Tensor:
    """One pixel is brighter in every other frame."""
    clip = clip.clone()
    clip[1::2, row, column] += by
    return clip


def one_channel_blinks() -> torch.Tensor:
    clip = held()
    clip[3, ..., 1] = 130
    return clip


BLINKING = blinking(held(), 5, 7, by=40)
BY_HAND = [
    *((name, held(), 0.0) for name in ("motion", "flicker", "flicker_still", "step_last")),
    ("repeated", held(), 1.0),
    ("motion", levels(0, 10, 13, 7, 7, 255), (3 + 6 + 0) / 3),
    ("motion", levels(0, 50, 50, 50, 255), 0.0),  # no step to a given frame
    ("motion", BLINKING, 40 / PIXELS),
    ("flicker", BLINKING, 40 / PIXELS),  # in each triple
    ("flicker", levels(0, 10, 40, 30, 30, 0), 10 / 2),  # what comes and goes: up 30, down 10
    ("flicker", one_channel_blinks(), 30 / 3 / 4),
    ("flicker", levels(0, 20, 40, 60, 80, 100, 120), 0.0),  # fades and holds do not flicker
    ("flicker", levels(255, 200, 150, 90, 20, 0), 0.0),
    ("flicker", levels(0, 20, 20, 90, 90, 20, 20, 0), 0.0),  # on twos
    ("flicker", levels(255, 0, 0, 0, 255), 0.0),  # nor do given frames
    ("flicker", levels(0, 255, 255, 255, 0), 0.0),
    ("flicker", levels(0, 255, 0, 255, 0, 255), 255.0),  # the full range does not wrap
    ("motion", levels(0, 255, 0, 255, 0, 255), 255.0),
    ("flicker_still", blinking(held(), 3, 3, by=2), 2 / PIXELS),  # coding noise is still
    ("repeated", levels(0, 5, 5, 9, 9, 9, 9), 3 / 4),
    ("repeated", levels(9, 9, 7, 9, 9), 0.0),  # the given frames repeat, no inner does
]


@pytest.mark.parametrize(("name", "clip", "wanted"), BY_HAND)
def test_by_hand(name, clip, wanted):
    assert diagnose(clip, clip, 1.5)[name] == pytest.approx(wanted)


def test_a_walk_on_twos_by_hand(walker):
    """Two of five steps move; 8 pixels become white and 8 grey again at each."""
    on_twos = walker[[0, 1, 1, 2, 2, 3, 3, 4]]
    moved = diagnose(on_twos, on_twos, 1.5)["motion"]
    assert moved == pytest.approx(2 / 5 * 16 * (255 - 100) / PIXELS)


def test_flicker_where_the_truth_stands_still(walker):
    clip = blinking(walker, 1, 1, by=40)  # far from the walker
    found = flicker_still(clip, walker)
    assert flicker_still(walker, walker) == 0.0
    assert 40 / PIXELS < found < 2 * 40 / PIXELS  # in every step, over the still pixels only


def test_flicker_beside_what_moves_is_not_held_against_the_clip(walker):
    only_near = walker.clone()
    for i in range(N):
        only_near[i, 5, 2 * i] += 90 * (i % 2)  # one pixel above the walker
    assert flicker_still(only_near, walker) == 0.0


def test_where_nothing_stands_still_there_is_no_answer():
    fade = levels(0, 20, 40, 60, 80)
    assert flicker_still(held(n=5), fade) is None
    assert flicker_still(fade, held(n=5)) == 20.0


def test_a_jump_at_the_end_shows_at_the_control_point():
    truth = levels(0, 10, 20, 30, 40)
    for clip, last in ((levels(0, 0, 0, 0, 40), 40.0), (levels(0, 40, 40, 40, 40), 0.0)):
        measured = diagnose(clip, truth, 1.5)
        assert (measured["step_last"], measured["step_last_true"]) == (last, 10.0)


def test_a_blink_in_one_block_is_no_repeat():
    """The largest block decides: a small change stays below the threshold of the mean of all."""
    clip = held()
    clip[3, :8, :8] += 4
    assert diagnose(clip, clip, 3.9)["repeated"] == pytest.approx(3 / 5)
    assert diagnose(clip, clip, 4.0)["repeated"] == 1.0


def test_equal_samples_have_no_diversity(walker):
    assert diversity([walker, walker.clone(), walker]) == 0.0


def test_diversity_is_the_mean_over_pairs_of_inner_frames():
    samples = [held(level) for level in (10, 20, 40)]
    assert diversity(samples) == pytest.approx((10 + 20 + 30) / 3)
    ends = held(10)
    ends[[0, -1]] = 200
    assert diversity([held(10), ends]) == 0.0


def test_one_sample_has_no_diversity(walker):
    assert diversity([walker]) is None and diversity([]) is None


@pytest.mark.parametrize("n", [3, 4, 5])
def test_what_a_clip_is_too_short_for_is_none(n):
    clip = held(n=n)
    measured = diagnose(clip, clip, 1.5)
    for suffix in ("", "_true"):
        assert measured[f"step_last{suffix}"] == 0.0
        assert measured[f"flicker{suffix}"] == (0.0 if n > 4 else None)
        for name in ("motion", "flicker_still", "repeated"):
            assert (measured[f"{name}{suffix}"] is None) == (n < 4)


def test_each_stands_beside_the_same_of_the_truth(walker):
    clip = blinking(held(90), 3, 3, by=50)
    measured, true = diagnose(clip, walker, 1.5), diagnose(walker, walker, 1.5)
    assert set(measured) == {f"{name}{suffix}" for name in NAMES for suffix in ("", "_true")}
    assert all(measured[f"{name}_true"] == true[name] for name in NAMES)


def test_clips_are_left_as_they_were(walker):
    before = walker.clone()
    diagnose(walker[:1].expand_as(walker), walker, 1.5)
    assert torch.equal(walker, before)
