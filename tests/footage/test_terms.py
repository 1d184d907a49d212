"""The measured terms: equal to PySceneDetect's, and a block change that sees small motion."""

import numpy as np
import pytest

from pipeline.footage.terms import DetectorTerms, block_change, detector_size

FRAMES = np.random.default_rng(2).integers(0, 256, (9, 20, 30, 3), np.uint8)


def test_terms_equal_scenedetect():
    from scenedetect import ContentDetector, FrameTimecode
    from scenedetect.stats_manager import StatsManager

    detector = ContentDetector()
    detector.stats_manager = stats = StatsManager()
    times = [FrameTimecode(at, fps=24.0) for at in range(len(FRAMES))]
    for at, frame in zip(times, FRAMES, strict=True):
        detector.process_frame(at, frame[..., ::-1].copy())
    measured = DetectorTerms().measure(FRAMES)
    for name in ("delta_hue", "delta_sat", "delta_lum"):
        expected = [0.0, *(stats.get_metrics(at, [name])[0] for at in times[1:])]
        assert measured[name] == pytest.approx(expected, rel=1e-6), name


def test_batches_do_not_matter():
    whole, parts = DetectorTerms().measure(FRAMES), DetectorTerms()
    pieces = [parts.measure(piece) for piece in (FRAMES[:1], FRAMES[1:4], FRAMES[4:])]
    for name, values in whole.items():
        assert np.array_equal(values, np.concatenate([piece[name] for piece in pieces])), name


def test_mean_luma_of_white_and_green():
    picture = np.zeros((2, 4, 4, 3), np.uint8)
    picture[0], picture[1, ..., 1] = 255, 100
    assert DetectorTerms().measure(picture)["mean_luma"] == pytest.approx([255.0, 58.7])


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
