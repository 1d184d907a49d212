"""Baselines: by hand on five frames, and blind for what lies between the ends."""

import pytest
import torch

from pipeline.evaluation.baselines import BLIND


def greys(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 2, 3, 3)


@pytest.mark.parametrize(
    ("name", "ends", "n_frames", "wanted"),
    [
        ("black", (40, 80), 5, (0, 0, 0)),
        ("hold_first", (40, 80), 5, (40, 40, 40)),
        ("hold_nearest", (40, 80), 5, (40, 40, 80)),  # the middle belongs to the first
        ("hold_nearest", (40, 80), 6, (40, 40, 80, 80)),
        ("cross_fade", (40, 80), 5, (50, 60, 70)),
        ("cross_fade", (255, 0), 5, (191, 128, 64)),  # 191.25, 127.5, 63.75
        ("cross_fade", (0, 255), 3, (128,)),
    ],
)
def test_by_hand(name, ends, n_frames, wanted):
    clip = greys(ends[0], *[123] * (n_frames - 2), ends[1])
    assert torch.equal(BLIND[name](clip), greys(*wanted))


@pytest.mark.parametrize("name", BLIND)
def test_inner_frames_are_not_looked_at(name):
    clip = torch.randint(0, 256, (7, 4, 5, 3), dtype=torch.uint8)
    other = clip.clone()
    other[1:-1] = 255 - other[1:-1]
    drawn = BLIND[name](clip)
    assert drawn.shape == clip[1:-1].shape and drawn.dtype == torch.uint8
    assert torch.equal(drawn, BLIND[name](other))
