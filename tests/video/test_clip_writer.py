"""Clips that a user named: whole or absent, never in place of a file that is not this program's."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from pipeline import io
from pipeline.errors import UserError
from pipeline.video import clip_writer
from pipeline.video.clip_writer import check, check_content, write_clip

ROOT = Path(__file__).parents[2]
KINDS = ("clip.mp4", "clip.gif", "clip.webp", "clip")


def clip(n_frames: int = 5, height: int = 16, width: int = 18, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n_frames, height, width, 3), np.uint8)


def names(folder: Path | str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def write(out, frames: np.ndarray, fps: float = 24) -> None:
    write_clip(iter(frames), len(frames), Path(out), fps)


def n_frames(path: Path) -> int:
    if path.is_dir():
        return len(list(path.iterdir()))
    if path.suffix.lower() in (".gif", ".webp"):
        return Image.open(path).n_frames
    capture = cv2.VideoCapture(os.fsencode(path).decode(errors="surrogateescape"))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


NAMES = ["-x", "%d", "a:b", "http:a", "q'\"u o", "n\nl", "日本", "x" * 250]
NAMES.append(os.fsdecode(b"\xff\xfe"))


@pytest.mark.parametrize("ending", [".mp4", ".MP4", ".gif", ".webp", ""])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_only_a_name(here, name, ending):
    out = Path(f"new/{name}{ending}")
    check(out, [])
    assert not list(here.iterdir()), "a check leaves nothing"
    write(out, clip(3))
    assert names("new") == [out.name] and io.TEMPORARY not in out.name
    shutil.copytree(out, "plain") if not ending else shutil.copy(out, f"plain{ending}")
    assert n_frames(Path(f"plain{ending}")) == 3


def state(kind: str, out: Path) -> None:
    """Brings `out` into a state that a user may leave it in."""
    if kind == "own":
        write(out, clip(9, seed=1))
    elif kind == "foreign":
        target = out if out.suffix else out / "frame_0000.png"
        target.parent.mkdir(exist_ok=True)
        form = {".gif": "gif", ".webp": "webp"}.get(out.suffix, "png")
        Image.fromarray(clip(1)[0]).save(target, form)
    elif kind == "own and foreign":
        write(out, clip(9, seed=1))
        (out / "notes.txt").write_text("mine")
    elif kind == "empty":
        out.touch() if out.suffix else out.mkdir()
    elif kind == "other kind":
        out.mkdir() if out.suffix else out.write_text("mine")
    elif kind == "speaks of it":
        out.write_bytes(b"\0\0\0 ftypisom title: nakawari" + bytes(99))
    elif kind == "edited":
        write(Path("own" + out.suffix), clip(9, seed=1))
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"own{out.suffix}"]
        subprocess.run([*command, "-c", "copy", "-movflags", "+faststart", out], check=True)
        assert clip_writer.MARK.encode() in out.read_bytes()[:1000], "ffmpeg keeps it"
    elif kind == "pipe":
        os.mkfifo(out)
    elif kind == "link to own":
        write(Path("own" + out.suffix), clip(9, seed=1))
        out.symlink_to("own" + out.suffix)
    elif kind == "link to nothing":
        out.symlink_to("later" + out.suffix)
    elif kind == "link to itself":
        out.symlink_to(out.name)


def snapshot() -> dict:
    return {path: path.lstat().st_ino for path in Path().rglob("*")}


@pytest.mark.parametrize("out", map(Path, KINDS))
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("absent", ""),
        ("own", ""),
        ("empty", ""),
        ("link to own", ""),
        ("link to nothing", ""),
        (
            "foreign",
            "is no clip of this program; choose|holds frame_0000.png; expected a new folder",
        ),
        ("own and foreign", "holds notes.txt; expected a new folder"),
        ("speaks of it", "is no clip of this program"),
        ("edited", "is no clip of this program"),
        ("other kind", "is a folder; expected the name of a file|is a file; expected a new or em"),
        ("pipe", "is no clip of this program; choose another|is a file; expected a new or empty"),
        ("link to itself", "a link that leads to itself"),
    ],
)
def test_only_own_clips_are_replaced(here, out, kind, words):
    kinds = {"own and foreign": "", "speaks of it": ".mp4", "edited": ".mp4"}
    if out.suffix != kinds.get(kind, out.suffix):
        pytest.skip("a state of another kind")
    state(kind, out)
    before = snapshot()
    if words:
        with pytest.raises(UserError, match=f"--out {out} .*({words})"):
            check(out, [])
        assert snapshot() == before
        return
    link = out.is_symlink()
    check(out, [])
    assert snapshot() == before
    write(out, clip(3))
    assert n_frames(out) == 3 and out.is_symlink() == link, "a link stays one"
    assert not list(here.glob(f"{io.TEMPORARY}*"))


def test_a_given_picture_is_never_replaced(here):
    """Also where it is a frame of an earlier clip, or has another name, or lies deeper."""
    write("clip", clip())
    write("old.gif", clip())
    frame = Path("clip/frame_0000.png")
    Path("link").symlink_to("clip")
    Path("link.png").symlink_to(frame)
    Path("link.gif").symlink_to("old.gif")
    Path("hard.gif").hardlink_to("old.gif")
    Path("deep/er").mkdir(parents=True)
    shutil.copy(frame, "deep/er")
    for out, picture in (
        ("clip", frame),
        ("clip", "link.png"),
        ("link", frame),
        ("old.gif", "old.gif"),
        ("link.gif", "old.gif"),
        ("hard.gif", "old.gif"),
    ):
        with pytest.raises(
            UserError, match=f"--out {out} would replace the given picture {pic(picture)}"
        ):
            check(Path(out), [Path(picture)])
    with pytest.raises(UserError, match="--out deep holds er"):
        check(Path("deep"), [Path("deep/er/frame_0000.png")])
    check(Path("deep/er/clip"), [Path("deep/er/frame_0000.png")])


def pic(name) -> str:
    return str(name).replace(".", r"\.")


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("clip.avi", r"expected a name ending in \.mp4, \.gif or \.webp, or, for"),
        ("take.01", "for PNG files, a folder's, without a dot"),
        (".webp", r"expected a name ending in \.mp4, \.gif or \.webp, or, for"),
        ("file/clip.mp4", "file is no folder"),
        ("file/deep/clip.mp4", "file is no folder"),
        ("x" * 252 + ".mp4", "File name too long"),
        ("new/" + "x" * 256, "File name too long"),
        ("/proc/clip.mp4", "cannot be written"),
        (
            ".",
            "cannot be replaced .the current one, or a mount.; expected one inside it, such as c",
        ),
    ],
)
def test_what_cannot_be_written_is_said_first(tmp_path, monkeypatch, out, words):
    (tmp_path / "here").mkdir()
    if "file" in out:
        (tmp_path / "here/file").write_text("mine")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=words):
        check(Path(out), [])


def test_a_folder_without_permission(here, monkeypatch):
    """Root may write everywhere, so the system's refusal is played."""

    def refuse(path: Path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"--out clip\.mp4 cannot be written \(Permission denied\)"):
        check(Path("clip.mp4"), [])


