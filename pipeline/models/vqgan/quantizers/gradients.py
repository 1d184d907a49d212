"""How the decoder's gradient passes the choice of a code, which has none of its own.

Straight-through: it is copied to the features (van den Oord et al., 2017, arXiv:1711.00937).
Rotation trick: the features are turned and scaled onto their code, and turn and scale count as
constants; so the gradient keeps its angle to the vector (Fifty et al., 2024, arXiv:2410.06424).
"""

import torch
import torch.nn.functional as F

SMALL = 1e-6  # length below which a vector has no direction
OPPOSITE = 1e-3  # length of the sum of two directions below which the turn is rounding noise


def straight_through(features: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The vectors, with the gradient of the features; both `B D h w`."""
    return features + (vectors - features).detach()


def rotated(features: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The vectors, as features `B D h w` turned and scaled.

    The turn from direction a to direction b is two reflections (section 4.2 of the paper):
    R = 1 - 2 r r' + 2 b a', with r halfway between a and b. Where there is no such turn, because
    a vector is 0 or both are opposite, the gradient is copied.
    """
    with torch.no_grad():
        lengths, targets = (x.norm(dim=1, keepdim=True) for x in (features, vectors))
        a, b = features / lengths.clamp_min(SMALL), vectors / targets.clamp_min(SMALL)
        halfway = a + b
        r = F.normalize(halfway, dim=1)
        scale = targets / lengths.clamp_min(SMALL)  # B 1 h w
        known = (lengths > SMALL) & (targets > SMALL)
        known &= halfway.norm(dim=1, keepdim=True) > OPPOSITE
    across, along = ((x * features).sum(1, keepdim=True) for x in (r, a))
    turned = scale * (features - 2 * across * r + 2 * along * b)
    return straight_through(torch.where(known, turned, features), vectors)
