"""Adversarial losses and the adaptive weight, by hand."""

import math

import pytest
import torch
from torch import nn

from pipeline.training.adversarial import adaptive_weight, discriminator_loss, generator_loss

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
    layer = nn.Parameter(torch.ones(2))
    ours = (layer * torch.tensor([3.0, 4.0])).sum()  # gradient of length 5
    theirs = (layer * torch.tensor([0.0, 2.0])).sum()
    weight = adaptive_weight(ours, theirs, layer)
    assert weight.item() == pytest.approx(5 / (2 + 1e-4))
    assert not weight.requires_grad and layer.grad is None
    (ours + weight * theirs).backward()  # both graphs are still there


def test_adaptive_weight_is_bounded():
    layer = nn.Parameter(torch.ones(2))
    assert adaptive_weight(layer.sum() * 1e6, layer.sum() * 0, layer).item() == pytest.approx(1e4)
    assert adaptive_weight(layer.sum() * 0, layer.sum(), layer).item() == 0.0
