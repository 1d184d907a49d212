"""`python -m pipeline app`: by gradio_client, and by a browser as a person would use it."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import headless_browser
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from pipeline.commands import app, generate
from pipeline.errors import UserError

ROOT = Path(__file__).parents[2]
BUTTON = "[...document.querySelectorAll('button')].find(x => x.textContent.trim() == '{}')"
TOAST = "document.querySelector('.toast-body')?.innerText"


@pytest.fixture
def served(project, monkeypatch):
    """Serves the app in a folder with tiny models: `with served("--out", "kept") as address`."""
    pytest.importorskip("gradio")
    project()
    monkeypatch.setattr(tempfile, "tempdir", None)

    @contextmanager
    def serve(*words: str):
        with mock.patch.dict(os.environ), app.served(app.parser().parse_args(words)) as address:
            yield address

    return serve


@pytest.fixture
def client(served):
    """What calls /draw, with the pictures a and b; and a folder that clips are kept in."""
    import gradio_client

    with served("--out", "kept", "--max-megapixels", "0.01", "--max-frames", "30") as address:
        client = gradio_client.Client(address, verbose=False, download_files="got")

        def draw(first="a.png", last="b.png", more=(), **fields):
            first, last, *more = (
                gradio_client.handle_file(path) if path else None for path in (first, last, *more)
            )
            return client.predict(first, last, more=more or None, **fields, api_name="/draw")

        yield draw


def test_the_clip_is_that_of_the_command_line(client):
    _, sheet, files, notes = client(n_frames=6, on=2, ease=2, seed=3, temperature=1)
    command = "--first a.png --last b.png --n-frames 6 --on 2 --ease 2 --seed 3 --temperature 1"
    for name in ("cli.mp4", "cli.gif", "cli"):
        generate.main([*command.split(), "--out", name])
    mp4, gif, archive = (Path(file) for file in files)
    assert mp4.read_bytes() == Path("cli.mp4").read_bytes()
    assert gif.read_bytes() == Path("cli.gif").read_bytes()
    with zipfile.ZipFile(archive) as frames:
        for path in Path("cli").iterdir():
            assert frames.read(f"clip/{path.name}") == path.read_bytes()
    assert min(Image.open(sheet).size) > 100
    assert notes.startswith("6 frames of 50 x 30 pixels")
    assert "a GIF counts hundredths" in notes and "a GIF has 256 colours" in notes
    assert {path.name for path in Path("kept/clip_0001").iterdir()} == {
        *("clip.mp4", "clip.gif", "clip_png.zip")
    }


def test_samples_keyframes_and_what_was_done_to_pictures(client):
    Image.new("RGB", (100, 60)).save("mid.png")
    preview, _, files, notes = client(
        more=["mid.png"], at="2", n_frames=5, samples=3, temperature=1
    )
    names = [f"clip_{k}{end}" for k in (1, 2, 3) for end in (".mp4", ".gif", "_png.zip")]
    assert [Path(file).name for file in files] == names
    assert "mid.png (60x100): scaled to 30x50" in notes
    reader = imageio_ffmpeg.read_frames(preview)
    assert next(reader)["pix_fmt"].startswith("yuv420p")  # what every browser plays
    assert len(list(reader)) == 5


def test_the_documented_call(served, monkeypatch):
    page = (ROOT / "docs/using.md").read_text("utf-8")
    (snippet,) = re.findall("```python\n(.*?gradio_client.*?)```", page, re.DOTALL)
    monkeypatch.setattr(tempfile, "tempdir", str(Path.cwd()))  # the client's downloads
    with served() as address:
        call = snippet.replace("http://127.0.0.1:7860", address)
        exec(call, result := {})
    assert result["notes"].startswith("24 frames of 50 x 30 pixels")


def test_png_files_keep_transparency(client):
    for name in ("a.png", "b.png"):
        pixels = np.array(Image.open(name).convert("RGBA"))
        pixels[:10, :, 3] = 0
        Image.fromarray(pixels).save(name)
    _, _, (mp4, gif, archive), notes = client(n_frames=4)
    generate.main(["--first", "a.png", "--last", "b.png", "--n-frames", "4", "--out", "cli"])
    with zipfile.ZipFile(archive) as frames:
        for path in Path("cli").iterdir():
            assert Image.open(path).mode == "RGBA"
            assert frames.read(f"clip/{path.name}") == path.read_bytes()
    assert (np.array(Image.open(gif).convert("RGB"))[:10] == 255).all()
    reader = imageio_ffmpeg.read_frames(mp4)
    next(reader)
    assert np.frombuffer(next(reader), np.uint8)[: 8 * 50 * 3].min() > 250
    assert "transparent parts are kept in the PNG files" in notes


def test_too_little_memory_is_one_sentence(client, monkeypatch):
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")):
        monkeypatch.setattr(generate, "write_clips", mock.Mock(side_effect=error))
        with pytest.raises(Exception, match=r"^not enough memory; choose smaller pictures"):
            client(n_frames=4)


def test_what_is_wrong_is_one_sentence(client, capfd):
    """On the page and for callers; nothing is drawn or kept, and nothing goes to the log."""
    good = Path("a.png").read_bytes()
    Path("words.png").write_bytes(b"hello")
    Path("empty.png").touch()
    Path("-'a\n<b> %20.png").write_bytes(good[:900])
    Image.new("RGB", (1, 1)).save("dot.png")
    Image.new("1", (20_000, 20_000)).save("vast.png")
    Image.new("RGB", (200, 200)).save("large.png")
    for fields, sentence in (
        ({"first": None}, "the first picture is missing; upload one"),
        ({"first": "words.png"}, "words.png cannot be read: in a format"),
        ({"last": "empty.png"}, "empty.png cannot be read: empty file"),
        ({"first": "-'a\n<b> %20.png"}, "cannot be read: broken: image file is truncated"),
        ({"first": "dot.png"}, "dot.png is 1x1 pixels; expected at least 16x16"),
        ({"first": "vast.png"}, "vast.png cannot be read: far too large"),
        ({"first": "large.png"}, "large.png has 0.04 million pixels; expected at most 0.01"),
        ({"more": ["words.png"], "at": "2"}, "words.png cannot be read"),
        ({"more": ["a.png"] * 21}, "21 further keyframes: expected at most 20"),
        ({"more": ["a.png"]}, "frames of the further keyframes: none; expected a number for each"),
        ({"more": ["a.png"], "at": "x"}, "keyframes: x; expected a number for each of the 1"),
        ({"more": ["a.png"], "at": "20"}, "expected an index from 0 to 19, as Frames is 20"),
        ({"n_frames": 31}, "Frames 31: expected 3 to 30"),
        ({"n_frames": None}, "Frames is empty: expected a whole number"),
        ({"seed": 1.5}, "Seed 1.5: expected a whole number"),
        ({"fps": "fast"}, "Frames a second fast: expected a number"),
        ({"on": 0}, "Drawings held on 0: expected 1 to"),
        ({"ease": 99}, "Easing 99: expected from 1, even timing"),
        ({"samples": 2}, "Samples 2: expected 1 at temperature 0"),
        ({"samples": 9}, "Samples 9: expected 1 to 8"),
        ({"best": True}, "Samples 1: expected 2 to 8"),
        ({"mode": "magic"}, "Mode magic: expected parallel or maskgit"),
        ({"mode": "maskgit"}, "the transformer was trained with train.mode = parallel"),
    ):
        with pytest.raises(Exception) as refused:
            client(**fields)
        message = str(refused.value)
        assert sentence in message and "\n" not in message and "/" not in message, message
    assert not list(Path("kept").glob("clip_*"))
    assert "Traceback" not in capfd.readouterr().err


def test_files_of_this_machine_are_not_read_and_addresses_not_fetched(served):
    import httpx

    meta = {"meta": {"_type": "gradio.FileData"}}
    with served() as address:
        upload = {"files": ("a.png", Path("a.png").read_bytes())}
        (own,) = httpx.post(f"{address}gradio_api/upload", files=upload).json()
        place, link = f"{address}gradio_api/call/draw", Path(own).with_name("link.png")
        link.symlink_to(Path("a.png").resolve())

        def answer(first: object, last: object, more: object = None) -> str:
            numbers = [3, 1, "learnt", 24, 0, 1, False, 0, "parallel"]
            data = [first, last, *numbers, more, "1" if more else ""]
            event = httpx.post(place, json={"data": data}).json()["event_id"]
            return httpx.get(f"{place}/{event}").text

        assert "event: complete" in answer(*[{"path": own} | meta] * 2)
        refused = "expected uploaded pictures, no addresses and no other files"
        good, picture = {"path": own} | meta, {"path": str(Path("a.png").resolve())}
        quoted = {"path": "http://127.0.0.1:9/a'b.png"}
        for bad in (
            *(picture, picture | meta, {"path": "a.png"}, {"path": f"{own}/../../../../a.png"}),
            *(quoted, quoted | meta, {"path": "HTTPS://127.0.0.1:9/a"} | meta, {"path": str(link)}),
            *({"path": "ftp://127.0.0.1/a.png"} | meta, {"path": "data:image/png;base64,AAAA"}),
            *({"path": "a\0b"}, {"path": ""}, good | {"meta": {}, "more": quoted | meta}),
        ):
            words = answer(bad, good)
            assert refused in words or "a field cannot be read" in words, bad
        for bad in ([picture], [picture | meta], [quoted | meta], picture, "a.png"):
            assert "event: error" in answer(good, good, bad), bad
        for path in ("/etc/passwd", "a.png", Path("a.png").resolve(), "http://127.0.0.1:9/a.png"):
            assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)
        for odd in ("a.png", 5, {"path": ["a"]}):
            assert "event: error" in answer(odd, odd), odd


def test_nothing_is_left(served, tmp_path):
    before = set(tmp_path.rglob("*"))
    with served("--out", str(tmp_path / "kept")):
        assert (tmp_path / "kept").is_dir()
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--port 70000", "--port 70000: expected 1 to 65535"),
        ("--max-frames 2", "--max-frames 2: expected 3 to 655"),
        ("--max-megapixels nan", "--max-megapixels nan: expected"),
        ("--host 192.0.2.1", "--host 192.0.2.1: nothing can listen there"),
        ("--out a.png", "--out a.png cannot be written"),
        ("--out /proc/none", "--out /proc/none cannot be written"),
        ("", "needs gradio, .*`pip install --no-deps -r requirements-app.txt`"),
    ],
)
def test_what_is_wrong_is_said_before_the_start(project, monkeypatch, words, sentence):
    project()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: bool(words))
    with pytest.raises(UserError, match=sentence):
        app.main(words.split())


def test_interrupted_it_leaves_nothing(project):
    pytest.importorskip("gradio")
    folder = project()
    (folder / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "app"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "is ready" in process.stdout.readline()
    assert list((folder / "tmp").iterdir())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "stopped\n")
    assert not list((folder / "tmp").iterdir())


def upload(tab: headless_browser.Tab, *paths: str) -> None:
    """Gives the pictures to the page's fields, and presses Draw."""
    inputs = "document.querySelectorAll('input[type=file]')"
    tab.wait(f"{inputs}.length > 1 && !!{BUTTON.format('Draw')}")
    tab.run(f"{inputs}.forEach((x, k) => x.id = 'file' + k)")
    for k, path in enumerate(paths):
        tab.upload(f"#file{k}", Path(path))
    tab.wait(f"document.querySelectorAll('img[src*=file]').length == {len(paths)}")
    tab.run(f"{BUTTON.format('Draw')}.click()")


