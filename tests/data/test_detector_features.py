"""What is measured equals what PySceneDetect looks at; a block change sees small motion."""

import numpy as np
import pytest

from pipeline.data.detector_features import TERMS, FrameTerms, block_change, detector_size

FRAMES = np.random.default_rng(2).integers(0, 256, (9, 20, 30, 3), np.uint8)


def measure(frames, terms=None):
    """What is measured of frames that the model and the detectors see alike."""
    return (terms or FrameTerms()).measure(frames, frames, np.arange(len(frames)) / 24)


def bgr(frames):
    """The frames as PySceneDetect gets them from OpenCV."""
    return [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]


def smooth_frames(height, width):
    """Moving pictures with few edges, some dark and some bright."""
    import cv2

    coarse = np.random.default_rng(height).integers(0, 256, (5, 4, 6, 3), np.uint8)
    sharp = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in coarse]
    return np.stack(sharp) // np.array([1, 2, 9, 1, 300])[:, None, None, None].astype(np.uint16)


@pytest.mark.parametrize(
    "frames", [FRAMES, *(smooth_frames(*size).astype(np.uint8) for size in ((144, 256), (33, 45)))]
)
def test_terms_equal_scenedetect(frames):
    from scenedetect import ContentDetector, FrameTimecode
    from scenedetect.stats_manager import StatsManager

    detector = ContentDetector()
    detector.stats_manager = stats = StatsManager()
    times = [FrameTimecode(at, fps=24.0) for at in range(len(frames))]
    for at, frame in zip(times, bgr(frames), strict=True):
        detector.process_frame(at, frame)
    measured = measure(frames)
    for name in ("delta_hue", "delta_sat", "delta_lum", "delta_edges"):
        expected = [0.0, *(stats.get_metrics(at, [name])[0] for at in times[1:])]
        assert measured[name] == pytest.approx(expected, rel=1e-6), name


def test_batches_do_not_matter():
    whole, terms = measure(FRAMES), FrameTerms()
    pieces = [measure(piece, terms) for piece in (FRAMES[:1], FRAMES[1:4], FRAMES[4:])]
    whole.pop("time")
    for name, values in whole.items():
        assert np.array_equal(values, np.concatenate([piece[name] for piece in pieces])), name


def test_all_is_measured_in_its_type():
    measured = measure(FRAMES)
    assert set(measured) == {*TERMS, "small"}
    assert measured["small"].dtype == np.uint8 and measured["small"].shape == (len(FRAMES), 32, 32)
    assert all(measured[name].dtype == np.float32 for name in TERMS)


def test_mean_rgb_is_that_of_the_threshold_detector():
    expected = [np.mean(frame) for frame in bgr(FRAMES)]
    assert measure(FRAMES)["mean_rgb"] == pytest.approx(expected, rel=1e-6)


def test_small_picture_is_that_of_the_hash_detector(monkeypatch):
    import cv2
    from scenedetect import HashDetector

    for frames in (FRAMES, smooth_frames(144, 256).astype(np.uint8)):
        seen = []
        with monkeypatch.context() as patch:  # what it transforms: the picture over its maximum
            transform = cv2.dct
            patch.setattr(cv2, "dct", lambda x, f=transform, s=seen: (s.append(x.copy()), f(x))[1])
            for frame in bgr(frames):
                HashDetector.hash_frame(frame, hash_size=16, factor=2)
        small = measure(frames)["small"]
        scaled = [np.float32(picture) / max(1, picture.max()) for picture in small]
        assert np.array_equal(scaled, seen)


def test_mean_luma_of_white_and_green():
    picture = np.zeros((2, 4, 4, 3), np.uint8)
    picture[0], picture[1, ..., 1] = 255, 100
    assert measure(picture)["mean_luma"] == pytest.approx([255.0, 58.7])


@pytest.mark.parametrize(
    ("source", "reduced"),
    [((720, 1280), (144, 256)), ((480, 854), (144, 256)), ((176, 320), (141, 256)),
     ((1080, 1920), (144, 256)), ((1280, 720), (256, 144)), ((2, 3), (2, 3))],
)  # fmt: skip
def test_detector_size(source, reduced):
    assert detector_size(*source) == reduced


def test_block_change_is_the_worst_block():
    one, other = np.zeros((2, 64, 128, 3), np.uint8)
    assert block_change(one, other) == 0.0
    other[8:16, 16:24] = 30  # exactly one block
    assert block_change(one, other) == block_change(other, one) == 30.0
    other[8:16, 16:24] = 0
    other[8:12, 16:24, 0] = 60  # half a block, one channel of three
    assert block_change(one, other) == 10.0


def test_block_change_of_sizes_that_blocks_do_not_divide():
    one, other = np.zeros((2, 12, 20, 3), np.uint8)
    other[8:, 16:] = 50  # the small block in the corner
    assert block_change(one, other) == 50.0
