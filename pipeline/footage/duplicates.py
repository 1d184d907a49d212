"""Held drawings, and which frames feed the image set and the clips.

In anime a drawing is shown for one, two, three or more frames. A frame repeats a drawing if no
8x8 block of it differs from that drawing by more than `hold_threshold`, and neither from the frame
before: comparing with neighbours alone would take a slow drift for a hold, comparing with the
drawing alone would miss a motion that returns.

`frame_index.parquet` has a row for every frame of every readable video. Frames of scenes that were
dropped stand in it with an empty scene_id and their reason, so that nothing is lost silently.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import params, schema
from pipeline.footage.framefile import FrameFile, open_frames, read_videos
from pipeline.footage.terms import block_change
from pipeline.progress import bar

HELD, OUTSIDE = "held drawing", "outside scenes: its scene is too short"


def index_frames(
    footage: Path, scenes: Path, out: Path, rules: params.FrameSubsample
) -> dict[str, int | float]:
    """Writes `frame_index.parquet`; returns counts."""
    table = schema.read_table(scenes / "scenes.parquet", schema.SCENES)
    parts = []
    videos = read_videos(footage)
    for video in bar(videos.itertuples(), what="holds", unit="video", total=len(videos)):
        its_scenes = table[table["video_id"] == video.video_id]
        parts.append(index_video(open_frames(footage, video.video_id), video, its_scenes, rules))
    index = pd.concat(parts, ignore_index=True)
    schema.write_table(index, schema.FRAME_INDEX, out / "frame_index.parquet")
    return _counts(index)


def index_video(
    footage: FrameFile, video, scenes: pd.DataFrame, rules: params.FrameSubsample
) -> pd.DataFrame:
    """Rows for all frames of one video; `scenes` are its rows of `scenes.parquet`."""
    index = _outside(video.video_id, len(footage))
    for scene in scenes.itertuples():
        lengths = hold_lengths(footage, scene.start, scene.end, rules.hold_threshold)
        _fill_scene(index, scene, lengths, rules)
    return pd.DataFrame(index)


def hold_lengths(footage: FrameFile, start: int, end: int, threshold: float) -> np.ndarray:
    """int32 `T` of a scene: frames for which a drawing is shown on its first frame, else 0."""
    changes = footage.term("block_change")
    lengths = np.zeros(end - start, np.int32)
    drawing = start
    for frame in range(start, end):
        if frame > start and not _repeats(footage, frame, drawing, changes[frame], threshold):
            drawing = frame
        lengths[drawing - start] += 1
    return lengths


def _repeats(footage: FrameFile, frame: int, drawing: int, change: float, threshold: float) -> bool:
    if change > threshold:
        return False
    if drawing == frame - 1:
        return True  # the stored change is that against the drawing
    return block_change(footage[frame], footage[drawing]) <= threshold


def _outside(video_id: str, n_frames: int) -> dict:
    return {
        "video_id": np.full(n_frames, video_id, object),
        "frame": np.arange(n_frames, dtype=np.int32),
        "scene_id": np.full(n_frames, "", object),
        "hold": np.zeros(n_frames, np.int32),
        "use_image": np.zeros(n_frames, bool),
        "use_clip": np.zeros(n_frames, bool),
        "reason": np.full(n_frames, OUTSIDE, object),
    }


def _fill_scene(index: dict, scene, lengths: np.ndarray, rules: params.FrameSubsample) -> None:
    inside = slice(scene.start, scene.end)
    keep = np.ones(len(lengths), bool) if rules.clip_frames == "all" else lengths > 0
    index["scene_id"][inside] = scene.scene_id
    index["hold"][inside] = lengths
    index["use_image"][inside] = np.arange(len(lengths)) % rules.image_step == 0
    index["use_clip"][inside] = keep
    index["reason"][inside] = np.where(keep, "", HELD)


def _counts(index: pd.DataFrame) -> dict[str, int | float]:
    inside = index["scene_id"] != ""
    drawings = int((index["hold"] > 0).sum())
    return {
        "frames": int(inside.sum()),
        "frames_outside_scenes": int((~inside).sum()),
        "drawings": drawings,
        "held_frames": int(inside.sum()) - drawings,
        "images": int(index["use_image"].sum()),
        "clip_frames": int(index["use_clip"].sum()),
    }
