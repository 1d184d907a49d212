"""Intervals that resample videos, paired differences, and the verdict, on clips made by hand."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation import significance
from pipeline.evaluation.significance import (
    FEWEST_VIDEOS,
    Interval,
    bootstrap_interval,
    expanded_tail,
    explanations,
    paired_differences,
    unmet_criteria,
    verdict,
)

GOOD = {"psnr": 3.0, "ssim": 0.1, "lpips": -0.1, "line_chamfer": -0.5, "motion_error": -0.2}
SAME = dict.fromkeys(GOOD, 0.0)


def made(gains: dict[str, dict], videos: int = 6) -> pd.DataFrame:
    """Twelve clips; the model is better than each baseline by the gain, give or take a little."""
    random = np.random.default_rng(0)
    table = []
    for k in range(12):
        truth = {"psnr": 20.0, "ssim": 0.5, "lpips": 0.4, "line_chamfer": 2.0, "motion_error": 1.0}
        clip = {name: value * (1 + random.uniform(-0.2, 0.2)) for name, value in truth.items()}
        about = {"clip_id": f"c{k}", "video_id": f"v{k % videos}", "group": "high"}
        table.append(about | clip | {"method": "model"})
        for name, gain in gains.items():
            noise = 0.01 * (-1) ** k  # as often better as worse
            row = {m: clip[m] - gain[m] + noise * abs(truth[m]) for m in clip}
            table.append(about | row | {"method": name})
    return pd.DataFrame(table)


def judged(rows: pd.DataFrame) -> tuple[str, str]:
    """The verdict and its explanations."""
    pairs = paired_differences(rows, 500, 0)
    return verdict(pairs), " ".join(explanations(pairs))


def test_differences_by_hand():
    rows = made({"cross_fade": GOOD})
    pairs = paired_differences(rows, 500, 0).set_index(["group", "baseline", "metric"])
    row = pairs.loc[("high", "cross_fade", "psnr")]
    wide = rows.pivot(index="clip_id", columns="method", values="psnr")
    assert row["mean"] == pytest.approx((wide.model - wide.cross_fade).mean())
    assert row.low < row["mean"] < row.high and row.n_clips == 12 and row.n_videos == 6
    assert set(pairs.index.get_level_values("group")) == {"all", "high"}


WORSE = {name: -value for name, value in GOOD.items()}


@pytest.mark.parametrize(("gain", "better"), [(GOOD, True), (SAME, None), (WORSE, False)])
def test_better_means_the_whole_interval_on_the_better_side(gain, better):
    pairs = paired_differences(made({"rife": gain}), 500, 0)
    assert pairs.better.tolist() == [better] * 10  # psnr and ssim up, lpips and lines down


HEAD = "On the 12 test clips with most motion, from 6 videos, the frames that Nakawari draws are"
NAMES = ("cross_fade", "optical_flow", "rife")


@pytest.mark.parametrize(
    ("won", "rest"),
    [
        (NAMES, " better than those by cross-fade, optical flow and RIFE."),
        ((), " not clearly better than those by cross-fade, optical flow or RIFE."),
        (NAMES[:1], " better than those by cross-fade, but not clearly better than those by "
                    "optical flow or RIFE."),
    ],
)  # fmt: skip
def test_the_verdict_is_one_sentence(won, rest):
    rows = made({name: GOOD if name in won else SAME for name in (*NAMES, "black")})
    assert judged(rows)[0] == HEAD + rest


@pytest.mark.parametrize(
    ("gain", "unmet", "met"),
    [
        (GOOD | {"lpips": 0.0, "line_chamfer": 0.0}, ("LPIPS (", "nor line distance ("), "PSNR"),
        (SAME | {"lpips": -0.1}, ("PSNR (", "motion error ("), "LPIPS"),
        (GOOD | {"motion_error": 0.0}, ("motion error (",), "PSNR"),
    ],
    ids=["ghosts", "looks alone", "motion"],
)
def test_every_criterion_must_be_met(gain, unmet, met):
    said, why = judged(made({"cross_fade": gain, "rife": GOOD}))
    assert "better than those by RIFE, but not clearly better than those by cross-fade" in said
    assert why.startswith("Against cross-fade: not better in ") and "RIFE" not in why
    assert all(words in why for words in unmet) and met not in why


def test_motion_that_cannot_be_compared_wins_nothing():
    rows = made({"cross_fade": GOOD}).assign(motion_error=np.nan)
    assert "not better in motion error." in judged(rows)[1]


@pytest.mark.parametrize("videos", [1, 2, 4])
def test_few_videos_give_no_interval_and_no_verdict(videos):
    pairs = paired_differences(made({"cross_fade": GOOD}, videos), 500, 0)
    assert pairs.low.isna().all() and pairs.better.isna().all()
    assert verdict(pairs).startswith("No verdict") and "at least 5 are needed" in verdict(pairs)
    assert unmet_criteria(pairs)["cross_fade"], "what cannot be shown is not said"


def test_competitors_that_were_not_measured_are_named():
    assert judged(made({"black": GOOD}))[0].startswith(
        "No verdict: cross-fade, optical flow or RIFE would have to be measured"
    )
    assert judged(made({"cross_fade": GOOD}))[1].endswith("Not measured: optical flow and RIFE.")


def test_a_metric_that_was_not_taken_is_left_out():
    rows = made({"cross_fade": GOOD}).drop(columns="lpips")
    assert set(paired_differences(rows, 200, 0).metric) == set(GOOD) - {"lpips"}
    assert judged(rows)[0].startswith(HEAD + " better")


def test_what_training_brings_is_said():
    assert "Training changed there: PSNR (+3" in judged(made({"rife": GOOD, "untrained": GOOD}))[1]


def of_videos(n_videos: int, n_clips: int, seed: int, shared: float = 1.0):
    """Differences with mean 0; clips of one video share a part of deviation `shared`."""
    random = np.random.default_rng(seed)
    videos = np.repeat(np.arange(n_videos), n_clips)
    return random.normal(size=n_videos)[videos] * shared + random.normal(size=len(videos)), videos


def test_mean_and_counts():
    """With five videos the levels are so wide that the ends are the extremes: all a, all e."""
    videos = np.array(["a", "b", "b", "c", "d", "e"], object)
    found = bootstrap_interval(pd.Series([1.0, 2.0, 6.0, 4.0, 4.0, 7.0]), videos, 20_000, 0)
    assert (found.mean, found.n_clips, found.n_videos) == (4.0, 6, 5)
    assert 1.0 <= found.low < 2.6 and 5.8 < found.high <= 7.0


def test_equal_differences_have_an_interval_without_width():
    assert bootstrap_interval(np.full(6, 2.5), np.arange(6), 100, 0) == Interval(
        2.5, 2.5, 2.5, 6, 6
    )


@pytest.mark.parametrize("n_videos", [1, 2, FEWEST_VIDEOS - 1])
def test_few_videos_give_no_interval(n_videos):
    values, videos = of_videos(n_videos, 3, seed=0)
    found = bootstrap_interval(values, videos, 100, 0)
    assert (found.low, found.high, found.n_videos) == (None, None, n_videos)
    assert found.mean == pytest.approx(values.mean())


def test_a_video_counts_by_its_clips():
    """The mean is over clips: a long video pulls it, in the resamples too."""
    values, videos = np.array([0.0] * 9 + [10.0] * 4), np.array(["long"] * 9 + list("abcd"))
    found = bootstrap_interval(values, videos, 2000, 0)
    assert found.mean == pytest.approx(40 / 13) and found.low < 1.0
    assert found.high == 10.0  # resamples without the long one are frequent enough


def test_clips_of_a_video_move_together():
    values, videos = of_videos(12, 20, seed=1)
    together = bootstrap_interval(values, videos, 1000, 0)
    alone = bootstrap_interval(values, np.arange(len(values)), 1000, 0)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_seed_and_order():
    values, videos = of_videos(9, 4, seed=2)
    found = bootstrap_interval(values, videos, 300, 5)
    assert found == bootstrap_interval(values, videos, 300, 5)
    assert found != bootstrap_interval(values, videos, 300, 6)
    order = np.random.default_rng(0).permutation(len(values))
    mixed = bootstrap_interval(values[order], videos[order], 300, 5)
    assert vars(mixed) == pytest.approx(vars(found))


def test_drawing_in_parts_changes_nothing(monkeypatch):
    values, videos = of_videos(9, 4, seed=2)
    whole = bootstrap_interval(values, videos, 300, 5)
    monkeypatch.setattr(significance, "MAX_CELLS", 70)
    assert vars(bootstrap_interval(values, videos, 300, 5)) == pytest.approx(vars(whole))


def test_signs_and_units():
    values, videos = of_videos(9, 4, seed=3)
    found, scaled = (
        bootstrap_interval(values, videos, 500, 1),
        bootstrap_interval(10 * values + 3, videos, 500, 1),
    )
    assert scaled.low == pytest.approx(10 * found.low + 3)
    assert scaled.high == pytest.approx(10 * found.high + 3)


@pytest.mark.parametrize("n_videos", [FEWEST_VIDEOS, 6, 30])
def test_about_95_percent_of_intervals_hold_the_truth(n_videos):
    """Also with few videos, where plain percentiles hold it in 84 to 88 %."""
    found = [bootstrap_interval(*of_videos(n_videos, 4, seed), 2000, seed) for seed in range(400)]
    assert 0.92 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.985


def test_levels_are_students():
    """By hand for 6 videos: t of 5 degrees 2.571, times sqrt(6/5), is 2.816 deviations."""
    assert expanded_tail(6) == pytest.approx(0.00243, rel=0.01)
    assert expanded_tail(10_000) == pytest.approx(0.025, rel=0.01)


def test_bad_differences():
    with pytest.raises(ValueError, match="no clips"):
        bootstrap_interval(np.array([]), np.array([]), 100, 0)
    with pytest.raises(ValueError, match="difference 1 is nan"):
        bootstrap_interval(np.array([1.0, np.nan]), np.array(["a", "b"]), 100, 0)
