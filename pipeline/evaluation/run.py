"""Evaluation on the test split: the model and its baselines, clip by clip, and what people see.

Writes below `evaluation/`: metrics.json (all numbers), clips.csv (a row a clip and candidate),
strip.png (first, generated, true, cross-fade), reconstruction.png (true above, the tokenizer's
below), videos/*.mp4.
Memory holds one batch of clips.
"""

from pathlib import Path

import pandas as pd
import torch

from pipeline import pictures, progress
from pipeline.inbetween.drawing import InBetweener, Style
from pipeline.metrics.baselines import BASELINES, cross_fade
from pipeline.metrics.image import psnr, ssim
from pipeline.metrics.summary import MODEL, ROUND_TRIP, high_motion, summarise
from pipeline.params import Evaluate
from pipeline.records import write_json
from pipeline.shards.loaders import Clip, ClipSet, ImageSet, batches
from pipeline.sources.encode import write_video

PAIRS = 5  # pictures shown beside their reconstructions
VIDEO_HEIGHT = 256  # of the small videos that people open


def evaluate(
    model: InBetweener, shards: Path, motion: pd.Series, settings: Evaluate, out: Path
) -> dict:
    """`motion`: grey levels a frame by clip_id. Gives the content of metrics.json."""
    clips = ClipSet(shards, "test")
    style = Style(settings.decode, settings.sharpness, settings.detail)
    rows, shown = [], _shown(clips, motion, settings.strips)
    examples = []
    with progress.bar(what="evaluating", unit="clip", total=len(clips)) as bar:
        for numbers in batches(len(clips), settings.batch_size):
            batch = [clips[number] for number in numbers]
            drawn = _draw(model, [clip.frames for clip in batch], style)
            for number, clip, generated in zip(numbers, batch, drawn, strict=True):
                rows += _rows(model, clip, float(motion[clip.clip_id]), generated)
                if number in shown:
                    examples.append((clip.clip_id, clip.frames, generated))
                bar.update()
    table = pd.DataFrame(rows)
    images = ImageSet(shards, "test")
    tokenizer = _tokenizer(model, images, settings.batch_size * 8)
    content = {"tokenizer": tokenizer} | summarise(table)
    _write(out, content, table, examples)
    shown = images.batch(range(0, len(images), max(1, len(images) // PAIRS))[:PAIRS])
    pictures.save_pairs(shown, model.round_trip(shown)[0].cpu(), out / "reconstruction.png")
    return content


def _shown(clips: ClipSet, motion: pd.Series, count: int) -> set[int]:
    """Clips for people to look at: evenly spread over the third with most motion."""
    ids = [clips.clip_id(row) for row in range(len(clips))]
    moving = high_motion(motion[ids])
    candidates = [row for row, clip_id in enumerate(ids) if moving[clip_id]]
    step = max(1, len(candidates) // count)
    return set(candidates[::step][:count])


def _draw(model: InBetweener, batch: list[torch.Tensor], style: Style) -> list[torch.Tensor]:
    first = torch.stack([frames[0] for frames in batch])
    last = torch.stack([frames[-1] for frames in batch])
    return model.draw(first, last, [len(frames) for frames in batch], style)


def _rows(model: InBetweener, clip: Clip, motion: float, generated: torch.Tensor) -> list[dict]:
    """Numbers of the model, every baseline and the round trip on one clip's inner frames."""
    truth = clip.frames[1:-1]
    candidates = {MODEL: generated[1:-1]}
    candidates |= {name: baseline(clip.frames) for name, baseline in BASELINES.items()}
    candidates[ROUND_TRIP] = model.round_trip(truth)[0].cpu()
    return [_row(clip.clip_id, name, motion, c, truth) for name, c in candidates.items()]


def _row(
    clip_id: str, candidate: str, motion: float, images: torch.Tensor, truth: torch.Tensor
) -> dict:
    return {
        "clip_id": clip_id,
        "candidate": candidate,
        "motion": motion,
        "n_frames": len(truth) + 2,
        "psnr": float(psnr(images, truth).mean()),
        "ssim": float(ssim(images, truth).mean()),
    }


def _tokenizer(model: InBetweener, images: ImageSet, batch_size: int) -> dict:
    """Reconstruction of the test pictures, and the share of the codebook that they use."""
    scores, used = [], torch.zeros(len(model.tokenizer.codebook), dtype=torch.bool)
    for rows in batches(len(images), batch_size):
        truth = images.batch(rows)
        drawn, codes = model.round_trip(truth)
        drawn = drawn.cpu()
        scores += zip(psnr(drawn, truth).tolist(), ssim(drawn, truth).tolist(), strict=True)
        used[codes.flatten().cpu()] = True
    psnrs, ssims = zip(*scores, strict=True)
    return {
        "psnr": sum(psnrs) / len(psnrs),
        "ssim": sum(ssims) / len(ssims),
        "codebook_usage": float(used.float().mean()),
        "n": len(scores),
    }


def _write(out: Path, content: dict, table: pd.DataFrame, examples: list[tuple]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "metrics.json", content)
    table.round(4).to_csv(out / "clips.csv", index=False, lineterminator="\n")
    strips = [
        (clip_id, {"generated": drawn, "true": truth, "cross-fade": _faded(truth)})
        for clip_id, truth, drawn in examples
    ]
    pictures.save_strips(strips, out / "strip.png")
    for number, (_, truth, drawn) in enumerate(examples, 1):
        write_video(out / f"videos/{number:02d}_generated.mp4", _enlarged(drawn), 24)
        panels = {"generated": drawn, "true": truth, "cross-fade": _faded(truth)}
        write_video(out / f"videos/{number:02d}_compare.mp4", pictures.side_by_side(panels), 24)


def _faded(truth: torch.Tensor) -> torch.Tensor:
    return torch.cat([truth[:1], cross_fade(truth), truth[-1:]])


def _enlarged(clip: torch.Tensor):
    return (pictures.enlarge(frame, VIDEO_HEIGHT) for frame in clip.numpy())
