"""Outlines lie where they are drawn, and their distance is what a ruler would say."""

from math import hypot

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from pipeline.evaluation.metrics.line_chamfer import CAP, Outlines, chamfer, outlines

HEIGHT, WIDTH = 64, 128
DIAGONAL = hypot(HEIGHT, WIDTH)
PLAIN = torch.full((1, HEIGHT, WIDTH, 3), 200, dtype=torch.uint8)


def line_chamfer(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return chamfer(Outlines.of(images), Outlines.of(truth))


def line(column: int) -> torch.Tensor:
    """A black line from top to bottom, one pixel wide: `1 H W 3`."""
    image = PLAIN.clone()
    image[:, :, column] = 0
    return image


def square(left: int, top: int = 20, side: int = 24) -> torch.Tensor:
    """An outlined orange square: `1 H W 3`."""
    image = PLAIN[0].numpy().copy()
    corners = (left, top), (left + side, top + side)
    cv2.rectangle(image, *corners, (240, 150, 60), -1)
    cv2.rectangle(image, *corners, (30, 20, 20), 2)
    return torch.from_numpy(image)[None]


def drawing() -> np.ndarray:
    """A face in a landscape: circles, a curve, thick and thin lines; `H W 3`."""
    image = np.full((HEIGHT, WIDTH, 3), (150, 200, 240), np.uint8)
    image[44:] = (90, 170, 80)
    cv2.circle(image, (60, 32), 18, (240, 200, 160), -1)
    cv2.circle(image, (60, 32), 18, (40, 30, 30), 2, cv2.LINE_AA)
    for eye in (53, 67):
        cv2.circle(image, (eye, 28), 3, (30, 30, 30), 1, cv2.LINE_AA)
    cv2.ellipse(image, (60, 36), (8, 5), 0, 10, 170, (60, 20, 20), 1, cv2.LINE_AA)
    cv2.line(image, (90, 60), (110, 10), (70, 50, 30), 3, cv2.LINE_AA)
    return image


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(np.stack([cv2.GaussianBlur(i, (0, 0), sigma) for i in images.numpy()]))


def noisy(images: torch.Tensor, deviation: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + deviation * noise).round().clamp(0, 255).byte()


@pytest.fixture(scope="module")
def mixed() -> tuple[torch.Tensor, torch.Tensor]:
    """Six pictures and six others, with and without lines."""
    drawn = torch.from_numpy(drawing())[None]
    images = torch.cat([drawn, square(10), line(40), PLAIN, PLAIN, line(3)])
    truth = torch.cat([blurred(drawn, 1), square(17), line(45), line(45), PLAIN, line(120)])
    return images, truth


def test_a_line_is_marked_where_it_is_drawn():
    marked = outlines(line(40))[0]
    assert marked.shape == (HEIGHT, WIDTH) and marked.dtype == torch.bool
    assert marked.any(0).nonzero().flatten().tolist() == [39, 40, 41]  # all of it, a little wider
    assert marked[:, 40].all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_plain_picture_has_no_outline(value):
    assert not outlines(torch.full_like(PLAIN, value)).any()


def test_a_soft_slope_is_no_outline():
    slope = torch.linspace(0, 255, WIDTH).round().byte()[None, None, :, None]
    assert not outlines(slope.expand(1, HEIGHT, WIDTH, 3)).any()


@pytest.mark.parametrize("shift", [3, 5, 10])
def test_a_shifted_line_by_hand(shift):
    """Three pixels wide: the near one is shift-2 away, the far one shift."""
    value = float(line_chamfer(line(40), line(40 + shift)))
    assert value == pytest.approx(100 * (shift - 1) / DIAGONAL, rel=1e-5)


def test_a_square_is_about_as_far_as_it_moved():
    """Only the sides across the movement go all the way, and lines are a few pixels wide."""
    pixels = [float(line_chamfer(square(20 + k, 10 + k), square(20, 10))) for k in (0, 2, 4, 6, 8)]
    pixels = [value * DIAGONAL / 100 for value in pixels]
    assert pixels[0] == 0 and pixels == sorted(pixels)
    assert all(0.3 * k < value < k for k, value in zip((4, 6, 8), pixels[2:], strict=True))


def test_distances_are_capped():
    assert float(line_chamfer(line(3), line(120))) == CAP


def test_pictures_without_lines():
    assert line_chamfer(PLAIN, PLAIN).tolist() == [0.0]
    assert line_chamfer(PLAIN, line(40)).tolist() == [CAP]
    assert line_chamfer(line(40), PLAIN).tolist() == [CAP]


def test_a_speck_on_the_line_is_not_half_the_line():
    """All line pixels weigh the same; a mean of both directions' means would give half of it."""
    speck = PLAIN.clone()
    speck[0, 2, 40] = 0
    assert 0.8 * CAP < float(line_chamfer(speck, line(40))) < CAP


def test_equal_pictures_are_at_distance_zero_and_both_ways_are_the_same(mixed):
    assert line_chamfer(mixed[0], mixed[0]).tolist() == [0.0] * 6
    assert torch.equal(line_chamfer(*mixed), line_chamfer(*reversed(mixed)))


def test_each_picture_counts_alone_and_in_any_order(mixed):
    images, truth = mixed
    together = line_chamfer(images, truth)
    alone = torch.cat([line_chamfer(a[None], b[None]) for a, b in zip(images, truth, strict=True)])
    assert torch.equal(together, alone)
    assert torch.equal(together.flip(0), line_chamfer(images.flip(0), truth.flip(0)))


def test_the_field_is_the_exact_distance(mixed):
    known = Outlines.of(mixed[0][:3])
    for lines, field in zip(known.lines, known.distance, strict=True):
        wanted = distance_transform_edt(~lines.numpy()) * 100 / DIAGONAL
        assert field.numpy() == pytest.approx(np.minimum(wanted, CAP), abs=1e-5)


def test_another_size_of_the_same_drawing_is_as_far():
    """The distance is relative: twice the picture, twice the way."""
    small, large = ([square(20), square(30)], [])
    for image in small:
        large.append(image.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert float(line_chamfer(*large)) == pytest.approx(float(line_chamfer(*small)), rel=0.25)


def test_blur_ranks_drawn_shapes():
    strong_lines = torch.from_numpy(drawing())[None]
    truth = torch.cat([strong_lines, strong_lines // 2 + 60, strong_lines // 4 + 90])
    light, strong = (line_chamfer(blurred(truth, sigma), truth) for sigma in (0.7, 2.0))
    assert ((light > 0) & (light < strong)).all()


def test_small_noise_moves_outlines_less_than_a_pixel():
    truth = torch.from_numpy(drawing())[None]
    shifted = truth.roll(1, 2)
    assert float(line_chamfer(noisy(truth, 2), truth)) < 0.05
    assert float(line_chamfer(noisy(truth, 2), truth)) < float(line_chamfer(shifted, truth)) / 5
