"""`python -m pipeline retime`: a film in, one with more frames a second out."""

import os
import re
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.commands import retime
from pipeline.errors import run_main
from pipeline.inference import retiming
from pipeline.inference.retiming import Film, make_plan
from pipeline.video import film_writer
from pipeline.video.decode import decode
from pipeline.video.probe import probe

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
HEIGHT, WIDTH = 64, 128
X264 = ("-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv420p")
SOUND = ("-f", "lavfi", "-t", "1", "-i", "sine")
ROOT = Path(__file__).parents[2]
SMALL_PARTS = """
from pipeline.commands import retime
from pipeline.video import film_writer
retime.PART_FRAMES, film_writer.SPEED = 6, ("-preset", "ultrafast", "-crf", "1")
retime.main(["in.mp4", "out.mp4", "--factor", "2"])
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(film_writer, "SPEED", ("-preset", "ultrafast", "-crf", "1"))


def scene(n: int, on: int = 1, night: bool = False, size=(HEIGHT, WIDTH)) -> np.ndarray:
    """uint8 `n H W 3`: a square goes right, `on` frames a drawing, over a slope of grey."""
    height, width = size
    slope = np.linspace(20, 60, width) if night else np.linspace(160, 240, width)
    clip = np.broadcast_to(slope[None, None, :, None], (n, height, width, 3)).astype(np.uint8)
    clip = clip.copy()
    for k in range(n):
        left = 4 + width // 32 * (k // on * on) % (width // 2)
        clip[k, height // 4 : -height // 4, left : left + width // 4] = (40, 80, 200)
    return clip


def write(name: str, frames: np.ndarray, *options: str, fps: str = "24", inputs=()) -> Path:
    height, width = frames.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", fps, "-i", "-"]
    command = [FFMPEG, "-v", "error", "-y", *raw, *inputs, *(options or X264), f"file:{name}"]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return Path(name)


def said(path: Path | str) -> str:
    """What ffmpeg says of a file."""
    command = [FFMPEG, "-hide_banner", "-i", f"file:{path}"]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode(errors="replace")


def read(name: Path | str) -> np.ndarray:
    """uint8 `n H W 3`."""
    header = probe(Path(name))
    batches = decode(Path(name), header, header.decoded_size, (1, 1))
    return np.concatenate([batch.images for batch in batches])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())


def sources(shown: np.ndarray, film: np.ndarray, limit: float = 1.0) -> list[int | None]:
    """The film's frame that each one shows; None for one that is drawn."""
    numbers = []
    for frame in shown:
        distances = [distance(frame, own) for own in film]
        best = int(np.argmin(distances))
        numbers.append(best if distances[best] < limit else None)
    return numbers


def run(*words: str) -> None:
    run_main(lambda: retime.main([str(word) for word in words]))


def plan_of(new: str, rate: float = 24, fps: int = 24, times=None, **options) -> list:
    """Rows of a plan; `new` has a letter a frame: C a cut, N a new drawing, . a held one."""
    letters = np.array([*new])
    film = Film(
        np.arange(len(new)) / fps if times is None else np.array(times),
        letters != ".",
        letters == "C",
        0,
        Fraction(fps),
    )
    plan = make_plan(film, Fraction(rate), **options)
    rows = zip(plan.left.tolist(), plan.right.tolist(), plan.share.tolist(), strict=True)
    return [
        left if left == right else (left, right, round(share, 3)) for left, right, share in rows
    ]


@pytest.mark.parametrize(
    ("new", "options", "rows"),
    [
        ("CN", {"rate": 48}, [0, (0, 1, 0.5), 1, 1]),
        ("CNCN", {"rate": 48}, [0, (0, 1, 0.5), 1, 1, 2, (2, 3, 0.5), 3, 3]),
        ("C.N.", {"rate": 24}, [0, (0, 2, 0.5), 2, 3]),
        ("C.N.", {"rate": 24, "keep": True}, [0, 1, 2, 3]),
        (
            "C.N.",
            {"rate": 48},
            [0, (0, 2, 0.25), (0, 2, 0.5), (0, 2, 0.75), 2, 2, 3, 3],
        ),
        ("C.N.", {"rate": 48, "keep": True}, [0, 0, 1, (1, 2, 0.5), 2, 2, 3, 3]),
        ("C.......N", {"rate": 24}, [0, 1, 2, 3, 4, (4, 8, 0.25), (4, 8, 0.5), (4, 8, 0.75), 8]),
        ("C..N..N", {"on": 2}, [0, 0, (0, 3, 0.667), (0, 3, 0.667), *[(3, 6, 0.333)] * 2, 6]),
        ("CNNNC", {"on": 2}, [0, 0, 2, 2, 4]),
        ("CNN", {"rate": 12}, [0, 2]),
        ("CN", {"rate": 60}, [0, (0, 1, 0.4), (0, 1, 0.8), 1, 1]),
        ("CNN", {"times": [0, 1 / 24, 3 / 24]}, [0, 1, (1, 2, 0.5), 2]),
        ("CNN", {"times": [0, 1 / 24, 3 / 24], "keep": True}, [0, 1, 1, 2]),
        ("CCC", {"rate": 48}, [0, 0, 1, 1, 2, 2]),
        ("C", {"rate": 48}, [0, 0]),
    ],
)  # fmt: skip
def test_what_each_frame_shows(new, options, rows):
    assert plan_of(new, **options) == rows


