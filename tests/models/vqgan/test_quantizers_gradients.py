"""Rotation trick: the code as the value, and a gradient that turns with the vector."""

import pytest
import torch

from pipeline.models.vqgan.quantizers.gradients import rotated, straight_through


def random(seed: int, *sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return random(0, 2, 6, 3, 4), random(1, 2, 6, 3, 4)


def pulled_back(features: torch.Tensor, vectors: torch.Tensor, gradient: torch.Tensor):
    features = features.clone().requires_grad_()
    (found,) = torch.autograd.grad(rotated(features, vectors), features, gradient)
    return found


@pytest.mark.parametrize("way", [straight_through, rotated])
def test_value_is_the_code(pair, way):
    assert torch.allclose(way(*pair), pair[1], atol=1e-6)


def test_gradient_keeps_its_angle_and_is_scaled_like_the_vector(pair):
    features, vectors = pair
    gradient = random(2, *features.shape)
    found = pulled_back(features, vectors, gradient)
    scale = vectors.norm(dim=1) / features.norm(dim=1)
    assert torch.allclose(found.norm(dim=1), scale * gradient.norm(dim=1), rtol=1e-4)
    before = torch.cosine_similarity(gradient, vectors, dim=1)
    assert torch.allclose(torch.cosine_similarity(found, features, dim=1), before, atol=1e-5)


def test_what_is_across_both_vectors_is_left_alone():
    """The turn is the shortest: here from x to y, so z only changes its length."""
    features = torch.tensor([2.0, 0.0, 0.0]).view(1, 3, 1, 1)
    vectors = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    for gradient, wanted in (
        ([0.0, 0.0, 1.0], [0.0, 0.0, 0.5]),
        ([0.0, 1.0, 0.0], [0.5, 0.0, 0.0]),
        ([1.0, 0.0, 0.0], [0.0, -0.5, 0.0]),
    ):
        found = pulled_back(features, vectors, torch.tensor(gradient).view(1, 3, 1, 1))
        assert torch.allclose(found.flatten(), torch.tensor(wanted), atol=1e-6)


def test_a_feature_that_is_its_code_gets_the_gradient_as_it_is(pair):
    gradient = random(2, *pair[0].shape)
    found = pulled_back(pair[0], pair[0].clone(), gradient)
    assert torch.allclose(found, gradient, atol=1e-6)


@pytest.mark.parametrize("which", ["features", "vectors", "both"])
def test_zero_vectors_are_passed_straight_through(pair, which):
    features, vectors = (x.clone() for x in pair)
    for x, name in ((features, "features"), (vectors, "vectors")):
        if which in (name, "both"):
            x[0, :, 1, 2] = 0.0
    gradient = random(2, *features.shape)
    assert torch.allclose(rotated(features, vectors), vectors, atol=1e-6)
    found = pulled_back(features, vectors, gradient)
    assert torch.equal(found[0, :, 1, 2], gradient[0, :, 1, 2]) and torch.isfinite(found).all()


@pytest.mark.parametrize(("noise", "turned"), [(0.0, False), (1e-6, False), (0.1, True)])
def test_opposite_vectors_have_no_turn(pair, noise, turned):
    """Nearly opposite ones have, and it keeps lengths."""
    features = 2 * pair[0] / pair[0].norm(dim=1, keepdim=True)
    vectors = -1.5 * features + noise * pair[1]
    gradient = random(2, *features.shape)
    assert torch.allclose(rotated(features, vectors), vectors, atol=1e-6)
    found = pulled_back(features, vectors, gradient)
    scale = vectors.norm(dim=1) / 2 if turned else 1.0
    assert torch.allclose(found.norm(dim=1), scale * gradient.norm(dim=1), rtol=1e-3)
    assert torch.allclose(found, gradient) != turned
