"""Clips: the thesis' table, its properties, the rows, and splits that hold when videos come."""

import numpy as np
import pytest

from pipeline import schema
from pipeline.errors import UserError
from pipeline.footage.clips import chunk_clips, motion, part_lengths

TABLE = {
    14: [], 15: [15], 25: [25], 29: [29], 30: [15, 15], 31: [15, 16], 50: [25, 25],
    51: [17, 17, 17], 52: [17, 17, 18],
}  # fmt: skip


@pytest.mark.parametrize(("n_frames", "parts"), TABLE.items())
def test_the_table_of_the_thesis(n_frames, parts):
    assert part_lengths(n_frames, 15, 25) == parts


@pytest.mark.parametrize(("low", "high"), [(15, 25), (3, 3), (25, 25), (10, 11), (3, 1000)])
def test_properties_of_the_parts(low, high):
    for n_frames in range(1, 600):
        parts = part_lengths(n_frames, low, high)
        assert sum(parts) == (n_frames if n_frames >= low else 0)
        assert parts == sorted(parts), "longer ones last"
        if parts:
            assert min(parts) >= low and max(parts) - min(parts) <= 1
            assert len(parts) <= -(-n_frames // high)
            assert max(parts) <= max(high, 2 * low - 1)


def test_motion_is_the_mean_step_in_grey_levels(frame_file):
    greys = np.array([0, 10, 10, 40], np.uint8)
    footage = frame_file(np.broadcast_to(greys[:, None, None, None], (4, 4, 4, 3)).copy())
    assert motion(footage, np.arange(4)) == pytest.approx((10 + 0 + 30) / 3)
    assert motion(footage, np.array([0, 3])) == 40.0
    assert motion(footage, np.array([2])) == 0.0


@pytest.fixture
def chunk(tmp_path, frame_file, settings):
    """Runs the stage on scenes given as {video: [(start, end), ...]}; returns summary and table."""

    def run(scenes: dict, use_clip=lambda frame: True, **changes):
        rows, index = [], []
        for video, ranges in scenes.items():
            end = max(stop for _, stop in ranges)
            frame_file(np.zeros((end, 4, 4, 3), np.uint8), video)
            for start, stop in ranges:
                name = f"{video}-{start:06d}"
                rows.append({"scene_id": name, "video_id": video, "start": start, "end": stop,
                             "cut_score": 0.0})  # fmt: skip
                index += [{"video_id": video, "frame": frame, "scene_id": name, "hold": 1,
                           "use_image": True, "use_clip": use_clip(frame), "reason": ""}
                          for frame in range(start, stop)]  # fmt: skip
        schema.write_table(rows, schema.SCENES, tmp_path / "scenes.parquet")
        schema.write_table(index, schema.FRAME_INDEX, tmp_path / "frame_index.parquet")
        rules = settings.clip_chunk.model_copy(update=changes)
        summary = chunk_clips(tmp_path, tmp_path, tmp_path, tmp_path, rules)
        return summary, schema.read_table(tmp_path / "clips.parquet", schema.CLIPS)

    return run


MANY = {f"film{video}": [(at * 52, at * 52 + 52) for at in range(20)] for video in range(3)}


def test_rows_of_clips_and_of_rejects(chunk):
    scenes = MANY | {"short": [(0, 11), (11, 43)]}
    summary, table = chunk(scenes)
    first = table.iloc[0]
    assert first["clip_id"] == "film0-000000-00" and first["frames"].tolist() == list(range(17))
    reject = table[table["reason"] != ""].iloc[0]
    assert reject["reason"] == "scene of 11 frames, at least 15 needed"
    assert reject["split"] == "" and reject["clip_id"] == "short-000000-00"
    assert summary["clips_rejected"] == 1
    total = sum(summary[f"clips_{split}"] for split in schema.SPLITS)
    assert total == 3 * 20 * 3 + 2 == len(table) - 1
    assert (table["n_frames"] == table["frames"].map(len)).all()
    assert (table.groupby("scene_id")["split"].nunique() == 1).all()


def test_only_frames_that_count_are_used(chunk):
    _, table = chunk(MANY, use_clip=lambda frame: frame % 2 == 0, drop_first_frames=3)
    assert table.iloc[0]["frames"].tolist() == list(range(6, 52, 2))
    assert set(table["n_frames"]) == {23}


def test_dropping_all_frames_of_a_scene_is_a_reject(chunk):
    _, table = chunk(MANY | {"short": [(0, 20)]}, drop_first_frames=30)
    assert table.iloc[-1]["reason"] == "scene of 0 frames, at least 15 needed"


@pytest.mark.parametrize("split_by", ["scene", "video"])
def test_adding_videos_moves_nothing(chunk, split_by):
    few = {f"film{video}": [(0, 30), (30, 70)] for video in range(30)}
    more = {f"extra{video}": [(0, 30)] for video in range(9)} | few
    before = chunk(few, split_by=split_by)[1].set_index("clip_id")["split"]
    after = chunk(more, split_by=split_by)[1].set_index("clip_id")["split"]
    assert (after[before.index] == before).all() and len(after) > len(before)
    if split_by == "video":
        assert before.groupby(before.index.str.split("-").str[0]).nunique().max() == 1


def test_an_empty_split_is_an_error_and_leaves_no_table(chunk, tmp_path):
    with pytest.raises(UserError, match=r"no clip for .*clip_chunk\.split_by"):
        chunk({"film": [(0, 30)]})
    assert not (tmp_path / "clips.parquet").exists()
