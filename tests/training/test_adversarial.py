"""Adversarial losses and the adaptive weight, by hand."""

import math

import pytest
import torch

from pipeline.config import AdversarialLoss
from pipeline.training.adversarial import (
    GanLoss,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)

REAL, FAKE = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])


def test_hinge():
    assert float(discriminator_loss(REAL, FAKE, "hinge")) == 0.5 * ((0 + 1) / 2 + (0 + 2) / 2)
    assert float(generator_loss(FAKE, "hinge")) == 0.5


def test_cross_entropy():
    def chance(logit: float) -> float:
        return 1 / (1 + math.exp(-logit))

    real = -(math.log(chance(2)) + math.log(chance(0))) / 2
    fake = -(math.log(1 - chance(-2)) + math.log(1 - chance(1))) / 2
    wanted = 0.5 * (real + fake)
    assert float(discriminator_loss(REAL, FAKE, "cross_entropy")) == pytest.approx(wanted)
    wanted = -(math.log(chance(-2)) + math.log(chance(1))) / 2
    assert float(generator_loss(FAKE, "cross_entropy")) == pytest.approx(wanted)


@pytest.mark.parametrize("kind", ["hinge", "cross_entropy"])
def test_both_players_want_the_opposite(kind):
    low, high = torch.tensor([-0.5]), torch.tensor([0.5])
    assert generator_loss(high, kind) < generator_loss(low, kind)
    assert discriminator_loss(high, low, kind) < discriminator_loss(low, high, kind)


def test_adaptive_weight_is_the_ratio_of_the_gradients_norms():
    ours, theirs = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert adaptive_weight(ours, theirs).item() == pytest.approx(5 / (2 + 1e-6))


def test_adaptive_weight_is_bounded():
    big, none = torch.full((2,), 1e6), torch.zeros(2)
    assert adaptive_weight(big, none).item() == pytest.approx(1e4)
    assert adaptive_weight(none, big).item() == 0.0


SETTINGS = {"loss": "hinge", "factor": 2.0, "iter_start": 10, "weight": 0.3}


@pytest.fixture
def gan(tiny) -> GanLoss:
    torch.manual_seed(0)
    return GanLoss(AdversarialLoss(**SETTINGS), tiny().vqgan.discriminator)


def test_it_begins_at_a_step_with_its_whole_weight(gan):
    assert [gan.active(step) for step in (0, 9, 10, 1000)] == [False, False, True, True]
    assert gan.weight == pytest.approx(0.6)


def test_the_tokenizers_loss_gives_the_discriminator_no_gradient(gan):
    drawn = torch.rand(2, 3, 16, 32, requires_grad=True)
    gan.for_generator(drawn).backward()
    assert drawn.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in gan.parameters())


def test_the_log_says_how_well_the_discriminator_tells_apart(gan):
    images, drawn = torch.rand(2, 3, 16, 32), torch.rand(2, 3, 16, 32)
    total, parts = gan.for_discriminator(drawn, images)
    real, fake = gan.discriminator(images), gan.discriminator(drawn)
    assert total.item() == pytest.approx(discriminator_loss(real, fake, "hinge").item())
    assert parts["accuracy_real"].item() == pytest.approx((real > 0).float().mean().item())
    assert parts["accuracy_fake"].item() == pytest.approx((fake < 0).float().mean().item())
    assert parts["logit_real"].item() == pytest.approx(real.mean().item())
    assert parts["logit_fake"].item() == pytest.approx(fake.mean().item())
