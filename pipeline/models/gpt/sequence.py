"""How a clip becomes a sequence: what each frame attends to, padding, truncation.

Of a clip with frames 0..n-1 the first and the last are given; the model predicts 1..n-2. To predict
frame i+1 it sees the last frame and the frames i-M+1 .. i, oldest first, with M = `n_frames_before`
(thesis, Table 6), and in a full-clip sequence the first frame too.

`full_clip`: one sequence of blocks `last, 0, 1, ..., n-3`, P positions each. Block 0 is the last
frame; block b >= 1 is frame b-1 and predicts frame b in one pass. For mode `maskgit` one query
block for each of the frames 1, 2, ... follows. It holds the partly known frame b and sees what
block b sees, and itself. `sliding_window`: one sequence `last, i-M+1, ..., i` for each target.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def remaining(n_frames: Tensor | int, i: Tensor | int) -> Tensor | int:
    """Frames that remain when frame i is predicted: n-2 for the first in-between, 1 at the end."""
    return n_frames - 1 - i


def is_target(n_frames: Tensor, i: Tensor) -> Tensor:
    """Whether frame i is an in-between of a clip of n frames (padding and last frame are not)."""
    return (i >= 1) & (i <= n_frames - 2)


def clip_mask(
    n_blocks: int, n_queries: int, block_size: int, n_frames_before: int, device: torch.device
) -> Tensor:
    """Attention mask of a full-clip sequence: bool `S S`, True where a position may look.

    S = (n_blocks + n_queries) * block_size. Attention is bidirectional inside a block. Padded
    frames need no mask: they come after a clip's last target, and no block looks ahead.
    """
    block = torch.arange(n_blocks, device=device)
    query, key = block[:, None], block[None]
    sees = (key <= query) & ((key <= 1) | (key > query - n_frames_before))  # blocks blocks
    size = n_blocks + n_queries
    visible = torch.zeros(size, size, dtype=torch.bool, device=device)
    visible[:n_blocks, :n_blocks] = sees
    if n_queries:
        visible[n_blocks:, :n_blocks] = sees[1 : 1 + n_queries]
        visible[n_blocks:, n_blocks:] = torch.eye(n_queries, dtype=torch.bool, device=device)
    return visible.repeat_interleave(block_size, 0).repeat_interleave(block_size, 1)


def truncated_frames(
    lengths: Sequence[int], longest: int, generator: torch.Generator
) -> list[Tensor]:
    """Truncation (thesis, figure 17): for each clip the numbers of the frames that stay, ascending.

    All clips get as many frames as the shortest of `lengths`. The first and the last frame stay,
    inner frames are dropped at random. generator: on the CPU; how far it advances depends only on
    the number of clips and on `longest`, the bound of all lengths.
    """
    shortest = min(lengths)
    order = torch.rand(len(lengths), longest, generator=generator)
    kept = []
    for row, length in zip(order, lengths, strict=True):
        inner = 1 + row[: length - 2].argsort()[: shortest - 2]
        ends = torch.tensor([0, length - 1])
        kept.append(torch.cat([ends, inner]).sort().values)
    return kept
