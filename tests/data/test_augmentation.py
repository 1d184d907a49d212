"""Augmentation: what it changes, and that it is a function of seed, epoch and row."""

import numpy as np
import pytest

from pipeline.data import augmentation
from pipeline.data.augmentation import augment, random_numbers

PICTURES = np.random.default_rng(0).integers(0, 256, (50, 8, 16, 3), np.uint8)


def test_augmentation_flips_half_and_shows_most_of_the_picture():
    columns = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.broadcast_to(columns[None, :, None], (32, 64, 3))
    seen = augment(np.repeat(image[None], 400, 0), range(400), seed=1, epoch=2)
    assert seen.shape == (400, 32, 64, 3) and seen.dtype == np.uint8
    flipped = seen[:, 0, 0, 0] > seen[:, 0, -1, 0]
    assert 0.4 < flipped.mean() < 0.6
    spread = np.abs(seen[:, 0, -1, 0].astype(int) - seen[:, 0, 0, 0])
    assert spread.min() > 255 * 0.85 and spread.max() < 235  # 64/71 of the width, none stretched
    assert len(np.unique(seen[~flipped, 0, 0, 0])) >= 8  # every place of the crop


@pytest.mark.parametrize(("kind", "size"), [("crop_flip", (72, 142)), ("shift_flip", (72, 144))])
def test_frames_of_the_thesis_size_are_enlarged_as_there(monkeypatch, kind, size):
    """Section 3.1.1: 64x128 to 72x142. Shifted ones get as much of a border."""
    sizes, enlarged = set(), augmentation._enlarged
    monkeypatch.setattr(
        augmentation, "_enlarged", lambda *args: sizes.add(args[1]) or enlarged(*args)
    )
    augment(np.zeros((3, 64, 128, 3), np.uint8), range(3), 1, 2, kind)
    assert sizes == {size}


def test_shift_flip_moves_pixels_and_changes_none():
    rows, columns = np.mgrid[:32, :64].astype(np.uint8)
    image = np.stack([rows, columns, rows], -1)  # every pixel says where it was
    seen = augment(np.repeat(image[None], 400, 0), range(400), 1, 2, "shift_flip").astype(int)
    assert seen.shape == (400, 32, 64, 3)
    assert (np.abs(np.diff(seen[..., 0], axis=1)) == 1).all()
    assert (np.abs(np.diff(seen[..., 1], axis=2)) == 1).all()
    middle = seen[:, 16, 32]
    assert set(middle[:, 0]) == set(range(14, 19))  # shifts of two rows, of four columns
    flipped = seen[:, 0, 31, 1] > seen[:, 0, 32, 1]
    assert 0.4 < flipped.mean() < 0.6
    assert set(middle[~flipped, 1]) == set(range(28, 37))


def test_random_numbers_are_even_and_of_their_row_alone():
    whole = random_numbers(range(20_000), seed=5, epoch=7)
    rows = [19_999, 0, 123]
    assert np.array_equal(random_numbers(rows, 5, 7), whole[rows])
    assert len(np.unique(whole)) == whole.size
    for draw in whole.T:
        counts = np.bincount((draw % np.uint64(9)).astype(int), minlength=9)
        assert abs(counts - 20_000 / 9).max() < 200  # 4.5 standard deviations
        assert abs((draw >> np.uint64(63)).mean() - 0.5) < 0.016
    shares = whole / 2.0**64
    assert abs(np.corrcoef(shares.T) - np.eye(3)).max() < 0.032
    assert abs(np.corrcoef(shares[1:, 0], shares[:-1, 0])[0, 1]) < 0.032


def test_augmentation_depends_on_seed_epoch_and_row_alone():
    rows = list(range(50))
    whole = augment(PICTURES, rows, seed=1, epoch=0)
    assert np.array_equal(augment(PICTURES[20:30], rows[20:30], 1, 0), whole[20:30])
    for seed, epoch in ((2, 0), (1, 1)):
        assert not np.array_equal(augment(PICTURES, rows, seed, epoch), whole)
