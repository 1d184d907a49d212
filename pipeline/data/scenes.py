"""Camera cuts from the stored terms, by one of PySceneDetect 0.7's detectors or by TransNetV2.

Out: `scenes.parquet`; `statistics/<video_id>.csv`, all that a threshold can be chosen by, as
PySceneDetect's stats file; and contact sheets of all scenes to look at. Scenes shorter than
`min_scene_seconds` (a cut just before the end) are dropped and counted. Thesis, section 5.1:
content, threshold 15, half a second. Where a frame file says how many frames a scene has, as made
sequences do, nothing is looked for.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import config, io
from pipeline.data.contact_sheet import Scene, save_contact_sheets
from pipeline.data.detector_features import TERMS
from pipeline.data.detectors import detector_cuts, detector_scores
from pipeline.data.frame_file import FrameFile, open_frames, read_videos
from pipeline.progress import bar

STATISTICS, SHEETS = "statistics", "contact_sheets"  # folders below the stage's own


def split_scenes(footage: Path, out: Path, rules: config.SceneSplit) -> dict[str, int | float]:
    """Writes all of the above below `out` for all videos below `footage`; returns counts."""
    rows, dropped = [], []
    _clear(out)
    table = read_videos(footage)
    for video in bar(table.itertuples(), what="scenes", unit="video", total=len(table)):
        frames = open_frames(footage, video.video_id)
        found = video_scenes(frames, Fraction(video.fps), rules)
        for scene in found.scenes:
            row = scene_row(video.video_id, scene.start, scene.end, found.score_at(scene))
            (rows if scene.kept else dropped).append(row)
        write_statistics(frames, found.scores, out / STATISTICS / f"{video.video_id}.csv")
        save_contact_sheets(frames, found.scenes, out / SHEETS, video.video_id)
    io.write_table(rows, io.SCENES, out / "scenes.parquet")
    return {
        "scenes": len(rows),
        "scenes_dropped": len(dropped),
        "frames": sum(row["end"] - row["start"] for row in rows),
        "frames_dropped": sum(row["end"] - row["start"] for row in dropped),
    }


class FoundScenes:
    """The scenes of one video, short ones included, and the scores float64 `T` they rest on."""

    def __init__(self, scores: np.ndarray, starts: list[int], shortest: int):
        ends = [*starts[1:], len(scores)]
        pairs = zip(starts, ends, strict=True)
        self.scores = scores
        self.scenes = [Scene(start, end, kept=end - start >= shortest) for start, end in pairs]

    def score_at(self, scene: Scene) -> float:
        """The detector's score where the scene begins; 0 for the first, which no cut begins."""
        return float(self.scores[scene.start]) if scene.start else 0.0


def video_scenes(footage: FrameFile, fps: Fraction, rules: config.SceneSplit) -> FoundScenes:
    """Looks for the cuts of a video, or counts them off where its scenes were made so long."""
    if "scene_frames" in footage.about:
        starts = range(0, len(footage), int(footage.about["scene_frames"]))
        return FoundScenes(np.zeros(len(footage)), list(starts), shortest=0)
    shortest = scene_frames(rules.min_scene_seconds, fps)
    scores = detector_scores(footage, rules)
    cuts = detector_cuts(footage, scores, rules, shortest)
    return FoundScenes(scores, sorted({0, *cuts}), shortest)  # a fade may be cut at its frame 0


def find_scenes(
    footage: FrameFile, fps: Fraction, rules: config.SceneSplit
) -> list[tuple[int, int, float]]:
    """(start, end, score at start) for each scene of a video, short ones included."""
    found = video_scenes(footage, fps, rules)
    return [(scene.start, scene.end, found.score_at(scene)) for scene in found.scenes]


def scene_frames(seconds: float, fps: Fraction) -> int:
    """The shortest scene in frames, rounded as PySceneDetect does."""
    return round(seconds * float(fps))


def scene_row(video_id: str, start: int, end: int, score: float) -> dict:
    name = f"{video_id}-{start:06d}"
    return {"scene_id": name, "video_id": video_id, "start": start, "end": end, "cut_score": score}


def write_statistics(footage: FrameFile, scores: np.ndarray, path: Path) -> None:
    """A row a frame: its number, its time in seconds, the terms, the detector's score."""
    terms = {name: footage.term(name).astype(np.float64) for name in ("time", *TERMS)}
    columns = {"frame": np.arange(len(footage))} | terms | {"score": scores}
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).round(4).to_csv(path, index=False)


def _clear(out: Path) -> None:
    """Removes statistics and sheets of an earlier run: no video that is gone keeps its own."""
    for path in [*(out / STATISTICS).glob("*.csv"), *(out / SHEETS).glob("*.png")]:
        path.unlink()
