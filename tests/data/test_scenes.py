"""Scenes of videos: PySceneDetect's cuts on real films, dropped and fixed scenes, outputs."""

from fractions import Fraction

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline import io
from pipeline.data.detector_features import TERMS, FrameTerms, detector_size
from pipeline.data.frame_file import FrameFile, write_frames
from pipeline.data.scenes import find_scenes, scene_starts, split_scenes
from pipeline.video import decode
from pipeline.video.probe import probe

THRESHOLDS = 15.0, 27.0


def measured(path, out):
    """A film's frame file and its frame rate, decoded and measured as ingest does it."""
    header, terms = probe(path), FrameTerms()
    samples = detector_size(header.height, header.width)
    with write_frames(out, 8, 16) as file:
        for batch in decode.decode(path, header, (8, 16), samples):
            file.append(batch.images, terms.measure(*batch))
    return FrameFile(out), header.fps


@pytest.fixture(scope="module")
def film(tmp_path_factory, make_video):
    """A film of seven shots of 300x540, each a picture that pans over coarse noise, in H.264."""
    rng, frames = np.random.default_rng(3), []
    for shot in range(7):
        coarse = rng.integers(0, 256, (6, 12, 3), np.uint8)
        picture = cv2.resize(coarse, (700, 300), interpolation=cv2.INTER_CUBIC)
        step = int(rng.integers(0, 4))
        frames += [picture[:, step * at : step * at + 540] for at in range(18 + 5 * shot)]
    noise = rng.normal(0, 4, (1, 300, 540, 3))
    images = np.clip(np.stack(frames) + noise, 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return make_video(path, images, "-c:v", "libx264", "-pix_fmt", "yuv420p")


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


def test_cuts_equal_scenedetect_on_a_film(film, tmp_path, settings):
    from scenedetect import AdaptiveDetector, ContentDetector

    footage, fps = measured(film, tmp_path / "film.arrow")
    shortest = round(0.5 * fps)
    detectors = {("content", at): ContentDetector(at, shortest) for at in THRESHOLDS}
    detectors |= {
        ("adaptive", at): AdaptiveDetector(3.0, shortest, min_content_val=at) for at in THRESHOLDS
    }
    for (detector, at), expected in film_cuts(film, detectors).items():
        rules = settings.scene_split.model_copy(update={"detector": detector, "threshold": at})
        cuts = [scene.start for scene in find_scenes(footage, fps, rules)[0]][1:]
        assert len(cuts) == len(expected) > 0, (detector, at)
        assert np.abs(np.subtract(cuts, expected)).max() <= 1, (detector, at)


def textured(*shots):
    """uint8 `T 36 64 3`: (frames, seed, shake) each, a picture that pans, or leaps where it shakes;
    `white` in place of a seed is a white one."""
    frames = []
    for count, seed, shake in shots:
        rng = np.random.default_rng(seed if seed != "white" else 0)
        coarse = rng.integers(0, 256, (4, 16, 3), np.uint8)
        picture = cv2.resize(coarse, (160, 36), interpolation=cv2.INTER_CUBIC)
        for at in range(count):
            left = int(rng.integers(0, 96)) if shake else at // 4 % 96
            image = picture[:, left : left + 64]
            frames.append(np.full_like(image, 255) if seed == "white" else image)
    return np.stack(frames)


ONE, TWO, ODD, WHITE = (40, 1, 0), (40, 2, 0), (1, 3, 0), (2, "white", 0)
SHORT = {
    "a flash": ([ONE, WHITE, ONE], [(0, 40), (42, 82)]),
    "a foreign frame at a cut": ([ONE, ODD, TWO], [(0, 40), (41, 81)]),
    "a foreign frame at the start": ([ODD, ONE, TWO], [(1, 41), (41, 81)]),
    "a foreign frame at the end": ([ONE, TWO, ODD], [(0, 40), (40, 80)]),
    "a shot of five frames": ([ONE, (5, 3, 0), TWO], [(0, 40), (45, 85)]),
    "short shots in a row": (
        [ONE, *((5, seed, 0) for seed in range(3, 9)), TWO],
        [(0, 40), (70, 110)],
    ),
}


CASES = [("content", name) for name in SHORT]
# adaptive has no ratio for the two frames at each end of a video
CASES += [("adaptive", name) for name in SHORT if not name.endswith(("start", "end"))]


@pytest.mark.parametrize(("detector", "name"), CASES)
def test_no_scene_that_is_kept_holds_foreign_frames(frame_file, settings, detector, name):
    shots, kept = SHORT[name]
    rules = settings.scene_split.model_copy(update={"detector": detector})
    scenes, _ = find_scenes(frame_file(textured(*shots)), Fraction(24), rules)
    assert [(scene.start, scene.end) for scene in scenes if scene.kept] == kept
    assert [scene.start for scene in scenes[1:]] == [scene.end for scene in scenes[:-1]]


def test_a_shot_that_shakes_is_one_scene(frame_file, settings):
    footage = frame_file(textured(ONE, (40, 2, 1), ONE))
    scenes, scores = find_scenes(footage, Fraction(24), settings.scene_split)
    assert (scores[40:80] >= 15).sum() > 20, "a cut in most of its frames"
    first, *between, last = [(scene.start, scene.end) for scene in scenes if scene.kept]
    assert first == (0, 40) and last[0] >= 80
    assert sum(end - start for start, end in between) >= 36 and len(between) == 1


@pytest.mark.parametrize(
    ("cuts", "starts"),
    [
        ([], [0]),
        ([40, 60], [0, 40, 60]),
        ([0, 40], [0, 40]),
        ([40, 41, 42], [0, 40, 42]),  # a dissolve
        ([*range(1, 99)], [0]),  # flickers throughout
        ([*range(20, 40, 3), 45, *range(50, 70)], [0, 20, 69]),  # with pauses
        ([30, *range(38, 60)], [0, 30, 38, 59]),  # what shakes begins after a short shot
        ([40, 42, 48, 50, 55, 57], [0, 40, 42, 48, 50, 55, 57]),  # lightning
    ],
)
def test_what_is_restless_and_what_is_short(cuts, starts):
    assert scene_starts(cuts, 100, 12, 3) == starts


def test_without_a_least_length_each_cut_begins_a_scene():
    assert scene_starts([1, 2, 40], 50, 0, 3) == [0, 1, 2, 40]


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


def test_a_fade_from_black_is_cut_in_its_middle(frame_file, settings):
    footage = frame_file(flat_shots((20, 0), (30, 200)))
    rules = settings.scene_split.model_copy(update={"detector": "threshold"})
    scenes, scores = find_scenes(footage, Fraction(24), rules)
    assert [(scene.start, scene.end) for scene in scenes] == [(0, 10), (10, 50)]
    assert [scene.kept for scene in scenes] == [False, True] and len(scores) == 50


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
