"""The embedded sample against its truth: cuts, and holds exactly outside moving overlays."""

import json

import numpy as np
import pytest

from pipeline.data.executor import LocalPool
from pipeline.data.frame_file import open_frames, read_videos
from pipeline.data.holds import hold_lengths
from pipeline.data.ingest import ingest
from pipeline.data.scenes import find_scenes


@pytest.fixture(scope="module")
def sample(tmp_path_factory, settings):
    """One short episode at the default size: its frames, its fps and its truth."""
    from pipeline.sample import render_episodes

    folder = tmp_path_factory.mktemp("sample")
    size = settings.sample_episodes.model_copy(update={"episodes": 1, "seconds": 16.0})
    render_episodes(size, settings.base.seed, folder, 1)
    ingest(folder / "episodes", folder / "frames", settings.ingest, LocalPool(1))
    video = read_videos(folder / "frames").iloc[0]
    [truth] = (folder / "truth").glob("*.json")
    footage = open_frames(folder / "frames", video["video_id"])
    return footage, json.loads(truth.read_text("utf-8"))


def test_cuts_are_the_true_ones(sample, settings):
    footage, truth = sample
    scenes, _ = find_scenes(footage, truth["fps"], settings.scene_split)
    starts = [scene.start for scene in scenes]
    assert len(footage) == truth["n_frames"]
    assert len(starts) == len(truth["cuts"]) + 1 > 2
    assert np.abs(np.subtract(starts[1:], truth["cuts"])).max() <= 1


def test_holds_are_exact_outside_overlays(sample, settings):
    footage, truth = sample
    true_drawings = set(truth["drawings"])
    for scene in (scene for scene in truth["scenes"] if not scene["overlay"]):
        start, end = scene["start"], scene["end"]
        lengths = hold_lengths(footage, start, end, settings.frame_subsample.hold_threshold)
        found = set(start + np.flatnonzero(lengths))
        assert found == true_drawings & set(range(start, end)), scene
    assert len(true_drawings) < len(footage), "nothing is held in this sample"
