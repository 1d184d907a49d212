"""FSQ: codes and grid are one to one, the paper's numbers, and the scale that start measures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

LEVELS = st.lists(st.integers(2, 16), min_size=1, max_size=5).filter(lambda x: math.prod(x) < 5000)


@settings(max_examples=40, deadline=None)
@given(levels=LEVELS, scale=st.floats(0.01, 100.0), middle=st.floats(-50.0, 50.0))
def test_codes_and_grid_are_one_to_one(quantizer, levels, scale, middle):
    made = quantizer("fsq", fsq_levels=levels).eval()
    made.reach.fill_(scale)
    made.middle.fill_(middle)
    codebook = made.codebook
    assert codebook.shape == (math.prod(levels), len(levels))
    assert len(codebook.unique(dim=0)) == len(codebook)
    every = torch.arange(made.size).view(1, 1, -1)
    # What is bounded to the very middle of a cell comes back as its code.
    inside = ((made.grid - made.width + made.offset) / made.amplitude).clamp(-0.9999, 0.9999)
    features = (torch.atanh(inside) - made.shift) * scale + middle
    found = made(features.T.view(1, len(levels), 1, -1), torch.Generator())
    assert torch.equal(found.codes, every)
    assert torch.allclose(made.lookup(every), found.vectors, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("levels", [[2], [2, 2, 2], [3], [8, 5, 5, 5], [256, 256]])
def test_every_level_can_be_reached_and_none_beyond(quantizer, levels):
    made = quantizer("fsq", fsq_levels=levels).eval()
    line = torch.linspace(-12, 12, 20_001).expand(1, len(levels), 1, -1)
    found = made(line, torch.Generator())
    assert found.codes[0, 0, 0] == 0 and found.codes[0, 0, -1] == made.size - 1
    for d, count in enumerate(levels):
        values = found.vectors[0, d].unique().mul(count // 2).round().unique()
        assert torch.equal(values, torch.arange(count) - float(count // 2))


def test_numbers_by_hand(quantizer):
    made = quantizer("fsq", fsq_levels=[5, 3]).eval()
    features = torch.tensor([[0.0, 0.0], [9.0, 9.0], [-9.0, 0.3], [0.6, -9.0]])
    found = made(features.T.view(1, 2, 1, 4), torch.Generator())
    vectors = [[0.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [0.5, -1.0]]  # 2 tanh(0.6) = 1.07
    assert torch.allclose(found.vectors[0, :, 0].T, torch.tensor(vectors))
    assert found.codes.flatten().tolist() == [2 + 5 * 1, 4 + 5 * 2, 0 + 5 * 1, 3 + 5 * 0]


@pytest.mark.parametrize("levels", [[2, 2], [4, 4], [5, 5], [8, 16]])
def test_zero_stays_zero(quantizer, levels):
    """The shift of even levels keeps 0 on the grid."""
    found = quantizer("fsq", fsq_levels=levels)(torch.zeros(1, 2, 1, 1), torch.Generator())
    assert found.vectors.abs().max() == 0


def test_gradient_is_that_of_the_bound(quantizer, seeded):
    """Rounding is passed straight through: 2 tanh(x) / 2 has the slope 1 - tanh(x)^2."""
    made = quantizer("fsq", fsq_levels=[5, 5])
    features = torch.randn(1, 2, 3, 3, generator=seeded()).requires_grad_()
    found = made(features, seeded())
    found.vectors.sum().backward()
    wanted = (1 - 1e-3) * (1 - features.detach().tanh() ** 2)
    assert torch.allclose(features.grad, wanted, atol=1e-6)
    assert float(found.commitment_loss) == float(found.codebook_loss) == 0.0


def test_scale_and_middle_of_the_features_are_those_of_the_output(quantizer, seeded):
    made = quantizer("fsq", fsq_levels=[8, 8])
    vectors = torch.randn(2000, 2, generator=seeded()) * torch.tensor([10.0, 0.5]) + 30.0
    made.start(vectors, seeded())
    features = vectors.T.view(1, 2, 20, 100).requires_grad_()
    found = made(features, seeded())
    found.vectors.sum().backward()
    assert torch.allclose(found.vectors.mean((0, 2, 3)), vectors.mean(0), rtol=0.02)
    assert features.grad.max() <= 1.0, "the scale cancels out of the gradient"
    assert torch.equal(made.lookup(found.codes), made.codebook[found.codes].movedim(-1, 1))


def test_dimensions_that_do_not_vary_yet_stay_finite(quantizer, seeded):
    made = quantizer("fsq", fsq_levels=[4, 4])
    made.start(torch.zeros(50, 2), seeded())
    found = made(torch.zeros(1, 2, 2, 2), seeded())
    assert torch.isfinite(found.vectors).all() and made.reach.min() > 0
