"""Adversarial losses and the adaptive weight, by hand."""

import math

import pytest
import torch

from pipeline.params import AdversarialLoss
from pipeline.training.adversarial import (
    Adversary,
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
    assert adaptive_weight(ours, theirs).item() == pytest.approx(5 / (2 + 1e-4))


def test_adaptive_weight_is_bounded():
    big, none = torch.full((2,), 1e6), torch.zeros(2)
    assert adaptive_weight(big, none).item() == pytest.approx(1e4)
    assert adaptive_weight(none, big).item() == 0.0


RULES = {
    "loss": "hinge",
    "factor": 2.0,
    "iter_start": 10,
    "discriminator_start": 4,
    "ramp_steps": 4,
    "weighting": "fixed",
    "weight": 0.3,
    "lecam_weight": 0.0,
    "feature_matching": 0.0,
    "back_off_psnr": 1.0,
    "back_off_accuracy": 0.9,
}


@pytest.fixture
def adversary(tiny):
    def make(**changes) -> Adversary:
        torch.manual_seed(0)
        return Adversary(AdversarialLoss(**RULES | changes), tiny().vqgan.discriminator)

    return make


def test_the_weight_begins_late_and_rises(adversary):
    found = [adversary().weight(step) for step in (0, 9, 10, 11, 13, 14, 1000)]
    assert found[:2] == [None, None]
    assert [float(w) for w in found[2:]] == pytest.approx([0.15, 0.3, 0.6, 0.6, 0.6])
    assert float(adversary(ramp_steps=0).weight(10)) == pytest.approx(0.6)
    assert [adversary().learns(step) for step in (3, 4)] == [False, True]


def test_the_tokenizers_loss_gives_the_discriminator_no_gradient(adversary):
    one = adversary()
    drawn = torch.rand(2, 3, 16, 32, requires_grad=True)
    one.fooled(drawn, torch.rand(2, 3, 16, 32))[0].backward()
    assert drawn.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in one.parameters())


def test_lecam_pulls_each_kind_to_the_others_average(adversary):
    images, drawn = torch.rand(2, 3, 16, 32), torch.rand(2, 3, 16, 32)
    plain, held = adversary(), adversary(lecam_weight=0.5)
    for one in (plain, held):
        one.real_logit.fill_(0.7)
        one.fake_logit.fill_(-0.2)
    total, parts = held.loss(images, drawn)
    real, fake = held.discriminator(images, images), held.discriminator(drawn, images)
    apart = (real + 0.2).square().mean() + (fake - 0.7).square().mean()
    assert parts["lecam"].item() == pytest.approx(apart.item(), rel=1e-5)
    assert total.item() == pytest.approx((plain.loss(images, drawn)[0] + 0.5 * apart).item())


def test_features_of_the_discriminator_tell_the_tokenizer_what_is_missing(adversary):
    plain, told = adversary(), adversary(feature_matching=10.0)
    images, drawn = torch.rand(2, 3, 16, 32), torch.rand(2, 3, 16, 32)
    verdict, parts = plain.fooled(drawn, images)
    assert parts.keys() == {"adversarial"}
    loss, parts = told.fooled(drawn, images)
    pairs = zip(
        *(told.discriminator.judge(side, images)[1] for side in (drawn, images)), strict=True
    )
    wanted = sum(float((a - b).abs().mean().detach()) for a, b in pairs) / 2  # two layers
    assert parts["feature_matching"].item() == pytest.approx(wanted, rel=1e-5)
    assert loss.item() == pytest.approx(verdict.item() + 10 * wanted, rel=1e-5)
    same = told.fooled(images, images)[1]["feature_matching"]
    assert same.item() == 0


def test_averages_follow(adversary):
    one = adversary()
    parts = {"logit_real": 2.0, "logit_fake": -1.0, "accuracy_real": 1.0, "accuracy_fake": 0.5}
    for _ in range(1000):
        one.follow({name: torch.tensor(value) for name, value in parts.items()})
    assert float(one.real_logit) == pytest.approx(2, abs=1e-3)
    assert float(one.fake_logit) == pytest.approx(-1, abs=1e-3)
    assert float(one.accuracy) == pytest.approx(0.75, abs=1e-3)


def test_it_backs_off_when_pictures_get_worse_and_says_so(adversary):
    one = adversary()
    assert one.balance(25.0, 5) is None and one.balance(20.0, 10) is None, "not begun yet"
    assert one.balance(24.1, 20) is None, "within the limit"
    told = one.balance(23.5, 30)
    assert "0.5 of its value at step 30" in told and "1.50 dB below the best, 25.00" in told
    assert float(one.weight(1000)) == pytest.approx(0.3)
    assert one.balance(25.5, 40) is None and "0.25" in one.balance(24.0, 50)
    never = adversary(back_off_psnr=0.0)
    never.balance(25.0, 5)
    assert never.balance(2.0, 50) is None


def test_it_backs_off_when_the_discriminator_wins(adversary):
    one = adversary()
    one.accuracy.fill_(0.95)
    assert "95.0%" in one.balance(25.0, 20) and float(one.strength) == 0.5
    silent = adversary(back_off_accuracy=0.0)
    silent.accuracy.fill_(1.0)
    assert silent.balance(25.0, 20) is None


def test_the_balance_is_saved_with_the_weights(adversary):
    one, other = adversary(), adversary()
    one.accuracy.fill_(0.95)
    one.balance(25.0, 20)
    other.load_state_dict(one.state_dict())
    assert float(other.strength) == 0.5 and float(other.best_psnr) == 25.0
