"""Clips: pictures in, frames out, whatever the model's context."""

from contextlib import nullcontext

import numpy as np
import previous_settings
import pytest
import torch

from pipeline import runtime
from pipeline.errors import UserError
from pipeline.inference import hub
from pipeline.inference.clip import Clip, check_memory, conversions
from pipeline.inference.keyframes import segments
from pipeline.models.gpt.sampling import GREEDY

CONTEXTS = [None, {"vqgan.context": "none"}, previous_settings.settings()]


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


@pytest.mark.parametrize("n_frames", [3, 4, 7, 8])
@pytest.mark.parametrize("context", CONTEXTS, ids=["keyframes", "none", "previous"])
def test_the_seam_is_where_a_sample_meets_what_is_given(tmp_path, saved_models, context, n_frames):
    """Before the last frame; in the middle, where both ends draw towards each other."""
    model = hub.from_pretrained(saved_models(tmp_path / "models", context))
    images = {n: np.full((30, 50, 3), 90 + n, np.uint8) for n in (0, n_frames - 1)}
    clip = Clip(model, images, segments(images), (30, 50))
    counted = []
    ids = clip.token_ids(GREEDY, torch.Generator())
    frames = np.stack([*clip.frames(ids, counted.append)])
    start = n_frames - 2
    if model.has_previous:
        start = (n_frames - 1) // 2
    assert np.array_equal(clip.seam(ids, counted.append), frames[start : start + 2])
    assert sum(counted) == n_frames - 2 + 1
