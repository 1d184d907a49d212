"""Every detector on stored terms: the scores and cuts of PySceneDetect's own, of any length."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pipeline.data.detectors import make_detector, run_ends


def of_rules(settings, detector, **changes):
    return make_detector(settings.scene_split.model_copy(update={"detector": detector} | changes))


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


def test_content_cuts_equal_scenedetect_on_random_scores(settings):
    from scenedetect import ContentDetector

    detector = of_rules(settings, "content", threshold=27.0)
    for seed in range(20):
        scores = random_scores(seed)
        scores[50] = 27.0  # a score at the threshold cuts
        expected = cuts_of(with_scores(ContentDetector(27.0, 0), scores), scores)
        assert detector.cuts(None, scores) == expected and 50 in expected


def test_adaptive_equals_scenedetect_on_random_scores(settings):
    from scenedetect import AdaptiveDetector, FrameTimecode
    from scenedetect.stats_manager import StatsManager

    detector = of_rules(settings, "adaptive")
    for seed in range(8):
        scores = random_scores(seed)
        detector.content.scores = lambda _, scores=scores: scores
        reference = AdaptiveDetector(3.0, 0, min_content_val=15.0)
        reference.stats_manager = stats = StatsManager()
        expected = cuts_of(with_scores(reference, scores), scores)
        ratios = detector.scores(None)
        key = reference.get_metrics()[-1:]
        inner = range(2, len(scores) - 2)
        kept = [stats.get_metrics(FrameTimecode(at, fps=24.0), key)[0] for at in inner]
        assert np.array_equal(ratios[2:-2], kept)
        assert detector.cuts(None, ratios) == expected


def test_adaptive_has_no_ratio_in_a_video_shorter_than_its_window(settings):
    assert of_rules(settings, "adaptive").ratios(np.full(4, 90.0)).tolist() == [0.0] * 4


def test_fades_equal_scenedetect_on_random_levels(settings):
    from scenedetect import ThresholdDetector as Reference

    for seed in range(24):
        rng = np.random.default_rng(seed)
        levels = rng.choice([0.0, 11.5, 12.0, 12.4, 200.0], 20)[rng.integers(0, 20, 150)]
        levels = np.repeat(levels, rng.integers(1, 9, 150))
        reference = Reference(12.7, 0)
        expected = cuts_of(reference, [np.full((1, 1, 3), level) for level in levels])
        detector = of_rules(settings, "threshold")
        assert detector.cuts(None, levels) == expected


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

    sums = [1.0, 0.5, 1.0, 0.2]
    weights = reference.ContentDetector.Components(*sums)
    makers = {
        "content": lambda: reference.ContentDetector(15.0, 0, weights),
        "adaptive": lambda: reference.AdaptiveDetector(
            3.0, 0, min_content_val=15.0, weights=weights
        ),
        "threshold": lambda: reference.ThresholdDetector(12, 0),
    }
    return of_rules(settings, detector, weights=sums), makers[detector]


@pytest.mark.parametrize("detector", ["content", "adaptive", "threshold"])
def test_each_detector_equals_scenedetect_on_frames(frame_file, settings, detector):
    found, make = rules_for(settings, detector)
    total = 0
    for seed in range(3):
        frames = shots(seed)
        footage = frame_file(frames)
        scores = found.scores(footage)
        assert scores.dtype == np.float64 and scores.shape == (len(frames),)
        expected = cuts_of(make(), np.ascontiguousarray(frames[..., ::-1]))
        assert found.cuts(footage, scores) == expected
        total += len(expected)
    assert total > 3


def test_default_weights_are_the_plain_mean(settings):
    deltas = {"delta_hue": 3.0, "delta_sat": 6.0, "delta_lum": 60.0, "delta_edges": 200.0}
    footage = SimpleNamespace(term=lambda name: np.array([deltas[name]], np.float32))
    assert of_rules(settings, "content").scores(footage).tolist() == [23.0]


@pytest.mark.parametrize("detector", ["content", "adaptive", "threshold"])
def test_a_video_of_one_frame_has_no_cut(frame_file, settings, detector):
    footage = frame_file(np.full((1, 8, 8, 3), 90, np.uint8))
    found = of_rules(settings, detector)
    scores = found.scores(footage)
    assert len(scores) == 1 and found.cuts(footage, scores) == []


def test_only_the_last_frame_of_a_run_ends_it():
    found = np.array([0, 1, 0, 0, 1, 1, 1, 0, 0, 1], bool)
    assert np.flatnonzero(run_ends(found)).tolist() == [1, 6, 9]


@pytest.mark.parametrize(
    ("after", "cuts"),
    [
        ({40: 0.9}, [41]),  # a cut after frame 40: 41 begins the new scene
        ({40: 0.5}, []),  # it takes more than the threshold
        ({40: 0.6, 41: 0.9, 42: 0.6}, [43]),  # a slow transition stays in the scene before
        ({5: 0.9, 40: 0.9, 45: 0.9}, [6, 41, 46]),
    ],
)
def test_where_transnet_cuts(settings, monkeypatch, after, cuts):
    from pipeline.models.pretrained import transnet

    probabilities = np.zeros(100)
    probabilities[list(after)] = list(after.values())
    monkeypatch.setattr(transnet, "cut_probabilities", lambda frames: probabilities)
    detector = of_rules(settings, "transnetv2")
    scores = detector.scores(None)
    assert len(scores) == 100 and scores[0] == 0
    assert scores[1:].tolist() == probabilities[:-1].tolist()
    assert detector.cuts(None, scores) == cuts
