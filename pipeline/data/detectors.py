"""PySceneDetect 0.7's detectors on the stored features, and a network on the stored frames.

A detector is a class with two methods: `scores` of all frames, and `cuts`, the rule that makes cut
frames of scores. No video is opened. Both are those of the class of the same name in
`scenedetect.detectors` with `min_scene_len=0`: which cuts make a scene is for `scenes.py` to say.
A new detector is a class here, an entry of DETECTORS and a name in `config.SceneSplit`.
"""

from typing import Protocol

import numpy as np

from pipeline import config
from pipeline.data.detector_features import DELTAS
from pipeline.data.frame_file import FrameFile

NEARLY_ZERO = 1e-5  # adaptive: a neighbourhood in which nothing changes
HIGHEST = 255.0  # adaptive: the greatest ratio, and that of any change among none
NEIGHBOURS = 2  # adaptive: frames on each side, PySceneDetect's default
# What a score has to reach, PySceneDetect's defaults and the network's authors'; that of `content`
# is a parameter, and the least content score of `adaptive` too.
RATIO = 3.0  # adaptive: how many times the mean of the neighbours
DARK = 12  # threshold: mean of R, G and B below which a picture is faded out
PROBABILITY = 0.5  # transnetv2


class Detector(Protocol):
    def scores(self, footage: FrameFile) -> np.ndarray:
        """What is compared with the detector's threshold, float64 `T`; 0 for the first frame."""

    def cuts(self, footage: FrameFile, scores: np.ndarray) -> list[int]:
        """Frame numbers at which something new starts, ascending, from what `scores` returned."""


def make_detector(rules: config.SceneSplit) -> Detector:
    """`rules` is the section `scene_split` of params.yaml."""
    detector = DETECTORS[rules.detector]
    return detector(rules) if rules.detector in ("content", "adaptive") else detector()


class ContentDetector:
    """A cut where hue, saturation, lightness and edges change by the threshold or more.

    Scores are levels of [0, 255].
    """

    def __init__(self, rules: config.SceneSplit) -> None:
        self.threshold, self.weights = rules.threshold, rules.weights

    def scores(self, footage: FrameFile) -> np.ndarray:
        deltas = [footage.term(name).astype(np.float64) for name in DELTAS]
        weighted = [delta * weight for delta, weight in zip(deltas, self.weights, strict=True)]
        return sum(weighted) / sum(self.weights)

    def cuts(self, footage: FrameFile, scores: np.ndarray) -> list[int]:
        return np.flatnonzero(scores >= self.threshold).tolist()


class AdaptiveDetector:
    """A cut where the content score is so many times that of its neighbourhood, and high enough.

    Scores are ratios of [0, 255].
    """

    def __init__(self, rules: config.SceneSplit) -> None:
        self.content, self.min_content = ContentDetector(rules), rules.threshold

    def scores(self, footage: FrameFile) -> np.ndarray:
        return self.ratios(self.content.scores(footage))

    def ratios(self, contents: np.ndarray) -> np.ndarray:
        """Content scores `T` over the mean of their neighbours on each side, float64 `T`.

        0 where a side is too short. Where nothing else changes it is HIGHEST if the score itself
        is high enough.
        """
        width = 2 * NEIGHBOURS + 1
        ratios = np.zeros(len(contents))
        if len(contents) < width:
            return ratios
        windows = np.lib.stride_tricks.sliding_window_view(contents, width)
        centre, neighbours = windows[:, NEIGHBOURS], np.delete(windows, NEIGHBOURS, axis=1)
        means = sum(neighbours.T) / (2.0 * NEIGHBOURS)  # added in PySceneDetect's order
        at_rest = np.abs(means) < NEARLY_ZERO
        changed = np.minimum(centre / np.where(at_rest, 1.0, means), HIGHEST)
        alone = (centre >= self.min_content) * HIGHEST
        ratios[NEIGHBOURS : len(contents) - NEIGHBOURS] = np.where(at_rest, alone, changed)
        return ratios

    def cuts(self, footage: FrameFile, scores: np.ndarray) -> list[int]:
        enough = self.content.scores(footage) >= self.min_content
        return np.flatnonzero((scores >= RATIO) & enough).tolist()


class ThresholdDetector:
    """A cut in the middle between a fade to black and the fade from it.

    Scores are the mean of R, G and B, also of the first frame.
    """

    def scores(self, footage: FrameFile) -> np.ndarray:
        return footage.term("mean_rgb").astype(np.float64)

    def cuts(self, footage: FrameFile, scores: np.ndarray) -> list[int]:
        dark = scores < DARK
        turns = np.flatnonzero(dark[1:] != dark[:-1]) + 1  # first frames of darkness and of light
        faded_out = 0  # where the darkness began that is not over yet
        cuts = []
        for turn in turns.tolist():
            if dark[turn]:
                faded_out = turn
            else:
                cuts.append(faded_out + round((turn - faded_out) / 2.0))
        return cuts


class TransNetDetector:
    """TransNet V2: a cut where its authors put it.

    Scores are the probability of a cut just before the frame. The network gives the frames before
    the cut their probability, several in a slow transition, and the new scene starts at the first
    frame behind them.
    """

    def scores(self, footage: FrameFile) -> np.ndarray:
        from pipeline.models.pretrained.transnet import cut_probabilities  # torch takes seconds

        return np.concatenate([[0.0], cut_probabilities(footage)[:-1]])

    def cuts(self, footage: FrameFile, scores: np.ndarray) -> list[int]:
        return np.flatnonzero(run_ends(scores > PROBABILITY)).tolist()


DETECTORS: dict[str, type[Detector]] = {
    "content": ContentDetector,
    "adaptive": AdaptiveDetector,
    "threshold": ThresholdDetector,
    "transnetv2": TransNetDetector,
}


def run_ends(above: np.ndarray) -> np.ndarray:
    """The last frame of each run of true, bool `T` to bool `T`."""
    return above & ~np.append(above[1:], False)
