"""How a clip becomes a sequence: which frames are seen when which frame is predicted.

Of a clip with frames 0..n-1 the first and the last are given; the model predicts 1..n-2. When
frame i+1 is predicted it sees the last frame and the frames i-M+1 .. i, oldest first, M =
`n_frames_before` (thesis, Table 6), and in the layout `clip` the first frame too.

Layout `clip`: one sequence `last, 0, 1, ..., n-3` of frames ("blocks"); block 0 is the last frame,
block b >= 1 is frame b-1 and predicts frame b in one pass. In the modes that draw a frame in
several steps, a drawing block for each of the frames 1, ..., n-2 follows: that of frame b holds
what is drawn of it, and sees what block b sees, and itself. Layout `windowed`: one sequence a
target.
"""

from collections.abc import Sequence

import torch


def remaining(n_frames: torch.Tensor | int, i: torch.Tensor | int) -> torch.Tensor | int:
    """Frames that remain when frame i is predicted: n-2 for the first in-between, 1 at the end."""
    return n_frames - 1 - i


def window(i: int, n_frames_before: int) -> range:
    """Frames that are seen, beside the given ones, when frame i+1 is predicted."""
    return range(max(0, i - n_frames_before + 1), i + 1)


def visible_blocks(block: int, n_frames_before: int) -> list[int]:
    """Blocks of the clip layout that `block` attends to: last, first, window, itself."""
    if block == 0:
        return [0]
    seen = {0, 1} | {i + 1 for i in window(block - 1, n_frames_before)}
    return sorted(seen)


def clip_mask(blocks: int, drawn: int, places: int, before: int, causal: bool) -> torch.Tensor:
    """Who attends to whom in the clip layout: bool `S S`, S = (blocks + drawn) * places.

    drawn: drawing blocks after the `blocks` frames; causal: no later position of the own drawing.
    The networks never need it whole: it is here for reference, and for the plain GPT.
    """
    size = blocks + drawn
    seen = torch.zeros(size, size, dtype=torch.bool)
    for block in range(blocks):
        seen[block, visible_blocks(block, before)] = True
    for number in range(drawn):
        seen[blocks + number] = seen[number + 1]
        seen[blocks + number, blocks + number] = True
    mask = seen.repeat_interleave(places, 0).repeat_interleave(places, 1)
    if causal:
        own = torch.block_diag(*[torch.ones(places, places).tril().bool()] * drawn)
        mask[blocks * places :, blocks * places :] = own
    return mask


def is_target(n_frames: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    """Whether frame i is an in-between of a clip of n frames (padding and last frame are not)."""
    return (i >= 1) & (i <= n_frames - 2)


def pad(clips: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clips `T_k N` of different length to `B T N`, their lengths `B`, and last frames `B N`.

    Padding is code 0 after the last frame; no target and no loss touches it.
    """
    lengths = torch.tensor([len(clip) for clip in clips])
    padded = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    last = torch.stack([clip[-1] for clip in clips])
    return padded, lengths, last


def truncate(clips: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `pad`, but every clip ends where the shortest does: its frame there is its last one."""
    shortest = min(len(clip) for clip in clips)
    return pad([clip[:shortest] for clip in clips])