@pytest.mark.parametrize(
    ("options", "count", "rate"),
    [
        (["--factor", "2"], 48, "48 fps"),
        (["--factor", "3", "--holds", "keep"], 72, "72 fps"),
        (["--fps", "60"], 60, "60 fps"),
        (["--fps", "59.94"], 60, "59.94 fps"),
        (["--fps", "24000/1001"], 24, "23.98 fps"),
        (["--fps", "12"], 12, "12 fps"),
        (["--on", "1"], 24, "24 fps"),
    ],
)
def test_length_rate_sound_and_size_are_those_asked_for(project, capsys, options, count, rate):
    project()
    write("in.mp4", scene(24, 2), *X264, "-c:a", "aac", inputs=SOUND)
    run("in.mp4", "out.mp4", *options)
    text = said("out.mp4")
    assert len(read("out.mp4")) == count
    assert rate in text and "Audio: aac" in text and f"{WIDTH}x{HEIGHT}" in text
    seconds = float(re.search(r"Duration: 00:00:([\d.]+)", text)[1])
    assert abs(seconds - 1) < 0.06  # a frame of sound
    assert sorted(path.name for path in Path().glob("*.parts")) == []
    assert re.match(rf"out\.mp4: {count} frames of {HEIGHT}x{WIDTH}, ", capsys.readouterr().out)


def test_nothing_is_drawn_across_a_cut(project):
    project()
    film = np.concatenate([scene(7), scene(6, night=True), scene(5)])
    write("in.mp4", film)
    run("in.mp4", "out.mp4", "--factor", "2")
    shown = sources(read("out.mp4"), read("in.mp4"))
    assert shown[::2] == [*range(18)]
    assert [shown[2 * k + 1] for k in (6, 12, 17)] == [6, 12, 17]  # the last ones of their scenes
    assert all(shown[2 * k + 1] is None for k in range(17) if k not in (6, 12))


@pytest.mark.parametrize(("holds", "drawn"), [("fill", 15), ("keep", 5)])
def test_held_drawings_are_filled_or_kept(project, holds, drawn):
    project()
    write("in.mp4", scene(12, 2))
    run("in.mp4", "out.mp4", "--factor", "2", "--holds", holds)
    shown = sources(read("out.mp4"), read("in.mp4"))
    assert shown.count(None) == drawn
    if holds == "keep":  # only the step is softened
        assert [number is None for number in shown] == ([False] * 3 + [True]) * 5 + [False] * 4


def test_drawings_with_nothing_in_common_are_held(project, monkeypatch, capsys):
    project()
    monkeypatch.setattr(retiming, "CUT_CHANGE", 0.0)
    monkeypatch.setattr(retiming, "consistent_share", lambda flow: 0.05)
    write("in.mp4", scene(4))
    run("in.mp4", "out.mp4", "--factor", "2")
    assert None not in sources(read("out.mp4"), read("in.mp4"))
    assert "3 frames are held" in capsys.readouterr().out


