"""PySceneDetect 0.7's detectors on the stored terms, and a network on the stored frames.

A detector has two halves: the scores of all frames, and the rule that makes cuts of them. No video
is opened. Both halves are those of the class of the same name in `scenedetect.detectors`, its way
to keep cuts `shortest` frames apart included:

- content: a cut where the score reaches the threshold; flashes are merged (FlashFilter);
- adaptive: where the content score is so many times its neighbourhood's, and high enough itself;
- threshold: between a fade to black and the fade from it;
- hash, histogram: where the perceptual hash, the histogram of luma differs by so much.

Transnetv2 (`pretrained.transnet`) cuts where its authors do, and keeps cuts apart the same way.
"""

import itertools

import cv2
import numpy as np

from pipeline import config
from pipeline.data.detector_features import DELTAS, LEVELS
from pipeline.data.frame_file import FrameFile

NEARLY_ZERO = 1e-5  # adaptive: a neighbourhood in which nothing changes
HIGHEST = 255.0  # adaptive: the greatest ratio, and that of any change among none


def detector_scores(footage: FrameFile, rules: config.SceneSplit) -> np.ndarray:
    """What the chosen detector compares with its threshold, float64 `T`.

    Content: levels of [0, 255]. Adaptive: a ratio of [0, 255]. Threshold: the mean of R, G and B.
    Hash: the share of bits that differ. Histogram: 1 - correlation. Transnetv2: how probable a cut
    just before the frame is. But for threshold, the first frame has 0.
    """
    match rules.detector:
        case "content":
            return content_scores(footage, rules.weights)
        case "adaptive":
            contents, own = content_scores(footage, rules.weights), rules.adaptive
            return adaptive_ratios(contents, own.window_width, own.min_content_val)
        case "threshold":
            return footage.term("mean_rgb").astype(np.float64)
        case "hash":
            return hash_scores(footage.plane("small"), rules.hash.size)
        case "histogram":
            return histogram_scores(footage.plane("histogram"), rules.histogram.bins)
        case "transnetv2":
            from pipeline.models.pretrained.transnet import cut_probabilities  # torch takes seconds

            return np.concatenate([[0.0], cut_probabilities(footage)[:-1]])


def detector_cuts(
    footage: FrameFile, scores: np.ndarray, rules: config.SceneSplit, shortest: int
) -> list[int]:
    """Frame numbers at which the detector starts a new scene, ascending.

    `scores` are those of `detector_scores`, `shortest` is PySceneDetect's `min_scene_len`.
    """
    match rules.detector:
        case "content":
            return content_cuts(scores, rules.threshold, shortest, rules.flashes)
        case "adaptive":
            enough = content_scores(footage, rules.weights) >= rules.adaptive.min_content_val
            return spaced_cuts((scores >= rules.adaptive.threshold) & enough, shortest)
        case "threshold":
            return fade_cuts(scores, rules.fade, shortest)
        case "hash":
            return spaced_cuts(scores >= rules.hash.threshold, shortest)
        case "histogram":
            return spaced_cuts(scores >= rules.histogram.threshold, shortest)
        case "transnetv2":
            return spaced_cuts(run_ends(scores > rules.transnetv2.threshold), shortest)


def content_scores(footage: FrameFile, weights: list[float]) -> np.ndarray:
    """Mean of the changes of hue, saturation, lightness and edges by these weights, float64 `T`."""
    deltas = [footage.term(name).astype(np.float64) for name in DELTAS]
    weighed = sum(delta * weight for delta, weight in zip(deltas, weights, strict=True))
    return weighed / sum(weights)


def content_cuts(
    scores: np.ndarray, threshold: float, shortest: int, flashes: str = "merge"
) -> list[int]:
    """Cuts of content scores float `T`; a flash makes no scene.

    `merge`: cuts closer than `shortest` become the first and the last of them; `suppress`: the
    first only.
    """
    from scenedetect.common import FrameTimecode
    from scenedetect.detector import FlashFilter

    merging = FlashFilter(FlashFilter.Mode[flashes.upper()], length=shortest)
    cuts = []
    for frame, score in enumerate(scores):
        # the length is in frames, so the rate does not matter
        found = merging.filter(FrameTimecode(frame, fps=25.0), above_threshold=score >= threshold)
        cuts += [cut.frame_num for cut in found]
    return cuts


