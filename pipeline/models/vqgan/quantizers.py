"""Quantizers: each feature vector becomes the nearest vector of a codebook that learns.

In: feature maps float `B D h w`. Out: `Quantized`. The decoder's gradient is copied to the features
(straight-through: van den Oord et al., 2017, arXiv:1711.00937). All work is done in float32 with
autocast off, because bf16 confuses near codes. Evaluation changes no weight and no buffer.

- `vq` (thesis): the codebook is a parameter that learns from its own loss (van den Oord et al.).
- `ema`: the codebook starts from k-means and follows moving averages of the vectors of each code
  (Razavi et al., 2019, arXiv:1906.00446). Codes that nobody uses restart from vectors of the batch
  (Dhariwal et al., 2020, arXiv:2005.00341), drawn in proportion to their squared error as in
  k-means++: most patches of a cartoon are flat, and a uniform draw would restart codes there.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import Vqvae

BLOCK = {"cpu": 1024, "cuda": 4096}  # vectors and codes of a block of distances: 4 MB, 64 MB
DECAY = 0.98  # of the moving averages; about 50 batches
FRESH_COUNT = 0.5  # vectors a batch that a restarted code is credited with
DEAD_BELOW = 0.1  # vectors a batch, averaged, below which a code restarts
WITHIN = 0.05  # bound of the thesis' codebook at the start: Keras' default, as in van den Oord's


class Quantized(NamedTuple):
    vectors: torch.Tensor  # B D h w, with a gradient for the encoder
    codes: torch.Tensor  # B h w, int64
    commitment_loss: torch.Tensor  # scalar, already weighted with beta
    codebook_loss: torch.Tensor  # scalar, zero where the codebook learns without gradient


class Quantizer(nn.Module):
    """Base class. `codebook` is `V D`, what comes out and what codes are decoded with."""

    codebook: torch.Tensor
    has_codebook_loss: bool

    def __init__(self, settings: Vqvae) -> None:
        super().__init__()
        self.size = settings.num_embeddings  # V
        self.beta = settings.beta
        # Rows `N ...` of this process to those of all processes, in process order. Two processes
        # with half a batch each then move a codebook as one does with the whole, if `generator`
        # is in the same state in both. Set by the training.
        self.gather: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows

    def init_from_data(self, vectors: torch.Tensor, generator: torch.Generator) -> None:
        """Fits the codes to features `N D`, the same in every process, before the first step."""
        raise NotImplementedError

    def forward(self, features: torch.Tensor, generator: torch.Generator) -> Quantized:
        """`generator` draws the vectors from which dead codes restart; unused in evaluation."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            flat = features.detach().movedim(1, -1).flatten(0, 2)  # B D h w -> BN D
            flat_codes = nearest(flat, self.codebook)  # BN
            codes = flat_codes.unflatten(0, features[:, 0].shape)  # B h w
            vectors = F.embedding(codes, self.codebook).movedim(-1, 1)  # B D h w
            commitment = self.beta * F.mse_loss(features, vectors.detach())
            codebook_loss = features.new_zeros(())
            if self.has_codebook_loss:
                codebook_loss = F.mse_loss(vectors, features.detach())
            if self.training:
                self.ema_update(flat, flat_codes, generator)
            straight_through = features + (vectors - features).detach()
            return Quantized(straight_through, codes, commitment, codebook_loss)

    def ema_update(
        self, flat: torch.Tensor, codes: torch.Tensor, generator: torch.Generator
    ) -> None:
        """Moves the codebook after the vectors `BN D` of a training step, where it moves so."""


