"""Camera cuts from the stored terms, by one of PySceneDetect 0.7's detectors or by TransNetV2.

Out: `scenes.parquet`; `statistics/<video_id>.csv`, all that a threshold can be chosen by, as
PySceneDetect's stats file; and contact sheets of all scenes to look at. Thesis, section 3.1.2:
content, threshold 15, half a second. Where a frame file says how many frames a scene has, as made
sequences do, nothing is looked for.

What is shorter than `min_scene_seconds`, a flash, a foreign frame, a dissolve or a shot of five
frames, is a scene of its own, dropped and counted. PySceneDetect glues it to the next scene, whose
first frame is then a foreign one. A shot that shakes or flickers that long is one scene: drawings
are shown for up to three frames, so cuts that lie no farther apart part no shots.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import config, io
from pipeline.data.contact_sheet import Scene, save_contact_sheets
from pipeline.data.detector_features import TERMS
from pipeline.data.detectors import make_detector
from pipeline.data.frame_file import FrameFile, open_frames, read_videos
from pipeline.progress import bar

DRAWING_SECONDS = 1 / 8  # three frames of 24
STATISTICS, SHEETS = "statistics", "contact_sheets"  # folders below the stage's own


def split_scenes(footage: Path, out: Path, rules: config.SceneSplit) -> dict[str, int | float]:
    """Writes all of the above below `out` for all videos below `footage`; returns counts."""
    for path in [*(out / STATISTICS).glob("*.csv"), *(out / SHEETS).glob("*.png")]:
        path.unlink()  # no video that is gone keeps its own
    kept, dropped = [], []
    table = read_videos(footage)
    for video in bar(table.itertuples(), what="scenes", unit="video", total=len(table)):
        frames, fps = open_frames(footage, video.video_id), Fraction(video.fps)
        scenes, scores = find_scenes(frames, fps, rules)
        for scene in scenes:
            row = {
                "scene_id": f"{video.video_id}-{scene.start:06d}",
                "video_id": video.video_id,
                "start": scene.start,
                "end": scene.end,
                "cut_score": float(scores[scene.start]) if scene.start else 0.0,
            }
            (kept if scene.kept else dropped).append(row)
        write_statistics(frames, scores, out / STATISTICS / f"{video.video_id}.csv")
        save_contact_sheets(frames, scenes, out / SHEETS, video.video_id)
    io.write_table(kept, io.SCENES, out / "scenes.parquet")
    return {
        "scenes": len(kept),
        "scenes_dropped": len(dropped),
        "frames": sum(row["end"] - row["start"] for row in kept),
        "frames_dropped": sum(row["end"] - row["start"] for row in dropped),
    }


def find_scenes(
    footage: FrameFile, fps: Fraction, rules: config.SceneSplit
) -> tuple[list[Scene], np.ndarray]:
    """All scenes of a video, also those that are too short, and the detector's scores float64 `T`.

    Where scenes were made of one length they are counted off, and the scores are 0.
    """
    if "scene_frames" in footage.about:
        starts = [*range(0, len(footage), int(footage.about["scene_frames"]))]
        scores, min_length = np.zeros(len(footage)), 0
    else:
        min_length = round(rules.min_scene_seconds * float(fps))  # rounded as PySceneDetect does
        detector = make_detector(rules)
        scores = detector.scores(footage)
        cuts = detector.cuts(footage, scores)
        starts = scene_starts(cuts, len(footage), min_length, round(DRAWING_SECONDS * fps))
    ends = [*starts[1:], len(footage)]
    pairs = zip(starts, ends, strict=True)
    return [Scene(start, end, kept=end - start >= min_length) for start, end in pairs], scores


def scene_starts(cuts: list[int], n_frames: int, min_length: int, drawing: int) -> list[int]:
    """First frames of all scenes, also of those shorter than `min_length`, which none should keep.

    Cuts at most `drawing` frames apart are a restless stretch. Long ones that follow each other in
    less than `min_length` are one scene, with all between them. Short ones stand apart.
    """
    points = np.array(sorted({0, *cuts, n_frames}))  # a fade may be cut at its frame 0
    starts = []
    for run in np.split(points, np.flatnonzero(np.diff(points) >= min_length) + 1):
        stretches = np.split(run, np.flatnonzero(np.diff(run) > drawing) + 1)
        long = [stretch for stretch in stretches if stretch[-1] - stretch[0] >= max(1, min_length)]
        ends = {int(end) for stretch in stretches for end in stretch[[0, -1]]}
        inner = range(long[0][0] + 1, long[-1][-1]) if long else range(0)
        starts += sorted(ends - set(inner))
    return starts[:-1]


def write_statistics(footage: FrameFile, scores: np.ndarray, path: Path) -> None:
    """A row a frame: its number, its time in seconds, the terms, the detector's score."""
    terms = {name: footage.term(name).astype(np.float64) for name in ("time", *TERMS)}
    columns = {"frame": np.arange(len(footage))} | terms | {"score": scores}
    io.write_csv(pd.DataFrame(columns).round(4), path)