def adaptive_ratios(contents: np.ndarray, width: int, least: float) -> np.ndarray:
    """Content scores `T` over the mean of their `width` neighbours on each side, float64 `T`.

    0 where a side is shorter. Where nothing else changes it is HIGHEST if the score is `least`.
    """
    ratios = np.zeros(len(contents))
    if len(contents) < 2 * width + 1:
        return ratios
    windows = np.lib.stride_tricks.sliding_window_view(contents, 2 * width + 1)
    own, others = windows[:, width], np.delete(windows, width, axis=1)
    means = sum(others.T) / (2.0 * width)  # added in PySceneDetect's order
    alone = np.abs(means) < NEARLY_ZERO
    changed = np.minimum(own / np.where(alone, 1.0, means), HIGHEST)
    ratios[width : len(contents) - width] = np.where(alone, (own >= least) * HIGHEST, changed)
    return ratios


def fade_cuts(levels: np.ndarray, rules: config.Fade, shortest: int) -> list[int]:
    """Cuts between fades to black (`ceiling`: to white) and back, by mean R, G and B, float `T`."""
    dark = levels < rules.threshold if rules.method == "floor" else levels >= rules.threshold
    turns = np.flatnonzero(dark[1:] != dark[:-1]) + 1  # the first frames of darkness and of light
    faded = 0  # where the darkness began that is not over yet
    cuts, last = [], 0
    for turn in turns:
        if dark[turn]:
            faded = int(turn)
        elif turn - last >= shortest:
            cuts.append(faded + round(int(turn - faded) * (1.0 + rules.bias) / 2.0))
            last = int(turn)
    if rules.add_final_scene and dark[-1] and len(levels) - 1 - last >= shortest:
        cuts.append(faded)
    return cuts


def hash_scores(small: np.ndarray, size: int) -> np.ndarray:
    """Share of bits by which neighbours' perceptual hashes differ, float64 `T`; uint8 `T 32 32`."""
    hashes = np.stack([_hash(picture, size) for picture in small])  # T size size
    differing = np.count_nonzero(hashes[1:] != hashes[:-1], axis=(1, 2))
    return np.concatenate([[0.0], differing / float(size * size)])


def histogram_scores(counts: np.ndarray, bins: int) -> np.ndarray:
    """1 - correlation of neighbours' histograms, float64 `T`; uint32 `T 256` levels of luma."""
    binned = counts.reshape(len(counts), bins, LEVELS // bins).sum(axis=2, dtype=np.uint32)
    scaled = [cv2.normalize(row, None).ravel() for row in binned.astype(np.float32)]
    pairs = itertools.pairwise(scaled)
    alike = [cv2.compareHist(before, now, cv2.HISTCMP_CORREL) for before, now in pairs]
    return np.concatenate([[0.0], 1.0 - np.array(alike)])


def run_ends(found: np.ndarray) -> np.ndarray:
    """The last frame of each run of true, bool `T` to bool `T`.

    TransNet V2 gives the frames before the cut their probability, several in a slow transition,
    and starts the new scene at the first frame behind them. The scores are those of the frame
    before, so that is where their run ends. What it says of the very last frame is not asked.
    """
    return found & ~np.append(found[1:], False)


def spaced_cuts(found: np.ndarray, shortest: int) -> list[int]:
    """Of the frames where bool `T` is true those `shortest` or more after the one kept before."""
    cuts, last = [], 0
    for frame in np.flatnonzero(found).tolist():
        if frame - last >= shortest:
            cuts.append(frame)
            last = frame
    return cuts


def _hash(small: np.ndarray, size: int) -> np.ndarray:
    """uint8 `32 32` to bool `size size`: low frequencies above their median."""
    scaled = np.float32(small) / max(1, small.max())
    low = cv2.dct(scaled)[:size, :size]
    return low > np.median(low)