@pytest.mark.parametrize("out", KINDS)
def test_an_own_clip_that_is_protected_stays(here, monkeypatch, out):
    write(out, clip())
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # of root, chattr +i
    with pytest.raises(UserError, match=f"--out {out} cannot be written .it exists and is protect"):
        check(Path(out), [])
    assert n_frames(Path(out)) == 5


def test_a_picture_s_fault_is_not_the_output_s(here):
    check(Path("clip.mp4"), [Path("x" * 300)])


def test_what_came_into_the_folder_meanwhile_stays(here):
    write("clip", clip())

    def frames():
        yield from clip(2)
        Path("clip/notes.txt").write_text("mine")

    with pytest.raises(UserError, match=r"clip holds notes\.txt"):
        write_clip(frames(), 2, Path("clip"), 24)
    assert len(names("clip")) == 6 and names() == ["clip"]


@pytest.mark.parametrize("out", KINDS)
def test_a_failure_leaves_nothing_and_keeps_the_old_clip(here, out):
    write(out, clip(7))

    def broken():
        yield from clip(2)
        raise RuntimeError("the painter fell ill")

    for name in (out, f"new/{out}"):
        with pytest.raises(RuntimeError, match="fell ill"):
            write_clip(broken(), 3, Path(name), 24)
    assert names() == [out] and n_frames(Path(out)) == 7


@pytest.mark.parametrize("channels", [3, 4])
def test_a_frame_s_pixels_reach_the_files(here, channels):
    frames = clip(3, 17, 19 * channels).reshape(3, 17, 19, 3 * channels)[..., :channels]  # odd
    frames[:, 4:9, 3:7, 3:] = 0  # of frames that lie upon each other nothing shines through
    write("deep/clip", frames)
    write("clip.webp", frames)
    check_content(Path("clip.webp"), frames, 3, 1, 24)
    with Image.open("clip.webp") as film:
        for number, frame in enumerate(frames):
            film.seek(number)
            png = np.asarray(Image.open(f"deep/clip/frame_{number:04d}.png"))
            assert np.array_equal(png, frame)
            seen = np.asarray(film.convert("RGBA" if channels == 4 else "RGB"))
            clear = frame[..., 3:].sum(2) == (0 if channels == 4 else 1)
            assert np.array_equal(seen[~clear], frame[~clear])
            assert not seen[clear][:, 3:].any()
    if channels == 4:
        return
    write("clip.mp4", frames)
    assert cv2.VideoCapture("clip.mp4").read()[1].shape == (17, 19, 3)


def test_names_of_long_clips_are_in_the_order_of_the_frames(here):
    write_clip(iter(clip(2)), 10_001, Path("clip"), 24)
    assert names("clip") == ["frame_00000.png", "frame_00001.png"]
    check(Path("clip"), [])


