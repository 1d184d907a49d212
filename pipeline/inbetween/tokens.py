"""Clips to codes, once, with the trained tokenizer: what the transformer is trained on.

Beside the clip's own codes stand those of its two ends, moved along their optical flow to the time
of each frame (`motion`): all that can be known of the motion without the frames between.
"""

from pathlib import Path

import torch

from pipeline import frames, progress, schema
from pipeline.motion import frames_between
from pipeline.schema import SPLITS, write_table
from pipeline.shards.loaders import ClipSet
from pipeline.torch_setup import autocast
from pipeline.vqgan.model import Tokenizer


def precompute(
    tokenizer: Tokenizer,
    shards: Path,
    out: Path,
    batch_size: int,
    device: torch.device,
    precision: str,
) -> dict:
    """Writes `out/<split>.parquet`, a row a clip; gives counts and the share of codes in use."""
    used = torch.zeros(len(tokenizer.codebook), dtype=torch.bool)
    counts = {}
    sets = {split: ClipSet(shards, split) for split in SPLITS}
    total = sum(sum(clips.lengths) for clips in sets.values())
    with progress.bar(what="tokenizing", unit="frame", total=total) as bar:
        for split, clips in sets.items():
            rows = []
            for number in range(len(clips)):
                clip = clips[number]
                ends_moved = moved(clip.frames)
                codes, of_moved = (
                    encode_clip(tokenizer, x, batch_size, device, precision)
                    for x in (clip.frames, ends_moved)
                )
                used[codes.flatten()] = True
                rows.append(
                    {
                        "clip_id": clip.clip_id,
                        "n_frames": len(codes),
                        "tokens": codes.flatten().numpy().astype("uint16"),
                        "moved": of_moved.flatten().numpy().astype("uint16"),
                    }
                )
                bar.update(len(codes))
            write_table(rows, schema.TOKENS, out / f"{split}.parquet")
            counts[f"clips_{split}"] = len(rows)
    return {"frames": total, **counts, "codebook_usage": float(used.float().mean())}


def moved(clip: torch.Tensor) -> torch.Tensor:
    """A clip uint8 `n H W 3` of which both ends are kept, and moved to the times between."""
    if len(clip) < 3:
        return clip
    return torch.cat([clip[:1], frames_between(clip[0], clip[-1], len(clip)), clip[-1:]])


@torch.no_grad()
def encode_clip(
    tokenizer: Tokenizer,
    clip: torch.Tensor,
    batch_size: int,
    device: torch.device,
    precision: str,
) -> torch.Tensor:
    """uint8 `T H W 3` to codes int64 `T N` on the CPU, `batch_size` frames at a time."""
    with autocast(device, precision):
        parts = [
            tokenizer.encode(frames.to_float(part.to(device))).cpu()
            for part in clip.split(batch_size)
        ]
    return torch.cat(parts)