@pytest.mark.parametrize("there", ["*.npz", "*30.h264"])
def test_after_a_kill_the_rest_is_drawn_and_the_film_is_the_same(project, monkeypatch, there):
    project()
    write("in.mp4", np.concatenate([scene(24, 2), scene(12, night=True)]))
    monkeypatch.setattr(retime, "PART_FRAMES", 6)
    run("in.mp4", "whole.mp4", "--factor", "2")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", SMALL_PARTS], env=environment)
    while not any(Path("out.mp4.parts").glob(there)):
        assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL and not Path("out.mp4").exists()
    finished = {path.name for path in Path("out.mp4.parts").glob("*.h264")}
    written, work = set(), retime.write_part
    monkeypatch.setattr(retime, "write_part", lambda path, *rest: (
        written.add(path.name), work(path, *rest)
    ))  # fmt: skip
    run("in.mp4", "out.mp4", "--factor", "2")
    assert not written & finished and len(written | finished) == 12
    assert np.array_equal(read("out.mp4"), read("whole.mp4"))
    assert not [*Path().glob("*.parts")]


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (
            lambda: run("in.mp4", "out.mp4", "--factor", "3"),
            "out.mp4.parts is in use by another run; wait",
        ),
        (
            lambda: Path("out.mp4").write_text("mine"),
            "out.mp4 exists and is no clip of this program",
        ),
    ],
)
def test_what_comes_while_a_film_is_drawn(project, capsys, monkeypatch, begin, said):
    project()
    write("in.mp4", scene(6))
    work = retime.write_part
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="2"):
        patch.setattr(retime, "write_part", lambda *rest: (work(*rest), begin()))
        run("in.mp4", "out.mp4", "--factor", "2")
    assert said in capsys.readouterr().err
    if Path("out.mp4").exists():
        assert Path("out.mp4").read_text() == "mine"
        Path("out.mp4").unlink()
    monkeypatch.setattr(retime, "write_part", lambda *rest: pytest.fail("drawn again"))
    run("in.mp4", "out.mp4", "--factor", "2")
    assert len(read("out.mp4")) == 12


