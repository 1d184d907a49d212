"""Moving average of weights: by hand, and that it is calmer than what it follows."""

import pytest
import torch
from torch import nn

from pipeline.training.ema import Averaged


def test_by_hand():
    network = nn.Linear(1, 1, bias=False)
    network.register_buffer("seen", torch.tensor(3))
    averaged = Averaged(network, 0.5)
    with torch.no_grad():
        network.weight.fill_(2.0)
        averaged.network.weight.fill_(1.0)
    network.seen.fill_(7)
    averaged.follow(network)  # the decay of the first update is 2 / 11
    assert averaged.network.weight.item() == pytest.approx(1 * 2 / 11 + 2 * 9 / 11)
    assert averaged.network.seen == 7, "whole numbers are copied"
    for _ in range(20):
        averaged.follow(network)
    before = averaged.network.weight.item()
    with torch.no_grad():
        network.weight.fill_(4.0)
    averaged.follow(network)
    assert averaged.network.weight.item() == pytest.approx((before + 4) / 2), "the full decay"


def test_it_is_calmer_and_has_no_gradient():
    torch.manual_seed(0)
    network = nn.Linear(4, 4)
    averaged = Averaged(network, 0.99)
    ours, theirs = [], []
    for _ in range(500):
        with torch.no_grad():
            network.weight.normal_()
        averaged.follow(network)
        ours.append(averaged.network.weight.clone())
        theirs.append(network.weight.clone())
    assert torch.stack(ours[100:]).std() < 0.2 * torch.stack(theirs[100:]).std()
    assert not any(p.requires_grad for p in averaged.parameters())


def test_its_state_comes_back():
    network = nn.Linear(2, 2)
    one, other = Averaged(network, 0.9), Averaged(nn.Linear(2, 2), 0.9)
    one.follow(nn.Linear(2, 2))
    other.load_state_dict(one.state_dict())
    assert other.updates == 1 and torch.equal(other.network.weight, one.network.weight)
