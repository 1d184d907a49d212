"""Nearest codes, without ever holding all distances.

8,192 vectors and 50,257 codes have 412 million distances, 1.6 GB; writing such a matrix into
fresh memory takes longer than computing it. Here blocks that fit the cache are made and reduced
at once, with the best code so far kept for each vector (benchmarks/quantizer.py).
"""

import torch

SIDES = {"cpu": 1024, "cuda": 4096}  # vectors and codes of a block: 4 MB, 64 MB


@torch.no_grad()
def nearest(vectors: torch.Tensor, codebook: torch.Tensor, side: int | None = None) -> torch.Tensor:
    """Index of the nearest code of `V D` (squared distance) for each of `N D`; ties: the first."""
    side = side or SIDES.get(vectors.device.type, SIDES["cuda"])
    half_squares = codebook.square().sum(1).mul(0.5)  # V
    blocks = list(zip(codebook.split(side), half_squares.split(side), strict=True))
    return torch.cat([_nearest(part, blocks) for part in vectors.split(side)])


def _nearest(part: torch.Tensor, blocks: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """|v - c|^2 / 2 less |v|^2 / 2, which is the same for all codes, decides."""
    least, codes, first = None, None, 0
    for codebook, half_squares in blocks:
        distances = torch.addmm(half_squares, part, codebook.T, alpha=-1)  # n v
        found, at = distances.min(1)
        if least is None:
            least, codes = found, at
        else:
            closer = found < least
            least = torch.where(closer, found, least)
            codes = torch.where(closer, at + first, codes)
        first += len(codebook)
    return codes
