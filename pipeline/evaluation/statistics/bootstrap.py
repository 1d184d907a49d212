"""95 % bootstrap intervals of paired differences that resample videos, not clips.

Clips of one video share drawings, backgrounds and cuts; resampling them one by one would take them
for independent and give intervals that are too narrow (bootstrap of clusters: Davison and Hinkley,
Bootstrap Methods and their Application, 1997). With few videos plain percentiles are too narrow as
well: they lack Student's longer tails. The levels are widened accordingly (expanded percentile
interval: Hesterberg, The American Statistician 69, 2015, section 5.3).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

OUTSIDE = 0.025  # on each side
FEWEST_VIDEOS = 5  # of fewer no interval is given: even the widened one would promise too much
CELLS = 2**22  # counts drawn at once, 32 MB


@dataclass(frozen=True)
class Interval:
    """Mean over clips and its 95 % interval; without ends where there are too few videos."""

    mean: float
    low: float | None
    high: float | None
    n_clips: int
    n_videos: int


def interval(
    differences: pd.Series | np.ndarray, videos: pd.Series | np.ndarray, resamples: int, seed: int
) -> Interval:
    """Percentile interval of the mean of `differences`, a number a clip; `videos`: their ids.

    A resample draws as many videos as there are, with replacement, takes all their clips, and
    averages over these clips. Raises ValueError for no clips, and for numbers that are not finite.
    """
    values = np.asarray(differences, np.float64)
    ids = np.asarray(videos)
    assert values.ndim == 1 and values.shape == ids.shape, (values.shape, ids.shape)
    if not len(values):
        raise ValueError("no clips, so no interval of their mean")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"difference {bad[0]} is {values[bad[0]]}, expected finite numbers")
    names, video = np.unique(ids, return_inverse=True)
    counts = np.bincount(video).astype(np.float64)
    sums = np.bincount(video, values)
    low = high = None
    if len(names) >= FEWEST_VIDEOS:
        means = _resampled(sums, counts, resamples, np.random.default_rng(seed))
        tail = expanded_tail(len(names))
        low, high = (float(end) for end in np.quantile(means, (tail, 1 - tail)))
    return Interval(float(values.mean()), low, high, len(values), len(names))


def expanded_tail(n_videos: int) -> float:
    """Share of resamples outside on each side, so that few videos get Student's width."""
    n = n_videos
    return float(norm.cdf(np.sqrt(n / (n - 1)) * student.ppf(OUTSIDE, n - 1)))


def _resampled(
    sums: np.ndarray, counts: np.ndarray, resamples: int, random: np.random.Generator
) -> np.ndarray:
    """Means over clips, one a resample, from each video's sum and number of clips."""
    n_videos, means = len(sums), []
    step = max(1, CELLS // n_videos)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = random.multinomial(n_videos, np.full(n_videos, 1 / n_videos), size)  # size n_videos
        means.append((drawn @ sums) / (drawn @ counts))
    return np.concatenate(means)
