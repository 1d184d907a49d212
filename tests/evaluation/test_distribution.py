"""Distances of sets in an evaluation: who is compared with whom, floors, reasons, damage."""

import numpy as np
import pytest
import torch

from pipeline.data.datasets import Clip
from pipeline.errors import UserError
from pipeline.evaluation.distribution import (
    FEWEST,
    Extractor,
    ImageTools,
    VideoSets,
    measure_tokenizer,
)
from pipeline.evaluation.metrics.distances import frechet
from pipeline.evaluation.metrics.extractors import FeatureStore
from pipeline.evaluation.metrics.image import psnr
from pipeline.evaluation.warnings import Notes
from pipeline.models.pretrained.i3d import LEAST_FRAMES


class Means:
    """In the place of a network: means of the first and last frame's channels, and of all."""

    name, dim, tag = "means", 9, "means-1"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frames: torch.Tensor) -> np.ndarray:
        self.calls += 1
        x = frames.double().mean((1, 2))  # T 3
        return torch.cat([x[0], x[-1], x.mean(0)]).numpy().astype(np.float32)


class PictureMeans(Means):
    name, dim, tag = "means", 3, "means-2"

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        return images.double().mean((1, 2)).numpy().astype(np.float32)  # B 3


@pytest.fixture
def clips() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    length = LEAST_FRAMES + 2
    low = torch.randint(0, 200, (24, 1, 1, 1, 3), generator=random)
    noise = torch.randint(0, 40, (24, length, 4, 4, 3), generator=random)
    return list((low + noise).byte())


def video_sets(tmp_path, *wanted: str) -> VideoSets:
    return VideoSets(Extractor(Means(), FeatureStore(tmp_path)), wanted)


def test_the_truth_lies_at_its_floor_and_worse_above(clips, tmp_path):
    sets, notes = video_sets(tmp_path, "model", "black"), Notes()
    for k, clip in enumerate(clips):
        sets.add(str(k), clip, {"model": clip, "black": torch.zeros_like(clip)})
    found = sets.numbers(20, 1, notes)
    for measure in ("fvd", "kvd"):
        model, black = found["model"], found["black"]
        assert model[measure] == pytest.approx(model[f"{measure}_floor"])
        assert black[measure] > black[f"{measure}_floor"] == model[f"{measure}_floor"]
        assert model[f"{measure}_n"] == 24
    assert notes.warnings == ["FVD of 24 clips, fewer than 256: read it beside its floor only"]


def test_features_of_true_clips_are_computed_once(clips, tmp_path):
    for k, calls in ((0, 2 * 24), (1, 24)):
        sets = video_sets(tmp_path, "model")
        for number, clip in enumerate(clips):
            sets.add(str(number), clip, {"model": 255 - clip})
        assert sets.features.network.calls == calls, k


def test_given_frames_are_not_looked_at(clips, tmp_path):
    sets = video_sets(tmp_path, "model")
    other = clips[0].clone()
    other[[0, -1]] = 255 - other[[0, -1]]
    for clip in (clips[0], other):
        sets.add("a", clip, {"model": clip})
    assert np.array_equal(*sets.rows["truth"]) and np.array_equal(*sets.rows["model"])


def test_short_clips_are_counted_and_too_few_are_said(clips, tmp_path):
    sets, notes = video_sets(tmp_path, "model"), Notes()
    for k, clip in enumerate(clips):
        shown = clip if k < FEWEST - 1 else clip[:-1]
        sets.add(str(k), shown, {"model": shown})
    assert sets.numbers(20, 1, notes) == {}
    assert f"{FEWEST - 1} clips of at least 9 inner frames" in notes.left_out["fvd"]
    assert set(notes.left_out) == {"fvd", "kvd"} and "17 clips with fewer" in notes.warnings[0]


def test_features_that_are_no_numbers_name_the_clip(clips, tmp_path):
    sets = video_sets(tmp_path, "model")
    sets.features.network.__class__ = type(
        "Bad", (Means,), {"__call__": lambda *_: np.full(9, np.nan)}
    )
    with pytest.raises(UserError, match=r"clip the-seventh: .* of truth are no finite numbers"):
        sets.add("the-seventh", clips[0], {"model": clips[0]})


class Clips:
    """As ClipSet: clips of six frames, of which all four inner ones are measured."""

    def __init__(self, clips: list[torch.Tensor]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> Clip:
        return Clip(f"c{number}", self.clips[number])


@pytest.fixture
def little(moving) -> list[torch.Tensor]:
    return [moving(6, seed) for seed in range(6)]


@pytest.mark.parametrize("context", ["keyframes", "none"])
def test_tokenizer_by_hand(tiny, untrained, little, tmp_path, context):
    model, notes = untrained(tiny({"vqgan.context": context})), Notes()
    tools = ImageTools(None, Extractor(PictureMeans(), FeatureStore(tmp_path)), 4, 1)
    numbers, uses = measure_tokenizer(model, Clips(little), tools, notes)
    trips = [model.round_trip(clip) for clip in little]
    ids = torch.cat([ids.flatten() for _, ids in trips])
    assert uses.tolist() == torch.bincount(ids, minlength=16).tolist()
    share = uses[uses > 0] / uses.sum()
    assert numbers["perplexity"] == pytest.approx(np.prod(share**-share))
    assert numbers["codebook_usage"] == (uses > 0).mean() and numbers["n"] == 24
    scores = [psnr(shown, clip[1:-1]) for (shown, _), clip in zip(trips, little, strict=True)]
    assert numbers["psnr"] == pytest.approx(float(torch.cat(scores).mean()))
    assert numbers["fid_means"] == pytest.approx(frechet(tools.drawn_features, tools.true_features))
    assert min(numbers["fid_means_half"], numbers["fid_means_floor"]) > numbers["fid_means"] > 0
    assert numbers["fid_means_n"] == 24


def test_few_pictures_leave_the_fid_out_with_its_reason(tiny, untrained, little, tmp_path):
    notes = Notes()
    tools = ImageTools(None, Extractor(PictureMeans(), FeatureStore(tmp_path)), 4, 1)
    numbers, _ = measure_tokenizer(untrained(tiny()), Clips(little[:1]), tools, notes)
    assert not [key for key in numbers if key.startswith("fid")]
    assert "4 test pictures" in notes.left_out["fid_means"]
