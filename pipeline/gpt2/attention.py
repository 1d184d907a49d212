"""Attention of the clip layout: bidirectional inside a frame, a window of frames, both key frames.

A mask over the whole clip would compute S x S scores, of which a window of M frames needs only
(M + 2) / T. So each frame's queries meet just the frames they may see: the rows that see equally
many frames go through one call of scaled_dot_product_attention. Only drawing blocks that are
causal need a mask, over what they see. With a cache everything that is there may be seen.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.gpt2.sequence import visible_blocks

NAME = "frame_window"


def frame_window_attention(
    module: nn.Module,
    query: torch.Tensor,  # B H S D, S = (T + drawn) * P; fewer with a cache
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    drawn: int = 0,  # drawing blocks at the end of the sequence
    causal: bool = False,  # whether those see no later position of themselves
    cached: bool = False,  # keys and values are all that may be seen
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention function for transformers' registry; gives `B S H D` and no weights."""
    settings = {"dropout_p": dropout, "scale": scaling}
    if cached:
        return F.scaled_dot_product_attention(query, key, value, **settings).transpose(1, 2), None
    places, before = module.config.positions_per_frame, module.config.window
    q, k, v = (x.unflatten(2, (-1, places)).transpose(1, 2) for x in (query, key, value))
    blocks = k.shape[1] - drawn  # of frames
    frames = [x[:, :blocks] for x in (q, k, v)]  # B T H P D
    parts = _frames(*frames, before, settings)
    if drawn:
        drawings = [x[:, blocks:] for x in (q, k, v)]
        parts += _drawings(drawings, frames[1:], before, causal, settings)
    out = torch.cat(parts, 1)  # B T+drawn H P D
    return out.transpose(2, 3).flatten(1, 2), None  # B S H D


def _frames(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, before: int, settings: dict
) -> list[torch.Tensor]:
    """Frames among themselves, `B R H P D` for each group of rows."""
    parts = []
    for rows, seen in _groups(range(k.shape[1]), before):
        queries = q[:, rows[0] : rows[-1] + 1]  # B R H P D
        keys, values = (_gather(x, seen) for x in (k, v))  # B R H W*P D
        parts.append(_attend(queries, keys, values, None, settings))
    return parts


def _drawings(
    drawings: list[torch.Tensor],
    frames: list[torch.Tensor],
    before: int,
    causal: bool,
    settings: dict,
) -> list[torch.Tensor]:
    """Drawing blocks: each with the frames that it sees, and itself."""
    q, k, v = drawings
    parts = []
    for rows, seen in _groups(range(1, q.shape[1] + 1), before):
        own = slice(rows[0] - 1, rows[-1])
        keys, values = (
            torch.cat([_gather(frame, seen), drawing[:, own]], 3)  # B R H (W+1)*P D
            for frame, drawing in zip(frames, (k, v), strict=True)
        )
        mask = _own_causal(keys.shape[3], q.shape[3], q.device) if causal else None
        parts.append(_attend(q[:, own], keys, values, mask, settings))
    return parts


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, settings: dict
) -> torch.Tensor:
    """`B R H P D` against `B R H W*P D`."""
    flat = (x.flatten(0, 1) for x in (q, k, v))
    out = F.scaled_dot_product_attention(*flat, attn_mask=mask, **settings)
    return out.unflatten(0, q.shape[:2])


def _own_causal(keys: int, places: int, device: torch.device) -> torch.Tensor:
    """bool `P keys`: all but the later ones of the last P keys."""
    return torch.ones(places, keys, dtype=torch.bool, device=device).tril(keys - places)


def _groups(blocks: range, before: int) -> list[tuple[list[int], list[list[int]]]]:
    """Blocks in order, those that see equally many blocks together."""
    groups: list[tuple[list[int], list[list[int]]]] = []
    for block in blocks:
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
