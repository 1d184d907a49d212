"""Whatever ffmpeg reads, made here in small: every frame once, its time, its size as shown."""

import os
import subprocess
from fractions import Fraction
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.video import decode
from pipeline.video.decode import Timestamps, Truncated
from pipeline.video.folder import Unreadable
from pipeline.video.letterbox import Crop, crop_of
from pipeline.video.probe import UNCHANGED, Reading, probe

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
HEIGHT, WIDTH, N_FRAMES = 36, 64, 12
REALTIME = ("-deadline", "realtime")
YUV, DEEP = ("-pix_fmt", "yuv420p"), ("-pix_fmt", "yuv420p10le")


def film(height=HEIGHT, width=WIDTH, n_frames=N_FRAMES):
    """A bright bar that moves by a pixel column each frame over a grey ramp, uint8 `T H W 3`."""
    ramp = np.linspace(60, 160, width).astype(np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (n_frames, height, width, 3)).copy()
    for number, frame in enumerate(frames):
        frame[:, 3 * number : 3 * number + 8] = 235
    return frames


def make(path, *options, frames=None, rate="24", before=()):
    """The film as a file with the given encoder options."""
    frames = film() if frames is None else frames
    height, width = frames.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-"]
    command = [FFMPEG, "-v", "error", "-y", *before, *raw, "-threads", "1", *options, str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def read(path, reading=UNCHANGED, size=None):
    """Header, frames `T H W 3` at the size shown, times `T`, and why it ended early ("" if not)."""
    header = probe(path, reading)
    size = size or (header.height, header.width)
    batches, reason = [], ""
    try:
        for batch in decode.decode(path, header, size, (9, 16)):
            batches.append(batch)
    except Truncated as error:
        reason = str(error)
    images = np.concatenate([batch.images for batch in batches])
    times = np.concatenate([batch.times for batch in batches])
    assert times.dtype == np.float64 and len(times) == len(images)
    return header, images, times, reason


FORMATS = {
    "h264.mp4": ("h264", *YUV),
    "h264_10bit.mkv": ("h264", *DEEP),
    "b_frames.mov": ("h264", "-bf", "3", *YUV),
    "hevc.mp4": ("hevc", "-c:v", "libx265", "-x265-params", "log-level=none", *YUV),
    "hevc_10bit.mkv": ("hevc", "-c:v", "libx265", "-x265-params", "log-level=none", *DEEP),
    "vp8.webm": ("vp8", "-c:v", "libvpx", *REALTIME),
    "vp9.webm": ("vp9", "-c:v", "libvpx-vp9", *REALTIME, *YUV),
    "vp9_alpha.webm": ("vp9", "-c:v", "libvpx-vp9", *REALTIME, "-pix_fmt", "yuva420p"),
    "av1.mkv": ("av1", "-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", *YUV),
    "av1_10bit.mp4": ("av1", "-c:v", "libaom-av1", "-cpu-used", "8", *DEEP),
    "mpeg4.avi": ("mpeg4", "-c:v", "mpeg4", "-bf", "2"),
    "mpeg2.mpg": ("mpeg2video", "-c:v", "mpeg2video"),
    "theora.ogv": ("theora", "-c:v", "libtheora", "-q:v", "8", *YUV),
    "prores_10bit.mov": ("prores", "-c:v", "prores_ks"),
    "alpha.mov": ("qtrle", "-c:v", "qtrle", "-pix_fmt", "argb"),
    "alpha.avi": ("ffv1", "-c:v", "ffv1", "-pix_fmt", "bgra"),
    "palette.gif": ("gif",),
}


@pytest.mark.parametrize(("name", "case"), FORMATS.items(), ids=FORMATS)
def test_every_frame_once_with_its_time(tmp_path, name, case):
    codec, *options = case
    header, images, times, reason = read(make(tmp_path / name, *options))
    assert (header.codec, header.height, header.width) == (codec, HEIGHT, WIDTH)
    assert images.shape == (N_FRAMES, HEIGHT, WIDTH, 3) and not reason
    assert header.fps == (25 if name.endswith("gif") else 24)
    assert times - times[0] == pytest.approx(np.arange(N_FRAMES) / 24, abs=0.011)
    places = [
        cv2.boundingRect((image[18] > 200).any(1)[None].astype(np.uint8))[0] for image in images
    ]
    assert places == pytest.approx(3 * np.arange(N_FRAMES), abs=1), "frames out of order"


def test_variable_rate_keeps_frames_and_times(tmp_path):
    varied = ["-vf", "settb=1/1000,setpts='N*N/96/TB'", "-fps_mode", "passthrough"]
    varied += ["-enc_time_base", "1/1000"]
    _, images, times, reason = read(make(tmp_path / "vfr.mkv", *varied, *YUV))
    assert len(images) == N_FRAMES and not reason
    assert times == pytest.approx(np.arange(N_FRAMES) ** 2 / 96, abs=0.001)


def test_times_run_on_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "BATCH_FRAMES", 5)
    path = make(tmp_path / "long.mp4", *YUV, rate="30000/1001")
    batches = list(decode.decode(path, probe(path), (8, 8), (8, 8)))
    assert [len(batch.times) for batch in batches] == [5, 5, 2]
    times = np.concatenate([batch.times for batch in batches])
    assert times == pytest.approx(np.arange(N_FRAMES) * 1001 / 30000, abs=1e-4)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ([0, 500_000, 750_000], [0, 0.5, 0.75]),
        ([0, 500_000, 400_000, 900_000], [0, 0.5, 0.6, 0.9]),  # not later than the one before
        ([100_000, 100_000, 100_000], [0.1, 0.2, 0.3]),
        (["NOPTS", "NOPTS", 900_000], [0, 0.1, 0.9]),
        ([], [0, 0.1, 0.2]),
    ],
)
def test_times_that_are_missing_or_wrong_are_a_frame_later(tmp_path, printed, expected):
    lines = [f"frame:{at:<4} pts:{time:<7} pts_time:x\ntime=0\n" for at, time in enumerate(printed)]
    (tmp_path / "times").write_text("".join(lines))
    with (tmp_path / "times").open() as file:
        times = Timestamps(file.fileno(), Fraction(10))
        got = [*times.take(2), *times.take(len(expected) - 2)]
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rate", "fps", "kept", "expected"),
    [
        ("50", 25.0, [0, 2, 4, 6, 8, 10], Fraction(25)),
        ("60", 24.0, [0, 3, 5, 8, 10], Fraction(24)),
        ("60000/1001", 29.97, [0, 2, 4, 6, 8, 10], Fraction(30000, 1001)),
        ("24", 25.0, range(N_FRAMES), Fraction(24)),
        ("24000/1001", 23.976, range(N_FRAMES), Fraction(24000, 1001)),
        ("24", 0.0, range(N_FRAMES), Fraction(24)),
    ],
)
def test_a_rate_limit_drops_evenly_and_only_from_faster_sources(
    tmp_path, rate, fps, kept, expected
):
    path = make(tmp_path / "film.mp4", *YUV, rate=rate)
    _, every, all_times, _ = read(path)
    header, images, times, reason = read(path, Reading(fps=fps))
    assert header.fps == expected and not reason
    assert np.array_equal(images, every[list(kept)])
    assert np.array_equal(times, all_times[list(kept)])
    assert header.expected_frames == pytest.approx(len(images), abs=1)


