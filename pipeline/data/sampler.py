"""The order of an epoch: a function of seed and epoch alone, so that any step can go on."""

import torch


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """0..count-1, each once."""
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()
