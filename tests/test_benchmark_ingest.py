"""The ingest benchmark on two made films: its rows, their form and its arithmetic; no times."""

import json

import numpy as np
import pytest

from benchmarks import footage_ways as ways
from benchmarks import ingest
from benchmarks.lines import line, show
from pipeline.errors import UserError
from pipeline.video.writer import write_video

LENGTHS = {"a.mp4": 40, "b.mp4": 24}
SIZE = (16, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two films of 64x96 and a file that is none."""
    root = tmp_path_factory.mktemp("films")
    for seed, (name, length) in enumerate(LENGTHS.items()):
        ground = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        write_video(root / name, [np.roll(ground, i, 1) for i in range(length)], 24)
    (root / "notes.txt").write_text("no video")
    return root


@pytest.fixture(scope="module")
def setup(folder, tmp_path_factory):
    return ingest.prepare(folder, tmp_path_factory.mktemp("work"), SIZE, workers=2)


def test_only_readable_files_are_compared(setup, folder):
    assert setup.frames == {folder / name: length for name, length in LENGTHS.items()}
    assert setup.total == sum(LENGTHS.values())


def test_rows_carry_the_ratio_of_the_times_beside_them(setup, monkeypatch):
    monkeypatch.setattr(ways, "thesis", lambda files, size: (3.0, 1.0))
    rows = {line["name"]: line for line in ingest.compare(setup, 1, thesis_videos=1)}
    ours = rows["ingest/ours"]["value"]
    for other in ("ffmpeg", "ffmpeg_2_at_once", "decoding", "decoding_2_at_once"):
        line = rows[f"ingest/ours_to_{other}"]
        assert line["against"] == other
        assert line["ratio"] == pytest.approx(rows[f"ingest/{other}"]["value"] / ours, rel=0.01)
    whole = rows["ingest/ours_with_scene_split"]
    assert whole["ratio"] == pytest.approx((4.0 / 40) / (whole["value"] / 64), rel=0.01)
    assert rows["ingest/memory"]["value"] >= rows["ingest/memory/largest_process"]["value"] > 10


def test_store_is_empty_unless_a_run_is_named(setup):
    first = setup.ingest("first")
    assert list((setup.work / "store-first").rglob("*.arrow"))
    setup.ingest("second", store="first")
    assert not (setup.work / "store-second").exists()
    assert first.whole == pytest.approx(first.seconds + first.scene_split)


def test_the_thesis_step_gives_all_frames_as_pieces(folder, monkeypatch):
    read, plain = [], ways.read_resized
    monkeypatch.setattr(ways, "read_resized", lambda *given: read.append(plain(*given)))
    ways.thesis([folder / "b.mp4"], SIZE)
    assert sum(read) == LENGTHS["b.mp4"]


def test_repackaged_video_has_the_same_frames_and_other_bytes(folder, tmp_path):
    video, added = folder / "b.mp4", tmp_path / "added.mkv"
    ways.repackaged(video, added)
    assert ways.read_resized(added, SIZE) == LENGTHS["b.mp4"]
    assert added.read_bytes() != video.read_bytes()


def test_what_ffmpeg_cannot_read_is_named(folder):
    with pytest.raises(UserError, match=r"notes\.txt"):
        ways.ffmpeg([folder / "notes.txt"], SIZE)


def test_a_frame_counts_where_numbers_of_frames_differ():
    assert ingest.per_frame_ratio(10.0, 100, 4.0, 200) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("ingest/x", 12.3456, "s"), {"name": "ingest/x", "value": 12.35, "unit": "s"}),
        (
            ("ingest/x", 2.0, "s", 3.14159, "ffmpeg"),
            {"name": "ingest/x", "value": 2.0, "unit": "s", "ratio": 3.14, "against": "ffmpeg"},
        ),
    ],
)
def test_a_row_is_one_line_of_json(given, expected, capsys):
    show([line(*given)], "title")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == expected
