"""Codebooks that start from k-means and follow moving averages of the vectors of each code.

`ema`: Razavi et al., 2019, arXiv:1906.00446. `vq_l2`: features and codes lie on the unit sphere
(Yu et al., ViT-VQGAN, 2021, arXiv:2110.04627), so only the direction of a feature counts, and the
vectors that come out have length 1. Codes that nobody uses restart (clusters.py).
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models.vqgan.quantizers.clusters import assigned, k_means, redraw
from pipeline.models.vqgan.quantizers.interface import NearestCode
from pipeline.params import Vqvae

DECAY = 0.98  # of the moving averages; about 50 batches
FRESH_COUNT = 0.5  # vectors a batch that a restarted code is credited with
DEAD_BELOW = 0.1  # vectors a batch, averaged, below which a code restarts
SMALL = 1e-4  # length below which a feature has no direction


class MovingCodebook(NearestCode):
    """`ema`. Follows the vectors of all processes (`gather`)."""

    learns = False

    def __init__(self, settings: Vqvae) -> None:
        super().__init__(settings)
        size, dim = self.size, settings.embedding_dim
        codebook = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        self.codebook = nn.Parameter(codebook, requires_grad=False)
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, dim))

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, generator: torch.Generator) -> None:
        """Centres of k-means, each credited with a few vectors."""
        self.codebook.copy_(k_means(self._placed(vectors), self.size, self._placed, generator))
        self.counts.fill_(FRESH_COUNT)
        self.sums.copy_(FRESH_COUNT * self.codebook)

    @torch.no_grad()
    def _follow(self, flat: torch.Tensor, codes: torch.Tensor, generator: torch.Generator) -> None:
        flat, codes = self.gather(flat), self.gather(codes)
        counts, sums = assigned(flat, codes, self.size)
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        dead = self.counts < DEAD_BELOW
        fresh = FRESH_COUNT * redraw(flat, codes, self.codebook, generator)
        # A restarted code resets its statistics too, or its old average would pull it back.
        self.counts.masked_fill_(dead, FRESH_COUNT)
        self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
        self.codebook.copy_(self._placed(self.sums / self.counts[:, None]))


class SphericalCodebook(MovingCodebook):
    """`vq_l2`."""

    def __init__(self, settings: Vqvae) -> None:
        super().__init__(settings)
        with torch.no_grad():
            self.codebook.copy_(self._placed(torch.randn_like(self.codebook)))

    def _placed(self, vectors: torch.Tensor) -> torch.Tensor:
        """To length 1. What has no direction goes to one place, without a gradient.

        Near 0 the gradient would grow like 1 / length, and a code at 0 would be the nearest of all.
        """
        lengths = vectors.detach().norm(dim=1, keepdim=True)
        one_place = vectors.shape[1] ** -0.5
        return torch.where(lengths < SMALL, one_place, F.normalize(vectors, dim=1, eps=SMALL))
