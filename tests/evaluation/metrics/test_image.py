"""PSNR and SSIM equal scikit-image's; LPIPS passes each distinct image through once."""

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline import frames
from pipeline.evaluation.metrics.image import LpipsMetric, psnr, ssim
from pipeline.models.pretrained.lpips import Lpips

WHITE = torch.full((2, 16, 20, 3), 255, dtype=torch.uint8)


@pytest.fixture(scope="module")
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Six pictures and six more or less like them: noise from little to only noise."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 256, (6, 24, 37, 3), generator=generator)
    truth[0] = torch.arange(24).view(-1, 1, 1) * 10  # smooth
    truth[1], truth[2] = 200, 254  # flat and bright: where float32 runs out of digits
    noise = torch.randint(-128, 129, truth.shape, generator=generator)
    strength = torch.tensor([0.02, 0.05, 0.02, 0.2, 0.5, 1.0]).view(-1, 1, 1, 1)
    return (truth + noise * strength).round().clamp(0, 255).byte(), truth.byte()


def test_psnr_equals_scikit_image(pairs):
    for image, true, value in zip(*pairs, psnr(*pairs), strict=True):
        wanted = peak_signal_noise_ratio(true.numpy(), image.numpy(), data_range=255)
        assert float(value) == pytest.approx(wanted, abs=1e-4)


def test_ssim_equals_scikit_image(pairs):
    for image, true, value in zip(*pairs, ssim(*pairs), strict=True):
        wanted = structural_similarity(
            true.numpy(),
            image.numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=-1,
        )
        assert float(value) == pytest.approx(wanted, abs=1e-4)


def test_psnr_by_hand():
    five_off = WHITE - 5
    assert psnr(five_off, WHITE).tolist() == pytest.approx([20 * math.log10(255 / 5)] * 2)


def test_equal_pictures_reach_the_cap_and_one(pairs):
    assert psnr(pairs[1], pairs[1]).tolist() == [60.0] * 6
    assert ssim(pairs[1], pairs[1]).tolist() == pytest.approx([1.0] * 6, abs=1e-5)


def test_no_picture_is_above_the_cap():
    almost = WHITE.repeat(1, 40, 40, 1)
    truth = almost.clone()
    almost[0, 0, 0, 0] = 254
    assert psnr(almost, truth)[0] == 60.0


def test_black_against_white_is_zero():
    black = torch.zeros_like(WHITE)
    assert psnr(black, WHITE).tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert 0 <= float(ssim(black, WHITE)[0]) < 1e-3


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_a_picture_counts_alone_and_both_ways(pairs, measure):
    together = measure(*pairs)
    alone = torch.cat([measure(a[None], b[None]) for a, b in zip(*pairs, strict=True)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, measure(*reversed(pairs)), atol=1e-5)


def test_ssim_refuses_pictures_smaller_than_its_window():
    small = WHITE[:, :10]
    with pytest.raises(ValueError, match="at least 11"):
        ssim(small, small)


@pytest.fixture(scope="module")
def lpips() -> LpipsMetric:
    """With random weights: what is tested here is not what the network sees."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lpips, "pretrained", classmethod(lambda cls, network: cls(network)))
        return LpipsMetric("alexnet", torch.device("cpu"))


def test_lpips_of_a_clip_with_held_drawings(lpips, moving):
    held = moving(6, 3, 32, 64)[[0, 0, 1, 2, 2, 2, 3, 4, 5]]  # six drawings, nine frames
    other = moving(9, 4, 32, 64)
    features = lpips.features(held)
    assert all(len(level) == 6 for level in features.maps)
    assert features.index.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 5]
    distance = lpips.distance(features, lpips.features(other))
    wanted = lpips.lpips(frames.to_float(held), frames.to_float(other))
    assert distance.shape == (9,) and torch.allclose(distance, wanted, atol=1e-5)
    back = lpips.distance(lpips.features(other), features)
    assert torch.allclose(distance, back, atol=1e-6)
    assert lpips.distance(features, lpips.features(held.clone())).tolist() == [0] * 9
