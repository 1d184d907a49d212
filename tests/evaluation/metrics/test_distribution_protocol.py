"""The ruler holds before it judges a model: on true cartoon clips each measure ranks what is known.

Pictures: truth before a light before a strong blur. Clips: truth before cross-fade before a frozen
frame, at the number of clips from which on FVD and KVD are reported as ranking.
"""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ruler
from pipeline.evaluation.distribution import RANKS_FROM
from pipeline.evaluation.metrics.distances import frechet, polynomial_mmd
from pipeline.evaluation.metrics.extractors import VideoFeatures, image_network
from pipeline.evaluation.metrics.perceptual import Perceptual

ROOT = Path(__file__).parents[3]
TOON = Path(os.environ.get("NAKAWARI_DATA", ROOT / "../shared/data")) / "toon"
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    """The networks of this module are large enough to gain from a second core."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[torch.Tensor]:
    """All true clips of all videos, in an order that mixes the videos."""
    if not TOON.is_dir():
        pytest.skip(f"no cartoon clips: NAKAWARI_DATA/toon ({TOON}) is absent")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found = ruler.true_clips(TOON, tmp_path_factory.mktemp("toon"))
    return [found[k] for k in np.random.default_rng(0).permutation(len(found))]


@pytest.fixture(scope="module")
def pictures(clips) -> torch.Tensor:
    return torch.stack([clip[len(clip) // 2] for clip in clips[: RANKS_FROM["fid"]]])


@pytest.fixture(scope="module")
def scores(pictures) -> dict[str, dict[str, float]]:
    networks = {name: Perceptual(name, None, CPU) for name in ("alexnet", "vgg16")}
    return ruler.picture_scores(pictures, networks)


@pytest.mark.parametrize(
    ("measure", "falls"),
    [("psnr", True), ("ssim", True), ("lpips_alexnet", False), ("lpips_vgg16", False),
     ("line_chamfer", False)],
)  # fmt: skip
def test_pictures_rank_truth_light_blur_strong_blur(scores, measure, falls):
    values = [scores[measure][name] for name in ("truth", *ruler.BLURS)]
    assert all((a > b) == falls and a != b for a, b in pairwise(values)), values


def test_frechet_distance_of_pictures_ranks(pictures):
    network = image_network("vgg16", None, CPU)
    worse = [network(ruler.blurred(pictures, deviation)) for deviation in ruler.BLURS.values()]
    order = ruler.set_order(network(pictures), worse, frechet, seed=0)
    assert ruler.ranked(order), order


@pytest.fixture(scope="module")
def features(clips) -> dict[str, np.ndarray]:
    return ruler.clip_features(clips[: RANKS_FROM["fvd"]], VideoFeatures(None, CPU))


@pytest.mark.parametrize(("name", "measure"), [("fvd", frechet), ("kvd", polynomial_mmd)])
def test_distances_of_clips_rank_truth_cross_fade_frozen_frame(features, name, measure):
    n = RANKS_FROM[name]
    worse = [features["cross_fade"][:n], features["frozen"][:n]]
    order = ruler.set_order(features["truth"][:n], worse, measure, seed=0)
    assert ruler.ranked(order), order


def test_ranks_from_takes_no_lucky_number():
    """Right at 16 by chance and wrong at 32 is not right from 16 on."""
    assert ruler.ranks_from({8: 0.2, 16: 1.0, 32: 0.9, 64: 1.0, 96: 1.0}) == 64
    assert ruler.ranks_from({8: 1.0, 16: 0.9}) is None
