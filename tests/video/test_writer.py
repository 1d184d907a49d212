"""The mp4 writer: what goes in comes out, same bytes twice, and nothing half-written."""

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.video.writer import write_video


def moving_square(frames=20, height=64, width=96):
    """A square on a coloured ground that moves on twos: uint8 `T H W 3`."""
    film = np.empty((frames, height, width, 3), np.uint8)
    film[:] = (60, 140, 220)
    for i, picture in enumerate(film):
        left = 4 + 3 * (i // 2)
        picture[16:48, left : left + 30] = (230, 90, 40)
    return film


def decoded(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        ok, frame = capture.read()
        if not ok:
            return np.array(frames)
        frames.append(frame[..., ::-1])


def psnr(first, second):
    return 10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2))


def test_frames_come_back_in_number_and_colour(tmp_path):
    film = moving_square()
    assert write_video(tmp_path / "a.mp4", iter(film), 24) == len(film)
    back = decoded(tmp_path / "a.mp4")
    assert back.shape == film.shape
    assert psnr(back, film) > 30  # 4:2:0 blurs the colour edge of the square
    assert back[:, 4:12, 4:12].mean(axis=(0, 1, 2)) == pytest.approx((60, 140, 220), abs=2)


def test_same_frames_give_the_same_bytes(tmp_path):
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", moving_square(), 24)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_held_frames_stay_held(tmp_path):
    write_video(tmp_path / "a.mp4", moving_square(), 24)
    back = decoded(tmp_path / "a.mp4").astype(float)
    change = np.abs(np.diff(back, axis=0)).mean(axis=(1, 2, 3))
    assert change[0::2].max() < 0.3 < 1.0 < change[1::2].min()


@pytest.mark.parametrize("fps", [24, 12.5, 30000 / 1001])
def test_frame_rate_is_kept(tmp_path, fps):
    write_video(tmp_path / "a.mp4", moving_square(), fps)
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(fps)


def test_failing_frames_leave_nothing_and_keep_the_old_file(tmp_path):
    def broken():
        yield from moving_square()[:5]
        raise RuntimeError("the painter fell ill")

    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="fell ill"):
        write_video(tmp_path / "a.mp4", broken(), 24)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"old"


def test_failing_ffmpeg_says_why_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match=r"ffmpeg could not write .*a\.mp4"):
        write_video(tmp_path / "a.mp4", moving_square(), 24, pix_fmt="none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("film", "words"),
    [
        ([], "no frame"),
        ([np.zeros((63, 64, 3), np.uint8)], "even numbers"),
        ([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)], "first frame"),
    ],
    ids=["empty", "odd", "uneven"],
)
def test_impossible_films_are_refused(tmp_path, film, words):
    with pytest.raises(UserError, match=words):
        write_video(tmp_path / "a.mp4", film, 24)
    assert list(tmp_path.iterdir()) == []
