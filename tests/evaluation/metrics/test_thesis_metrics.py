"""The thesis' metrics equal TensorFlow's arithmetic as the thesis used it, written out in numpy."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

from benchmarks.thesis_metrics import moving_mnist, scores, seen_before, shuffled
from pipeline import frames
from pipeline.evaluation.metrics.image import psnr
from pipeline.evaluation.metrics.thesis_metrics import (
    summarize_repetitions,
    thesis_batches,
    thesis_psnr,
    thesis_scores,
    thesis_ssim,
    thesis_video_input,
    truncated_frames,
    wrap,
)

GREYS = torch.arange(256, dtype=torch.uint8)

# tf.image.psnr(w(drawn), w(true), 255) and tf.image.ssim(...) of `_pictures`, where w is
# p -> tf.cast((((tf.cast(p, tf.float32) / 127.5 - 1) * 0.5) + 1) * 255, tf.uint8).
# Recorded with tensorflow-cpu 2.7.0, Python 3.8.
TENSORFLOW_PSNR = [18.60099983215332, 15.962934494018555, 17.392549514770508, 17.997602462768555]
TENSORFLOW_SSIM = [0.8203325867652893, 0.8199380040168762, 0.8603940010070801, 0.8325735926628113]


def _pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Four drawn and four true pictures, uint8 `4 18 20 3`, without a random number."""
    k, i, j, c = np.ogrid[:4, :18, :20, :3]
    true = (40 * k + 9 * i + 4 * j + 25 * c) % 256
    drawn = (true + (k + 1) * ((i * j + c) % 9 - 4)).clip(0, 255)
    return torch.from_numpy(drawn.astype(np.uint8)), torch.from_numpy(true.astype(np.uint8))


def _cast(x: np.ndarray) -> np.ndarray:
    """float32 in [-1, 1] to what the thesis measured, one float32 operation after the other."""
    one, half, top = np.float32(1), np.float32(0.5), np.float32(255)
    whole = np.trunc((x * half + one) * top)
    return np.fmod(whole, np.float32(256)).astype(np.uint8)


def test_pixel_p_becomes_p_plus_127_modulo_256():
    assert wrap(GREYS).tolist() == [(p + 127) % 256 for p in range(256)]
    as_float = GREYS.numpy().astype(np.float32) / np.float32(127.5) - np.float32(1)
    assert wrap(GREYS).tolist() == _cast(as_float).tolist()
    assert wrap(torch.from_numpy(as_float)).tolist() == wrap(GREYS).tolist()


def test_floats_are_cut_off_and_wrapped():
    """Values of TensorFlow 2.7.0: black, middle grey, the step from 255 to 0, white."""
    x = torch.tensor([-1, -0.999, -0.5, 0.0, 0.00393, 0.1, 0.5, 0.99, 1.0])
    assert wrap(x).tolist() == [127, 127, 191, 255, 255, 11, 62, 125, 126]
    x = np.random.default_rng(0).uniform(-1, 1, 100_000).astype(np.float32)
    assert np.array_equal(wrap(torch.from_numpy(x)).numpy(), _cast(x))


