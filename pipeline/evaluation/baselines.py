"""What a model has to beat: in-betweens without any learning.

All take a true clip uint8 `n H W 3`, of which they may look at the first and the last frame only,
and give the inner frames uint8 `n-2 H W 3`.
"""

from collections.abc import Callable

import torch


def black(clip: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(clip[1:-1])


def hold_first(clip: torch.Tensor) -> torch.Tensor:
    return clip[:1].expand_as(clip[1:-1])


def hold_nearest(clip: torch.Tensor) -> torch.Tensor:
    """The first frame until the middle (itself included), then the last."""
    i = torch.arange(1, len(clip) - 1)
    late = i > (len(clip) - 1) / 2
    return torch.where(late[:, None, None, None], clip[-1:], clip[:1])


def cross_fade(clip: torch.Tensor) -> torch.Tensor:
    """Linear mixture of both ends, rounded to nearest."""
    share = torch.linspace(0, 1, len(clip))[1:-1, None, None, None]  # n-2 1 1 1
    mixed = (1 - share) * clip[:1].float() + share * clip[-1:].float()
    return mixed.round().to(torch.uint8)


BLIND: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "black": black,
    "hold_first": hold_first,
    "hold_nearest": hold_nearest,
    "cross_fade": cross_fade,
}
