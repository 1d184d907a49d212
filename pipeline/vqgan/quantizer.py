"""Vector quantization: each feature vector becomes its nearest codebook vector.

`vq`: the codebook is trained by its own loss (van den Oord et al., 2017, arXiv:1711.00937; the
thesis' way). `ema`: it starts from k-means and follows moving averages of the vectors assigned to
each code (Razavi et al., 2019, arXiv:1906.00446); codes that nobody uses restart from vectors of
the batch (Dhariwal et al., 2020, arXiv:2005.00341), drawn in proportion to their squared error as
in k-means++: most patches of a cartoon are flat, and a uniform draw would restart codes there.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.params import Vqvae

DECAY = 0.98  # of the moving averages; about 50 batches
FRESH_COUNT = 0.5  # vectors a batch that a restarted code is credited with
DEAD_BELOW = 0.1  # vectors a batch, averaged, below which a code restarts


class Quantized(NamedTuple):
    vectors: torch.Tensor  # B D h w, with the straight-through gradient
    codes: torch.Tensor  # B h w, int64
    commitment_loss: torch.Tensor  # scalar, already weighted with beta
    codebook_loss: torch.Tensor  # scalar, zero for `ema`


class Quantizer(nn.Module):
    """Codebook of `V D`; takes and gives feature maps `B D h w`, always in float32."""

    def __init__(self, settings: Vqvae) -> None:
        super().__init__()
        size, dim = settings.num_embeddings, settings.embedding_dim
        self.beta = settings.beta
        self.moving = settings.quantizer == "ema"
        self.codebook = nn.Parameter(torch.empty(size, dim).uniform_(-1 / size, 1 / size))
        self.codebook.requires_grad_(not self.moving)
        if self.moving:
            self.register_buffer("counts", torch.zeros(size))
            self.register_buffer("sums", torch.zeros(size, dim))

    def forward(self, features: torch.Tensor, generator: torch.Generator) -> Quantized:
        """`generator` draws the vectors from which codes restart; unused in evaluation."""
        with torch.autocast(features.device.type, enabled=False):  # bf16 confuses near codes
            return self._quantize(features.float(), generator)

    def _quantize(self, features: torch.Tensor, generator: torch.Generator) -> Quantized:
        flat = features.movedim(1, -1).flatten(0, 2)  # B h w D -> BN D
        codes = nearest(flat.detach(), self.codebook)  # BN
        vectors = self.lookup(codes.unflatten(0, features[:, 0].shape))  # B D h w
        commitment = self.beta * F.mse_loss(features, vectors.detach())
        codebook = features.new_zeros(()) if self.moving else F.mse_loss(vectors, features.detach())
        if self.moving and self.training:
            self._follow(flat.detach(), codes, generator)
        through = features + (vectors - features).detach()
        return Quantized(through, codes.unflatten(0, features[:, 0].shape), commitment, codebook)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `B h w` to their vectors `B D h w`."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, generator: torch.Generator, rounds: int = 10) -> None:
        """Codebook by k-means over `N D`, unused codes restarted in each round."""
        size = len(self.codebook)
        picks = torch.randint(len(vectors), (size,), generator=generator).to(vectors.device)
        self.codebook.copy_(vectors[picks])
        for _ in range(rounds):
            codes = nearest(vectors, self.codebook)
            counts, sums = self._assigned(vectors, codes)
            fresh = self._redraw(vectors, codes, generator)
            used = counts > 0
            means = sums / counts.clamp_min(1)[:, None]
            self.codebook.copy_(torch.where(used[:, None], means, fresh))
        if self.moving:
            self.counts.fill_(FRESH_COUNT)
            self.sums.copy_(FRESH_COUNT * self.codebook)

    @torch.no_grad()
    def _follow(self, flat: torch.Tensor, codes: torch.Tensor, generator: torch.Generator) -> None:
        counts, sums = self._assigned(flat, codes)
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        dead = self.counts < DEAD_BELOW
        fresh = FRESH_COUNT * self._redraw(flat, codes, generator)
        # A restarted code resets its statistics too, or its old average would pull it back.
        self.counts.masked_fill_(dead, FRESH_COUNT)
        self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
        self.codebook.copy_(self.sums / self.counts[:, None])

    def _assigned(
        self, flat: torch.Tensor, codes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How many vectors each code got, `V`, and their sums, `V D`."""
        counts = flat.new_zeros(len(self.codebook)).index_add_(0, codes, flat.new_ones(len(codes)))
        return counts, torch.zeros_like(self.codebook).index_add_(0, codes, flat)

    def _redraw(
        self, flat: torch.Tensor, codes: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """A vector for each code, `V D`, drawn in proportion to its squared error."""
        error = (flat - self.codebook[codes]).square().sum(1).double().cpu() + 1e-12
        # The cumulated error decides; multinomial() takes no more than 2^24 vectors.
        ends = error.cumsum(0)
        at = torch.rand(len(self.codebook), generator=generator, dtype=torch.float64) * ends[-1]
        picks = torch.searchsorted(ends, at).clamp_max(len(flat) - 1)
        return flat[picks.to(flat.device)]


@torch.no_grad()
def nearest(vectors: torch.Tensor, codebook: torch.Tensor, rows: int = 4096) -> torch.Tensor:
    """Index of the nearest code (squared distance) for each of `N D`; ties take the first.

    Works on `rows` vectors at a time, so that `rows x V` distances are the largest matrix.
    """
    half_squares = codebook.square().sum(1).mul(0.5)  # V
    parts = [(half_squares - part @ codebook.T).argmin(1) for part in vectors.split(rows)]
    return torch.cat(parts)
