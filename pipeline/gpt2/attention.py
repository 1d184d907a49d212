"""Attention of the clip layout: bidirectional inside a frame, a window of frames, both key frames.

A mask over the whole clip would compute S x S scores, of which a window of M frames needs only
(M + 2) / T. So each frame's queries meet just the frames they may see: the rows that see equally
many frames go through one call of scaled_dot_product_attention, without any mask.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.gpt2.sequence import visible_blocks

NAME = "frame_window"


def frame_window_attention(
    module: nn.Module,
    query: torch.Tensor,  # B H Tq*P D
    key: torch.Tensor,  # B H Tk*P D, Tk - Tq blocks from the cache before the queries' own
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention function for transformers' registry; gives `B Tq*P H D` and no weights."""
    places, before = module.config.positions_per_frame, module.config.n_frames_before
    q, k, v = (x.unflatten(2, (-1, places)).transpose(1, 2) for x in (query, key, value))
    offset = k.shape[1] - q.shape[1]  # B T H P D
    parts = []
    for rows, seen in _groups(offset, k.shape[1], before):
        queries = q[:, rows[0] - offset : rows[-1] - offset + 1]  # B R H P D
        keys, values = (_gather(x, seen) for x in (k, v))  # B R H W*P D
        parts.append(
            F.scaled_dot_product_attention(
                *(x.flatten(0, 1) for x in (queries, keys, values)),
                dropout_p=dropout,
                scale=scaling,
            ).unflatten(0, queries.shape[:2])
        )
    out = torch.cat(parts, 1)  # B Tq H P D
    return out.transpose(2, 3).flatten(1, 2), None  # B Tq*P H D


def _groups(start: int, end: int, before: int) -> list[tuple[list[int], list[list[int]]]]:
    """Blocks start..end-1 in order, those that see equally many blocks together."""
    groups: list[tuple[list[int], list[list[int]]]] = []
    for block in range(start, end):
        seen = visible_blocks(block, before)
        if groups and len(groups[-1][1][0]) == len(seen):
            groups[-1][0].append(block)
            groups[-1][1].append(seen)
        else:
            groups.append(([block], [seen]))
    return groups


def _gather(x: torch.Tensor, seen: list[list[int]]) -> torch.Tensor:
    """`B T H P D` to `B R H W*P D`: for each of R rows its W blocks, one after the other."""
    index = torch.tensor(seen, device=x.device)  # R W
    picked = x.index_select(1, index.flatten()).unflatten(1, index.shape)  # B R W H P D
    return picked.transpose(2, 3).flatten(3, 4)
