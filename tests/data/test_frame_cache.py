"""Reuse of decoded videos, and a run that is killed, restarted, or met with copies."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import io
from pipeline.data import executor, frame_cache
from pipeline.data import ingest as module
from pipeline.data.executor import LocalPool
from pipeline.data.frame_file import open_frames, read_videos
from pipeline.data.ingest import CACHE, ingest
from pipeline.errors import UserError
from pipeline.video import decode

PALE = np.random.default_rng(0).integers(0, 256, (8, 16, 32, 3), np.uint8)


@pytest.fixture
def raw(tmp_path, make_video) -> Path:
    for name, shift in (("a.avi", 0), ("b.avi", 40)):
        make_video(tmp_path / "raw" / name, PALE + np.uint8(shift))
    return tmp_path / "raw"


class InProcess:
    """Runs jobs here, so that what they call can be replaced; a job that died is run again."""

    def run(self, function, jobs, **_):
        results = []
        for job in jobs:
            try:
                results.append(function(*job))
            except executor.Died:
                results.append(function(*job))
        return results


@pytest.fixture
def decoded(monkeypatch):
    """Names of the videos that are decoded."""
    names, original = [], decode.decode

    def recording(path, *rest):
        names.append(path.name)
        return original(path, *rest)

    monkeypatch.setattr(decode, "decode", recording)
    return names


def run(raw, out, settings, pool=None, **changes):
    size = settings.ingest.model_copy(update=changes)
    return ingest(raw, out, size, pool or InProcess())


def rows(out):
    return io.read_table(out / "videos.parquet", io.VIDEOS).set_index("path")


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def entries() -> list[Path]:
    return sorted((Path(os.environ["DVC_ROOT"]) / CACHE).glob("*.arrow"))


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
    run(raw, tmp_path / "out", settings, on_error="fail")
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


def test_a_page_of_zeros_in_an_entry_is_seen(raw, tmp_path, settings, decoded):
    run(raw, tmp_path / "out", settings)
    entry = entries()[0]
    content = bytearray(entry.read_bytes())
    content[4096:8192] = bytes(4096)
    entry.unlink()
    entry.write_bytes(content)
    run(raw, tmp_path / "out", settings)
    assert len(decoded) == 3


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"n_frames": 8}'])
def test_a_damaged_row_is_made_again(raw, tmp_path, settings, decoded, text):
    run(raw, tmp_path / "out", settings)
    before = contents(tmp_path / "out")
    entries()[0].with_suffix(".json").write_text(text)
    run(raw, tmp_path / "out", settings)
    assert len(decoded) == 3 and contents(tmp_path / "out") == before


def test_a_small_run_forgets_nothing_of_a_large_one(raw, tmp_path, settings, decoded):
    for height in (16, 24, 32, 40, 48):
        run(raw, tmp_path / "out", settings, height=height)
    assert len(entries()) == 10


def test_the_cache_forgets_what_was_not_used_for_longest(
    raw, tmp_path, settings, decoded, monkeypatch
):
    monkeypatch.setattr(frame_cache, "KEPT_BYTES", 0)
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


def test_a_copy_does_not_take_the_place_of_its_original(raw, tmp_path, settings):
    (raw / "a copy of b.avi").write_bytes((raw / "b.avi").read_bytes())
    (raw / "A.avi").symlink_to("a.avi")
    run(raw, tmp_path / "out", settings)
    table = rows(tmp_path / "out")
    assert table["status"].to_dict() == {
        "A.avi": "duplicate of a.avi", "a copy of b.avi": "duplicate of b.avi",
        "a.avi": "ok", "b.avi": "ok",
    }  # fmt: skip


def test_names_that_differ_in_unicode_form_only(raw, tmp_path, settings):
    (raw / "a.avi").rename(raw / "caf\u00e9.avi")
    (raw / "b.avi").rename(raw / "cafe\u0301.avi")
    run(raw, tmp_path / "out", settings)
    statuses = rows(tmp_path / "out")["status"].tolist()
    assert "ok" in statuses and any(status.startswith("same name as caf") for status in statuses)
    assert len(list((tmp_path / "out").glob("*.arrow"))) == 1


def test_an_unreadable_folder_has_a_row(raw, tmp_path, settings, monkeypatch):
    scandir = os.scandir

    def refusing(path="."):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    (raw / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", refusing)
    run(raw, tmp_path / "out", settings)
    assert "cannot be read" in rows(tmp_path / "out").loc["locked", "reason"]


def test_fail_also_names_what_is_truncated(raw, tmp_path, settings, make_video):
    noisy = np.random.default_rng(0).integers(0, 256, (40, 16, 32, 3), np.uint8)
    whole = make_video(raw / "whole.mkv", noisy)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match=r"whole\.mkv \(truncated"):
        run(raw, tmp_path / "out", settings, on_error="fail")
    run(raw, tmp_path / "out", settings)
    row = rows(tmp_path / "out").loc["whole.mkv"]
    assert row["status"] == "truncated"
    assert row["duration"] == pytest.approx(row["n_frames"] / 24, abs=0.001)


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


def test_fail_looks_at_all_headers_before_it_decodes(raw, tmp_path, settings, decoded):
    (raw / "empty.mp4").touch()
    with pytest.raises(UserError, match="1 of 3 files"):
        run(raw, tmp_path / "out", settings, on_error="fail")
    assert not decoded and not list((tmp_path / "out").iterdir())


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
    with pytest.raises(UserError, match=r"frames need .* MB, 0 MB of disk are free.*compression"):
        run(raw, tmp_path / "out", settings)


def dies_once(job, row, header):
    """In a worker: the first that comes here is killed."""
    flag = job.root / ".died"
    if job.name == "b.avi" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return ingest_as_ever(job, row, header)


def dies_always(job, row, header):
    os.kill(os.getpid(), signal.SIGKILL)


ingest_as_ever = module.ingest_video


def test_the_death_of_a_worker_is_survived(raw, tmp_path, settings, monkeypatch, capfd):
    expected = run(raw, tmp_path / "calm", settings)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(module, "ingest_video", dies_once)
    assert run(raw, tmp_path / "out", settings, LocalPool(1)) == expected
    assert "was killed; going on" in capfd.readouterr().err
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


def test_a_video_that_kills_every_worker_ends_the_run(raw, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(module, "ingest_video", dies_always)
    with pytest.raises(UserError, match=r"killed 3 times.*engine\.workers"):
        run(raw, tmp_path / "out", settings, LocalPool(1))
    assert not list((tmp_path / "out").iterdir())


class Gone:
    """ffmpeg, killed by the system after its first batch."""

    def __init__(self, decode, times):
        self.decode, self.times = decode, times

    def __call__(self, path, *rest):
        for batch in self.decode(path, *rest):
            yield batch
            if self.times:
                self.times -= 1
                raise decode.Killed("ffmpeg was killed after 8 frames")


def test_a_killed_decoder_leaves_no_truncated_video(raw, tmp_path, settings, decoded, monkeypatch):
    expected = run(raw, tmp_path / "calm", settings)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(decode, "decode", Gone(decode.decode, 1))
    assert run(raw, tmp_path / "out", settings) == expected
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


MAIN = """
import sys
from pathlib import Path
from pipeline import config
from pipeline.data.executor import LocalPool
from pipeline.data.ingest import ingest
if __name__ == "__main__":
    size = config.load(Path("params.yaml")).ingest
    ingest(Path(sys.argv[1]), Path(sys.argv[2]), size, LocalPool(2))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_main_process_that_is_killed(tmp_path, settings):
    """What they write on, the next run would write at the same time."""
    long_video(tmp_path / "raw/long.mp4")
    (tmp_path / "main.py").write_text(MAIN)
    root, out = Path(__file__).parents[2], tmp_path / "out"
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "raw"), str(out)]
    marked = os.environ | {"PYTHONPATH": str(root), "MARK": str(tmp_path)}
    main = subprocess.Popen(command, cwd=root, env=marked, stderr=subprocess.DEVNULL)
    wait_until(lambda: list(out.glob("*.partial")))
    main.kill()
    main.wait()
    wait_until(lambda: not of_environment(f"MARK={tmp_path}"))
    assert not list(out.glob("*.arrow"))
    assert run(tmp_path / "raw", out, settings)["frames"] == 1440


def long_video(path: Path) -> None:
    """A minute, of which decoding takes a second or two."""
    import imageio_ffmpeg

    path.parent.mkdir()
    drawn = ["-f", "lavfi", "-i", "testsrc2=size=960x540:rate=24:duration=60"]
    coded = ["-c:v", "libx264", "-preset", "ultrafast", str(path)]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *drawn, *coded]
    subprocess.run(command, check=True)


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def of_environment(entry: str) -> list[int]:
    """Living processes that were started with `entry` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
