"""Attention of the clip layout equals dense attention under the mask that it avoids."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.gpt2.attention import frame_window_attention
from pipeline.gpt2.sequence import clip_mask

FRAMES, HEADS, WIDTH = 7, 2, 5


def dense_mask(frames: int, places: int, before: int) -> torch.Tensor:
    """`S S`, true where a query may look: written from the thesis' rule, position by position."""
    size = frames * places
    mask = torch.zeros(size, size, dtype=torch.bool)
    for query in range(size):
        for key in range(size):
            here, there = query // places, key // places
            given = there == 0 or (there == 1 and here >= 1)  # the last frame, the first
            mask[query, key] = given or here - before < there <= here
    return mask


def with_drawings(frames: int, places: int, before: int, causal: bool) -> torch.Tensor:
    """The same with a drawing of each frame but the last at the end: block b, and its own."""
    size, drawn = frames * places, (frames - 1) * places
    mask = torch.zeros(size + drawn, size + drawn, dtype=torch.bool)
    mask[:size, :size] = dense_mask(frames, places, before)
    for query in range(drawn):
        block = query // places + 1
        mask[size + query, :size] = mask[block * places, :size]
        for key in range(drawn):
            if query // places == key // places and (not causal or key <= query):
                mask[size + query, size + key] = True
    return mask


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("before", [1, 2, 8, 10**9])
def test_the_mask_for_reference(before, causal):
    wanted = with_drawings(FRAMES, 3, before, causal)
    assert torch.equal(clip_mask(FRAMES, FRAMES - 1, 3, before, causal), wanted)


def inputs(places: int, blocks: int = FRAMES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, HEADS, blocks * places, WIDTH)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def module(places: int, before: int) -> SimpleNamespace:
    config = SimpleNamespace(positions_per_frame=places, window=before)
    return SimpleNamespace(config=config)


@pytest.mark.parametrize("places", [8, 2])  # a grid of 2x4, merged by 1 and by 2
@pytest.mark.parametrize("before", [1, 2, 8])
def test_equals_dense_attention_forward_and_backward(places, before):
    found, wanted = ([x.clone().requires_grad_() for x in inputs(places)] for _ in range(2))
    out, _ = frame_window_attention(module(places, before), *found, None, scaling=0.3)
    q, k, v = wanted
    scores = (q @ k.transpose(2, 3) * 0.3).masked_fill(
        ~dense_mask(FRAMES, places, before), -torch.inf
    )
    reference = (scores.softmax(-1) @ v).transpose(1, 2)  # B S H D
    assert torch.allclose(out, reference, atol=1e-12)
    signal = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    for result in (out, reference):
        (result * signal).sum().backward()
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("places", [8, 2])
@pytest.mark.parametrize("before", [1, 2, 8, 10**9])
def test_drawings_equal_dense_attention(places, before, causal):
    drawn = FRAMES - 1
    q, k, v = inputs(places, FRAMES + drawn)
    kept = {"scaling": 0.3, "drawn": drawn, "causal": causal}
    out, _ = frame_window_attention(module(places, before), q, k, v, None, **kept)
    mask = with_drawings(FRAMES, places, before, causal)
    scores = (q @ k.transpose(2, 3) * 0.3).masked_fill(~mask, -torch.inf)
    assert torch.allclose(out, (scores.softmax(-1) @ v).transpose(1, 2), atol=1e-12)
