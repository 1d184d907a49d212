"""Clips: pictures in, frames out, whatever the model's context."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import previous_settings
import pytest
import torch

from pipeline import runtime
from pipeline.errors import UserError
from pipeline.inference import hub
from pipeline.inference.clip import Clip, check_memory, conversions
from pipeline.inference.keyframes import last_step, segments
from pipeline.models.gpt.sampling import GREEDY
from pipeline.models.vqgan.previous import STAYS

CONTEXTS = [None, {"vqgan.context": "none"}, previous_settings.settings()]


def drawn_clip(models: Path, n_frames: int) -> Clip:
    images = {n: np.full((30, 50, 3), 90 + n, np.uint8) for n in (0, n_frames - 1)}
    return Clip(hub.from_pretrained(models), images, segments(images), (30, 50))


@pytest.mark.parametrize("context", CONTEXTS, ids=["keyframes", "none", "previous"])
def test_a_clip_with_alpha_of_any_model(tmp_path, saved_models, monkeypatch, context):
    model = hub.from_pretrained(saved_models(tmp_path / "models", context))
    images = {0: np.full((30, 50, 4), 90, np.uint8), 4: np.full((30, 50, 4), 99, np.uint8)}
    clip = Clip(model, images, segments(images), (30, 50))
    check_memory(clip, 0)
    lines = conversions(clip, images, 1)
    assert [line for line in lines if "warps no keyframes" in line] == lines[: bool(context)]
    drawn = [*clip.frames(clip.token_ids(GREEDY, torch.Generator()), lambda n: None)]
    assert {image.shape for image in drawn} == {(30, 50, 3 if context else 4)}
    monkeypatch.setattr(runtime, "free_memory", lambda: 500_000)  # 3 channels of pixels, no more
    refused = pytest.raises(UserError, match=r"the clip needs about 0\.0 GB of memory")
    with refused if model.has_context or model.has_previous else nullcontext():
        check_memory(clip, 0)


@pytest.mark.parametrize("context", CONTEXTS[:2], ids=["keyframes", "none"])
def test_a_sample_jumps_from_its_last_drawing_to_the_last_frame(tmp_path, saved_models, context):
    clip = drawn_clip(saved_models(tmp_path / "models", context), 7)
    counted = []
    ids = clip.token_ids(GREEDY, torch.Generator())
    frames = np.stack([*clip.frames(ids, counted.append)])
    assert clip.jump(ids, counted.append) == last_step(frames)
    assert sum(counted) == 5 + 1


@pytest.mark.parametrize("n_frames", [3, 4, 7, 8])
def test_two_sides_that_move_on_into_each_other_miss_by_little(tmp_path, saved_models, n_frames):
    """A square that goes one pixel a frame to the right, by its true codes and by others."""
    model = hub.from_pretrained(saved_models(tmp_path / "models", previous_settings.settings()))
    images = np.zeros((n_frames, 64, 64, 3), np.uint8)
    for k in range(n_frames):
        images[k, 20:44, 16 + k : 40 + k] = 255
    given = {n: images[n] for n in (0, n_frames - 1)}
    clip = Clip(model, given, segments(given), (64, 64))
    _, true = model.round_trip(torch.from_numpy(images))
    stays = torch.full_like(true, STAYS)
    counted = []
    jumps = [clip.jump({clip.segments[0]: ids}, counted.append) for ids in (true, stays)]
    assert jumps[0] < jumps[1] and counted == [1, 1]
