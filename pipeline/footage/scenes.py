"""Camera cuts from the stored terms: PySceneDetect 0.7's content detector, no video opened.

Score of a frame: mean of its hue, saturation and luma change. A cut stands where the score reaches
the threshold; PySceneDetect's own FlashFilter (merging) then keeps cuts `min_scene_seconds` apart
or more, so that a flash is no scene. Scenes that are still shorter (a cut just before the end) are
dropped and counted. Thesis, section 5.1: threshold 15, half a second.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline import params, schema
from pipeline.footage.framefile import FrameFile, open_frames, read_videos
from pipeline.progress import bar


def split_scenes(footage: Path, out: Path, rules: params.SceneSplit) -> dict[str, int | float]:
    """Writes `scenes.parquet` for all videos below `footage`; returns counts."""
    rows, dropped = [], []
    table = read_videos(footage)
    for video in bar(table.itertuples(), what="scenes", unit="video", total=len(table)):
        scenes = find_scenes(open_frames(footage, video.video_id), Fraction(video.fps), rules)
        shortest = scene_frames(rules.min_scene_seconds, Fraction(video.fps))
        for start, end, score in scenes:
            row = scene_row(video.video_id, start, end, score)
            (rows if end - start >= shortest else dropped).append(row)
    schema.write_table(rows, schema.SCENES, out / "scenes.parquet")
    return {
        "scenes": len(rows),
        "scenes_dropped": len(dropped),
        "frames": sum(row["end"] - row["start"] for row in rows),
        "frames_dropped": sum(row["end"] - row["start"] for row in dropped),
    }


def find_scenes(
    footage: FrameFile, fps: Fraction, rules: params.SceneSplit
) -> list[tuple[int, int, float]]:
    """(start, end, score at start) for each scene of a video, short ones included."""
    scores = content_scores(footage)
    shortest = scene_frames(rules.min_scene_seconds, fps)
    starts = [0, *content_cuts(scores, rules.threshold, shortest)]
    ends = [*starts[1:], len(scores)]
    return [(start, end, float(scores[start])) for start, end in zip(starts, ends, strict=True)]


def scene_frames(seconds: float, fps: Fraction) -> int:
    """The shortest scene in frames, rounded as PySceneDetect does."""
    return round(seconds * float(fps))


def content_scores(footage: FrameFile) -> np.ndarray:
    """Score of each frame, float64 `T` in [0, 255]; 0 for the first frame."""
    terms = [
        footage.term(name).astype(np.float64) for name in ("delta_hue", "delta_sat", "delta_lum")
    ]
    return sum(terms) / len(terms)


def content_cuts(scores: np.ndarray, threshold: float, min_scene_frames: int) -> list[int]:
    """Frame numbers at which a new scene starts; `scores` is float `T`."""
    from scenedetect.common import FrameTimecode
    from scenedetect.detector import FlashFilter

    merging = FlashFilter(FlashFilter.Mode.MERGE, length=min_scene_frames)
    cuts = []
    for frame, score in enumerate(scores):
        # the length is in frames, so the rate does not matter
        found = merging.filter(FrameTimecode(frame, fps=25.0), above_threshold=score >= threshold)
        cuts += [cut.frame_num for cut in found]
    return cuts


def scene_row(video_id: str, start: int, end: int, score: float) -> dict:
    name = f"{video_id}-{start:06d}"
    return {"scene_id": name, "video_id": video_id, "start": start, "end": end, "cut_score": score}
