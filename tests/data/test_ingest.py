"""Ingest of whole folders: rows, bytes, errors, and nothing left half-written."""

import hashlib

import numpy as np
import pytest

from pipeline import frames, io
from pipeline.data import executor
from pipeline.data.executor import LocalPool
from pipeline.data.frame_cache import FrameCache
from pipeline.data.frame_file import open_frames, read_videos
from pipeline.data.ingest import Job, image_size, ingest, ingest_video, probe_video
from pipeline.errors import UserError
from pipeline.video.probe import Header


def picture(n_frames, height=48, width=96, seed=0):
    """A smooth picture that moves sideways, uint8 `T H W 3`."""
    rows, columns = np.mgrid[:height, :width]
    phase = np.arange(n_frames)[:, None, None, None] + np.array([0, 20, 40]) + seed
    waves = np.sin((columns[None, :, :, None] + 2 * phase) / 9) * np.cos(rows[:, :, None] / 7)
    return (127.5 + 100 * waves).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_video):
    """Two good videos, a truncated one, and three files that are none."""
    root = tmp_path_factory.mktemp("raw")
    make_video(root / "season 1" / "it's é.mkv", picture(30))
    make_video(root / "odd.avi", picture(20, 37, 65), fps=12)
    whole = make_video(root / "whole.mp4", picture(40), "-c:v", "libx264", "-pix_fmt", "yuv420p",
                       "-movflags", "+faststart", "-threads", "1")  # fmt: skip
    (root / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 9 // 10])
    whole.unlink()
    (root / "empty.mp4").touch()
    (root / "notes.txt").write_text("no video")
    (root / ".hidden.mp4").write_text("skipped")
    return root


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory, settings):
    out = tmp_path_factory.mktemp("frames")
    return out, ingest(folder, out, settings.ingest, LocalPool(2))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_file_has_a_row_with_its_reason(done):
    out, summary = done
    table = io.read_table(out / "videos.parquet", io.VIDEOS).set_index("path")
    assert table.index.tolist() == [
        "cut.mp4", "empty.mp4", "notes.txt", "odd.avi", "season 1/it's é.mkv",
    ]  # fmt: skip
    expected = ["truncated", "undecodable", "no video stream", "ok", "ok"]
    assert table["status"].tolist() == expected
    assert table["reason"]["empty.mp4"] == "empty file"
    assert "header promised 1.7 s" in table["reason"]["cut.mp4"]
    assert table["reason"][["odd.avi", "season 1/it's é.mkv"]].tolist() == ["", ""]
    assert table["n_frames"].tolist()[1:] == [0, 0, 20, 30]
    assert table["fps"].tolist() == ["24/1", "", "", "12/1", "24/1"]
    assert table.loc["odd.avi", ["height", "width"]].tolist() == [37, 65]
    assert table["duration"]["odd.avi"] == pytest.approx(20 / 12, abs=0.02)
    assert (summary["videos"], summary["videos_rejected"], summary["videos_truncated"]) == (3, 2, 1)
    assert summary["frames"] == table["n_frames"].sum() > 50


def test_frames_are_the_pictures_fitted(done, settings):
    out, _ = done
    video = read_videos(out).set_index("path").loc["season 1/it's é.mkv"]
    footage = open_frames(out, video["video_id"])
    assert len(footage) == 30
    for at, image in enumerate(picture(30)):
        expected = frames.fit(image, settings.ingest.height, settings.ingest.width, "squeeze")
        assert np.abs(footage[at].astype(int) - expected).max() <= 3, at


def test_hash_is_that_of_the_content(done, folder):
    out, _ = done
    table = io.read_table(out / "videos.parquet", io.VIDEOS)
    assert all(row.sha256 == digest(folder / row.path) for row in table.itertuples())


def test_bytes_do_not_depend_on_workers_or_earlier_runs(done, folder, tmp_path, settings):
    out, _ = done
    (tmp_path / "stale.arrow.partial").touch()
    (tmp_path / "gone-00000000.arrow").touch()
    ingest(folder, tmp_path, settings.ingest, LocalPool(1))
    expected = {path.name: digest(path) for path in out.iterdir()}
    assert {path.name: digest(path) for path in tmp_path.iterdir()} == expected


def test_a_file_larger_than_a_pipe_streams(tmp_path, make_video, settings):
    """150 frames of 512x512 are 118 MB decoded; a batch is 8 MB at most."""
    source = tmp_path / "raw"
    make_video(source / "a.mp4", np.zeros((150, 512, 512, 3), np.uint8), "-c:v", "libx264",
               "-preset", "ultrafast")  # fmt: skip
    sizes = settings.ingest.model_copy(update={"height": 8, "width": 8})
    assert ingest(source, tmp_path / "out", sizes, LocalPool(1))["frames"] == 150


ERRORS = {
    "missing": (lambda path: None, "no such folder"),
    "file": (lambda path: path.write_text("x"), "a file, expected a folder"),
    "empty": (lambda path: path.mkdir(), "the folder is empty"),
}


