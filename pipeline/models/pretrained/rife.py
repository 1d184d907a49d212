"""RIFE 4.0: optical flow from a picture between two others to both of them, at any time.

Huang et al., "Real-Time Intermediate Flow Estimation for Video Frame Interpolation" (ECCV 2022,
arXiv:2011.06294). In: two pictures float `1 3 H W` in [0, 1] and times `K` in (0, 1). Out: flows
`K 4 H W` in pixels (x and y to the first, x and y to the last picture) and the share of the first
`K 1 H W`. As in the published inference, the refinement by a context network is left out.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models.flow import warp
from pipeline.models.pretrained import weights

CHANNELS = (192, 128, 96, 64)
SCALES = (8, 4, 2, 1)  # by which each block sees the pictures reduced
MULTIPLE = 64  # sides that every block can reduce, also at doubled scales
FAR = 32.0  # pixels: more than the second block is to add to both flows
CHUNK_PIXELS = 2**19  # computed at once: bounds the memory (times 16 of 128x256)
PARTS = {"shrink": "conv0", "body": "convblock", "head": "lastconv"}  # name here: published name


class Block(nn.Module):
    """One step from coarse to fine: what is to be added to flow and mask."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.shrink = nn.Sequential(
            _layer(before, channels // 2, 2), _layer(channels // 2, channels, 2)
        )
        self.body = nn.Sequential(*(_layer(channels, channels, 1) for _ in range(8)))
        self.head = nn.ConvTranspose2d(channels, 5, 4, 2, 1)

    def forward(self, x: torch.Tensor, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.shrink(x)  # K C H/4s W/4s
        x = self.head(self.body(x) + x)  # K 5 H/2s W/2s
        x = _resize(x, 2 * scale)  # K 5 H W
        return x[:, :4] * (2 * scale), x[:, 4:]


class Rife(nn.Module):
    """The network's four blocks; weights are frozen."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (7, 12, 12, 12)  # two pictures, the time; from the second on mask and flows too
        self.blocks = nn.ModuleList(map(Block, inputs, CHANNELS))
        self.requires_grad_(False)

    @classmethod
    def pretrained(cls) -> "Rife":
        """The published network, from its package; UserError where that is missing."""
        model, published = cls(), weights.read_tensors(weights.RIFE)
        names = model.state_dict().keys()
        model.load_state_dict({name: published[_published_name(name)] for name in names})
        return model.eval()

    @torch.inference_mode()
    def flows(
        self, first: torch.Tensor, last: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flows `K 4 H W` and the share of the first picture `K 1 H W` in [0, 1]."""
        assert first.shape == last.shape and first.shape[:2] == (1, 3), (first.shape, last.shape)
        height, width = first.shape[2:]
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        first = F.pad(first, padding, mode="replicate")
        last = F.pad(last, padding, mode="replicate")
        size = max(1, CHUNK_PIXELS // first[0, 0].numel())
        parts = [self._estimate(first, last, chunk) for chunk in times.to(first).split(size)]
        flow = torch.cat([flow for flow, _ in parts])[..., :height, :width]
        mask = torch.cat([mask for _, mask in parts])[..., :height, :width]
        return flow, mask.sigmoid()

    def _estimate(
        self, first: torch.Tensor, last: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flows and the mask before its sigmoid. Times with far motion start at half the size."""
        flow, mask, far = self._refine(first, last, times, SCALES)
        if far.any():
            doubled = tuple(2 * scale for scale in SCALES)
            flow[far], mask[far], _ = self._refine(first, last, times[far], doubled)
        return flow, mask

    def _refine(
        self, first: torch.Tensor, last: torch.Tensor, times: torch.Tensor, scales: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Flow `K 4 H W`, mask `K 1 H W`, and where motion is far `K`."""
        k = len(times)
        ends = torch.cat([first, last], 1).expand(k, -1, -1, -1)  # K 6 H W
        time = times.view(k, 1, 1, 1).expand(-1, -1, *first.shape[2:])  # K 1 H W
        x = _resize(torch.cat([ends, time], 1), 1 / scales[0])
        flow, mask = self.blocks[0](x, scales[0])
        far = torch.zeros(k, dtype=torch.bool, device=times.device)
        for number, (block, scale) in enumerate(zip(self.blocks[1:], scales[1:], strict=True)):
            warped = [warp(first, flow[:, :2]), warp(last, flow[:, 2:])]
            x = _resize(torch.cat([*warped, time, mask, flow / scale], 1), 1 / scale)
            flow_residual, mask_residual = block(x, scale)
            if number == 0:
                far = (flow_residual.unflatten(1, (2, 2)).abs().amax((2, 3, 4)) > FAR).all(1)
            flow, mask = flow + flow_residual, mask + mask_residual
        return flow, mask, far


def merge(
    first: torch.Tensor, last: torch.Tensor, flow: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """`1 C H W` twice, warped by flows `K 4 H W` and mixed, `share` `K 1 H W` of the first."""
    return share * warp(first, flow[:, :2]) + (1 - share) * warp(last, flow[:, 2:])


def _layer(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.PReLU(after))


def _resize(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Bilinear without a filter before reduction, as the network was trained."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _published_name(name: str) -> str:
    """`blocks.2.shrink.0.0.weight` to `module.block2.conv0.0.0.weight`."""
    _, number, part, rest = name.split(".", 3)
    return f"module.block{number}.{PARTS[part]}.{rest}"
