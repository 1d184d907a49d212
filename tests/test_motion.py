"""Pictures between two others: what moves is where it should be, what stands still is untouched."""

import pytest
import torch

from pipeline.metrics.flow import optical_flow
from pipeline.motion import Flow, _trust, between, find_flow, moved_clip, way

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
    clip = moved_clip(square_at(20), square_at(32), 13)
    assert clip.shape == (13, HEIGHT, WIDTH, 3) and clip.dtype == torch.uint8
    for i, picture in enumerate(clip):
        assert centre(picture) == pytest.approx(20 + 7.5 + i, abs=1.5)


def test_what_stands_still_is_byte_for_byte_the_same():
    still = square_at(40)
    assert torch.equal(moved_clip(still, still, 6), still.expand(6, -1, -1, -1))


def test_the_baseline_is_the_same_motion():
    clip = torch.stack([square_at(left) for left in range(20, 30)])
    assert torch.equal(optical_flow(clip), moved_clip(clip[0], clip[-1], 10)[1:-1])


def test_the_way_by_hand():
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    assert torch.allclose(way(t, 1.0), t), "an even pace"
    assert torch.allclose(way(t, 2.0), torch.tensor([0, 1 / 10, 0.5, 9 / 10, 1]))
    held = way(t, 16.0)
    assert held[1] < 1e-6 and held[3] > 1 - 1e-6 and held[2] == 0.5


def test_an_eased_square_is_late_first_and_early_then():
    clip = moved_clip(square_at(20), square_at(32), 13, exponent=3.0)
    even = moved_clip(square_at(20), square_at(32), 13)
    columns = torch.tensor([[centre(picture) for picture in found] for found in (clip, even)])
    assert (columns[0, 1:5] < columns[1, 1:5]).all() and (columns[0, 8:12] > columns[1, 8:12]).all()
    assert torch.equal(clip[6], even[6]) and torch.equal(clip[[0, -1]], even[[0, -1]])


def test_a_flow_is_believed_where_it_explains_half():
    left, still = torch.tensor([0.0, 0.5, 1.0, 4.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    found = _trust(left, still)
    assert found[:3].tolist() == pytest.approx([1, 0.5, 1 / 17]) and found[3] < 0.001
    assert found[4].isfinite(), "where nothing changes both say the same"


def test_a_wrong_flow_gives_a_fade():
    """Both ends show the same place, a little brighter; the flow says that all of it moved."""
    first = square_at(40).movedim(-1, 0).float()[None]
    last, wrong = first + 4, torch.zeros(1, 2, HEIGHT, WIDTH)
    wrong[:, 0] = 30.0
    half = torch.full((1, 1, 1, 1), 0.5)
    still = between(first, last, Flow(torch.zeros_like(wrong), torch.zeros_like(wrong)), half)
    drawn = between(first, last, Flow(wrong, -wrong), half)
    assert torch.allclose(still, first + 2)
    assert (drawn - still).abs().mean() < 0.5, "grey levels"


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
