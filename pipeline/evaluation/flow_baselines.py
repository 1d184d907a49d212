"""Baselines that move what is seen: optical flow without learning (DIS), and RIFE 4.0.

As in `baselines`: they take a true clip uint8 `n H W 3`, look at the first and the last frame only,
and give the inner frames uint8 `n-2 H W 3`. Both find the flow on enlarged pictures (small ones are
too coarse for them) and warp the pictures in their own size: shrinking enlarged results instead
costs 0.8 dB with RIFE. DIS: see `models.flow`; RIFE: see `pretrained.rife`.
"""

import torch
import torch.nn.functional as F

from pipeline import runtime
from pipeline.models.flow import FlowEstimator, interpolate
from pipeline.models.pretrained.rife import Rife, merge

RIFE_ENLARGED = 2


def optical_flow(clip: torch.Tensor) -> torch.Tensor:
    """In-betweens by linear motion along the DIS flow, at an even pace."""
    flow = FlowEstimator("dis")(clip[0].numpy(), clip[-1].numpy())
    return interpolate(clip[0], clip[-1], len(clip), flow)[1:-1]


class RifeBaseline:
    """RIFE 4.0 on a device: call it with a clip."""

    def __init__(self, rife: Rife, device: torch.device | str = "cpu") -> None:
        self.rife, self.device = rife.to(device), torch.device(device)

    @torch.inference_mode()
    def __call__(self, clip: torch.Tensor) -> torch.Tensor:
        first, last = _ends(torch.stack([clip[0], clip[-1]]).to(self.device))
        size = first.shape[2] * RIFE_ENLARGED, first.shape[3] * RIFE_ENLARGED
        large = [F.interpolate(x, size, mode="bicubic").clamp(0, 1) for x in (first, last)]
        with runtime.exact():
            flow, share = self.rife.flows(*large, _times(clip).to(self.device))
        flow = F.avg_pool2d(flow, RIFE_ENLARGED) / RIFE_ENLARGED  # K 4 H W
        share = F.avg_pool2d(share, RIFE_ENLARGED)  # K 1 H W
        return _to_uint8(merge(first, last, flow, share)).to(clip.device)


def _ends(clip: torch.Tensor) -> torch.Tensor:
    """First and last frame, each float `1 3 H W` in [0, 1]."""
    assert clip.dtype == torch.uint8 and clip.ndim == 4 and clip.shape[-1] == 3, clip.shape
    return clip[[0, -1]].movedim(-1, 1).float().div(255)[:, None]


def _times(clip: torch.Tensor) -> torch.Tensor:
    """Of the inner frames, 0 at the first and 1 at the last frame: `n-2`."""
    assert len(clip) >= 3, clip.shape
    return torch.linspace(0, 1, len(clip), device=clip.device)[1:-1]


def _to_uint8(pictures: torch.Tensor) -> torch.Tensor:
    """float `K 3 H W` in [0, 1] to uint8 `K H W 3`."""
    return pictures.mul(255).round().clamp(0, 255).byte().movedim(1, -1).contiguous()
