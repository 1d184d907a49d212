"""Scenes to clips of 15-25 frames (thesis, section 3.1.2, table 1), and each scene to one split.

A scene of n frames becomes k = ceil(n / max_frames) parts, one fewer where a part would have less
than `min_frames`. Parts differ by at most one frame, longer ones last. A scene that is too short
has a row with its reason and no split; so has a clip that a filter refuses, and each clip of a
scene that another split holds nearly identical. Splits are made of what is left (`splits.py`).
"""

import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline import config, io
from pipeline.data.filters import NAMES, Clip, rejection
from pipeline.data.frame_file import FrameFile, open_frames
from pipeline.data.near_duplicates import find_near_duplicates, hash_scene
from pipeline.data.splits import Keyed, check_splits, fill_empty_splits, split_key, split_of
from pipeline.progress import bar

SHORT, LEAK = "short", "leak"  # why a clip is rejected, beside the names of filters


def chunk_clips(
    footage: Path, scenes: Path, index: Path, out: Path, rules: config.ClipChunk
) -> dict[str, int | float]:
    """Writes `clips.parquet`; returns counts. Raises a UserError if a split is empty."""
    table = io.read_table(scenes / "scenes.parquet", io.SCENES)
    frame_index = io.read_table(index / "frame_index.parquet", io.FRAME_INDEX)
    usable = {
        scene_id: rows["frame"].to_numpy()
        for scene_id, rows in frame_index[frame_index["use_clip"]].groupby("scene_id")
    }
    rows, hashed, keyed, rejected = [], [], {}, Counter()
    by_video = table.groupby("video_id", sort=False)
    for video_id, video_scenes in bar(by_video, what="clips", unit="video"):
        frames = open_frames(footage, video_id)
        for scene in video_scenes.itertuples():
            numbers = usable.get(scene.scene_id, np.empty(0, np.int32))
            clips, names = scene_clips(scene, numbers, frames, rules)
            rows += clips
            rejected.update(names)
            if len(names) == len(clips):
                continue
            key = split_key(video_id, scene.start, rules.split_by)
            keyed[scene.scene_id] = Keyed(key, frames.about.get("split", ""))
            if rules.near_duplicate_hamming >= 0:
                small = frames.small[scene.start : scene.end]  # T 32 32
                hashed.append(hash_scene(scene.scene_id, "", small))

    known: dict[tuple[str, ...], dict[str, str]] = {}  # by splits: a season's search takes minutes

    def near_duplicates(splits: Mapping[Keyed, str]) -> dict[str, str]:
        key = tuple(splits[keyed[scene.scene_id]] for scene in hashed)
        if key not in known:
            scenes = [dataclasses.replace(s, split=x) for s, x in zip(hashed, key, strict=True)]
            known[key] = find_near_duplicates(scenes, rules.near_duplicate_hamming)
        return known[key]

    def used(splits: Mapping[Keyed, str]) -> set[Keyed]:
        return {keyed[scene_id] for scene_id in keyed.keys() - near_duplicates(splits).keys()}

    by_hash = {key: split_of(key, rules) for key in keyed.values()}
    splits = fill_empty_splits(by_hash, rules, used)
    duplicates = near_duplicates(splits)
    for row in rows:
        if row["reason"]:
            continue
        if row["scene_id"] in duplicates:
            row["reason"] = duplicates[row["scene_id"]]
            rejected[LEAK] += 1
        else:
            row["split"] = splits[keyed[row["scene_id"]]]
    counts = Counter(row["split"] for row in rows)
    check_splits(counts, rules)
    moved = {key: split for key, split in splits.items() if split != by_hash[key]}
    for key, split in moved.items():
        print(f"{split} had no clip: {rules.split_by} {key.key} moves there", file=sys.stderr)
    io.write_table(rows, io.CLIPS, out / "clips.parquet")
    return {
        **{f"clips_{split}": counts[split] for split in io.SPLITS},
        "clips_rejected": counts[""],
        "moved_to_empty_splits": len(moved),
        **{f"rejected_{name}": rejected[name] for name in (SHORT, *NAMES, LEAK)},
        "frames": sum(row["n_frames"] for row in rows if row["split"]),
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


def scene_clips(
    scene, usable: np.ndarray, footage: FrameFile, rules: config.ClipChunk
) -> tuple[list[dict], list[str]]:
    """Rows of `clips.parquet` for one scene, and a name for each rejection among them."""
    kept = usable[rules.drop_first_frames :]
    lengths = part_lengths(len(kept), rules.min_frames, rules.max_frames)
    if not lengths:
        reason = f"scene of {len(kept)} frames, at least {rules.min_frames} needed"
        return [_clip_row(scene, 0, Clip(footage, kept), reason)], [SHORT]
    rows, rejected = [], []
    for part, frames in enumerate(np.split(kept, np.cumsum(lengths)[:-1])):
        clip = Clip(footage, frames)
        name, reason = rejection(clip, rules.filters)
        rows.append(_clip_row(scene, part, clip, reason))
        rejected += [name] if name else []
    return rows, rejected


def _clip_row(scene, part: int, clip: Clip, reason: str) -> dict:
    return {
        "clip_id": f"{scene.scene_id}-{part:02d}",
        "scene_id": scene.scene_id,
        "video_id": scene.video_id,
        "frames": clip.frames.tolist(),
        "n_frames": len(clip.frames),
        "motion": clip.motion,
        "split": "",  # given when all scenes are known
        "reason": reason,
    }
