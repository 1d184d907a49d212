"""Reuse of decoded videos, and a run that is killed, restarted, or met with copies."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from pipeline import schema
from pipeline.errors import UserError
from pipeline.footage import ingest as module
from pipeline.footage import workers
from pipeline.footage.framefile import open_frames, read_videos
from pipeline.footage.ingest import STORE, ingest

PALE = np.random.default_rng(0).integers(0, 256, (8, 16, 32, 3), np.uint8)


@pytest.fixture
def raw(tmp_path, make_video) -> Path:
    for name, shift in (("a.avi", 0), ("b.avi", 40)):
        make_video(tmp_path / "raw" / name, PALE + np.uint8(shift))
    return tmp_path / "raw"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the videos that are decoded, in this process."""
    names = []

    class Now:
        def __init__(self, value):
            self.value = value

        def result(self):
            return self.value

    class Here:
        def __init__(self, *_):
            self.executor = self

        def map(self, work, jobs):
            return map(work, jobs)

        def submit(self, work, job, *rest):
            names.append(job.name)
            return Now(work(job, *rest))

        def watch(self, *_):
            pass

        def shutdown(self, **_):
            pass

    from contextlib import contextmanager

    @contextmanager
    def opened(*_):
        yield Here()

    monkeypatch.setattr(workers, "opened", opened)
    return names


def run(raw, out, settings, **changes):
    return ingest(raw, out, settings.ingest.model_copy(update=changes), workers=1)


def rows(out):
    return schema.read_table(out / "videos.parquet", schema.VIDEOS).set_index("path")


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def entries() -> list[Path]:
    return sorted((Path(os.environ["DVC_ROOT"]) / STORE).glob("*.arrow"))


def test_one_new_episode_decodes_one_episode(raw, tmp_path, make_video, settings, decoded):
    first = run(raw, tmp_path / "out", settings)
    before = contents(tmp_path / "out")
    assert decoded == ["a.avi", "b.avi"]
    make_video(raw / "c.avi", PALE + np.uint8(90))
    assert run(raw, tmp_path / "out", settings)["videos"] == first["videos"] + 1
    assert decoded[2:] == ["c.avi"]
    (raw / "c.avi").unlink()
    assert run(raw, tmp_path / "fresh", settings) == first and len(decoded) == 3
    assert contents(tmp_path / "fresh") == before


def test_a_renamed_video_is_not_decoded_again(raw, tmp_path, settings, decoded):
    run(raw, tmp_path / "out", settings)
    (raw / "a.avi").rename(raw / "renamed.avi")
    run(raw, tmp_path / "out", settings)
    assert len(decoded) == 2
    assert rows(tmp_path / "out").index.tolist() == ["b.avi", "renamed.avi"]


@pytest.mark.parametrize("changes", [{"height": 32}, {"fit": "pad"}, {"fps": 12.0}])
def test_other_parameters_decode_again(raw, tmp_path, settings, decoded, changes):
    run(raw, tmp_path / "out", settings)
    run(raw, tmp_path / "out", settings, **changes)
    assert len(decoded) == 4


def test_parameters_that_judge_decode_nothing(raw, tmp_path, settings, decoded):
    run(raw, tmp_path / "out", settings)
    run(raw, tmp_path / "out", settings, min_frames=2, on_error="fail")
    assert len(decoded) == 2


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b"x"), Path.unlink])
def test_a_damaged_entry_is_decoded_again(raw, tmp_path, settings, decoded, damage):
    run(raw, tmp_path / "out", settings)
    before = contents(tmp_path / "out")
    entry = entries()[0]
    content = entry.read_bytes()
    entry.unlink()
    entry.write_bytes(content)  # no longer a link of the output's file
    damage(entry)
    run(raw, tmp_path / "out", settings)
    assert len(decoded) == 3 and contents(tmp_path / "out") == before


def test_the_store_forgets_what_was_not_used_for_longest(raw, tmp_path, settings, decoded):
    for height in (16, 24, 32, 40, 48):
        run(raw, tmp_path / "out", settings, height=height)
    assert 0 < len(entries()) < 10
    decoded.clear()
    run(raw, tmp_path / "out", settings, height=48)
    assert not decoded


def test_copies_are_decoded_once_and_named(raw, tmp_path, settings, decoded):
    (raw / "z.avi").write_bytes((raw / "a.avi").read_bytes())
    summary = run(raw, tmp_path / "out", settings)
    assert rows(tmp_path / "out").loc["z.avi", "status"] == "duplicate of a.avi"
    assert decoded == ["a.avi", "b.avi"] and summary["videos_duplicate"] == 1
    assert read_videos(tmp_path / "out")["path"].tolist() == ["a.avi", "b.avi"]


def test_too_short_videos_are_rejected_with_their_reason(raw, tmp_path, make_video, settings):
    make_video(raw / "short.avi", PALE[:2])
    summary = run(raw, tmp_path / "out", settings)
    row = rows(tmp_path / "out").loc["short.avi"]
    assert (row["status"], row["reason"]) == ("too short", "2 frames, at least 3 needed")
    assert summary["videos_too_short"] == 1 and len(list((tmp_path / "out").glob("*.arrow"))) == 2


def test_fail_names_the_file_and_leaves_no_table(raw, tmp_path, settings):
    (raw / "empty.mp4").touch()
    with pytest.raises(UserError, match=r"1 of 3 files.*empty\.mp4 \(undecodable: empty file\).*"
                       r"ingest\.on_error"):  # fmt: skip
        run(raw, tmp_path / "out", settings, on_error="fail")
    assert not (tmp_path / "out/videos.parquet").exists()


def test_a_folder_of_pictures_is_one_video(raw, tmp_path, settings):
    import cv2

    (raw / "shot").mkdir()
    for number, image in enumerate(PALE):
        cv2.imwrite(str(raw / f"shot/{number:04d}.png"), image[..., ::-1])
    run(raw, tmp_path / "out", settings, height=16, width=32)
    row = rows(tmp_path / "out").loc["shot/"]
    assert (row["status"], row["n_frames"], len(row["sha256"])) == ("ok", len(PALE), 64)
    footage = open_frames(tmp_path / "out", row["video_id"])
    assert np.abs(footage[3].astype(int) - PALE[3]).max() <= 2


def test_a_full_disk_is_said_before_it_is_full(raw, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"frames need .* GB, 0\.0 GB of disk are free"):
        run(raw, tmp_path / "out", settings)


def dies_once(job, row, header):
    """In a worker: the first that comes here is killed."""
    flag = job.root / ".died"
    if job.name == "b.avi" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_as_ever(job, row, header)


def dies_always(job, row, header):
    os.kill(os.getpid(), signal.SIGKILL)


decode_as_ever = module.decode_video


def test_the_death_of_a_worker_is_survived(raw, tmp_path, settings, monkeypatch, capfd):
    expected = run(raw, tmp_path / "calm", settings)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(module, "decode_video", dies_once)
    assert run(raw, tmp_path / "out", settings) == expected
    assert "was killed; going on" in capfd.readouterr().err
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


def test_a_video_that_kills_every_worker_ends_the_run(raw, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(module, "decode_video", dies_always)
    with pytest.raises(UserError, match=r"killed 3 times.*engine\.workers"):
        run(raw, tmp_path / "out", settings)
    assert not list((tmp_path / "out").iterdir())
