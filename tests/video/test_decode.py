"""The reader of video files, on small files that ffmpeg makes here."""

import os
import subprocess
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.video import decode
from pipeline.video.folder import Unreadable, find_files
from pipeline.video.probe import Header, parse_fps, parse_header, probe

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
SHAPE = (36, 64)  # height, width of the test pictures


def picture(n_frames, height, width):
    """Smooth waves and some noise, different in every frame, uint8 `T H W 3`."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    phase = 4 * np.arange(n_frames)[:, None, None, None] + np.array([0, 20, 40])
    waves = np.sin((columns[None, :, :, None] + phase) / 9) * np.cos(rows[:, :, None] / 7)
    return (127.5 + 90 * waves + rng.integers(-9, 10, waves.shape)).astype(np.uint8)


def make(path, *options, seconds=1, size=SHAPE, rate="24"):
    """The picture as a video file."""
    height, width = size
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-"]
    command = [FFMPEG, "-v", "error", "-y", *raw, "-threads", "1", *options, str(path)]
    subprocess.run(command, input=picture(seconds * 24, height, width).tobytes(), check=True)
    return path


def read(path, images=SHAPE, samples=SHAPE):
    batches = list(decode.decode(path, probe(path), images, samples))
    return np.concatenate([batch.images for batch in batches])


def test_pictures_arrive_as_they_were_in_rgb(tmp_path):
    path = make(tmp_path / "lossless.avi", "-c:v", "ffv1", "-pix_fmt", "gbrp")
    assert np.abs(read(path).astype(int) - picture(24, *SHAPE)).max() <= 1


@pytest.mark.parametrize("samples", [(12, 64), (36, 64)])
def test_images_are_averages_and_samples_are_pixels(tmp_path, samples):
    path = make(tmp_path / "lossless.avi", "-c:v", "ffv1", "-pix_fmt", "gbrp")
    [batch] = decode.decode(path, probe(path), (18, 32), samples)
    assert batch.images.shape == (24, 18, 32, 3) and batch.samples.shape == (24, *samples, 3)
    blocks = picture(24, *SHAPE).reshape(24, 18, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(batch.images - blocks).mean() < 1
    rows, columns = (
        ((np.arange(n) + 0.5) * side / n).astype(int)
        for n, side in zip(samples, SHAPE, strict=True)
    )
    pixels = picture(24, *SHAPE)[:, rows][:, :, columns]
    assert np.median(np.abs(batch.samples.astype(int) - pixels)) <= 2


def test_a_change_of_size_midway_keeps_what_is_decoded(tmp_path):
    parts = [make(tmp_path / f"{n}.ts", "-pix_fmt", "yuv420p", size=(36 * n, 64)) for n in (1, 2)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    plain = [FFMPEG, "-v", "error", "-i", str(joined), "-fps_mode", "passthrough"]
    printed = subprocess.run([*plain, "-f", "framecrc", "-"], capture_output=True, check=True)
    lines = [line for line in printed.stdout.splitlines() if not line.startswith(b"#")]
    assert len(read(joined)) == len(lines) > 40


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("24", Fraction(24)),
        ("23.98", Fraction(24000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("12.50", Fraction(25, 2)),
        ("16.67", Fraction(50, 3)),
        ("1k", Fraction(1000)),
    ],
)
def test_printed_rate_to_fraction(printed, expected):
    assert parse_fps(printed) == expected


def test_cover_art_and_lying_metadata_are_no_stream():
    printed = """Input #0, mp3, from 'file:x':
  Metadata:
    title           : x
                    :   Stream #0:0: Video: h264, yuv420p, 10x10, 24 fps
  Duration: 00:01:02.50, start: 0.0, bitrate: 1 kb/s
  Stream #0:0: Audio: mp3, 44100 Hz
  Stream #0:1: Video: mjpeg, yuvj420p, 500x500, 90k tbr (attached pic)
"""
    with pytest.raises(Unreadable, match="no moving pictures"):
        parse_header(printed)
    film = printed + "  Stream #0:2: Video: vp8, yuv420p(tv), 480x270, SAR 1:1, 25 fps, 25 tbr\n"
    notes = ("no colour matrix tagged: bt601 assumed",)
    assert parse_header(film) == Header("vp8", 270, 480, Fraction(25), 62.5, notes=notes, stream=2)
    still = film.replace("25 tbr", "1 tbr, 1 tbn")  # of an animated AVIF
    for before, number, count in ((film, 3, 2), (still, 3, 1)):
        chosen = "  Stream #0:3: Video: vp8, gray, 48x27, 25 fps, 25 tbr (default)\n"
        header = parse_header(before + chosen)
        assert (header.stream, header.width) == (number, 48)
        said = f"{count} video streams: only that with number {number} is read"
        assert header.notes == ((said,) if count > 1 else ())


@pytest.mark.parametrize(
    ("stream", "fps", "shown", "said"),
    [
        ("720x576 [SAR 16:15 DAR 4:3], 60k fps, 25 tbr, 60k tbn", 25, (576, 768), ""),  # DV
        ("720x576 [SAR 1:1 DAR 5:4], 50 fps, 25 tbr, 50 tbn", 25, (576, 720), ""),  # GXF
        ("720x576, 24 fps, 29.97 tbr", 24, (576, 720), ""),
        ("64x36 [SAR 45:4 DAR 20:1], 24 fps, 24 tbr", 24, (36, 64), "impossible pixel aspect"),
    ],
)
def test_rate_and_aspect_that_a_file_cannot_mean(stream, fps, shown, said):
    printed = f"Input #0, dv, from 'file:x':\n  Stream #0:0: Video: ffv1, bgr0, {stream}\n"
    header = parse_header(printed)
    assert (header.fps, (header.height, header.width)) == (fps, shown)
    assert len(header.notes) == bool(said) and said in "".join(header.notes)


@pytest.mark.parametrize(
    ("pixels", "side_data", "words"),
    [
        ("yuv420p(tv, ipt-c2/unknown/unknown)", "", "colours in ipt-c2"),
        ("yuv420p10le(pc)", "profile: 5, level: 6, rpu flag: 1", "Dolby Vision"),
    ],
)
def test_colours_that_nothing_can_show_are_refused(pixels, side_data, words):
    printed = f"""Input #0, mov, from 'file:x':
  Duration: 00:00:01.00, start: 0.000000, bitrate: 1 kb/s
  Stream #0:0: Video: hevc (Main 10), {pixels}, 64x36, 24 fps, 24 tbr
    Side data:
      DOVI configuration record: version: 1.0, {side_data}
