"""Clips to codes, once, with the trained tokenizer: what the transformer is trained on.

Beside the clip's own codes stand those of its two ends, moved along their optical flow to the time
of each frame (`motion`), at the pace of the footage (`easing`): all that can be known of the motion
without the frames between.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from pipeline import frames, progress, schema
from pipeline.easing import EVEN, Easing, save_easing
from pipeline.inbetween.pacing import MOST_CLIPS, fit
from pipeline.models.vqgan.model import Tokenizer
from pipeline.motion import moved_clip
from pipeline.params import TokenPrecompute
from pipeline.schema import SPLITS, write_table
from pipeline.shards.loaders import ClipSet
from pipeline.torch_setup import autocast


def precompute(
    tokenizer: Tokenizer,
    shards: Path,
    out: Path,
    settings: TokenPrecompute,
    device: torch.device,
    precision: str,
) -> dict:
    """Writes `out/<split>.parquet`, a row a clip, and the pace of the footage.

    Gives counts, the share of codes in use, and what the pace wins.
    """
    used = torch.zeros(len(tokenizer.codebook), dtype=torch.bool)
    counts = {}
    sets = {split: ClipSet(shards, split) for split in SPLITS}
    easing, gain = _easing(sets["train"]) if settings.easing else (EVEN, 0.0)
    save_easing(easing, out)
    total = sum(sum(clips.lengths) for clips in sets.values())
    with progress.bar(what="tokenizing", unit="frame", total=total) as bar:
        for split, clips in sets.items():
            rows = []
            for number in range(len(clips)):
                clip = clips[number]
                ends_moved = moved(clip.frames, easing)
                codes, of_moved = (
                    encode_clip(tokenizer, x, settings.batch_size, device, precision)
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
    usage = float(used.float().mean())
    found = asdict(easing) | {"train_psnr_gain": gain}
    return {"frames": total, **counts, "codebook_usage": usage, "easing": found}


def _easing(clips: ClipSet) -> tuple[Easing, float]:
    """Of some clips, evenly chosen."""
    places = [k for k, n in enumerate(clips.lengths) if n >= 3]
    return fit([clips[k].frames for k in places[:: -(-len(places) // MOST_CLIPS) or 1]])


def moved(clip: torch.Tensor, easing: Easing) -> torch.Tensor:
    """A clip uint8 `n H W 3` of which both ends are kept, and moved to the times between."""
    if len(clip) < 3:
        return clip
    first, last = clip[0], clip[-1]
    return moved_clip(first, last, len(clip), exponent=easing.exponent(first, last))


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
