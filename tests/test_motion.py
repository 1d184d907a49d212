"""Pictures between two others: what moves is where it should be, what stands still is untouched."""

import pytest
import torch

from pipeline.metrics.flow import optical_flow
from pipeline.motion import Flow, between, find_flow, frames_between

HEIGHT, WIDTH = 48, 96


def square_at(left: int) -> torch.Tensor:
    """uint8 `H W 3`: a bright square with a pattern on a dark slope."""
    picture = torch.arange(WIDTH)[None, :, None].expand(HEIGHT, WIDTH, 3).clone() // 4
    texture = torch.randint(120, 256, (16, 16, 3), generator=torch.Generator().manual_seed(0))
    picture[16:32, left : left + 16] = texture.float().mean((0, 1)).long()
    picture[20:28, left + 4 : left + 12] = texture[:8, :8]
    return picture.byte()


def centre(picture: torch.Tensor) -> float:
    """Column of the square's middle."""
    bright = picture.float().mean(-1) > 80
    return torch.where(bright)[1].float().mean().item()


def test_a_square_moves_evenly():
    clip = frames_between(square_at(20), square_at(32), 13)
    assert clip.shape == (11, HEIGHT, WIDTH, 3) and clip.dtype == torch.uint8
    for i, picture in enumerate(clip, 1):
        assert centre(picture) == pytest.approx(20 + 7.5 + i, abs=1.5)


def test_what_stands_still_is_byte_for_byte_the_same():
    still = square_at(40)
    assert torch.equal(frames_between(still, still, 6), still.expand(4, -1, -1, -1))


def test_the_baseline_is_the_same_motion():
    clip = torch.stack([square_at(left) for left in range(20, 30)])
    assert torch.equal(optical_flow(clip), frames_between(clip[0], clip[-1], 10))


def test_a_batch_is_moved_as_its_pictures_alone():
    ends = [(square_at(20), square_at(28)), (square_at(50), square_at(44))]
    flows = [find_flow(a.numpy(), b.numpy()) for a, b in ends]
    firsts, lasts = (torch.stack(x).movedim(-1, 1).float() for x in zip(*ends, strict=True))
    times = torch.tensor([0.25, 0.5]).view(2, 1, 1, 1)
    flow = Flow(*(torch.cat(x) for x in zip(*flows, strict=True)))
    together = between(firsts, lasts, flow, times)
    for k in range(2):
        alone = between(firsts[k : k + 1], lasts[k : k + 1], flows[k], times[k : k + 1])
        assert torch.allclose(together[k : k + 1], alone, atol=1e-3)


def test_a_flow_for_larger_pictures_is_longer():
    flow = Flow(torch.ones(1, 2, 4, 8), -torch.ones(1, 2, 4, 8))
    large = flow.resized((8, 24))
    assert large.forth.shape == (1, 2, 8, 24)
    assert (large.forth[:, 0] == 3).all() and (large.forth[:, 1] == 2).all()
    assert (large.back[:, 0] == -3).all() and flow.resized((4, 8)) is flow
