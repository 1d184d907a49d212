"""Discriminator: the thesis' shapes, what a logit sees, and its forms."""

import pytest
import torch
from torch import nn

from pipeline.config import Discriminator as Settings
from pipeline.models.vqgan.discriminator import Discriminator

BASE = {"num_layers": 2, "filters": 4, "norm": "none"}


def make(**changes) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(Settings(**BASE | changes))


@pytest.mark.parametrize(
    ("layers", "maps"),
    [
        (2, [(64, 32, 64), (128, 16, 32), (256, 16, 32), (1, 16, 32)]),
        (3, [(64, 32, 64), (128, 16, 32), (256, 8, 16), (512, 8, 16), (1, 8, 16)]),
        (4, [(64, 32, 64), (128, 16, 32), (256, 8, 16), (512, 4, 8), (512, 4, 8), (1, 4, 8)]),
    ],
)
def test_the_thesis_shapes(layers, maps):
    """Table 3: maps `C H W` after each convolution, for pictures of 64x128."""
    judge = make(num_layers=layers, filters=64, norm="batch")
    x, found = torch.zeros(1, 3, 64, 128), []
    for layer in [*judge.layers, *judge.out]:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            found.append(tuple(x.shape[1:]))
    assert found == maps
    images = torch.zeros(1, 3, 64, 128)
    assert judge(images).shape == (1, *maps[-1])


@pytest.mark.parametrize(("layers", "sees"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_the_receptive_field_is_what_the_manual_says(layers, sees):
    judge = make(num_layers=layers, filters=2)
    image = torch.rand(1, 3, 288, 288, requires_grad=True)
    logits = judge(image)[0, 0]
    logits[tuple(n // 2 for n in logits.shape)].backward()
    rows, columns = image.grad.abs().sum((0, 1)).nonzero().T
    assert {int(side.max() - side.min() + 1) for side in (rows, columns)} == {sees}


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_a_logit_depends_on_its_picture_alone(norm):
    judge, images = make(norm=norm), torch.rand(3, 3, 32, 32)
    assert torch.allclose(judge(images)[:1], judge(images[:1]), atol=1e-6)


def test_batch_norm_uses_the_batch_at_hand_in_evaluation_too():
    judge, images = make(norm="batch"), torch.rand(3, 3, 32, 32)
    assert torch.equal(judge.train()(images), judge.eval()(images))
    assert not torch.allclose(judge(images)[:1], judge(images[:1]), atol=1e-6)
    assert not list(judge.buffers()), "no running statistics"
