"""Both networks stay on one device, and call nothing that a GPU might not have."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from keyframe_settings import clip_flow, settings, square_clip, tokenizer

from pipeline import frames
from pipeline.models.flow import make_context
from pipeline.models.gpt.model import Conditioning, FrameGpt, GptConfig
from pipeline.models.vqgan.model import Tokenizer

PIPELINE = Path(__file__).parents[2] / "pipeline"


@pytest.fixture
def device(monkeypatch) -> torch.device:
    """`meta` stands in for a GPU: elementwise operators refuse to mix it with the CPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    return torch.device("meta")


def test_tokenizers_are_all_on_one_device(device):
    clip = square_clip(6)
    first, frame, last = (frames.to_float(clip[[k]].to(device)) for k in (0, 2, -1))
    time, exponent = torch.full((2, 1, 1, 1, 1), 0.4, device=device)
    context = make_context(first, last, clip_flow(clip).to(device), time, exponent)
    model = tokenizer({"vqgan.keyframes.encoder": "network"}).to(device)
    assert model.decode(model.encode(frame, context), context).device.type == device.type
    assert model.context_features(context).device.type == device.type
    size = settings().ingest.height, settings().ingest.width
    model = Tokenizer(settings({"vqgan.context": "none"}).vqgan, *size).eval().to(device)
    assert model.decode(model.encode(frame)).device.type == device.type


@pytest.mark.parametrize("kind", ["plain", "custom"])
@pytest.mark.parametrize("mode", ["parallel", "maskgit"])
def test_transformers_are_all_on_one_device(kind, mode, device):
    config = settings({"transformer.transformer_type": kind, "train.mode": mode})
    gpt = FrameGpt(GptConfig.from_params(config, (2, 4), context_channels=5)).train().to(device)
    ids = torch.randint(0, 16, (2, 4, 8), device=device)
    n_frames = torch.tensor([6, 5], device=device)
    given = Conditioning(ids[:, -1], n_frames, torch.randn(2, 6, 8, 5, device=device))
    if mode == "maskgit":
        _, logits = gpt.complete(ids, given, torch.where(ids < 8, ids, 16))
    else:
        logits = gpt(ids, given)
    torch.nn.functional.cross_entropy(logits.flatten(0, -2), ids.flatten()).backward()


def test_no_operator_below_the_public_api_is_called():
    private = re.compile(r"torch\.native_|torch\.ops\b|\baten\b|torch\._[a-z]+|torch\._C")
    for path in PIPELINE.rglob("*.py"):
        assert not private.search(path.read_text("utf-8")), path.name
