"""Distances of sets in an evaluation: who is compared with whom, floors, reasons, damage."""

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.evaluation.distribution import (
    FEWEST,
    RANKS_FROM,
    TokenizerSets,
    VideoSets,
    move_unranked,
)
from pipeline.evaluation.metrics.distances import frechet
from pipeline.evaluation.metrics.image import psnr
from pipeline.evaluation.summary import Remarks
from pipeline.models.pretrained.i3d import LEAST_FRAMES


class Means:
    """In the place of a network: means of the first and last frame's channels, and of all."""

    name, dim = "means", 9

    def __call__(self, frames: torch.Tensor) -> np.ndarray:
        x = frames.double().mean((1, 2))  # T 3
        return torch.cat([x[0], x[-1], x.mean(0)]).numpy().astype(np.float32)


class ImageMeans(Means):
    name, dim = "means", 3

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        return images.double().mean((1, 2)).numpy().astype(np.float32)  # B 3


@pytest.fixture
def clips() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    length = LEAST_FRAMES + 2
    low = torch.randint(0, 200, (24, 1, 1, 1, 3), generator=random)
    noise = torch.randint(0, 40, (24, length, 4, 4, 3), generator=random)
    return list((low + noise).byte())


def video_sets(*methods: str) -> VideoSets:
    return VideoSets(Means(), methods)


def test_the_truth_lies_at_its_floor_and_worse_above(clips):
    sets, remarks = video_sets("model", "black"), Remarks()
    for k, clip in enumerate(clips):
        sets.add(str(k), clip, {"model": clip, "black": torch.zeros_like(clip)})
    found = sets.numbers(1, remarks)
    for measure in ("fvd", "kvd"):
        model, black = found["model"], found["black"]
        assert model[measure] == pytest.approx(model[f"{measure}_floor"])
        assert black[measure] > black[f"{measure}_floor"] == model[f"{measure}_floor"]
        assert model[f"{measure}_n"] == 24
    assert remarks.warnings == ["FVD of 24 clips, fewer than 256: read it beside its floor only"]


def test_given_frames_are_not_looked_at(clips):
    sets = video_sets("model")
    other = clips[0].clone()
    other[[0, -1]] = 255 - other[[0, -1]]
    for clip in (clips[0], other):
        sets.add("a", clip, {"model": clip})
    assert np.array_equal(*sets.rows["truth"]) and np.array_equal(*sets.rows["model"])


def test_short_clips_are_counted_and_too_few_are_said(clips):
    sets, remarks = video_sets("model"), Remarks()
    for k, clip in enumerate(clips):
        shown = clip if k < FEWEST - 1 else clip[:-1]
        sets.add(str(k), shown, {"model": shown})
    assert sets.numbers(1, remarks) == {}
    assert f"{FEWEST - 1} clips of at least 9 inner frames" in remarks.left_out["fvd"]
    assert set(remarks.left_out) == {"fvd", "kvd"} and "17 clips with fewer" in remarks.warnings[0]


def test_features_that_are_no_numbers_name_the_clip(clips):
    sets = VideoSets(lambda clip: np.full(9, np.nan), ("model",))
    with pytest.raises(UserError, match=r"clip the-seventh: .* of truth are no finite numbers"):
        sets.add("the-seventh", clips[0], {"model": clips[0]})


def measure_tokenizer(model, clips, network, remarks) -> tuple[dict, np.ndarray]:
    sets = TokenizerSets(model, None, network)
    for clip in clips:  # of six frames: all four inner ones are measured
        sets.add(clip)
    return sets.numbers(1, remarks)


@pytest.fixture
def little(moving) -> list[torch.Tensor]:
    return [moving(6, seed) for seed in range(6)]


@pytest.mark.parametrize("context", ["keyframes", "none"])
def test_tokenizer_by_hand(tiny, untrained, little, context):
    model, remarks = untrained(tiny({"vqgan.context": context})), Remarks()
    means = ImageMeans()
    numbers, counts = measure_tokenizer(model, little, means, remarks)
    trips = [model.round_trip(clip) for clip in little]
    ids = torch.cat([ids.flatten() for _, ids in trips])
    assert counts.tolist() == torch.bincount(ids, minlength=16).tolist()
    share = counts[counts > 0] / counts.sum()
    assert numbers["perplexity"] == pytest.approx(np.prod(share**-share))
    assert numbers["codebook_usage"] == (counts > 0).mean() and numbers["n"] == 24
    scores = [psnr(images, clip[1:-1]) for (images, _), clip in zip(trips, little, strict=True)]
    assert numbers["psnr"] == pytest.approx(float(torch.cat(scores).mean()))
    generated = means(torch.cat([images for images, _ in trips]))
    truth = means(torch.cat([clip[1:-1] for clip in little]))
    assert numbers["fid_means"] == pytest.approx(frechet(generated, truth))
    assert min(numbers["fid_means_half"], numbers["fid_means_floor"]) > numbers["fid_means"] > 0
    assert numbers["fid_means_n"] == 24


def test_few_images_leave_the_fid_out_with_its_reason(tiny, untrained, little):
    model, remarks = untrained(tiny()), Remarks()
    numbers, _ = measure_tokenizer(model, little[:1], ImageMeans(), remarks)
    assert not [key for key in numbers if key.startswith("fid")]
    assert remarks.left_out == {"fid_means": f"4 test images, at least {FEWEST} needed"}


def test_damaged_image_features_are_said(tiny, untrained, little):
    broken = ImageMeans()
    broken.__class__ = type("Bad", (ImageMeans,), {"__call__": lambda *_: np.full((4, 3), np.nan)})
    with pytest.raises(UserError, match=r"fid_means: .* no finite numbers"):
        measure_tokenizer(untrained(tiny()), little, broken, Remarks())


def distance(name: str, n: int) -> dict:
    beside = {"deviation": 0.2, "floor": 1.0, "floor_deviation": 0.1, "n": n}
    return {name: 3.0} | {f"{name}_{key}": value for key, value in beside.items()}


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize(
    ("name", "place", "more"),
    [("fvd", "inbetween", {}), ("kvd", "inbetween", {}),
     ("fid_vgg16", "tokenizer", {"fid_vgg16_half": 4.0})],
)  # fmt: skip
def test_distances_of_too_few_samples_do_not_rank(name, place, more, missing):
    numbers = distance(name, RANKS_FROM[name.split("_")[0]] - missing) | more
    details = {"tokenizer": {"psnr": 20.0}, "inbetween": {"psnr": 20.0}, "baselines": {}}
    details[place] |= numbers
    move_unranked(details)
    if missing:
        assert details["unranked"] == {place: numbers} and details[place] == {"psnr": 20.0}
    else:
        assert details[place] == {"psnr": 20.0} | numbers and "unranked" not in details
