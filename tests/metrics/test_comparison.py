"""Paired differences and the verdict, on clips made by hand."""

import numpy as np
import pandas as pd
import pytest

from pipeline.metrics.comparison import paired, verdict

GOOD = {"psnr": 3.0, "ssim": 0.1, "lpips": -0.1, "line_chamfer": -0.5}
SAME = dict.fromkeys(GOOD, 0.0)


def made(gains: dict[str, dict], videos: int = 6, motion: dict | None = None) -> pd.DataFrame:
    """Twelve clips; the model is better than each baseline by the gain, give or take a little."""
    random = np.random.default_rng(0)
    table = []
    for k in range(12):
        truth = {"psnr": 20.0, "ssim": 0.5, "lpips": 0.4, "line_chamfer": 2.0}
        clip = {name: value * (1 + random.uniform(-0.2, 0.2)) for name, value in truth.items()}
        about = {"clip_id": f"c{k}", "video_id": f"v{k % videos}", "group": "high"}
        about |= {"motion_true": 4.0}
        table.append(about | clip | {"candidate": "model", "motion": 4.4})
        for name, gain in gains.items():
            noise = 0.01 * (-1) ** k  # as often better as worse
            row = {m: clip[m] - gain[m] + noise * abs(truth[m]) for m in clip}
            its_motion = (motion or {}).get(name, 1.0)
            table.append(about | row | {"candidate": name, "motion": its_motion})
    return pd.DataFrame(table)


def judged(rows: pd.DataFrame) -> str:
    return verdict(rows, paired(rows, 500, 0))


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
    assert pairs.better.tolist() == [better] * 8  # psnr and ssim up, lpips and lines down


def test_worse_is_said_too():
    pairs = paired(made({"rife": {name: -value for name, value in GOOD.items()}}), 500, 0)
    assert pairs.better.tolist() == [False] * 8


def test_a_model_that_beats_all_rivals_is_said_to():
    rows = made(dict.fromkeys(("cross_fade", "optical_flow", "rife", "black"), GOOD))
    assert judged(rows) == (
        "The model beats cross fade, optical flow and rife on the 12 test clips with most motion "
        "(6 videos)."
    )


def test_pixels_alone_do_not_win():
    """Better in PSNR and SSIM, not in LPIPS or lines: ghosts."""
    ghosts = GOOD | {"lpips": 0.0, "line_chamfer": 0.0}
    said = judged(made({"cross_fade": ghosts, "rife": GOOD}))
    assert "does not beat all baselines" in said and "cross fade: not better in lpips (" in said
    assert "nor line_chamfer (" in said and "psnr" not in said and said.endswith("It beats rife.")


def test_looks_alone_do_not_win():
    said = judged(made({"cross_fade": SAME | {"lpips": -0.1}}))
    assert "not better in psnr (" in said and "lpips" not in said


def test_motion_must_be_nearer_too():
    said = judged(made({"cross_fade": GOOD}, motion={"cross_fade": 3.9}))
    assert "no nearer to the truth" in said  # 1.1 times too much against 1.03 times too little


def test_one_video_gives_no_verdict():
    rows = made({"cross_fade": GOOD}, videos=1)
    pairs = paired(rows, 500, 0)
    assert pairs.low.isna().all() and pairs.better.isna().all()
    assert verdict(rows, pairs).startswith("No verdict")


def test_without_rivals_there_is_no_verdict():
    assert judged(made({"black": GOOD})).startswith("No verdict: none of cross_fade")


def test_absent_rivals_are_named():
    assert "(optical flow and rife not measured)" in judged(made({"cross_fade": GOOD})).replace(
        "optical_flow, rife", "optical flow and rife"
    )


def test_a_measure_that_was_not_taken_is_left_out():
    rows = made({"cross_fade": GOOD}).drop(columns="lpips")
    assert set(paired(rows, 200, 0).measure) == {"psnr", "ssim", "line_chamfer"}
    assert judged(rows).startswith("The model beats")
