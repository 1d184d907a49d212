"""Clips: the thesis' table, its properties, the rows, and splits that hold when videos come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from pipeline import io
from pipeline.data.clips import chunk_clips, part_lengths
from pipeline.errors import UserError

TABLE = {
    14: [], 15: [15], 25: [25], 29: [29], 30: [15, 15], 31: [15, 16], 50: [25, 25],
    51: [17, 17, 17], 52: [17, 17, 18],
}  # fmt: skip


@pytest.mark.parametrize(("n_frames", "parts"), TABLE.items())
def test_the_table_of_the_thesis(n_frames, parts):
    assert part_lengths(n_frames, 15, 25) == parts


@limits(max_examples=200, deadline=None)
@given(n_frames=st.integers(0, 5000), low=st.integers(3, 60), extra=st.integers(0, 60))
def test_properties_of_the_parts(n_frames, low, extra):
    high = low + extra
    parts = part_lengths(n_frames, low, high)
    assert sum(parts) == (n_frames if n_frames >= low else 0)
    assert parts == sorted(parts), "longer ones last"
    if parts:
        assert min(parts) >= low and max(parts) - min(parts) <= 1
        assert len(parts) <= -(-n_frames // high)
        assert max(parts) <= max(high, 2 * low - 1)


@pytest.fixture
def chunk(tmp_path, frame_file, settings):
    """Runs the stage on scenes given as {video: [(start, end), ...]}; returns summary and table.

    Pictures are black unless given by video; what asks for pictures is off unless switched on.
    """

    def run(scenes: dict, use_clip=lambda frame: True, images=None, filters=None, **changes):
        off = {"min_motion": 0.0, "min_contrast": 0.0, "max_luma_change": 0.0}
        asked = settings.clip_chunk.filters.model_copy(update=off | (filters or {}))
        changes = {"near_duplicate_hamming": -1, "filters": asked} | changes
        rows, index = [], []
        for video, ranges in scenes.items():
            end = max(stop for _, stop in ranges)
            black = np.zeros((end, 4, 4, 3), np.uint8)
            frame_file(black if images is None else images[video], video)
            for start, stop in ranges:
                name = f"{video}-{start:06d}"
                rows.append({"scene_id": name, "video_id": video, "start": start, "end": stop,
                             "cut_score": 0.0})  # fmt: skip
                index += [{"video_id": video, "frame": frame, "scene_id": name, "hold": 1,
                           "use_image": True, "use_clip": use_clip(frame), "reason": ""}
                          for frame in range(start, stop)]  # fmt: skip
        io.write_table(rows, io.SCENES, tmp_path / "scenes.parquet")
        io.write_table(index, io.FRAME_INDEX, tmp_path / "frame_index.parquet")
        rules = settings.clip_chunk.model_copy(update=changes)
        summary = chunk_clips(tmp_path, tmp_path, tmp_path, tmp_path, rules)
        return summary, io.read_table(tmp_path / "clips.parquet", io.CLIPS)

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
    total = sum(summary[f"clips_{split}"] for split in io.SPLITS)
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


@pytest.mark.parametrize(
    ("scenes", "split_by"),
    [
        ({"film": [(0, 30), (30, 60)]}, "scene"),
        ({"one": [(0, 30), (30, 60)], "two": [(0, 90)]}, "video"),
        ({"film": [(0, 30), (30, 60), (60, 70)]}, "scene"),  # the third is too short
    ],
)
def test_fewer_than_three_scenes_are_an_error_and_leave_no_table(chunk, tmp_path, scenes, split_by):
    with pytest.raises(UserError, match=r"no clip for .*clip_chunk\.split_by"):
        chunk(scenes, split_by=split_by)
    assert not (tmp_path / "clips.parquet").exists()


@pytest.mark.parametrize("split_by", ["scene", "video"])
def test_three_are_enough_and_what_moves_is_said(chunk, capsys, split_by):
    ranges = [(0, 30)] if split_by == "scene" else [(0, 30), (30, 70)]
    scenes = dict.fromkeys(("film1", "film4", "film5"), ranges)
    summary, table = chunk(scenes, split_by=split_by)
    assert set(table["split"]) == set(io.SPLITS)
    said = [line for line in capsys.readouterr().err.splitlines() if "moves there" in line]
    assert summary["moved_to_empty_splits"] == len(said) > 0
    assert table.groupby("video_id")["split"].nunique().max() == 1


def test_near_duplicates_do_not_count_and_moving_makes_no_leak(chunk):
    """Two of four scenes are the same: alike, they cannot fill two splits."""
    pictures = {name: drifting(30, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", 3))}
    scenes = {name: [(0, 30)] for name in pictures}
    _, table = chunk(scenes, images=pictures, near_duplicate_hamming=24)
    kept = table[table["split"] != ""]
    assert set(kept["split"]) == set(io.SPLITS)
    alike = kept[kept["video_id"].isin(["a", "b"])]
    assert alike["split"].nunique() == 1, "both in one split, or one of them dropped"
    with pytest.raises(UserError, match="no clip for"):
        del scenes["d"]
        chunk(scenes, images=pictures, near_duplicate_hamming=24)


def drifting(n_frames: int, seed: int) -> np.ndarray:
    """uint8 `T 64 128 3`: a random picture of coarse patches that moves to the right."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 60), np.uint8)
    picture = np.kron(coarse, np.ones((8, 8), np.uint8))  # 64 480
    moved = np.stack([picture[:, at : at + 128] for at in range(n_frames)])
    return np.repeat(moved[..., None], 3, axis=-1)