@pytest.mark.parametrize(("out", "tick", "most"), [("clip.gif", 10, 50), ("clip.webp", 1, 90)])
@pytest.mark.parametrize("fps", [0.1, 0.3, 1, 12.5, 23.976, 24, 25, 30, 50, 60, 90, 240])
def test_a_clip_takes_its_time(here, out, tick, most, fps):
    """Also where equal frames are merged; what differs from the request is said."""
    frames = np.repeat(clip(4), [1, 3, 1, 2], axis=0)
    said = "; ".join(check_content(Path(out), frames, len(frames), 1, fps))
    write(out, frames, fps)
    durations = []
    with Image.open(out) as film:
        for number in range(film.n_frames):
            film.seek(number)
            film.load()
            durations.append(film.info["duration"])
    frame = 1000 / min(fps, most)
    assert sum(durations) == pytest.approx(7 * frame, abs=tick / 2)
    assert durations == pytest.approx([frame, 3 * frame, frame, 2 * frame], abs=tick)
    assert (f"at most {most} frames a second" in said) == (fps > most)
    assert ("hundredths" in said) == (out == "clip.gif" and fps in (0.3, 23.976, 24, 30))
    assert ("256 colours" in said) == (out == "clip.gif")


@pytest.mark.parametrize(
    ("out", "size", "n", "words"),
    [
        ("clip.gif", (16, 16), 20_000, "would last 833 seconds; expected at most 655 of a GIF"),
        ("clip.webp", (16, 16384), 3, "would be 16x16384 .*expected sides of at most 16383"),
        ("clip.webp", (64, 64), 10**12, r"would take at least \d+\.\d MB, and .* MB are free"),
        ("clip.mp4", (16, 16400), 3, "would be 16x16400 .*expected sides of at most 16383"),
        ("clip", (64, 64), 10**10, r"would take at least \d+\.\d MB, and .* MB are free"),
        ("clip.mp4", (16, 16), 4, r"would take at least 0\.1 MB, and 0\.0 MB are free"),
        ("clip.mp4", (64, 64), 10**12, r"would take at least \d+\.\d MB, and .* MB are free"),
    ],
)
def test_what_has_no_room_is_said_first(here, monkeypatch, out, size, n, words):
    if n == 4:  # a disk that is nearly full
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 0, 9))
    with pytest.raises(UserError, match=words):
        check_content(Path(out), clip(1, *size), n, 1, 24)


WRITE = """
import signal, sys, time
import numpy as np
from pathlib import Path
from pipeline import errors
from pipeline.video.clip_writer import write_clip
def frames(n, pause):
    for k in range(n):
        time.sleep(pause)
        yield np.full((64, 64, 3), k % 256, np.uint8)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
n, pause = int(sys.argv[2]), float(sys.argv[3])
errors.run_main(lambda: write_clip(frames(n, pause), n, Path(sys.argv[1]), 24))
"""


def start(out: str, n: int, pause: float) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITE, out, str(n), str(pause)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("out", KINDS)
def test_two_processes_write_one_clip(here, out):
    processes = [start(out, n, 0.05) for n in (10, 11, 12)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [
        ("", 0)
    ] * 3
    assert n_frames(Path(out)) in (10, 11, 12) and names() == [out]


STOPS = [(out, number) for out in KINDS for number in (signal.SIGTERM, signal.SIGKILL)]
STOPS += [("clip.mp4", signal.SIGHUP), ("clip", signal.SIGINT)]


@pytest.mark.parametrize(("out", "number"), STOPS)
def test_a_stopped_process_leaves_nothing(here, out, number):
    """A killed one cannot tidy up: the next run does, and spares what is being written."""
    words = "" if number == signal.SIGKILL else "interrupted; run the same command again"
    process, other = start(out, 10_000, 0.01), start(f"other-{out}", 10_000, 0.01)
    while len(list(here.glob(f"{io.TEMPORARY}*"))) < 2:
        time.sleep(0.05)
        assert process.poll() is None and other.poll() is None
    process.send_signal(number)
    error = process.communicate()[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert error.startswith(words) and error.count("\n") == bool(words)
    check(Path(out), [])
    left = [path.name for path in here.iterdir()]
    assert len(left) == 1 and left[0].startswith(io.TEMPORARY), "what the other one writes"
    other.send_signal(signal.SIGTERM)
    other.communicate()
    assert names() == []


@pytest.mark.parametrize("size", [(64, 96), (720, 1280)])
def test_colours_are_those_of_the_pictures(here, size):
    """Tags and matrix agree: flat colours come back, whatever the size."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (60, 140, 220), (230, 90, 40), (128,) * 3]
    picture = np.repeat(np.array([colours], np.uint8), size[1] // 6, axis=1)
    picture = np.repeat(picture, size[0], axis=0)
    write("clip.mp4", np.stack([picture] * 2))
    back = cv2.cvtColor(cv2.VideoCapture("clip.mp4").read()[1], cv2.COLOR_BGR2RGB)
    middle = slice(size[1] // 12, None, size[1] // 6)
    assert np.abs(back[5, middle].astype(int) - picture[5, middle]).max() <= 2
    assert clip_writer.MARK.encode() in Path("clip.mp4").read_bytes()[:1000]
