"""The metrics hold before they judge a model: each ranks what is known, on drawn images.

Truth before a light before a strong blur. FVD and KVD rank truth, cross-fade and frozen frame from
some number of clips on: benchmarks.metric_ranking measures it on footage (RANKS_FROM).
"""

from itertools import pairwise

import pytest
import torch

from benchmarks import metric_ranking
from pipeline.evaluation.distribution import RANKS_FROM
from pipeline.evaluation.metrics.distances import frechet
from pipeline.evaluation.metrics.extractors import image_network
from pipeline.evaluation.metrics.image import LpipsMetric

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(moving) -> torch.Tensor:
    """Images of the embedded sample's size, all different."""
    clips = [moving(5, seed, 64, 128)[1:3] for seed in range(RANKS_FROM["fid"] // 2)]
    return torch.cat(clips)


def test_images_rank_truth_light_blur_strong_blur(images):
    networks = {name: LpipsMetric(name, CPU) for name in ("alexnet", "vgg16")}
    scores = metric_ranking.picture_scores(images[:8], networks)
    for metric in ("psnr", "ssim", "lpips_alexnet", "lpips_vgg16"):
        values = [scores[metric][name] for name in ("truth", *metric_ranking.BLURS)]
        falls = metric in ("psnr", "ssim")
        assert all((a > b) == falls and a != b for a, b in pairwise(values)), (metric, values)


def test_frechet_distance_of_images_ranks(images):
    network = image_network("vgg16", CPU)
    worse = [
        network(metric_ranking.blurred(images, sigma)) for sigma in metric_ranking.BLURS.values()
    ]
    order = metric_ranking.set_order(network(images), worse, frechet, seed=0)
    assert order[1] < order[2] and order[0] < order[2], order


def test_ranks_from_takes_no_lucky_number():
    """Right at 16 by chance and wrong at 32 is not right from 16 on."""
    ranks_from = metric_ranking.ranks_from
    assert ranks_from({8: 0.2, 16: 1.0, 32: 0.9, 64: 1.0, 96: 1.0}) == 64
    assert ranks_from({8: 1.0, 16: 0.9}) is None
