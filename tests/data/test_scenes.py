"""Scenes of videos: PySceneDetect's cuts on real films, dropped and fixed scenes, outputs."""

from fractions import Fraction

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline import io
from pipeline.data.detector_features import TERMS, DetectorTerms, detector_size
from pipeline.data.frame_file import FrameFile, write_frames
from pipeline.data.scenes import find_scenes, scene_frames, split_scenes
from pipeline.video import decode

THRESHOLDS = 15.0, 27.0


def measured(path, out):
    """A film's frame file and its frame rate, decoded and measured as ingest does it."""
    header, terms = decode.probe(path), DetectorTerms()
    samples = detector_size(header.height, header.width)
    with write_frames(out, 8, 16) as file:
        for batch in decode.decode(path, header, (8, 16), samples):
            own = {"block_change": batch.times * 0, "time": batch.times}
            own = {name: values.astype(np.float32) for name, values in own.items()}
            file.append(batch.images, terms.measure(batch.samples) | own)
    return FrameFile(out), header.fps


def film_cuts(path, detectors):
    """What PySceneDetect finds by itself: its decoder, its reduction, its detectors.

    As its SceneManager does it, but for several detectors in one pass.
    """
    from scenedetect import open_video
    from scenedetect.scene_manager import compute_downscale_factor

    cuts = {name: [] for name in detectors}
    video = open_video(str(path))
    factor = compute_downscale_factor(max(video.frame_size))
    while (frame := video.read()) is not False:
        size = [round(side / factor) for side in (frame.shape[1], frame.shape[0])]
        reduced = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
        for name, detector in detectors.items():
            found = detector.process_frame(video.position, reduced)
            cuts[name] += [cut.frame_num for cut in found]
    return cuts


@pytest.mark.parametrize("name", ["bunny_small.mp4", "bunny_trailer.webm", "bunny_opening.mp4"])
def test_cuts_equal_scenedetect_on_films(data, tmp_path, settings, name):
    from scenedetect import AdaptiveDetector, ContentDetector

    footage, fps = measured(data / "film" / name, tmp_path / "film.arrow")
    shortest = scene_frames(0.5, fps)
    detectors = {("content", at): ContentDetector(at, shortest) for at in THRESHOLDS}
    detectors |= {
        ("adaptive", at): AdaptiveDetector(3.0, shortest, min_content_val=at) for at in THRESHOLDS
    }
    for (detector, at), expected in film_cuts(data / "film" / name, detectors).items():
        least = settings.scene_split.adaptive.model_copy(update={"min_content_val": at})
        rules = settings.scene_split.model_copy(
            update={"detector": detector, "threshold": at, "adaptive": least}
        )
        cuts = [start for start, _, _ in find_scenes(footage, fps, rules)][1:]
        assert len(cuts) == len(expected) > 0, (detector, at)
        assert np.abs(np.subtract(cuts, expected)).max() <= 1, (detector, at)


def write_folder(folder, frame_file, images, video_id="film", about=None):
    """What `scene_split` and the later stages find: one frame file and the table."""
    footage = frame_file(images, video_id, about=about)
    row = dict.fromkeys(io.VIDEOS.names, "") | {
        "video_id": video_id, "fps": "24/1", "n_frames": len(images), "status": "ok",
        "height": 1, "width": 1, "duration": 1.0,
    }  # fmt: skip
    rejected = row | {"video_id": "text", "status": "undecodable"}
    io.write_table([row, rejected], io.VIDEOS, folder / "videos.parquet")
    return footage


def flat_shots(*shots):
    """Shots of one grey each: (frames, grey)."""
    return np.concatenate([np.full((n, 8, 8, 3), grey, np.uint8) for n, grey in shots])


def test_scenes_table_and_dropped_scenes(tmp_path, frame_file, settings):
    write_folder(tmp_path, frame_file, flat_shots((30, 0), (20, 200), (5, 90)))
    summary = split_scenes(tmp_path, tmp_path, settings.scene_split)
    table = io.read_table(tmp_path / "scenes.parquet", io.SCENES)
    assert table["scene_id"].tolist() == ["film-000000", "film-000030"]
    assert table[["start", "end"]].to_numpy().tolist() == [[0, 30], [30, 50]]
    assert table["cut_score"].tolist() == pytest.approx([0.0, 200 / 3])
    assert summary == {"scenes": 2, "scenes_dropped": 1, "frames": 50, "frames_dropped": 5}


def test_a_folder_of_too_short_videos_gives_an_empty_table(tmp_path, frame_file, settings):
    write_folder(tmp_path, frame_file, flat_shots((5, 0)))
    summary = split_scenes(tmp_path, tmp_path, settings.scene_split)
    table = io.read_table(tmp_path / "scenes.parquet", io.SCENES)
    assert isinstance(table, pd.DataFrame) and table.empty and summary["scenes_dropped"] == 1


def test_made_sequences_are_cut_where_their_file_says(tmp_path, frame_file, settings):
    images = flat_shots((3, 0), (20, 200), (1, 90))  # no cut is looked for, none is too short
    write_folder(tmp_path, frame_file, images, about={"scene_frames": "8"})
    summary = split_scenes(tmp_path, tmp_path, settings.scene_split)
    table = io.read_table(tmp_path / "scenes.parquet", io.SCENES)
    assert table[["start", "end"]].to_numpy().tolist() == [[0, 8], [8, 16], [16, 24]]
    assert table["cut_score"].tolist() == [0.0, 0.0, 0.0] and summary["scenes_dropped"] == 0


def test_a_fade_cut_at_frame_0_makes_no_empty_scene(frame_file, settings):
    footage = frame_file(flat_shots((20, 0), (30, 200)))
    fade = settings.scene_split.fade.model_copy(update={"bias": -1.0})
    rules = settings.scene_split.model_copy(update={"detector": "threshold", "fade": fade})
    assert find_scenes(footage, Fraction(24), rules) == [(0, 50, 0.0)]


def test_statistics_have_a_row_a_frame(tmp_path, frame_file, settings):
    footage = write_folder(tmp_path, frame_file, flat_shots((30, 0), (20, 200)))
    split_scenes(tmp_path, tmp_path, settings.scene_split)
    table = pd.read_csv(tmp_path / "statistics" / "film.csv")
    assert set(table.columns) == {"frame", "score", *TERMS}
    assert table["frame"].tolist() == list(range(50))
    assert table["time"].tolist() == pytest.approx(footage.term("time").tolist(), abs=1e-4)
    assert table["score"][30] == pytest.approx(200 / 3, abs=1e-3) and table["score"].max() < 70


def test_statistics_and_sheets_of_an_earlier_run_are_removed(tmp_path, frame_file, settings):
    write_folder(tmp_path, frame_file, flat_shots((30, 0)))
    stale = [tmp_path / "statistics" / "gone.csv", tmp_path / "contact_sheets" / "gone.png"]
    for path in stale:
        path.parent.mkdir()
        path.touch()
    split_scenes(tmp_path, tmp_path, settings.scene_split)
    assert not any(path.exists() for path in stale)
    assert (tmp_path / "contact_sheets" / "film.png").exists()
