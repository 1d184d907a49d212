"""Paired differences and the verdict, on clips made by hand."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.statistics.paired_tests import beaten, paired, verdict

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
        table.append(about | clip | {"candidate": "model"})
        for name, gain in gains.items():
            noise = 0.01 * (-1) ** k  # as often better as worse
            row = {m: clip[m] - gain[m] + noise * abs(truth[m]) for m in clip}
            table.append(about | row | {"candidate": name})
    return pd.DataFrame(table)


def judged(rows: pd.DataFrame) -> str:
    return verdict(paired(rows, 500, 0))


def test_differences_by_hand():
    rows = made({"cross_fade": GOOD})
    pairs = paired(rows, 500, 0).set_index(["group", "baseline", "measure"])
    row = pairs.loc[("high", "cross_fade", "psnr")]
    wide = rows.pivot(index="clip_id", columns="candidate", values="psnr")
    assert row["mean"] == pytest.approx((wide.model - wide.cross_fade).mean())
    assert row.low < row["mean"] < row.high and row.n_clips == 12 and row.n_videos == 6
    assert set(pairs.index.get_level_values("group")) == {"all", "high"}


@pytest.mark.parametrize(("gain", "better"), [(GOOD, True), (SAME, None)])
def test_better_means_the_whole_interval_on_the_better_side(gain, better):
    pairs = paired(made({"rife": gain}), 500, 0)
    assert pairs.better.tolist() == [better] * 10  # psnr and ssim up, lpips and lines down


def test_worse_is_said_too():
    pairs = paired(made({"rife": {name: -value for name, value in GOOD.items()}}), 500, 0)
    assert pairs.better.tolist() == [False] * 10


def test_a_model_that_beats_all_rivals_is_said_to():
    rows = made(dict.fromkeys(("cross_fade", "optical_flow", "rife", "black"), GOOD))
    assert judged(rows) == (
        "The model beats cross-fade, optical-flow and RIFE on the 12 test clips with most motion "
        "(6 videos)."
    )


def test_pixels_alone_do_not_win():
    """Better in PSNR and SSIM, not in LPIPS or lines: ghosts."""
    ghosts = GOOD | {"lpips": 0.0, "line_chamfer": 0.0}
    said = judged(made({"cross_fade": ghosts, "rife": GOOD}))
    assert "does not beat all baselines" in said and "cross-fade: not better in LPIPS (" in said
    assert "nor line-chamfer (" in said and "PSNR" not in said and "It beats RIFE." in said


def test_looks_alone_do_not_win():
    said = judged(made({"cross_fade": SAME | {"lpips": -0.1}}))
    assert "not better in PSNR (" in said and "LPIPS" not in said


def test_motion_must_be_nearer_too():
    said = judged(made({"cross_fade": GOOD | {"motion_error": 0.0}}))
    assert "not better in motion-error (" in said and "PSNR" not in said


def test_motion_that_cannot_be_compared_wins_nothing():
    rows = made({"cross_fade": GOOD}).assign(motion_error=np.nan)
    assert "not better in motion-error." in judged(rows)


@pytest.mark.parametrize("videos", [1, 2, 4])
def test_few_videos_give_no_interval_and_no_verdict(videos):
    pairs = paired(made({"cross_fade": GOOD}, videos), 500, 0)
    assert pairs.low.isna().all() and pairs.better.isna().all()
    assert verdict(pairs).startswith("No verdict") and "at least 5 videos" in verdict(pairs)
    assert beaten(pairs)["cross_fade"], "what cannot be shown is not said"


def test_without_rivals_there_is_no_verdict():
    assert judged(made({"black": GOOD})).startswith(
        "No verdict: none of cross-fade, optical-flow and RIFE"
    )


def test_absent_rivals_are_named():
    assert judged(made({"cross_fade": GOOD})).endswith("Not measured: optical-flow and RIFE.")


def test_a_measure_that_was_not_taken_is_left_out():
    rows = made({"cross_fade": GOOD}).drop(columns="lpips")
    assert set(paired(rows, 200, 0).measure) == set(GOOD) - {"lpips"}
    assert judged(rows).startswith("The model beats")
