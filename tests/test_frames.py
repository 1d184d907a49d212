"""Frames: the way between uint8 and float, and what fitting keeps of a picture."""

import numpy as np
import pytest
import torch

from pipeline import frames

SIZES = [(64, 128), (17, 301), (301, 17), (99, 99), (1, 5), (480, 641)]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (height, width, 3), np.uint8)  # never black


def test_all_256_values_come_back():
    values = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).repeat(2, 1, 1, 3)
    there = frames.to_float(values)
    assert there.shape == (2, 3, 16, 16) and there.dtype == torch.float32
    assert there.min() == -1.0 and there.max() == 1.0
    assert torch.equal(frames.to_uint8(there), values)


def test_float_is_rounded_to_the_nearest_and_clamped():
    values = torch.arange(1, 255).view(1, -1, 1).repeat(3, 1, 1).float()
    for off in (-0.49, 0.49):
        near = (values + off) / 127.5 - 1.0
        assert torch.equal(frames.to_uint8(near), values.byte().movedim(0, -1))
    far = torch.tensor([-3.0, 3.0]).view(1, 2, 1).repeat(3, 1, 1)
    assert frames.to_uint8(far)[..., 0].flatten().tolist() == [0, 255]


def test_channels_keep_their_place():
    image = torch.zeros(4, 5, 3, dtype=torch.uint8)
    image[1, 2, 0] = 255
    assert frames.to_float(image)[0, 1, 2] == 1.0 and (frames.to_float(image) == 1).sum() == 1


@pytest.mark.parametrize("wrong", [torch.zeros(2, 2, 3), torch.zeros(3, 2, 2, dtype=torch.uint8)])
def test_what_is_no_uint8_picture_is_refused(wrong):
    with pytest.raises(AssertionError):
        frames.to_float(wrong)


@pytest.mark.parametrize("how", ["squeeze", "crop", "pad"])
@pytest.mark.parametrize("size", SIZES)
def test_any_size_is_fitted(size, how):
    fitted = frames.fit(picture(*size), 64, 128, how)
    assert fitted.shape == (64, 128, 3) and fitted.dtype == np.uint8


@pytest.mark.parametrize("size", SIZES)
def test_the_middle_of_a_padded_canvas_is_the_picture(size):
    image = picture(*size)
    framed = frames.canvas(image, 64, 128, "pad")
    assert np.array_equal(frames.without_bars(framed, *size), image)
    assert framed.astype(int).sum() == image.astype(int).sum(), "all else is black"


@pytest.mark.parametrize("how", ["crop", "pad"])
@pytest.mark.parametrize("size", SIZES[:1] + SIZES[3:4] + SIZES[5:])
def test_canvas_has_the_models_aspect(size, how):
    height, width = frames.canvas(picture(*size), 64, 128, how).shape[:2]
    assert abs(width - 2 * height) <= 2


def test_crop_takes_the_middle_and_pad_sets_black_bars():
    image = np.zeros((64, 192, 3), np.uint8)
    image[:, 32:160] = 200
    assert (frames.canvas(image, 64, 128, "crop") == 200).all()
    square = np.full((100, 100, 3), 255, np.uint8)
    fitted = frames.fit(square, 64, 128, "pad")
    assert (fitted[:, 32:96] == 255).all() and not fitted[:, :32].any() and not fitted[:, 96:].any()


def test_squeeze_keeps_all_of_the_picture():
    image = np.zeros((64, 256, 3), np.uint8)
    image[:, 128:] = 255
    fitted = frames.fit(image, 64, 128, "squeeze")
    assert not fitted[:, :64].any() and (fitted[:, 64:] == 255).all()


def test_shrinking_averages_and_a_flat_picture_stays_flat():
    fine = np.indices((8, 8)).sum(0)[..., None].repeat(3, 2) % 2 * 200
    assert (frames.resize(fine.astype(np.uint8), 4, 4) == 100).all()
    flat = np.full((7, 9, 3), 77, np.uint8)
    for size in ((3, 4), (20, 31), (3, 31)):
        assert (frames.resize(flat, *size) == 77).all()