def test_our_rounded_frames_stand_for_a_model_s_floats():
    """Rounding to a pixel and wrapping it is what the thesis' cast does to the float itself."""
    x = torch.rand(50, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    direct = wrap(x).movedim(1, -1)
    assert (wrap(frames.to_uint8(x)) == direct).double().mean() > 0.9999


def test_psnr_and_ssim_equal_tensorflow():
    assert thesis_psnr(*_pictures()).tolist() == pytest.approx(TENSORFLOW_PSNR, abs=1e-5)
    assert thesis_ssim(*_pictures()).tolist() == pytest.approx(TENSORFLOW_SSIM, abs=1e-5)


def test_the_wrap_forgives_white_for_black_and_punishes_one_grey_level():
    black = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    assert float(psnr(black, black + 255)) == pytest.approx(0, abs=1e-5)
    assert float(thesis_psnr(black, black + 255)) == pytest.approx(20 * math.log10(255), abs=1e-4)
    assert float(thesis_psnr(black + 128, black + 129)) == pytest.approx(0, abs=1e-4)


def test_batches_are_full_seeded_and_other_ones_each_time():
    first, second = (thesis_batches(27, repetition, seed=3) for repetition in (0, 1))
    for drawn in (first, second):
        assert [len(batch) for batch in drawn] == [8, 8, 8]
        assert len({k for batch in drawn for k in batch}) == 24
    assert first == thesis_batches(27, 0, seed=3)
    assert first != second and first != thesis_batches(27, 0, seed=4)
    assert {k for r in range(5) for b in thesis_batches(27, r, 3) for k in b} == set(range(27))
    assert thesis_batches(7, 0, seed=0) == [], "fewer clips than a batch"


def test_a_batch_is_cut_to_its_shortest_clip():
    lengths = [9, 25, 15, 9]
    kept = truncated_frames(lengths, np.random.default_rng(0))
    assert [len(its_frames) for its_frames in kept] == [9] * 4
    for its_frames, n in zip(kept, lengths, strict=True):
        assert its_frames[0] == 0 and its_frames[-1] == n - 1
        assert its_frames == sorted(set(its_frames))
    assert kept[0] == list(range(9))
    assert kept != truncated_frames(lengths, np.random.default_rng(1))
    assert truncated_frames([10] * 8, np.random.default_rng(0)) == [list(range(10))] * 8


def test_short_clips_get_grey_frames_in_front():
    clip = torch.arange(1, 7, dtype=torch.uint8)[:, None, None, None].expand(6, 4, 4, 3)
    shown = thesis_video_input(clip)
    assert shown.dtype == torch.uint8 and shown[:, 0, 0, 0].tolist() == [128] * 4 + [2, 3, 4, 5, 6]
    long = clip.repeat(2, 1, 1, 1)
    assert torch.equal(thesis_video_input(long), long[1:])


def test_summary_of_repetitions():
    rows = [{"psnr": 1.0, "ssim": 0.5}, {"psnr": 2.0, "ssim": 0.5}, {"psnr": 6.0, "ssim": 0.5}]
    numbers, reasons = summarize_repetitions(rows)
    assert numbers["psnr"] == pytest.approx({"mean": 3.0, "deviation": math.sqrt(7)})
    assert numbers["ssim"] == pytest.approx({"mean": 0.5, "deviation": 0.0})
    assert reasons == {}
    assert summarize_repetitions(rows[:1])[0]["psnr"] == {"mean": 1.0, "deviation": 0.0}
    assert summarize_repetitions([]) == ({}, {})


def test_infinite_means_are_left_out_with_their_reason():
    drawn, true = _pictures()
    drawn[-1] = true[-1]
    found = {name: float(x.mean()) for name, x in thesis_scores(drawn, true).items()}
    assert math.isinf(found["psnr"])
    numbers, reasons = summarize_repetitions([found, found])
    assert set(numbers) == {"ssim"} and "2 of 2 repetitions" in reasons["psnr"]
    json.dumps(numbers, allow_nan=False)


def test_a_stream_shuffled_through_a_buffer():
    random = np.random.default_rng(0)
    assert sorted(shuffled(500, 100, random)) == list(range(500))
    assert shuffled(500, 1, random).tolist() == list(range(500))
    order = shuffled(500, 100, random)
    assert max(clip - place for place, clip in enumerate(order)) < 100  # no clip comes too early


def test_redrawn_splits_show_the_test_clips_in_training():
    shares = seen_before(4_000, 10, np.random.default_rng(0))  # fewer than the buffer holds
    assert shares[0] == pytest.approx(0.8, abs=0.05) and shares == sorted(shares)
    assert shares[-1] > 0.99


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Strokes as bright and as large as MNIST's digits: uint8 `10 28 28`."""
    images = np.zeros((10, 28, 28), np.uint8)
    for k, image in enumerate(images):
        ends = (6 + k % 3, 5 + k), (20 - k % 4, 22 - k)
        cv2.ellipse(image, (14, 14), (7, 9), 20 * k, 0, 200 + 16 * k, 255, 2, cv2.LINE_AA)
        cv2.line(image, *ends, 255, 2, cv2.LINE_AA)
    return images


def test_moving_digits_go_straight_and_stay_inside(digits):
    still = np.full((2, 28, 28), 255, np.uint8)
    for clip in moving_mnist(still, 20, 20, seed=1):
        assert clip.shape == (20, 64, 64, 3) and clip.dtype == torch.uint8
        lit = clip[..., 0] > 0
        assert 784 <= int(lit[0].sum()) <= 2 * 784  # no part of a digit is cut off
        assert all(784 <= int(frame.sum()) <= 2 * 784 for frame in lit)
        assert not torch.equal(clip[0], clip[1])
    one, same = (next(moving_mnist(digits, 1, 5, seed=2)) for _ in range(2))
    assert torch.equal(one, same)


def test_a_black_video_scores_high_by_the_thesis_metrics(digits):
    """Its own model had 21.99 dB (Table 9): the wrap and the given frame favour black."""
    black = scores(list(moving_mnist(digits, 12, 20, seed=0)))["black"]
    assert black["thesis psnr given"] > 21.99
    assert black["our psnr inner"] < black["thesis psnr given"] - 8