@pytest.mark.parametrize(
    ("options", "turn", "shown", "decoded"),
    [
        (("-vf", "setsar=2"), 0, (36, 128), (36, 64)),
        (("-vf", "setsar=1/2"), 0, (36, 32), (36, 64)),
        (("-vf", "setsar=8/9"), 0, (36, 57), (36, 64)),
        (("-vf", "setsar=1/100"), 0, (36, 64), (36, 64)),  # a mistake
        ((), 90, (64, 36), (64, 36)),
        ((), 180, (36, 64), (36, 64)),
        ((), 270, (64, 36), (64, 36)),
        (("-vf", "setsar=2"), 90, (128, 36), (64, 36)),
    ],
)
def test_size_is_as_shown(tmp_path, options, turn, shown, decoded):
    path = make(tmp_path / "upright.mp4", *options, *YUV)
    upright = read(path)[1]
    if turn:
        turned = ["-display_rotation", str(turn), "-i", path, "-c", "copy", tmp_path / "turned.mp4"]
        subprocess.run([FFMPEG, "-v", "error", *turned], check=True)
        path = tmp_path / "turned.mp4"
    header, images, _, _ = read(path)
    assert (header.height, header.width) == shown and header.decoded_size == decoded
    assert images.shape == (N_FRAMES, *shown, 3)
    expected = np.rot90(upright, turn // 90, (1, 2))
    assert np.abs(images.astype(int) - expected).mean() < 6


def test_odd_sizes(tmp_path):
    path = make(tmp_path / "odd.mkv", "-c:v", "ffv1", "-pix_fmt", "yuv420p", frames=film(37, 65))
    header, images, _, _ = read(path, Reading(deinterlace=True, crop_letterbox=True))
    assert (header.height, header.width) == (37, 65) and len(images) == N_FRAMES


def combed(height):
    """Each frame two moments, woven line by line, as interlaced film holds them."""
    moments = film(height, 96, 2 * N_FRAMES)
    woven = moments[::2].copy()
    woven[:, 1::2] = moments[1::2, 1::2]
    return woven


def comb(images):
    """Mean change from line to line, against that over two lines."""
    grey = images.astype(float).mean(3)
    return np.abs(np.diff(grey, axis=1)).mean() - np.abs(grey[:, 2:] - grey[:, :-2]).mean()


@pytest.mark.parametrize(
    ("flagged", "height", "noticed"), [(True, 36, True), (False, 240, True), (False, 36, False)]
)
def test_frames_that_are_marked_or_seen_as_interlaced_become_whole(
    tmp_path, flagged, height, noticed
):
    marked = ("-vf", "setfield=tff", "-flags", "+ildct+ilme") if flagged else ()
    lossless = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv444p")
    path = make(tmp_path / "woven.mkv", *marked, *lossless, frames=combed(height))
    _, woven, times, _ = read(path)
    header, whole, whole_times, reason = read(path, Reading(deinterlace=True))
    assert len(whole) == N_FRAMES and not reason and np.array_equal(times, whole_times)
    said = [note for note in header.notes if note.startswith("interlaced")]
    assert [note.endswith(": deinterlaced") for note in said] == [True] * noticed
    if noticed:
        assert comb(whole) < comb(woven) / 3
    else:
        assert np.array_equal(whole, woven)


def test_telecined_film_becomes_its_24_frames_again(tmp_path):
    frames = film(240, 96, 2 * N_FRAMES)
    lossless = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p")
    plain = read(make(tmp_path / "plain.mkv", *lossless, frames=frames))[1]
    path = make(tmp_path / "film.mkv", "-vf", "telecine", *lossless, frames=frames)
    assert len(read(path)[1]) == 30
    header, images, times, _ = read(path, Reading(deinterlace=True))
    assert header.fps == 24 and "telecined: deinterlaced" in header.notes
    assert len(images) == 24 and np.diff(times) == pytest.approx(1 / 24, abs=0.002)
    assert np.abs(images.astype(int) - plain)[1:-1].mean() < 1


def barred(top, bottom, left, right):
    frames = film(48, 64)
    frames[:, :top] = frames[:, 48 - bottom :] = 0
    frames[:, :, :left] = frames[:, :, 64 - right :] = 0
    return frames


@pytest.mark.parametrize(
    ("bars", "crop"),
    [
        ((8, 8, 0, 0), (8, 0, 32, 64)),
        ((0, 0, 10, 6), (0, 10, 48, 48)),
        ((6, 8, 4, 4), (6, 4, 34, 56)),
        ((7, 7, 0, 0), (8, 0, 32, 64)),  # cut on even pixels
        ((0, 0, 0, 0), None),
        ((1, 0, 1, 0), None),  # too thin
        ((20, 20, 0, 0), None),  # less than half would be left
    ],
)
def test_black_bars_are_found(bars, crop):
    found = crop_of(barred(*bars).max((0, 3)))
    assert found == (Crop(*crop) if crop else None)


def test_black_pictures_say_nothing_and_bright_ones_keep_their_rows():
    assert crop_of(np.zeros((48, 64), np.uint8)) is None
    frames = barred(8, 8, 0, 0)
    frames[:10] = 3
    assert crop_of(frames.max((0, 3))) == (8, 0, 32, 64)
    frames[11, 44, 20:40] = 200  # a subtitle in the lower bar
    assert crop_of(frames.max((0, 3))) == (8, 0, 36, 64)


@pytest.mark.parametrize(("sar", "width"), [("1", 64), ("2", 128)])
def test_bars_are_cut_in_videos(tmp_path, sar, width):
    lossless = ("-c:v", "ffv1", "-pix_fmt", "gbrp", "-vf", f"setsar={sar}")
    path = make(tmp_path / "boxed.mkv", *lossless, frames=barred(8, 6, 0, 0))
    header, images, _, reason = read(path, Reading(crop_letterbox=True), size=(34, 64))
    assert (header.height, header.width, header.crop) == (34, width, Crop(8, 0, 34, 64))
    assert np.abs(images.astype(int) - film(48, 64)[:, 8:42]).max() <= 1 and not reason
    plain, images, _, _ = read(path)
    assert plain.crop is None and images.shape[1:3] == (48, width)


def test_a_video_without_bars_reads_the_same(tmp_path):
    path = make(tmp_path / "full.mp4", *YUV)
    assert probe(path, Reading(crop_letterbox=True)) == probe(path)


NAMES = ["a b", 'it\'s "q"', "中割り ü", "-x%03d:y", "a,b;c[d]", "#hash\\back"]


@pytest.mark.parametrize("name", NAMES)
def test_names_mean_themselves(tmp_path, name):
    path = make(tmp_path / "plain.mp4", *YUV).rename(tmp_path / f"{name}.mp4")
    for reading in (Reading(), Reading(crop_letterbox=True)):
        assert len(read(path, reading)[1]) == N_FRAMES


def _head(content):
    return content[: content.index(b"mdat") + 8]


def _garbage(content):
    middle = len(content) * 6 // 10
    noise = np.random.default_rng(0).bytes(len(content) // 10)
    return content[:middle] + noise + content[middle + len(noise) :]


DAMAGE = {"header.mp4": _head, "no_index.mp4": lambda content: content[40:]}


@pytest.mark.parametrize(("name", "spoil"), DAMAGE.items(), ids=DAMAGE)
@pytest.mark.parametrize("reading", [Reading(), Reading(25.0, True, True)], ids=["plain", "all"])
def test_damage_that_leaves_no_frame(tmp_path, name, spoil, reading):
    whole = make(tmp_path / "whole.mp4", *YUV, "-movflags", "+faststart")
    (tmp_path / name).write_bytes(spoil(whole.read_bytes()))
    with pytest.raises(Unreadable) as caught:
        read(tmp_path / name, reading)
    assert caught.value.status in ("undecodable", "no video stream")
    assert caught.value.reason
    assert "0x" not in caught.value.reason and str(tmp_path) not in caught.value.reason


@pytest.mark.parametrize("reading", [Reading(), Reading(12.0, True, True)], ids=["plain", "all"])
@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_a_truncated_file_gives_what_is_readable(tmp_path, name, reading):
    noisy = np.random.default_rng(0).integers(0, 256, (24, HEIGHT, WIDTH, 3), np.uint8)
    whole = make(tmp_path / f"whole{name[3:]}", *YUV, "-movflags", "+faststart", frames=noisy)
    content = whole.read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 6 // 10])
    _, images, times, reason = read(tmp_path / name, reading)
    assert "readable" in reason and "promised 1.0 s" in reason
    assert 2 < len(images) < 20 and (np.diff(times) > 0).all()


def test_garbage_in_the_middle_never_stops_the_reader(tmp_path):
    noisy = np.random.default_rng(0).integers(0, 256, (24, HEIGHT, WIDTH, 3), np.uint8)
    whole = make(tmp_path / "whole.mkv", *YUV, "-g", "4", frames=noisy)
    (tmp_path / "garbage.mkv").write_bytes(_garbage(whole.read_bytes()))
    found = [read(tmp_path / "garbage.mkv") for _ in range(2)]
    assert np.array_equal(found[0][1], found[1][1]) and found[0][3] == found[1][3]
    assert 8 < len(found[0][1]) <= 24 and (np.diff(found[0][2]) > 0).all()


def test_damaged_frames_are_told_from_good_ones(tmp_path):
    options = (*YUV, "-c:v", "mpeg4", "-g", "99", "-movflags", "+faststart")
    noise = np.random.default_rng(0).integers(-9, 10, (60, HEIGHT, WIDTH, 3))
    frames = np.clip(film(n_frames=60) + noise, 0, 255).astype(np.uint8)
    whole = make(tmp_path / "whole.mp4", *options, frames=frames)
    assert read(whole)[3] == ""
    content = bytearray(whole.read_bytes())
    at = (content.index(b"mdat") + len(content)) // 2
    content[at : at + 200] = np.random.default_rng(4).bytes(200)
    (tmp_path / "hurt.mp4").write_bytes(content)
    _, images, _, reason = read(tmp_path / "hurt.mp4")
    assert len(images) == 60 and reason.startswith("some frames may look wrong: ")


def test_a_name_that_is_no_text_is_read(tmp_path):
    whole = make(tmp_path / "whole.mp4", *YUV)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    whole.rename(path)
    for reading in (Reading(), Reading(crop_letterbox=True)):
        assert len(read(path, reading)[1]) == N_FRAMES
