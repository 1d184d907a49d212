"""Group norm followed by SiLU, as one operation that keeps only its input for the way back.

PyTorch's own pair keeps the normalised map too, and on the CPU its backward pass is slow where
maps are bf16 with the channels last: a quarter of a whole training step (benchmarks/vqgan_step.py).
Both passes are affine in the map, with one scale and one shift for each picture and channel.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

SMALL = 1024  # pixels of a map below which PyTorch's CPU kernel is five times slower in bf16


class NormSilu(nn.GroupNorm):
    """silu(group_norm(x)) for maps `B C H W`; parameters as in `nn.GroupNorm`.

    In float32 PyTorch's own operations are the faster ones, and are taken.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float32:
            return F.silu(super().forward(x))
        return _NormSilu.apply(x, self.weight, self.bias, self.num_groups, self.eps)


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        groups: int,
        eps: float,
    ) -> torch.Tensor:
        batch, channels, height, width = x.shape
        sizes = (batch, channels, height * width, groups)
        small = x.device.type == "cpu" and height * width < SMALL
        given = x.to(weight.dtype) if small else x
        normed, mean, rstd = torch.native_group_norm(given, weight, bias, *sizes, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)  # mean, rstd: B G
        return F.silu(normed, inplace=True).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        groups = mean.shape[1]
        each = weight.numel() // groups  # channels of a group
        mean, rstd = mean.to(weight.dtype), rstd.to(weight.dtype)

        def of_channels(values: torch.Tensor) -> torch.Tensor:  # B G -> B C
            return values.repeat_interleave(each, 1)

        def of_groups(values: torch.Tensor) -> torch.Tensor:  # B C -> B G, sums
            return values.unflatten(1, (groups, each)).sum(2)

        def as_map(values: torch.Tensor) -> torch.Tensor:  # B C -> B C 1 1
            return values.to(x.dtype)[:, :, None, None]

        scale = weight * of_channels(rstd)
        normed = torch.addcmul(as_map(bias - of_channels(mean) * scale), x, as_map(scale))
        inner = torch.ops.aten.silu_backward(gradient.to(x.dtype), normed)
        total = inner.sum((2, 3)).to(weight.dtype)  # B C
        product = torch.mul(inner, x, out=normed).sum((2, 3)).to(weight.dtype)
        product = (product - of_channels(mean) * total) * of_channels(rstd)
        count = each * x.shape[2] * x.shape[3]
        slope = -of_groups(weight * product) * rstd.square() / count
        shift = -of_groups(weight * total) * rstd / count - slope * mean
        scales = as_map(scale), as_map(of_channels(slope))
        found = torch.addcmul(as_map(of_channels(shift)), x, scales[1], out=normed)
        return found.addcmul_(inner, scales[0]), product.sum(0), total.sum(0), None, None
