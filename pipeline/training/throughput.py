"""What share of the machine a training uses: its arithmetic a second, beside a matrix product's."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn


class FlopCounter:
    """Adds to `total` what a module's layers with weights multiply and add while they train.

    The backward pass takes twice the forward one. Attention, losses and what they look at are left
    out, as usual for "model FLOPs utilisation" (Chowdhery et al., 2022, arXiv:2204.02311).
    """

    def __init__(self) -> None:
        self.total, self.counting = 0.0, True

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        layers = [layer for layer in module.modules() if not [*layer.children()]]
        layers = [layer for layer in layers if getattr(layer, "weight", None) is not None]
        hooks = [
            layer.register_forward_hook(self._count)
            for layer in layers
            if layer.weight.dim() >= 2 and not isinstance(layer, nn.Embedding)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While gradient checkpointing repeats a forward pass."""
        self.counting = False
        try:
            yield
        finally:
            self.counting = True

    def _count(self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if not (self.counting and layer.training and torch.is_grad_enabled()):
            return
        weight, values, channels = layer.weight, output, output.shape[1]
        if isinstance(layer, nn.ConvTranspose2d):
            values, channels = inputs[0], inputs[0].shape[1]
        elif weight.dim() == 2:
            channels = output.shape[-1]
        passes = 3 if weight.requires_grad else 2  # backward: to the inputs, and to the weights
        self.total += 2 * passes * weight.numel() * values.numel() / channels


@cache
def peak_flops(device: torch.device, precision: str) -> float:
    """A second's multiplications and additions of a large matrix product, the best of a few."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = 8192 if device.type == "cuda" else 512
    matrix, seconds = torch.ones(side, side, dtype=dtype, device=device), math.inf
    for _ in range(5):
        started = time.monotonic()
        float((matrix @ matrix)[0, 0])  # waits for the device
        seconds = min(seconds, time.monotonic() - started)
    return 2 * side**3 / max(seconds, 1e-9)