def test_filters_reject_clips_and_are_counted(chunk):
    scenes = {f"film{video}": [(0, 60), (60, 90)] for video in range(40)}
    images = {name: drifting(90, at) for at, name in enumerate(scenes)}
    for film in images.values():
        film[20:40] = film[20]  # the second of three clips of the scene is still
        film[60:] = 7  # and the second scene is of one colour
    summary, table = chunk(scenes, images=images, filters={"min_contrast": 3.0, "min_motion": 0.5})
    table = table.set_index("clip_id")
    assert table.loc["film0-000000-01", "reason"] == "still: motion 0.00, at least 0.5 needed"
    assert table.loc["film0-000060-00", "reason"] == "blank: contrast 0.00, at least 3 needed"
    assert (table["reason"] == "").sum() == 80 and (table["split"] == "").sum() == 40 * 3
    assert summary["rejected_still"] == 40 and summary["rejected_blank"] == 80
    assert summary["rejected_leak"] == summary["rejected_short"] == 0
    assert summary["clips_rejected"] == 120 and summary["frames"] == 80 * 20


def test_an_opening_never_stands_in_two_splits(chunk):
    """The same 40 frames, noisy and a frame or two later, open each of 30 videos."""
    opening, rng = drifting(45, 999).astype(np.int16), np.random.default_rng(0)
    scenes = {f"film{video}": [(0, 40), (40, 70)] for video in range(30)}
    images = {}
    for at, name in enumerate(scenes):
        late = opening[at % 3 :][:40]
        noisy = np.clip(late + rng.normal(0, 4, late.shape), 0, 255).astype(np.uint8)
        images[name] = np.concatenate([noisy, drifting(30, at)])
    apart = chunk(scenes, images=images)[1]
    summary, table = chunk(scenes, images=images, near_duplicate_hamming=24)
    openings = table["scene_id"].str.endswith("-000000")
    assert apart[openings]["split"].nunique() == 3, "without the rule they stand in all"
    kept = table[openings & (table["split"] != "")]
    assert set(kept["split"]) == {"test"}
    dropped = table[openings & (table["split"] == "")]
    assert dropped["reason"].str.fullmatch(r"nearly identical to film\d+-000000 in test").all()
    assert (table[~openings]["split"] != "").all(), "no other scene is dropped"
    assert summary["rejected_leak"] == len(dropped)


def test_near_duplicates_are_searched_once_for_the_same_splits(chunk, monkeypatch):
    """A season's search takes minutes."""
    seen = []
    monkeypatch.setattr(
        "pipeline.data.clips.find_near_duplicates", lambda scenes, bits: seen.append(scenes) or {}
    )
    chunk(MANY, near_duplicate_hamming=24)
    assert len(seen) == 1 and len(seen[0]) == 60
