"""Image sequences: which files make one, each image a frame, and what is said of them."""

import os
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.video import decode, image_sequence
from pipeline.video.decode import Truncated
from pipeline.video.folder import Unreadable, find_files, image_sequences, sequence_images
from pipeline.video.letterbox import Crop
from pipeline.video.probe import UNCHANGED, Reading

HEIGHT, WIDTH, N_FRAMES = 36, 64, 12


def film(height=HEIGHT, width=WIDTH):
    """A bright bar that moves by three pixels each frame over a grey ramp, uint8 `T H W 3`."""
    ramp = np.linspace(60, 160, width).astype(np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (N_FRAMES, height, width, 3)).copy()
    for number, frame in enumerate(frames):
        frame[:, 3 * number : 3 * number + 8] = 235
    return frames


def pictures(folder, names, frames=None):
    """The film's frames as picture files of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, film() if frames is None else frames, strict=True):
        ending = ".png" if name.lower().endswith("tga") else Path(name).suffix
        _, encoded = cv2.imencode(ending, frame[..., ::-1])
        (folder / name).write_bytes(encoded.tobytes())
    return folder


def read(path, reading=UNCHANGED, size=None, samples=(9, 16)):
    """Header, Batch of all frames at the size shown, status and reason or notes at the end."""
    header = image_sequence.probe(path, reading)
    size = size or (header.height, header.width)
    batches, notes, ending = [], [], None
    try:
        for batch in image_sequence.decode(path, header, size, samples, notes):
            batches.append(batch)
    except Truncated as error:
        ending = error.status, str(error)
    ending = ending or ("ok", "; ".join(notes))
    return header, decode.Batch(*map(np.concatenate, zip(*batches, strict=True))), ending


@pytest.mark.parametrize(
    "names",
    [
        [f"{number:04d}.png" for number in range(1, 13)],
        [f"frame_{number}.jpg" for number in range(12)],  # 10 after 9
        [f"{number}.JPEG" for number in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 101)],  # gaps
        [f"s01e02 {number:03d} final.webp" for number in range(990, 1002)],
        [f"-x%03d:y 中割り #'{number}.tiff" for number in range(12)],
        [f"{number}.bmp" for number in range(12)],
        [f"{number}.tga" for number in range(12)],
        [os.fsdecode(b"caf\xe9%d.png" % number) for number in range(12)],  # no valid text
    ],
    ids=["padded", "natural", "gaps", "suffix", "odd", "bmp", "wrong", "no_text"],
)
def test_numbered_pictures_are_a_video(tmp_path, names):
    pictures(tmp_path / "root/shot", names)
    assert find_files(tmp_path / "root") == ["shot/"]
    assert [image.name for image in sequence_images(tmp_path / "root/shot")] == names
    header, batch, ending = read(tmp_path / "root" / "shot/")
    assert (header.height, header.width, header.fps) == (HEIGHT, WIDTH, 24) and ending[1] == ""
    assert header.codec in ("png", "jpeg", "webp", "tiff", "bmp")
    assert header.expected_frames == N_FRAMES
    assert np.abs(batch.images.astype(int) - film()).mean() < 3
    assert batch.times == pytest.approx(np.arange(N_FRAMES) / 24)


def test_images_are_averages_and_samples_are_pixels(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (N_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    pictures(tmp_path, [f"{number}.png" for number in range(N_FRAMES)], noise)
    monkeypatch.setattr(decode, "BATCH_FRAMES", 5)
    _, batch, _ = read(tmp_path, size=(18, 32), samples=(12, 64))
    blocks = noise.reshape(N_FRAMES, 18, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(batch.images - blocks).max() <= 0.5
    assert np.array_equal(batch.samples, noise[:, 1::3])


def test_several_sequences_of_a_folder_are_videos_of_their_own(tmp_path):
    names = [f"s{shot}_{number:02d}.png" for shot in (1, 2) for number in range(6)]
    pictures(tmp_path / "shot", [*names], film())
    pictures(tmp_path / "shot", ["s1.png", "s3_01.png"], film()[:2])
    entries = ["shot/s1.png", "shot/s1_*.png/", "shot/s2_*.png/", "shot/s3_01.png"]
    assert find_files(tmp_path) == entries
    assert find_files(tmp_path / "shot") == [entry.removeprefix("shot/") for entry in entries]
    for entry, expected in (("shot/s1_*.png/", film()[:6]), ("shot/s2_*.png/", film()[6:])):
        assert np.array_equal(read(tmp_path / entry)[1].images, expected)


def test_pictures_of_other_sizes_are_fitted_without_distortion(tmp_path):
    """Scaled, and the middle of another aspect: a dot in the middle stays round and there."""
    sizes = (HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH), (72, 64), (36, 200), (36, 64)
    frames = [np.zeros((*size, 3), np.uint8) for size in sizes]
    for frame in frames:
        height, width, _ = frame.shape
        scale = min(height / HEIGHT, width / WIDTH)
        cv2.circle(frame, (width // 2, height // 2), round(10 * scale), (255, 255, 255), -1)
    pictures(tmp_path, [f"{number}.png" for number in range(5)], frames)
    for reading in (Reading(), Reading(deinterlace=True)):
        _, batch, (status, reason) = read(tmp_path, reading)
        assert np.abs(batch.images.astype(int) - frames[0]).mean() < 5
        assert status == "ok" and "3 of 5 pictures, first 1.png (72x128)" in reason
        assert batch.times == pytest.approx(np.arange(5) / 24)


def _text(picture):
    picture.write_text("no picture")


def _empty(picture):
    picture.write_bytes(b"")


def _cut(picture):
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])


def _link(picture):
    picture.unlink()
    picture.symlink_to("gone.png")


def _pipe(picture):
    picture.unlink()
    os.mkfifo(picture)


@pytest.mark.parametrize("at", [0, 5, 11])
@pytest.mark.parametrize("spoil", [_text, _empty, _cut, _link, _pipe])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_broken_picture_is_left_out_and_named(tmp_path, ending, spoil, at):
    names = [f"{number:03d}.{ending}" for number in range(N_FRAMES)]
    folder = pictures(tmp_path / "shot", names)
    spoil(folder / names[at])
    header, batch, (status, reason) = read(folder)
    assert (header.height, header.width) == (HEIGHT, WIDTH)
    assert status == "truncated"
    assert reason.startswith(f"1 of 12 pictures broken and left out: {names[at]} (")
    assert str(tmp_path) not in reason and "0x" not in reason
    assert np.abs(batch.images.astype(int) - np.delete(film(), at, axis=0)).mean() < 3
    assert batch.times == pytest.approx(np.delete(np.arange(N_FRAMES) / 24, at))


def test_a_folder_of_broken_pictures_says_why(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_text("no picture")
    with pytest.raises(Unreadable, match=r"none of 4 numbered pictures.*0\.png: in a format"):
        read(tmp_path)


def test_pictures_take_a_rate_limit_and_lose_their_bars(tmp_path):
    frames = film(48)
    frames[:, :8] = frames[:, 40:] = 0
    pictures(tmp_path, [f"{number}.png" for number in range(N_FRAMES)], frames)
    header, batch, (status, _) = read(tmp_path, Reading(fps=12.0, crop_letterbox=True))
    assert (header.fps, header.height, header.width) == (12, 32, 64) and status == "ok"
    assert header.crop == Crop(8, 0, 32, 64)
    assert np.array_equal(batch.images, film(32)[::2])
    assert batch.times == pytest.approx(np.arange(6) / 12)
    assert read(tmp_path, Reading(fps=10.0))[0].fps == Fraction(10)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("2.png 10.png 1.png", {"*.png": "1.png 2.png 10.png"}),
        ("1.png 2.png", {}),  # too few
        ("1.png 2.jpg 3.png", {}),  # two formats
        ("1.jpg 2.jpeg 3.JPG", {"*.jpg": "1.jpg 2.jpeg 3.JPG"}),
        ("1.tif 2.tiff 3.tif", {"*.tif": "1.tif 2.tiff 3.tif"}),
        ("a1.png b2.png c3.png", {}),  # names of their own
        ("cat.png dog.png cow.png", {}),
        ("1.mp4 2.mp4 3.mp4", {}),
        ("1.gif 2.gif 3.gif", {}),  # films
        ("e1_1.png e1_2.png e1_3.png e2_1.png", {"e1_*.png": "e1_1.png e1_2.png e1_3.png"}),
        (  # more shots than frames: the last number counts the frames
            " ".join(f"s{shot}_{frame}.png" for shot in range(5) for frame in range(3)),
            {f"s{shot}_*.png": f"s{shot}_0.png s{shot}_1.png s{shot}_2.png" for shot in range(5)},
        ),
        ("1.png 2.png 3.png 1.bmp 2.bmp 3.bmp",
         {"*.png": "1.png 2.png 3.png", "*.bmp": "1.bmp 2.bmp 3.bmp"}),
        (".1.png .2.png .3.png", {}),
        ("01.png 1.png 2.png", {"*.png": "01.png 1.png 2.png"}),  # one number twice
        ("f_1_1080p.png f_2_1080p.png f_10_1080p.png",
         {"f_*_1080p.png": "f_1_1080p.png f_2_1080p.png f_10_1080p.png"}),
        ("a1.jpg a2.jpg a3.jpg a1.mp4 a2.mp4 a3.mp4", {}),  # thumbnails
    ],
)  # fmt: skip
def test_which_names_are_numbered(names, expected):
    found = image_sequences(names.split())
    assert found == {pattern: images.split() for pattern, images in expected.items()}


def test_pictures_stand_beside_other_files(tmp_path):
    for name in ["a/1.png", "a/2.png", "a/3.png", "a/sound.wav", "a/b/c.mp4", "x.png", "y.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_files(tmp_path) == ["a/", "a/b/c.mp4", "a/sound.wav", "x.png", "y.png"]
    assert find_files(tmp_path / "a") == ["./", "b/c.mp4", "sound.wav"]