@pytest.mark.parametrize(("make", "words"), ERRORS.values(), ids=ERRORS)
def test_source_path_that_holds_nothing(tmp_path, settings, make, words):
    make(tmp_path / "raw")
    with pytest.raises(UserError, match=words) as caught:
        ingest(tmp_path / "raw", tmp_path / "out", settings.ingest, LocalPool(1))
    assert "source.path" in str(caught.value) and "put videos there" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", [".", "out", "out/frames", "out/frames/below", "link"])
def test_a_source_that_holds_or_is_the_output(folder, tmp_path, settings, source):
    (tmp_path / "out/frames/below").mkdir(parents=True)
    (tmp_path / "out/frames/below/film.mp4").symlink_to(folder / "odd.avi")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(UserError, match=r"holds or lies in .*only footage"):
        ingest(tmp_path / source, tmp_path / "out/frames", settings.ingest, LocalPool(1))
    assert [path.name for path in (tmp_path / "out/frames").iterdir()] == ["below"]


def test_folder_without_a_video_names_the_reasons(tmp_path, settings):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "empty.mp4").touch()
    (tmp_path / "raw" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no readable video among 2 files: empty.mp4.*empty file"):
        ingest(tmp_path / "raw", tmp_path / "out", settings.ingest, LocalPool(2))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("job", [probe_video, ingest_video])
def test_a_listed_video_that_a_node_does_not_see_ends_the_run(tmp_path, settings, job):
    """It must not count as unreadable: the run would go on without it."""
    cache = FrameCache(tmp_path / "cache", settings.ingest)
    rest = [] if job is probe_video else [{"sha256": ""}, None]
    with pytest.raises(UserError, match=r"gone\.mp4: no such file on .*visible to all nodes"):
        job(Job(tmp_path, "gone.mp4", tmp_path / "out", settings.ingest, cache), *rest)


def test_an_interrupted_video_leaves_nothing(folder, tmp_path, settings, monkeypatch):
    def stop(frames_done):
        raise executor.Stopped

    monkeypatch.setattr(executor, "count", stop)
    cache = FrameCache(tmp_path / "cache", settings.ingest)
    job = Job(folder, "odd.avi", tmp_path, settings.ingest, cache)
    with pytest.raises(executor.Stopped):
        ingest_video(job, *probe_video(job))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fit", ["squeeze", "crop", "pad"])
@pytest.mark.parametrize("source", [(720, 1280), (1280, 720), (480, 854), (37, 65)])
@pytest.mark.parametrize("model", [(64, 128), (256, 512), (128, 64), (32, 64)])
def test_ffmpeg_reduces_as_fit_would(settings, fit, source, model):
    """Fitting the reduced picture shows what fitting the whole picture shows."""
    size = settings.ingest.model_copy(update={"height": model[0], "width": model[1], "fit": fit})
    height, width = image_size(Header("h264", *source, 24, 1.0), size)
    down, right = np.linspace(20, 240, source[0]), np.linspace(20, 240, source[1])
    both = np.broadcast_arrays(down[:, None], right[None], 130.0)
    whole = np.stack(both, axis=2).astype(np.uint8)
    reduced = frames.fit(frames.resize(whole, height, width), *model, fit)
    expected = frames.fit(whole, *model, fit)
    assert height <= source[0] and width <= source[1]
    assert np.median(np.abs(reduced.astype(int) - expected)) <= 2


def test_large_model_frames_are_taken_from_a_large_picture(tmp_path, make_video, settings):
    """Stripes two pixels wide are lost in the detectors' copy, and must not be in the frames."""
    images = np.zeros((3, 256, 1024, 3), np.uint8)
    images[:, :, ::4] = images[:, :, 1::4] = 255
    make_video(tmp_path / "raw" / "stripes.avi", images)
    size = settings.ingest.model_copy(update={"height": 256, "width": 1024})
    ingest(tmp_path / "raw", tmp_path / "out", size, LocalPool(1))
    footage = open_frames(tmp_path / "out", read_videos(tmp_path / "out")["video_id"][0])
    assert np.abs(footage[1].astype(int) - images[1]).mean() < 8


def test_video_id_is_readable_and_depends_on_the_path_alone():
    def video_id(name):
        return Job(None, name, None, None, None).video_id

    first = video_id("Season 1/Episode 01.mkv")
    assert first.startswith("season-1-episode-01-") and len(first) == 28
    assert first == video_id("Season 1/Episode 01.mkv")
    names = ("Season 1/Episode 01.mp4", "中割り.mp4", "é.mp4", "a/", "a", "./", "a/sound.wav")
    others = [video_id(name) for name in names]
    assert len({first, *others}) == 8
    assert others[1].startswith("video-")
    assert video_id("e\u0301.mp4") == video_id("\u00e9.mp4")
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in others)