"""
    with pytest.raises(Unreadable, match=words):
        parse_header(printed)


def _text(path):
    path.write_text("no video\n" * 99)


def _noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _sound(path):
    options = ["-f", "lavfi", "-i", "sine=duration=0.2", str(path)]
    subprocess.run([FFMPEG, "-v", "error", *options], check=True)


def _still(path):
    make(path, "-frames:v", "1", "-update", "1")


FFCONCAT = b"ffconcat version 1.0\nfile pipe\n"
M3U8 = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\npipe.ts\n\1"


def _names_pipe(content):
    """A playlist of a named pipe, which would block whoever follows it."""

    def write(path):
        os.mkfifo(path.parent / "pipe")
        os.mkfifo(path.parent / "pipe.ts")
        path.write_bytes(content)

    return write


# DASH in Latin-1, which is no text to `_is_text`
MANIFEST = b"""<?xml version="1.0" encoding="ISO-8859-1"?><!-- \xe9 -->
<MPD profiles="urn:mpeg:dash:profile:isoff-live:2011" type="static"
mediaPresentationDuration="PT1S"><Period><AdaptationSet contentType="video">
<Representation id="1" bandwidth="1" mimeType="video/mp4"><BaseURL>pipe.ts</BaseURL>
</Representation></AdaptationSet></Period></MPD>"""


REJECTS = {
    "empty.mp4": (lambda path: path.touch(), "undecodable", "empty file"),
    "notes.txt": (_text, "no video stream", "a text or a playlist"),
    "pipe.ffconcat": (_names_pipe(FFCONCAT), "no video stream", "a text"),
    "pipe.m3u8": (_names_pipe(M3U8), "no video stream", "a text"),
    "manifest.mp4": (_names_pipe(MANIFEST), "no video stream", "a format that is not read"),
    "drawing.mp4": (
        lambda path: path.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'>\xe9" * 40),
        "no video stream",
        "a format that is not read",
    ),
    "huge.y4m": (
        lambda path: path.write_bytes(b"YUV4MPEG2 W16001 H12001 F24:1 C420\nFRAME\n\0"),
        "undecodable",
        "12001x16001 pixels are too many",
    ),
    "noise.mp4": (_noise, "undecodable", ""),
    "sound.wav": (_sound, "no video stream", "no moving pictures"),
    "still.png": (_still, "no video stream", "a picture"),
    "link.mp4": (lambda path: path.symlink_to("gone.mp4"), "undecodable", "a link to a file"),
    "pipe.mp4": (os.mkfifo, "undecodable", "not a regular file"),
}


@pytest.mark.parametrize(("name", "case"), REJECTS.items(), ids=REJECTS)
def test_what_is_no_video_says_why(tmp_path, name, case):
    spoil, status, reason = case
    spoil(tmp_path / name)
    with pytest.raises(Unreadable) as caught:
        probe(tmp_path / name)
    assert caught.value.status == status
    assert reason in caught.value.reason and caught.value.reason
    assert "0x" not in caught.value.reason and str(tmp_path) not in caught.value.reason


def test_batches_stay_small_whatever_the_length(tmp_path, monkeypatch):
    path = make(tmp_path / "long.mp4", "-pix_fmt", "yuv420p", seconds=10)
    monkeypatch.setattr(decode, "BATCH_BYTES", 7 * (36 + 9) * 64 * 3)
    batches = decode.decode(path, probe(path), SHAPE, (9, 16))
    sizes = [len(batch) for batch in batches]
    assert sum(sizes) == 240 and set(sizes[:-1]) == {7}


def test_abandoned_generator_ends_its_process(tmp_path, monkeypatch):
    path = make(tmp_path / "long.mp4", "-pix_fmt", "yuv420p", seconds=5)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **kw: started.append(popen(*args, **kw)) or started[-1]
    )
    header = Header("h264", *SHAPE, Fraction(24), 5.0)
    batches = decode.decode(path, header, (360, 640), SHAPE)
    next(batches)
    batches.close()
    assert [process.poll() is not None for process in started] == [True]


def test_find_files_is_sorted_recursive_and_skips_hidden(tmp_path):
    for name in ["b/2.mp4", "b/.hidden.mp4", ".git/x.mp4", "a.mp4", "B.mp4"]:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.mp4").touch()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "b" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "b" / "above").symlink_to(tmp_path)  # leads to all beside the root
    (tmp_path / "root" / "b" / "top").symlink_to("/")
    found = find_files(tmp_path / "root")
    assert found == ["B.mp4", "a.mp4", "b/2.mp4", "linked/c.mp4"]
