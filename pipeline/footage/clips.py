"""Scenes to clips of 15-25 frames (thesis, section 5.1), and each scene to one split.

A scene of n frames becomes k = ceil(n / max_frames) parts, one fewer where a part would have less
than `min_frames`. Parts differ by at most one frame, longer ones last. A scene that is too short
has a row with its reason and no split.
"""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline import params, schema
from pipeline.footage.framefile import FrameFile, open_frames
from pipeline.footage.splits import check_splits, split_key, split_of
from pipeline.progress import bar


def chunk_clips(
    footage: Path, scenes: Path, index: Path, out: Path, rules: params.ClipChunk
) -> dict[str, int | float]:
    """Writes `clips.parquet`; returns counts. Raises a UserError if a split is empty."""
    table = schema.read_table(scenes / "scenes.parquet", schema.SCENES)
    usable = _usable_frames(index)
    rows = []
    for video_id, its_scenes in bar(
        table.groupby("video_id", sort=False), what="clips", unit="video"
    ):
        frames = open_frames(footage, video_id)
        for scene in its_scenes.itertuples():
            kept = usable.get(scene.scene_id, np.empty(0, np.int32))[rules.drop_first_frames :]
            rows += scene_clips(scene, kept, frames, rules)
    counts = Counter(row["split"] for row in rows)
    check_splits(counts, rules)
    schema.write_table(rows, schema.CLIPS, out / "clips.parquet")
    lengths = [row["n_frames"] for row in rows if row["split"]]
    return {
        **{f"clips_{split}": counts[split] for split in schema.SPLITS},
        "clips_rejected": counts[""],
        "frames": sum(lengths),
    }


def part_lengths(n_frames: int, min_frames: int, max_frames: int) -> list[int]:
    """Lengths of the clips that a scene of `n_frames` becomes; none where it is too short."""
    if n_frames < min_frames:
        return []
    parts = math.ceil(n_frames / max_frames)
    if n_frames // parts < min_frames:
        parts -= 1
    short, longer = divmod(n_frames, parts)
    return [short] * (parts - longer) + [short + 1] * longer


def scene_clips(scene, kept: np.ndarray, footage: FrameFile, rules: params.ClipChunk) -> list[dict]:
    """Rows of `clips.parquet` for one scene; `kept` are the numbers of its frames that count."""
    lengths = part_lengths(len(kept), rules.min_frames, rules.max_frames)
    if not lengths:
        reason = f"scene of {len(kept)} frames, at least {rules.min_frames} needed"
        return [_clip_row(scene, 0, kept, footage, split="", reason=reason)]
    key = split_key(scene.video_id, scene.start, rules.split_by)
    split = split_of(key, rules.train_share, rules.val_share)
    pieces = np.split(kept, np.cumsum(lengths)[:-1])
    return [
        _clip_row(scene, part, piece, footage, split=split, reason="")
        for part, piece in enumerate(pieces)
    ]


def motion(footage: FrameFile, frames: np.ndarray) -> float:
    """Mean absolute change from frame to frame, in grey levels [0, 255]; 0 for one frame."""
    steps = [cv2.absdiff(footage[now], footage[then]).mean() for now, then in pairwise(frames)]
    return float(np.mean(steps)) if steps else 0.0


def _clip_row(
    scene, part: int, frames: np.ndarray, footage: FrameFile, split: str, reason: str
) -> dict:
    return {
        "clip_id": f"{scene.scene_id}-{part:02d}",
        "scene_id": scene.scene_id,
        "video_id": scene.video_id,
        "frames": frames.tolist(),
        "n_frames": len(frames),
        "motion": motion(footage, frames),
        "split": split,
        "reason": reason,
    }


def _usable_frames(index: Path) -> dict[str, np.ndarray]:
    """Numbers of the frames that feed clips, by scene."""
    table = schema.read_table(index / "frame_index.parquet", schema.FRAME_INDEX)
    kept: pd.DataFrame = table[table["use_clip"]]
    return {name: rows["frame"].to_numpy() for name, rows in kept.groupby("scene_id")}
