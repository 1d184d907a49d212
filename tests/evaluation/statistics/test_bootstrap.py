"""Bootstrap intervals that resample videos: known cases, clusters, and their coverage."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.statistics import bootstrap
from pipeline.evaluation.statistics.bootstrap import (
    FEWEST_VIDEOS,
    Interval,
    expanded_tail,
    interval,
)


def of_videos(n_videos: int, n_clips: int, seed: int, shared: float = 1.0):
    """Differences with mean 0; clips of one video share a part of deviation `shared`."""
    random = np.random.default_rng(seed)
    videos = np.repeat(np.arange(n_videos), n_clips)
    return random.normal(size=n_videos)[videos] * shared + random.normal(size=len(videos)), videos


def test_mean_and_counts():
    """With five videos the levels are so wide that the ends are the extremes: all a, all e."""
    videos = np.array(["a", "b", "b", "c", "d", "e"], object)
    found = interval(pd.Series([1.0, 2.0, 6.0, 4.0, 4.0, 7.0]), videos, 20_000, 0)
    assert (found.mean, found.n_clips, found.n_videos) == (4.0, 6, 5)
    assert 1.0 <= found.low < 2.6 and 5.8 < found.high <= 7.0


def test_equal_differences_have_an_interval_without_width():
    assert interval(np.full(6, 2.5), np.arange(6), 100, 0) == Interval(2.5, 2.5, 2.5, 6, 6)


@pytest.mark.parametrize("n_videos", [1, 2, FEWEST_VIDEOS - 1])
def test_few_videos_give_no_interval(n_videos):
    values, videos = of_videos(n_videos, 3, seed=0)
    found = interval(values, videos, 100, 0)
    assert (found.low, found.high, found.n_videos) == (None, None, n_videos)
    assert found.mean == pytest.approx(values.mean())


def test_a_video_counts_by_its_clips():
    """The mean is over clips: a long video pulls it, in the resamples too."""
    values, videos = np.array([0.0] * 9 + [10.0] * 4), np.array(["long"] * 9 + list("abcd"))
    found = interval(values, videos, 2000, 0)
    assert found.mean == pytest.approx(40 / 13) and found.low < 1.0
    assert found.high == 10.0  # resamples without the long one are frequent enough


def test_clips_of_a_video_move_together():
    values, videos = of_videos(12, 20, seed=1)
    together = interval(values, videos, 1000, 0)
    alone = interval(values, np.arange(len(values)), 1000, 0)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_seed_and_order():
    values, videos = of_videos(9, 4, seed=2)
    found = interval(values, videos, 300, 5)
    assert found == interval(values, videos, 300, 5)
    assert found != interval(values, videos, 300, 6)
    order = np.random.default_rng(0).permutation(len(values))
    mixed = interval(values[order], videos[order], 300, 5)
    assert vars(mixed) == pytest.approx(vars(found))


def test_drawing_in_parts_changes_nothing(monkeypatch):
    values, videos = of_videos(9, 4, seed=2)
    whole = interval(values, videos, 300, 5)
    monkeypatch.setattr(bootstrap, "CELLS", 70)
    assert vars(interval(values, videos, 300, 5)) == pytest.approx(vars(whole))


def test_signs_and_units():
    values, videos = of_videos(9, 4, seed=3)
    found, scaled = interval(values, videos, 500, 1), interval(10 * values + 3, videos, 500, 1)
    assert scaled.low == pytest.approx(10 * found.low + 3)
    assert scaled.high == pytest.approx(10 * found.high + 3)


@pytest.mark.parametrize("n_videos", [FEWEST_VIDEOS, 6, 30])
def test_about_95_percent_of_intervals_hold_the_truth(n_videos):
    """Also with few videos, where plain percentiles hold it in 84 to 88 %."""
    found = [interval(*of_videos(n_videos, 4, seed), 2000, seed) for seed in range(400)]
    assert 0.92 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.985


def test_levels_are_students():
    """By hand for 6 videos: t of 5 degrees 2.571, times sqrt(6/5), is 2.816 deviations."""
    assert expanded_tail(6) == pytest.approx(0.00243, rel=0.01)
    assert expanded_tail(10_000) == pytest.approx(0.025, rel=0.01)


def test_bad_differences():
    with pytest.raises(ValueError, match="no clips"):
        interval(np.array([]), np.array([]), 100, 0)
    with pytest.raises(ValueError, match="difference 1 is nan"):
        interval(np.array([1.0, np.nan]), np.array(["a", "b"]), 100, 0)
