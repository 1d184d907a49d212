"""What the model has to beat: in-betweens without learning, and RIFE 4.0.

All take a true clip uint8 `n H W 3`, of which they may look at the first and the last frame only,
and give the inner frames uint8 `n-2 H W 3`. Optical flow and RIFE run on enlarged frames (small
ones are too coarse for them) and warp the frames in their own size: shrinking enlarged results
instead costs 0.8 dB with RIFE. DIS: see `models.flow`; RIFE: see `pretrained.rife`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from pipeline import runtime
from pipeline.models.flow import FlowEstimator, interpolate
from pipeline.models.pretrained.rife import Rife, merge

Baseline = Callable[[torch.Tensor], torch.Tensor]
RIFE_SCALE = 2


def load_baselines(names: Sequence[str], device: torch.device) -> dict[str, Baseline]:
    """Those of `names` that are baselines of this module."""
    baselines = {name: SIMPLE[name] for name in names if name in SIMPLE}
    if "optical_flow" in names:
        baselines["optical_flow"] = optical_flow
    if "rife" in names:
        baselines["rife"] = RifeBaseline(Rife.pretrained(), device)
    return baselines


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
    t = torch.linspace(0, 1, len(clip))[1:-1, None, None, None]  # n-2 1 1 1
    mixed = (1 - t) * clip[:1].float() + t * clip[-1:].float()
    return mixed.round().to(torch.uint8)


def optical_flow(clip: torch.Tensor) -> torch.Tensor:
    """Linear motion along the DIS flow, evenly timed."""
    flow = FlowEstimator("dis")(clip[0].numpy(), clip[-1].numpy())
    return interpolate(clip[0], clip[-1], len(clip), flow)[1:-1]


SIMPLE: dict[str, Baseline] = {
    "black": black,
    "hold_first": hold_first,
    "hold_nearest": hold_nearest,
    "cross_fade": cross_fade,
}


class RifeBaseline:
    """RIFE 4.0 on a device: call it with a clip."""

    def __init__(self, rife: Rife, device: torch.device | str = "cpu") -> None:
        self.rife, self.device = rife.to(device), torch.device(device)

    @torch.inference_mode()
    def __call__(self, clip: torch.Tensor) -> torch.Tensor:
        assert clip.dtype == torch.uint8 and clip.shape[-1] == 3 and len(clip) >= 3, clip.shape
        keyframes = clip[[0, -1]].movedim(-1, 1).float().div(255).to(self.device)
        first, last = keyframes[:1], keyframes[1:]  # 1 3 H W in [0, 1]
        times = torch.linspace(0, 1, len(clip))[1:-1].to(self.device)  # n-2
        size = first.shape[2] * RIFE_SCALE, first.shape[3] * RIFE_SCALE
        large = [F.interpolate(x, size, mode="bicubic").clamp(0, 1) for x in (first, last)]
        with runtime.exact():
            flow, weight = self.rife.flows(*large, times)
        flow = F.avg_pool2d(flow, RIFE_SCALE) / RIFE_SCALE  # n-2 4 H W
        weight = F.avg_pool2d(weight, RIFE_SCALE)  # n-2 1 H W
        images = merge(first, last, flow, weight).mul(255).round().clamp(0, 255).byte()
        return images.movedim(1, -1).contiguous().to(clip.device)
