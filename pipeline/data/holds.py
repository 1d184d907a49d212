"""Held drawings, and which frames feed the image set and the clips.

In anime a drawing is shown for one, two, three or more frames. A frame repeats a drawing if no
8x8 block of it differs from that drawing by more than `hold_threshold`, and neither from the frame
before: comparing with neighbours alone would take a slow drift for a hold, comparing with the
drawing alone would miss a motion that returns.

What moves over a held drawing makes each frame a drawing of its own: of the sample's 640 frames
under falling snow none is a hold, and block thresholds that take some for holds (29 at 20, 205 at
40) lose 193 and 587 of 1,970 true drawings of static scenes. Under a slow pan each frame is a
drawing too, as in the sample's truth: block 1.5 loses none of the 2,082 drawings under a moving
camera and finds all 415 held frames there, all 1,805 in static scenes. The mean hides small
motion: at 0.25 it loses 7 and 57 drawings (moving, static camera), at 1 it loses 66 and 337.
Grain that differs in each frame, of deviation s in the model's frames, changes the worst block by
some 1.35 s: the threshold 1.5 bears grain of s = 1, not of 1.2; grain of 4 needs 5.5.

`frame_index.parquet` has a row for every frame of every readable video. Frames of scenes that were
dropped stand in it with an empty scene_id and their reason, so that nothing is lost silently.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import config, io
from pipeline.data.detector_features import block_change
from pipeline.data.frame_file import FrameFile, open_frames, read_videos
from pipeline.progress import bar

HELD, OUTSIDE = "held drawing", "outside scenes: its scene is too short"


def index_frames(
    footage: Path, scenes: Path, out: Path, rules: config.FrameSubsample
) -> dict[str, int | float]:
    """Writes `frame_index.parquet`; returns counts."""
    table = io.read_table(scenes / "scenes.parquet", io.SCENES)
    parts = []
    videos = read_videos(footage)
    for video in bar(videos.itertuples(), what="holds", unit="video", total=len(videos)):
        video_scenes = table[table["video_id"] == video.video_id]
        parts.append(index_video(open_frames(footage, video.video_id), video, video_scenes, rules))
    index = pd.concat(parts, ignore_index=True)
    io.write_table(index, io.FRAME_INDEX, out / "frame_index.parquet")
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


def index_video(
    footage: FrameFile, video, scenes: pd.DataFrame, rules: config.FrameSubsample
) -> pd.DataFrame:
    """Rows for all frames of one video; `scenes` are its rows of `scenes.parquet`."""
    n_frames = len(footage)
    index = {
        "video_id": np.full(n_frames, video.video_id, object),
        "frame": np.arange(n_frames, dtype=np.int32),
        "scene_id": np.full(n_frames, "", object),
        "hold": np.zeros(n_frames, np.int32),
        "use_image": np.zeros(n_frames, bool),
        "use_clip": np.zeros(n_frames, bool),
        "reason": np.full(n_frames, OUTSIDE, object),
    }
    for scene in scenes.itertuples():
        inside = slice(scene.start, scene.end)
        lengths = hold_lengths(footage, scene.start, scene.end, rules.hold_threshold)
        use_clip = lengths > 0 if rules.clip_frames == "unique" else np.ones(len(lengths), bool)
        index["scene_id"][inside] = scene.scene_id
        index["hold"][inside] = lengths
        index["use_image"][inside] = np.arange(len(lengths)) % rules.image_step == 0
        index["use_clip"][inside] = use_clip
        index["reason"][inside] = np.where(use_clip, "", HELD)
    return pd.DataFrame(index)


def hold_lengths(footage: FrameFile, start: int, end: int, threshold: float) -> np.ndarray:
    """int32 `T` of a scene: frames for which a drawing is shown on its first frame, else 0.

    `threshold` is in grey levels, as `block_change`.
    """
    steps = footage.term("block_change")[start:end]  # measured while decoding
    lengths = np.zeros(end - start, np.int32)
    lengths[:1] = 1
    drawing = start
    for frame in range(start + 1, end):
        repeats = steps[frame - start] <= threshold
        if repeats and drawing < frame - 1:  # else the step is the change from the drawing
            repeats = block_change(footage[frame], footage[drawing]) <= threshold
        if not repeats:
            drawing = frame
        lengths[drawing - start] += 1
    return lengths
