"""Clips as codes, for the transformer's training: batches, and faults put in on purpose.

A model that only ever read true frames goes astray on its own ones. Beside reading what it drew
itself (thesis, section 4.2) it may read true frames of which some tokens are wrong: half of them a
random code, half the code that another frame of the clip has at that place, as if a part moved too
early or too late. That costs no rollout, and every frame of a clip still trains in one pass.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from pipeline import schema
from pipeline.errors import UserError
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.sequence import pad, truncate

BATCH_METHODS = {"padding": pad, "truncation": truncate}


class Clips(NamedTuple):
    """Codes of a batch, padded after each clip's end."""

    frames: torch.Tensor  # B T N
    n_frames: torch.Tensor  # B
    last: torch.Tensor  # B N
    moved: torch.Tensor  # B T N: both ends, moved to each frame's time


class TokenSet:
    """Clips of one split as codes, in memory: 1 kB a frame of 128 tokens, moved ends and all."""

    def __init__(self, folder: Path, split: str, config: GptConfig, method: str) -> None:
        table = schema.read_table(folder / f"{split}.parquet", schema.TOKENS)
        self.clip_ids, self.together = table.clip_id.tolist(), BATCH_METHODS[method]
        self.clips, self.moved = (_unpacked(c, table.n_frames) for c in (table.tokens, table.moved))
        for clip_id, *both in zip(self.clip_ids, self.clips, self.moved, strict=True):
            for codes in both:
                self._check(clip_id, codes, config)

    def _check(self, clip_id: str, clip: torch.Tensor, config: GptConfig) -> None:
        if clip.shape[1] != config.tokens_per_frame or int(clip.max()) >= config.num_embeddings:
            raise UserError(
                f"clip {clip_id} has {clip.shape[1]} tokens a frame up to code {int(clip.max())}, "
                f"expected {config.tokens_per_frame} tokens below {config.num_embeddings}: tokens "
                "and tokenizer do not belong together; run `dvc repro token_precompute`"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, rows: Sequence[int], device: torch.device) -> Clips:
        clips, moved = ([found[row] for row in rows] for found in (self.clips, self.moved))
        parts = (*self.together(clips), self.together(moved)[0])
        return Clips(*(x.long().to(device) for x in parts))


def _unpacked(column: pd.Series, n_frames: pd.Series) -> list[torch.Tensor]:
    """Codes `n N` of each clip."""
    flat = (torch.from_numpy(np.asarray(tokens, np.int32)) for tokens in column)
    return [clip.view(n, -1) for clip, n in zip(flat, n_frames, strict=True)]


def corrupted(clips: Clips, most: float, generator: torch.Generator) -> torch.Tensor:
    """The frames 0..T-3 `B T-2 N`, up to a share `most` of each clip's tokens wrong.

    The first frame stays: it is given, and true. generator: on the CPU; how far it advances depends
    on the shape alone.
    """
    inputs = clips.frames[:, :-2]
    share = most * torch.rand(len(inputs), 1, 1, generator=generator)
    wrong = torch.rand(inputs.shape, generator=generator) < share
    wrong[:, 0] = False
    which = (torch.rand(inputs.shape, generator=generator) * 2**24).long().to(inputs.device)
    from_clip = torch.rand(inputs.shape, generator=generator) < 0.5
    other = clips.frames.gather(1, which % clips.n_frames[:, None, None])
    largest = int(inputs.max()) + 1  # codes that the batch has
    faulty = torch.where(from_clip.to(inputs.device), other, which % largest)
    return torch.where(wrong.to(inputs.device), faulty, inputs)


def partly_drawn(targets: torch.Tensor, blank: int, generator: torch.Generator) -> torch.Tensor:
    """Frames `B T N` with a share of tokens left open (code `blank`), for mode `maskgit`.

    The share is cos(pi r / 2) with r uniform, each frame its own (Chang et al., 2022, section 3.1):
    most are nearly empty, as drawing begins.
    """
    share = (0.5 * math.pi * torch.rand(*targets.shape[:2], 1, generator=generator)).cos()
    chance = torch.rand(targets.shape, generator=generator)
    least = chance.amin(-1, keepdim=True)  # at least one token is open
    open_ = (chance < share) | (chance == least)
    return targets.masked_fill(open_.to(targets.device), blank)
