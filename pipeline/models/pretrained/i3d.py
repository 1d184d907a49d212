"""I3D of Kinetics-400: the network whose logits FVD and KVD compare.

Inception-v1 inflated to three dimensions (Carreira and Zisserman, 2017, arXiv:1705.07750), as in
TF-Hub's module i3d-kinetics-400/1. In: float `B 3 T 224 224` in [-1, 1], at least 9 frames. Out:
logits `B 400`, mean over time. Batch norm is folded into the convolutions when they are loaded.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.frames import to_float
from pipeline.models.pretrained import weights

SIDE = 224
LEAST_FRAMES = 9  # fewer leave less than the two steps that the last average needs
CLASSES = 400
EPSILON = 1e-3  # of the batch norm
# Channels of the four branches: 1x1 | 1x1, 3x3 | 1x1, 3x3 | pooling, 1x1
MODULES = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOLED = {"Mixed_4b": 3, "Mixed_5b": 2}  # window of the pooling before, over time and space


def video_input(clip: torch.Tensor) -> torch.Tensor:
    """uint8 `T H W 3` to `1 3 T 224 224` in [-1, 1]; bilinear as tf.image.resize's default."""
    images = to_float(clip)  # T 3 H W
    images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return images.transpose(0, 1)[None]


class Unit(nn.Module):
    """A convolution over time and space with "SAME" padding, and ReLU: `B T H W C` to the same.

    It is computed as a convolution over space whose channels are those of the `size` frames under
    the kernel: the whole network then takes 0.28 s for 20 frames on two cores, with conv3d 0.47 s
    (of which PyTorch has only a slow one for a single clip with few channels).
    """

    def __init__(self, before: int, after: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.conv = nn.Conv2d(size * before, after, size, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.size > 1:
            x = _pad(x, self.size, self.stride)
            x = torch.cat(_windows(x, self.size, self.stride), -1)  # B T' H W size*C
        return F.relu(_per_frame(self.conv, x), inplace=True)

    def load(self, params: dict, statistics: dict) -> None:
        """Takes a convolution without bias and its batch norm (which has no scale) as one."""
        norm = statistics["BatchNorm_0"]
        factor = (_double(norm["var"]).flatten() + EPSILON).rsqrt()
        shift = _double(params["BatchNorm_0"]["bias"]) - _double(norm["mean"]).flatten() * factor
        # time height width in out -> out time in height width -> out time*in height width
        kernel = _double(params["Conv_0"]["kernel"]).permute(4, 0, 3, 1, 2).flatten(1, 2)
        self.conv.weight.copy_(kernel * factor.view(-1, 1, 1, 1))
        self.conv.bias.copy_(shift)


class Mixed(nn.Module):
    """An Inception module: four branches side by side."""

    def __init__(self, before: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, narrow_a, wide_a, narrow_b, wide_b, pooled = widths
        self.branches = nn.ModuleList(
            [
                nn.ModuleList([Unit(before, one, 1)]),
                nn.ModuleList([Unit(before, narrow_a, 1), Unit(narrow_a, wide_a, 3)]),
                nn.ModuleList([Unit(before, narrow_b, 1), Unit(narrow_b, wide_b, 3)]),
                nn.ModuleList([Unit(before, pooled, 1)]),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [x, x, x, _pool_time(_pool_space(x, 3, 1), 3, 1)]
        for i, units in enumerate(self.branches):
            for unit in units:
                outputs[i] = unit(outputs[i])
        return torch.cat(outputs, -1)

    def load(self, params: dict, statistics: dict) -> None:
        for i, units in enumerate(self.branches):
            names = sorted(name for name in params if name.startswith(f"Branch_{i}/"))
            for unit, name in zip(units, names, strict=True):
                unit.load(params[name], statistics[name])


class I3d(nn.Module):
    """The network up to its logits; weights are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleDict(
            {
                "Conv3d_1a_7x7": Unit(3, 64, 7, 2),
                "Conv3d_2b_1x1": Unit(64, 64, 1),
                "Conv3d_2c_3x3": Unit(64, 192, 3),
            }
        )
        self.mixed = nn.ModuleDict()
        channels = 192
        for name, widths in MODULES.items():
            self.mixed[name] = Mixed(channels, widths)
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.classify = nn.Linear(channels, CLASSES)
        self.requires_grad_(False)

    @classmethod
    def pretrained(cls) -> "I3d":
        """The published network, from its package; UserError where that is missing."""
        content = weights.read(weights.I3D_KINETICS)
        params, statistics = content["params"], content["batch_stats"]
        model = cls()
        for name, part in [*model.stem.items(), *model.mixed.items()]:
            part.load(params[name], statistics[name])
        last = params["Logits/Conv3d_0c_1x1"]["Conv_0"]
        model.classify.weight.copy_(_double(last["kernel"]).flatten(0, 3).T)
        model.classify.bias.copy_(_double(last["bias"]))
        return model.eval().to(memory_format=torch.channels_last)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        _check(clips)
        x = clips.movedim(1, -1).contiguous()  # B T 224 224 3
        x = _pool_space(self.stem["Conv3d_1a_7x7"](x), 3, 2)  # B T/2 56 56 64
        x = self.stem["Conv3d_2c_3x3"](self.stem["Conv3d_2b_1x1"](x))
        x = _pool_space(x, 3, 2)  # B T/2 28 28 192
        for name, module in self.mixed.items():
            if name in POOLED:
                x = _pool_time(_pool_space(x, POOLED[name], 2), POOLED[name], 2)
            x = module(x)
        x = x.mean((2, 3))  # B T/8 1024
        x = (x[:, :-1] + x[:, 1:]) / 2  # the network's average over two steps
        return self.classify(x.mean(1))


def _check(clips: torch.Tensor) -> None:
    assert clips.ndim == 5 and clips.shape[1] == 3 and clips.is_floating_point(), clips.shape
    assert clips.shape[3:] == (SIDE, SIDE), clips.shape
    if clips.shape[2] < LEAST_FRAMES:
        raise ValueError(f"I3D needs clips of at least {LEAST_FRAMES} frames, got {clips.shape[2]}")


def _padding(n: int, size: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME": zeros before and after n, the odd one after."""
    total = max(0, (-(-n // stride) - 1) * stride + size - n)
    return total // 2, total - total // 2


def _per_frame(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Applies a layer for pictures to the frames of `B T H W C`."""
    frames = x.flatten(0, 1).movedim(-1, 1)  # B*T C H W, channels last in memory
    return layer(frames).movedim(1, -1).unflatten(0, x.shape[:2])


def _pad(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Zeros around time, height and width of `B T H W C`."""
    sides = [_padding(n, size, stride) for n in reversed(x.shape[1:4])]
    return F.pad(x, [0, 0, *(zeros for side in sides for zeros in side)])


def _windows(x: torch.Tensor, size: int, stride: int) -> list[torch.Tensor]:
    """Views of `B T ...`: all first frames under a window that moves by `stride`, all second..."""
    last = (x.shape[1] - size) // stride * stride
    return [x[:, i : i + last + 1 : stride] for i in range(size)]


def _pool_space(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Max pooling of each frame of `B T H W C`; with `_pool_time` after it, that of both."""
    before, _ = _padding(x.shape[2], size, stride)
    return _per_frame(lambda f: F.max_pool2d(f, size, stride, before, ceil_mode=True), x)


def _pool_time(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Max pooling over time of `B T H W C`; nothing is negative here, so zeros may pad."""
    x = F.pad(x, [0] * 6 + [*_padding(x.shape[1], size, stride)])
    return functools.reduce(torch.maximum, _windows(x, size, stride))


def _double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy()).double()
