"""Hold detection and the frame index."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from pipeline import io
from pipeline.data.holds import HELD, OUTSIDE, hold_lengths, index_frames


def drawings(*holds, seed=0):
    """A new random drawing for each hold, shown for as many frames."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [np.repeat(rng.integers(0, 256, (1, 16, 24, 3), np.uint8), n, axis=0) for n in holds]
    )


def lengths(footage, threshold=1.0, start=0, end=None):
    end = len(footage) if end is None else end
    return hold_lengths(footage, start, end, threshold).tolist()


def test_ones_twos_and_threes(frame_file):
    assert lengths(frame_file(drawings(1, 2, 3, 1))) == [1, 2, 0, 3, 0, 0, 1]


def test_coding_noise_is_held_and_a_small_motion_is_not(frame_file):
    images = np.full((6, 64, 128, 3), 100, np.uint8)
    noise = np.random.default_rng(0).integers(0, 2, images.shape, np.uint8)
    assert lengths(frame_file(images + noise)) == [6, 0, 0, 0, 0, 0]
    images[3:, 30:32, 60:64] = 200  # a mouth of 2x4 pixels opens
    assert lengths(frame_file(images + noise, "mouth")) == [3, 0, 0, 3, 0, 0]


def test_slow_drift_is_no_hold(frame_file):
    fade = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    found = lengths(frame_file(fade), threshold=2.0)
    assert found == [3, 0, 0] * 4, "a drawing may drift by the threshold, not by all of the fade"


def test_motion_that_returns_is_three_drawings(frame_file):
    one, other = drawings(1, 1)
    assert lengths(frame_file(np.stack([one, other, one, one]))) == [1, 1, 2, 0]


def test_threshold_zero_means_equal_bytes(frame_file):
    images = drawings(3)
    images[2, 0, 0, 0] ^= 1
    assert lengths(frame_file(images), threshold=0.0) == [2, 0, 1]


def test_a_scene_begins_with_a_drawing_even_inside_a_hold(frame_file):
    footage = frame_file(drawings(4, 4))
    assert lengths(footage, start=2, end=7) == [2, 0, 3, 0, 0]


@limits(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(holds=st.lists(st.integers(1, 6), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_holds_are_found_and_sum_to_the_frames(frame_file, holds, seed):
    found = np.array(lengths(frame_file(drawings(*holds, seed=seed))))
    assert found[found > 0].tolist() == holds and found.sum() == sum(holds)
    starts = np.cumsum([0, *holds[:-1]])
    assert np.flatnonzero(found).tolist() == starts.tolist()


def test_snow_over_a_held_drawing_and_a_slow_pan_are_no_holds(frame_file):
    snow = np.repeat(drawings(1), 6, axis=0)
    for frame in range(6):
        snow[frame, frame : frame + 8, 4:20] = 255
    assert lengths(frame_file(snow, "snow")) == [1] * 6
    wide = np.repeat(drawings(1), 2, axis=2)
    pan = np.concatenate([wide[:, :, at : at + 24] for at in range(6)])
    assert lengths(frame_file(pan, "pan")) == [1] * 6


@pytest.fixture
def indexed(tmp_path, frame_file, settings):
    """Ten frames on twos, of which the first eight are a scene."""
    frame_file(drawings(2, 2, 2, 2, 2))
    video = dict.fromkeys(io.VIDEOS.names, "") | {"video_id": "film", "status": "ok"}
    video |= {"n_frames": 10, "height": 1, "width": 1, "duration": 1.0}
    io.write_table([video], io.VIDEOS, tmp_path / "videos.parquet")
    scene = {"scene_id": "film-000000", "video_id": "film", "start": 0, "end": 8, "cut_score": 0.0}
    io.write_table([scene], io.SCENES, tmp_path / "scenes.parquet")

    def run(**changes):
        rules = settings.frame_subsample.model_copy(update={"image_step": 3} | changes)
        summary = index_frames(tmp_path, tmp_path, tmp_path, rules)
        path = tmp_path / "frame_index.parquet"
        return summary, io.read_table(path, io.FRAME_INDEX)

    return run


def test_index_with_all_frames(indexed):
    summary, table = indexed(clip_frames="all")
    assert table["frame"].tolist() == list(range(10)), "every frame has a row"
    assert table["hold"].tolist() == [2, 0] * 4 + [0, 0]
    assert np.flatnonzero(table["use_image"]).tolist() == [0, 3, 6]
    assert np.flatnonzero(table["use_clip"]).tolist() == list(range(8))
    assert table["reason"].tolist() == [""] * 8 + [OUTSIDE] * 2
    assert table["scene_id"].tolist() == ["film-000000"] * 8 + [""] * 2
    assert summary == {
        "frames": 8, "frames_outside_scenes": 2, "drawings": 4, "held_frames": 4,
        "images": 3, "clip_frames": 8,
    }  # fmt: skip


def test_index_with_unique_drawings(indexed):
    summary, table = indexed(clip_frames="unique")
    assert np.flatnonzero(table["use_clip"]).tolist() == [0, 2, 4, 6]
    assert table["reason"].tolist() == ["", HELD] * 4 + [OUTSIDE] * 2
    assert summary["clip_frames"] == 4
