"""LPIPS of clips: each different picture is seen once, distances are those of all frames."""

import pytest
import torch

from pipeline import frames
from pipeline.evaluation.metrics.perceptual import Perceptual
from pipeline.models.pretrained.lpips import Lpips


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    """With random weights: what is tested here is not what the network sees."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lpips, "pretrained", classmethod(lambda cls, network, _: cls(network)))
        return Perceptual("alexnet", None, torch.device("cpu"))


@pytest.fixture
def held(moving) -> torch.Tensor:
    """Six drawings of which some are held: nine frames."""
    return moving(6, 3, 32, 64)[[0, 0, 1, 2, 2, 2, 3, 4, 5]]


def test_distances_are_those_of_every_frame(perceptual, held, moving):
    other = moving(9, 4, 32, 64)
    found = perceptual.distance(perceptual.see(held), perceptual.see(other))
    wanted = perceptual.lpips(frames.to_float(held), frames.to_float(other))
    assert found.shape == (9,) and torch.allclose(found, wanted, atol=1e-5)


def test_each_different_picture_is_seen_once(perceptual, held):
    seen = perceptual.see(held)
    assert all(len(level) == 6 for level in seen.maps)
    assert seen.index.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 5]


def test_equal_clips_have_no_distance(perceptual, held):
    assert (
        perceptual.distance(perceptual.see(held), perceptual.see(held.clone())).tolist() == [0] * 9
    )


def test_order_of_the_two_does_not_matter(perceptual, held):
    one, other = perceptual.see(held), perceptual.see(held.flip(0))
    forth, back = perceptual.distance(one, other), perceptual.distance(other, one)
    assert torch.allclose(forth, back, atol=1e-6) and torch.allclose(
        forth, forth.flip(0), atol=1e-6
    )