def test_a_browser_shows_the_clip(served, tmp_path):
    with served() as address, headless_browser.opened(address, tmp_path) as tab:
        empty = tab.picture()
        upload(tab, "a.png", "b.png")
        tab.wait("document.querySelector('video')?.readyState == 4")
        tab.run("document.querySelector('video').muted = true")
        tab.run("document.querySelector('video').play()")
        tab.wait("document.querySelector('video').currentTime > 0.1")
        assert tab.wait("document.querySelector('[data-testid=file] a, a[download]')?.href")
        shown = tab.picture()
        assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 1000
        assert (shown != empty).any(-1).mean() > 0.1
        tab.run(f"{BUTTON.format('Clear')}.click()")
        tab.wait(
            "!document.querySelector('video')?.src && !document.querySelector('img[src*=file]')"
        )
    asked = headless_browser.requests(tmp_path / "net.json")
    assert asked and all(url.startswith((address, "data:", "blob:")) for url in asked)


def test_a_browser_shows_what_is_wrong(served, tmp_path):
    Path("words.png").write_text("hello")
    with served() as address, headless_browser.opened(address, tmp_path) as tab:
        upload(tab, "words.png", "b.png")
        assert "words.png cannot be read: in a format" in tab.wait(TOAST)
        assert "Traceback" not in tab.run("document.body.innerText")
