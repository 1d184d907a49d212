"""Adversarial losses on the discriminator's logits, and the adaptive weight (thesis, eq. 7)."""

import torch
import torch.nn.functional as F
from torch import nn


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, kind: str) -> torch.Tensor:
    """Lower when `real` logits are high and `fake` ones low; `hinge` or `cross_entropy`."""
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake: torch.Tensor, kind: str) -> torch.Tensor:
    """Lower when the discriminator takes the pictures for real ones."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def adaptive_weight(
    reconstruction: torch.Tensor, adversarial: torch.Tensor, last_layer: nn.Parameter
) -> torch.Tensor:
    """Ratio of both losses' gradient norms at the decoder's last layer, clamped to [0, 1e4]."""
    (ours,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (theirs,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (ours.norm() / (theirs.norm() + 1e-4)).clamp(0.0, 1e4).detach()
