"""Discriminator: the thesis' shapes, what a logit sees, and its forms."""

import pytest
import torch
from torch import nn

from pipeline.config import Discriminator as Settings
from pipeline.models.vqgan.discriminator import Discriminator

BASE = {
    "num_layers": 2,
    "filters": 4,
    "norm": "none",
    "output": "patch",
    "input_scale": 1,
    "paired": False,
}


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
    assert judge(images, images).shape == (1, *maps[-1])


def test_the_thesis_enlarged_input(thesis):
    """Pictures of 64x128 enlarged to 256x512, the true one beside."""
    judge = Discriminator(thesis.vqgan.discriminator)
    images = torch.zeros(1, 3, 64, 128)
    assert judge.layers[0].in_channels == 6 and judge(images, images).shape == (1, 1, 32, 64)


@pytest.mark.parametrize(
    ("layers", "scale", "sees"),
    [(1, 1, 16), (2, 1, 34), (3, 1, 70), (4, 1, 142), (2, 2, 17), (3, 4, 18)],
)
def test_the_receptive_field_is_what_the_settings_say(layers, scale, sees):
    judge = make(num_layers=layers, input_scale=scale, filters=2)
    image = torch.rand(1, 3, 288, 288, requires_grad=True)
    logits = judge(image, image.detach())[0, 0]
    logits[tuple(n // 2 for n in logits.shape)].backward()
    rows, columns = image.grad.abs().sum((0, 1)).nonzero().T
    found = {int(side.max() - side.min() + 1) for side in (rows, columns)}
    settings = Settings(**BASE | {"num_layers": layers, "input_scale": scale})
    assert settings.receptive_field == sees
    # an enlarged pixel is whole or not: a window may touch one more than it is wide
    assert max(found) in ({sees} if scale == 1 else {sees, sees + 1})


def test_a_single_output_is_one_a_picture_of_any_size():
    judge = make(output="single")
    for side in (32, 48):
        images = torch.rand(3, 3, side, side)
        assert judge(images, images).shape == (3, 1)


def test_a_paired_one_looks_at_the_truth_too():
    images, truth = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    for paired in (False, True):
        judge = make(paired=paired)
        same = torch.equal(judge(images, truth), judge(images, images))
        assert same != paired


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_a_logit_depends_on_its_picture_alone(norm):
    judge, images = make(norm=norm), torch.rand(3, 3, 32, 32)
    assert torch.allclose(judge(images, images)[:1], judge(images[:1], images[:1]), atol=1e-6)


def test_batch_norm_uses_the_batch_at_hand_in_evaluation_too():
    judge, images = make(norm="batch"), torch.rand(3, 3, 32, 32)
    assert torch.equal(judge.train()(images, images), judge.eval()(images, images))
    assert not torch.allclose(judge(images, images)[:1], judge(images[:1], images[:1]), atol=1e-6)
    assert not list(judge.buffers()), "no running statistics"
