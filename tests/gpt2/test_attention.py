"""Attention of the clip layout equals dense attention under the mask that it avoids."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.gpt2.attention import frame_window_attention

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


def inputs(places: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, HEADS, FRAMES * places, WIDTH)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def module(places: int, before: int) -> SimpleNamespace:
    config = SimpleNamespace(positions_per_frame=places, n_frames_before=before)
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


@pytest.mark.parametrize("before", [1, 2, 8])
@pytest.mark.parametrize("fed", [1, 2, 4])
def test_queries_after_a_cache_equal_those_of_the_whole(before, fed):
    """The last `fed` blocks alone, against keys and values of all."""
    places = 3
    q, k, v = inputs(places)
    whole, _ = frame_window_attention(module(places, before), q, k, v, None)
    part, _ = frame_window_attention(module(places, before), q[:, :, -fed * places :], k, v, None)
    assert torch.allclose(part, whole[:, -fed * places :], atol=1e-12)