def test_other_choices_begin_anew(project, monkeypatch, capsys):
    project()
    monkeypatch.setattr(retime, "PART_FRAMES", 10)
    write("in.mp4", scene(12))
    with monkeypatch.context() as patch:
        patch.setattr(retime, "join", lambda *rest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("in.mp4", "out.mp4", "--factor", "2")
    run("in.mp4", "out.mp4", "--factor", "3")
    assert "out.mp4.parts was of another film, model or choice" in capsys.readouterr().err
    assert len(read("out.mp4")) == 36
    run("in.mp4", "out.mp4", "--factor", "2")  # in place of its own
    assert len(read("out.mp4")) == 24


@pytest.mark.parametrize(("second", "n"), [((), 48), (("2",), 24)])
def test_a_preview_has_its_seconds_from_there(project, monkeypatch, second, n):
    project()
    monkeypatch.setattr(retime, "PREVIEW_SECONDS", 2.0)
    film = np.concatenate([scene(12, 3) for _ in range(6)])  # 3 seconds
    sound = ("-f", "lavfi", "-t", "3", *SOUND[4:])
    write("in.mkv", film, "-c:v", "libx264", "-c:a", "flac", inputs=sound)
    run("in.mkv", "out.mp4", "--factor", "2", "--holds", "keep", "--preview", *second)
    text = said("out.mp4")
    assert len(read("out.mp4")) == 2 * n
    assert abs(float(re.search(r"Duration: 00:00:([\d.]+)", text)[1]) - n / 24) < 0.1
    assert "Audio: flac" in text
    shown = read("out.mp4")[0]
    assert distance(shown, read("in.mkv")[48 if second else 0]) < 1.5


def uneven(name: str) -> None:
    options = ["-vf", "settb=1/1000,setpts='N*N*4/TB/1000'", "-fps_mode", "passthrough"]
    write(name, scene(10), *options, "-enc_time_base", "1/1000", *X264)


def two_films(name: str) -> None:
    write("a.mkv", scene(6))
    inputs = ("-i", "a.mkv", *SOUND, *SOUND)
    maps = [x for k in ("1:v", "0:v", "2:a", "3:a") for x in ("-map", k)]
    write(name, scene(6), *maps, *X264, "-c:a", "aac", inputs=inputs)


def subtitled(name: str) -> None:
    Path("a.srt").write_text("1\n00:00:00,000 --> 00:00:00,200\nhello\n")
    write(name, scene(6), *X264, "-c:s", "srt", inputs=("-i", "a.srt"))


def late(name: str) -> None:
    write("a.mp4", scene(12))
    subprocess.run(
        [FFMPEG, "-v", "error", "-itsoffset", "0.5", "-i", "a.mp4", *SOUND, "-c:v", "copy", name],
        check=True,
    )


PQ = (
    "-vf", "format=yuv420p10,setparams=color_primaries=bt2020:color_trc=smpte2084:"
    "colorspace=bt2020nc:range=tv", "-c:v", "ffv1",
)  # fmt: skip
TAGS = "setparams=colorspace={}:color_primaries={}:color_trc={}:range={}"
FULL_RANGE = TAGS.format("smpte170m", "unknown", "unknown", "pc")


def filtered(*options: str, n: int = 6, **more):
    return lambda name: write(name, scene(n), *options, **more)


KINDS = {  # file: how it is made, frames, what ffmpeg says of the output, what is said of the film
    "silent.mp4": (filtered(), 12, "", ""),
    "a b's \"c\" 100%d.mp4": (filtered(), 12, "", ""),
    "-dash.mp4": (filtered(), 12, "", ""),
    "new\nline.mp4": (filtered(), 12, "", ""),
    "concat:x.mp4": (filtered(), 12, "", ""),
    "one.mp4": (filtered(n=1), 2, "", ""),
    "two.mkv": (two_films, 12, "Audio: aac", "2 video streams"),
    "uneven.mkv": (uneven, None, "", "variable frame rate"),
    "ten.mkv": (filtered("-c:v", "ffv1", "-pix_fmt", "yuv420p10le"), 12, "yuv420p(", "yuv420p10le"),
    "full.mkv": (filtered("-c:v", "libx264", "-pix_fmt", "yuv444p"), 12, "yuv420p(", "yuv444p"),
    "hdr.mkv": (filtered(*PQ), 12, "bt709", "HDR (PQ): tone-mapped"),
    "film.gif": (filtered("-f", "gif", fps="20"), 12, "40 fps", "alpha channel"),
    "pcm.mkv": (filtered(*X264, "-c:a", "pcm_s16le", inputs=SOUND), 12, "Audio: pcm", ""),
    "wma.mkv": (filtered(*X264, "-c:a", "wmav2", inputs=SOUND), 12, "Audio: aac", "now AAC"),
    "text.mkv": (subtitled, 12, "Subtitle: mov_text", ""),
    "late.mkv": (late, 24, "start 0.5", ""),
    "bt709.mp4": (
        filtered("-vf", TAGS.format("bt709", "bt709", "bt709", "tv"), *X264), 12, "(tv, bt709", "",
    ),
    "pal.mp4": (
        filtered("-vf", TAGS.format("bt470bg", "bt470bg", "smpte170m", "tv"), *X264), 12,
        "bt470bg/bt470bg/smpte170m", "",
    ),
    "pc.mp4": (
        filtered("-vf", f"scale=out_range=pc,{FULL_RANGE}", *X264), 12,
        "yuvj420p(pc, smpte170m/unknown/unknown", "",
    ),
    "odd.mkv": (
        lambda name: write(name, scene(6, size=(65, 127)), "-c:v", "ffv1"), 12, "128x66",
        "padded to 66x128",
    ),
    "wide.mkv": (filtered(*X264, "-aspect", "32:9"), 12, "SAR 16:9", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_films(project, capsys, name):
    project()
    make, count, words, note = KINDS[name]
    make(name)
    run("--factor", "2", "--", name, "out.mp4")
    text, film, shown = said("out.mp4"), read(name), read("out.mp4")
    assert words in text
    error = capsys.readouterr().err
    notes = [line for line in error.splitlines() if "frame/s" not in line and line]
    assert note in error and bool(notes) == bool(note), notes
    if count:
        assert len(shown) == count
    if name not in ("hdr.mkv", "two.mkv", "film.gif"):
        height, width = film.shape[1:3]
        assert distance(shown[0, :height, :width], film[0]) < 2
    assert "Video: h264" in text


def make_wrong_files() -> None:
    film = write("in.mp4", scene(12)).read_bytes()
    Path("cut.mp4").write_bytes(film[: len(film) // 2])
    big = write("big.mkv", np.random.default_rng(0).integers(0, 255, (24, 32, 64, 3), np.uint8))
    Path("cut.mkv").write_bytes(big.read_bytes()[: big.stat().st_size // 2])
    write("dot.mkv", scene(3)[:, :1, :1], "-c:v", "ffv1")
    subprocess.run([FFMPEG, "-v", "error", *SOUND, "sound.mp4"], check=True)
    subprocess.run(
        [FFMPEG, "-v", "error", "-i", "in.mp4", "-frames:v", "1", "picture.png"], check=True
    )
    Path("empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "notes.mp4", "none.png", "taken.mp4.parts"):
        Path(name).write_text("some words\n")
    Path("list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nin.mp4\n")
    Path("noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    Path("folder.mp4").mkdir()


@pytest.fixture(scope="module")
def made_wrong(tmp_path_factory, request) -> Path:
    """A film, and files that are none."""
    folder = tmp_path_factory.mktemp("wrong")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_wrong_files()
    return folder


@pytest.fixture
def wrong_files(project, made_wrong) -> None:
    project()
    for path in made_wrong.iterdir():
        (shutil.copytree if path.is_dir() else os.link)(path, path.name)
    os.mkfifo("pipe")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("none.mp4 out.mp4", "none.mp4 does not exist; expected a film"),
        (". out.mp4", r"\. is a folder; expected a film"),
        ("empty.mp4 out.mp4", "empty.mp4 cannot be read: empty file; expected"),
        ("text.mp4 out.mp4", "text.mp4 cannot be read: a text or a playlist, not a video; exp"),
        ("list.m3u8 out.mp4", "list.m3u8 cannot be read: a text or a playlist"),
        ("noise.mp4 out.mp4", "noise.mp4 cannot be read: .*; expected"),
        ("picture.png out.mp4", "picture.png cannot be read: a picture, not a video"),
        ("sound.mp4 out.mp4", "sound.mp4 cannot be read: no moving pictures in it"),
        ("cut.mkv out.mp4", "cut.mkv cannot be read whole: .* readable"),
        ("cut.mp4 out.mp4", "cut.mp4 cannot be read: "),
        ("dot.mkv out.mp4", "dot.mkv has frames of 1x1 .*; expected sides from 16"),
        ("pipe out.mp4", "pipe cannot be read: not a regular file"),
        ("in.mp4 in.mp4", "in.mp4 is the film itself"),
        ("in.mp4 out.avi", "out.avi: expected a name ending in .mp4"),
        ("in.mp4 notes.mp4", "notes.mp4 exists and is no clip of this program"),
        ("in.mp4 folder.mp4", "folder.mp4 is a folder; expected"),
        ("in.mp4 none.png/out.mp4", "none.png/out.mp4 cannot be written"),
        ("in.mp4 taken.mp4", "taken.mp4.parts exists and holds no parts of a film"),
        ("in.mp4 out.mp4 --factor 1", "--factor 1: expected 2 to 16"),
        ("in.mp4 out.mp4 --factor 11", "264 frames a second; expected at most 240"),
        ("in.mp4 out.mp4 --fps 0", "--fps 0: expected 1 to 240"),
        ("in.mp4 out.mp4 --fps nan", "--fps nan: expected 1 to 240"),
        ("in.mp4 out.mp4 --fps 1/0", "--fps 1/0: expected 1 to 240"),
        ("in.mp4 out.mp4 --fps 1e999999999", "--fps 1e999999999: expected 1 to 240"),
        ("in.mp4 out.mp4 --fps=", "--fps '': expected 1 to 240"),
        ("in.mp4 out.mp4 --factor 1e9", "argument --factor: invalid int value"),
        ("in.mp4 out.mp4 --on 0", "--on 0: expected 1 to 100"),
        ("in.mp4 out.mp4 --on 2 --holds keep", "--holds keep: expected fill"),
        ("in.mp4 out.mp4 --preview -1", "--preview -1.0: expected 0 to"),
        ("in.mp4 out.mp4 --preview 9", "--preview 9: expected a second of the film, which has 0.5"),
    ],
)  # fmt: skip
def test_wrong_input_gets_a_sentence_and_code_2(wrong_files, capsys, words, said):
    before = sorted(path.name for path in Path().rglob("*"))
    words = words.split()
    if not {"--factor", "--fps", "--fps=", "--on"} & set(words):
        words += ["--factor", "2"]
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    assert stopped.value.code == 2
    sentence = [line for line in capsys.readouterr().err.splitlines() if "frame/s" not in line][-1]
    assert re.search(f"error: .*{said}", sentence), sentence
    assert sorted(path.name for path in Path().rglob("*")) == before


def test_a_model_without_context_is_refused(project, capsys):
    project(vqgan__context="none")
    write("in.mp4", scene(4))
    with pytest.raises(SystemExit):
        run("in.mp4", "out.mp4", "--factor", "2")
    assert "draws frames of its own size only" in capsys.readouterr().err


def test_too_little_memory_or_disk_is_said_before_the_drawing(project, capsys, monkeypatch):
    project()
    write("in.mp4", scene(4))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(retime.runtime, "free_memory", lambda: 1000)
        run("in.mp4", "out.mp4", "--factor", "2")
    assert "GB are free; free some, or make the film smaller" in capsys.readouterr().err
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(retime, "PIXEL_SHARE", 1e18)
        run("in.mp4", "out.mp4", "--factor", "2")
    assert "which are not free there" in capsys.readouterr().err
    assert not [*Path().glob("out*")]
