"""Cuts from stored terms: PySceneDetect's own, on random scores and on real films."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from pipeline import schema
from pipeline.footage.framefile import FrameFile
from pipeline.footage.ingest import Job, decode_video, examine
from pipeline.footage.scenes import content_cuts, content_scores, scene_frames, split_scenes


def reference_cuts(scores, threshold, min_scene_len):
    """PySceneDetect's detector with the frame scores given."""
    from scenedetect import ContentDetector, FrameTimecode

    detector = ContentDetector(threshold=threshold, min_scene_len=min_scene_len)
    given = iter(scores)
    detector._calculate_frame_score = lambda *_: next(given)
    cuts = []
    for at in range(len(scores)):
        cuts += detector.process_frame(FrameTimecode(at, fps=24.0), None)
    return [cut.frame_num for cut in cuts]


@pytest.mark.parametrize("min_scene_len", [0, 1, 12, 15])
def test_cuts_equal_scenedetect_on_random_scores(min_scene_len):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = rng.exponential(8, 300)
        scores[rng.integers(0, 300, 12)] += 60
        expected = reference_cuts(scores, 27.0, min_scene_len)
        assert content_cuts(scores, 27.0, min_scene_len) == expected


def test_a_score_at_the_threshold_cuts_and_a_flash_makes_no_scene():
    scores = np.zeros(100)
    scores[40] = 15.0
    assert content_cuts(scores, 15.0, 12) == [40]
    scores[[60, 62]] = 80.0  # two frames of white
    assert content_cuts(scores, 15.0, 12) == [40, 60]


def film_cuts(path, min_scene_len):
    """What PySceneDetect finds by itself, by threshold: its decoder, its reduction, its detector.

    As its SceneManager does it, but for both thresholds in one pass.
    """
    import cv2
    from scenedetect import ContentDetector, open_video
    from scenedetect.scene_manager import compute_downscale_factor

    detectors = {at: ContentDetector(at, min_scene_len=min_scene_len) for at in (15.0, 27.0)}
    cuts = {at: [] for at in detectors}
    video = open_video(str(path))
    factor = compute_downscale_factor(max(video.frame_size))
    while (frame := video.read()) is not False:
        size = [round(side / factor) for side in (frame.shape[1], frame.shape[0])]
        reduced = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
        for at, detector in detectors.items():
            found = detector.process_frame(video.position, reduced)
            cuts[at] += [cut.frame_num for cut in found]
    return cuts


@pytest.mark.parametrize("name", ["bunny_small.mp4", "bunny_trailer.webm", "bunny_opening.mp4"])
def test_cuts_equal_scenedetect_on_films(data, tmp_path, settings, name):
    job = Job(data / "film", name, tmp_path, settings.ingest)
    row = decode_video(job, *examine(job))
    scores = content_scores(FrameFile(tmp_path / f"{row['video_id']}.arrow"))
    shortest = scene_frames(0.5, Fraction(row["fps"]))
    for threshold, expected in film_cuts(data / "film" / name, shortest).items():
        cuts = content_cuts(scores, threshold, shortest)
        assert len(cuts) == len(expected) > 0, threshold
        assert np.abs(np.subtract(cuts, expected)).max() <= 1, threshold


def write_folder(folder, frame_file, images, video_id="film"):
    """What `scene_split` and the later stages find: one frame file and the table."""
    footage = frame_file(images, video_id)
    row = dict.fromkeys(schema.VIDEOS.names, "") | {
        "video_id": video_id, "fps": "24/1", "n_frames": len(images), "status": "ok",
        "height": 1, "width": 1, "duration": 1.0,
    }  # fmt: skip
    rejected = row | {"video_id": "text", "status": "undecodable"}
    schema.write_table([row, rejected], schema.VIDEOS, folder / "videos.parquet")
    return footage


def flat_shots(*shots):
    """Shots of one grey each: (frames, grey)."""
    return np.concatenate([np.full((n, 8, 8, 3), grey, np.uint8) for n, grey in shots])


def test_scenes_table_and_dropped_scenes(tmp_path, frame_file, settings):
    write_folder(tmp_path, frame_file, flat_shots((30, 0), (20, 200), (5, 90)))
    summary = split_scenes(tmp_path, tmp_path, settings.scene_split)
    table = schema.read_table(tmp_path / "scenes.parquet", schema.SCENES)
    assert table["scene_id"].tolist() == ["film-000000", "film-000030"]
    assert table[["start", "end"]].to_numpy().tolist() == [[0, 30], [30, 50]]
    assert table["cut_score"].tolist() == pytest.approx([0.0, 200 / 3])
    assert summary == {"scenes": 2, "scenes_dropped": 1, "frames": 50, "frames_dropped": 5}


def test_a_folder_of_too_short_videos_gives_an_empty_table(tmp_path, frame_file, settings):
    write_folder(tmp_path, frame_file, flat_shots((5, 0)))
    summary = split_scenes(tmp_path, tmp_path, settings.scene_split)
    table = schema.read_table(tmp_path / "scenes.parquet", schema.SCENES)
    assert isinstance(table, pd.DataFrame) and table.empty and summary["scenes_dropped"] == 1
