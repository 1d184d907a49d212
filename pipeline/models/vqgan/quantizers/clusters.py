"""Statistics of vectors by their nearest code, and k-means.

Codes that nobody uses restart from vectors of the batch (Dhariwal et al., 2020, arXiv:2005.00341),
drawn in proportion to their squared error as in k-means++: most patches of a cartoon are flat, and
a uniform draw would restart codes there.
"""

from collections.abc import Callable

import torch

from pipeline.models.vqgan.quantizers.search import nearest


def assigned(flat: torch.Tensor, codes: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
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


@torch.no_grad()
def k_means(
    vectors: torch.Tensor,
    size: int,
    placed: Callable[[torch.Tensor], torch.Tensor],
    generator: torch.Generator,
    rounds: int = 10,
) -> torch.Tensor:
    """`size` centres of `N D`; `placed` brings means to where codes may lie.

    Centres that got nothing are drawn again in each round.
    """
    picks = torch.randint(len(vectors), (size,), generator=generator).to(vectors.device)
    centres = vectors[picks]
    for _ in range(rounds):
        codes = nearest(vectors, centres)
        counts, sums = assigned(vectors, codes, size)
        fresh = redraw(vectors, codes, centres, generator)
        means = placed(sums / counts.clamp_min(1)[:, None])
        centres = torch.where((counts > 0)[:, None], means, fresh)
    return centres