def perplexity(counts: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the codes' shares: 1 to V."""
    shares = counts.double() / counts.sum().clamp_min(1)
    return (-torch.special.xlogy(shares, shares).sum()).exp().float()


def principal_axes(patches: torch.Tensor, dim: int) -> torch.Tensor:
    """`dim N` of patches `n N`, no mean taken off; surplus axes are zero."""
    # In float32 neither solver converges for sure where patches are few or alike.
    if len(patches) < patches.shape[1]:
        axes = torch.linalg.svd(patches.double(), full_matrices=False)[2]
    else:
        axes = torch.linalg.eigh((patches.T @ patches).double())[1].flip(1).T
    axes = axes[:dim].float()
    # The sign of an axis is arbitrary: fix it.
    axes = torch.where(axes.sum(1, keepdim=True) < 0, -axes, axes)
    return F.pad(axes, (0, 0, 0, dim - len(axes)))


class TokenGrid(nn.Module):
    """Base class of the tokenizers: a code for each cell of a grid on the image."""

    grid: tuple[int, int]  # h w
    quantizer: Quantizer | None  # None where codes are no vectors that learn

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def codebook(self) -> torch.Tensor:
        return self.quantizer.codebook  # V D


class GradientCodebook(Quantizer):
    """`vq`."""

    has_codebook_loss = True

    def __init__(self, settings: Vqvae) -> None:
        super().__init__(settings)
        codebook = torch.empty(self.size, settings.embedding_dim).uniform_(-WITHIN, WITHIN)
        self.codebook = nn.Parameter(codebook)

    @torch.no_grad()
    def init_from_data(self, vectors: torch.Tensor, generator: torch.Generator) -> None:
        """Centres of k-means. The thesis goes without; features far from 0 need it."""
        self.codebook.copy_(k_means(vectors, self.size, generator))


class EmaCodebook(Quantizer):
    """`ema`. Follows the vectors of all processes (`gather`).

    The codebook is a buffer: it moves in the forward pass, before the optimizer's step.
    """

    has_codebook_loss = False

    def __init__(self, settings: Vqvae) -> None:
        super().__init__(settings)
        size, dim = self.size, settings.embedding_dim
        self.register_buffer("codebook", torch.empty(size, dim).uniform_(-1 / size, 1 / size))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, dim))

    @torch.no_grad()
    def init_from_data(self, vectors: torch.Tensor, generator: torch.Generator) -> None:
        """Centres of k-means, each credited with a few vectors."""
        self.codebook.copy_(k_means(vectors, self.size, generator))
        self.counts.fill_(FRESH_COUNT)
        self.sums.copy_(FRESH_COUNT * self.codebook)

    @torch.no_grad()
    def ema_update(
        self, flat: torch.Tensor, codes: torch.Tensor, generator: torch.Generator
    ) -> None:
        flat, codes = self.gather(flat), self.gather(codes)
        counts, sums = counts_and_sums(flat, codes, self.size)
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        dead = self.counts < DEAD_BELOW
        fresh = FRESH_COUNT * redraw(flat, codes, self.codebook, generator)
        # A restarted code resets its statistics too, or its old average would pull it back.
        self.counts.masked_fill_(dead, FRESH_COUNT)
        self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
        self.codebook.copy_(self.sums / self.counts[:, None])


QUANTIZERS: dict[str, type[Quantizer]] = {"vq": GradientCodebook, "ema": EmaCodebook}


@torch.no_grad()
def nearest(
    vectors: torch.Tensor, codebook: torch.Tensor, block: int | None = None
) -> torch.Tensor:
    """Index of the nearest code of `V D` (squared distance) for each of `N D`; ties: the first.

    Never holds all distances: 8,192 vectors and 50,257 codes have 412 million, 1.6 GB, and writing
    such a matrix into fresh memory takes longer than computing it. Blocks that fit the cache are
    made and reduced at once, with the best code so far kept for each vector
    (benchmarks/quantizer.py). |v - c|^2 / 2 less |v|^2 / 2, which is the same for all codes,
    decides.
    """
    block = block or BLOCK.get(vectors.device.type, BLOCK["cuda"])
    half_squares = codebook.square().sum(1).mul(0.5)  # V
    indices = []
    for part in vectors.split(block):
        least, codes = None, None
        for first in range(0, len(codebook), block):
            last = first + block
            distances = torch.addmm(
                half_squares[first:last], part, codebook[first:last].T, alpha=-1
            )  # n v
            distance, code = distances.min(1)
            if least is None:
                least, codes = distance, code
            else:
                closer = distance < least
                least = torch.where(closer, distance, least)
                codes = torch.where(closer, code + first, codes)
        indices.append(codes)
    return torch.cat(indices)


@torch.no_grad()
def k_means(
    vectors: torch.Tensor, size: int, generator: torch.Generator, rounds: int = 10
) -> torch.Tensor:
    """`size` centres of `N D`. Centres that got nothing are drawn again in each round."""
    picks = torch.randint(len(vectors), (size,), generator=generator).to(vectors.device)
    centres = vectors[picks]
    for _ in range(rounds):
        codes = nearest(vectors, centres)
        counts, sums = counts_and_sums(vectors, codes, size)
        fresh = redraw(vectors, codes, centres, generator)
        means = sums / counts.clamp_min(1)[:, None]
        centres = torch.where((counts > 0)[:, None], means, fresh)
    return centres


def counts_and_sums(
    flat: torch.Tensor, codes: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of the vectors `N D` each code got, `V`, and their sums, `V D`."""
    counts = flat.new_zeros(size).index_add_(0, codes, flat.new_ones(len(codes)))
    return counts, flat.new_zeros(size, flat.shape[1]).index_add_(0, codes, flat)


def redraw(
    flat: torch.Tensor, codes: torch.Tensor, codebook: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """A vector for each code, `V D`, drawn from `N D` in proportion to its squared error."""
    error = (flat - codebook[codes]).square().sum(1).double().cpu() + 1e-12
    # The cumulated error decides; multinomial() takes no more than 2^24 vectors.
    ends = error.cumsum(0)
    at = torch.rand(len(codebook), generator=generator, dtype=torch.float64) * ends[-1]
    picks = torch.searchsorted(ends, at).clamp_max(len(flat) - 1)
    return flat[picks.to(flat.device)]
