"""Moving average of a network's weights: what is measured and kept is calmer than the last step.

The decay grows from 0.1 with the number of updates, as in TensorFlow's ExponentialMovingAverage,
so that the random start is forgotten. Buffers and codebooks that follow by themselves are averaged
like weights: a codebook and the encoder that it was averaged with belong together.
"""

import copy

import torch
from torch import nn


class Averaged(nn.Module):
    """A copy of `network`, without gradients, that follows it."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """After a step of `network`."""
        self.updates += 1
        count = int(self.updates)
        decay = min(self.decay, (1 + count) / (10 + count))
        ours, theirs = self.network.state_dict(), network.state_dict()
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
        for name in ours.keys() - set(floats):
            ours[name].copy_(theirs[name])

    def start(self, network: nn.Module) -> None:
        """Takes over all values, for a network that was changed before its first step."""
        self.network.load_state_dict(network.state_dict())
