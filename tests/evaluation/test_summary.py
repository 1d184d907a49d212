"""From rows to numbers: thirds by motion, means of clips, ratios of sums, by hand."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.summary import (
    group_table,
    headline,
    method_metrics,
    motion_error,
    motion_groups,
    summarize,
)
from pipeline.io import flatten


@pytest.mark.parametrize(
    ("motion", "marked"),
    [
        ([1.0], [0]),
        ([1.0, 3.0, 2.0], [1]),
        ([1.0, 3.0, 2.0, 0.0], [1, 2]),  # rounded up
        ([2.0, 2.0, 2.0, 2.0], [0, 1]),  # ties go to the earlier
        ([0.0, 5.0, 1.0, 5.0, 9.0, 2.0], [1, 4]),
    ],
)
def test_the_third_with_most_motion(motion, marked):
    groups = motion_groups(pd.Series(motion))
    assert groups.index[groups == "high"].tolist() == marked


def test_thirds_by_motion():
    groups = motion_groups(pd.Series({"a": 3.0, "b": 1.0, "c": 9.0, "d": 2.0, "e": 8.0}))
    assert groups.to_dict() == {
        "a": "middle", "b": "low", "c": "high", "d": "middle", "e": "high",
    }  # fmt: skip


def rows() -> pd.DataFrame:
    """Three clips of different length: every clip counts once, whatever its number of frames."""
    table = [
        ("a", "low", 20, "model", 30.0, 0.9, 1.0, 2.0),
        ("a", "low", 20, "black", 6.0, 0.1, 0.0, 2.0),
        ("b", "high", 3, "model", 20.0, 0.5, np.nan, np.nan),  # one inner frame: no step
        ("b", "high", 3, "black", 3.0, 0.2, np.nan, np.nan),
        ("c", "middle", 3, "model", 25.0, 0.7, 9.0, 6.0),
        ("c", "middle", 3, "black", 9.0, 0.3, 0.0, 6.0),
    ]
    scores = ["psnr", "ssim", "motion", "motion_true"]
    return pd.DataFrame(table, columns=["clip_id", "group", "n_frames", "method", *scores])


def test_summary_by_hand():
    assert summarize(rows()) == {
        "inbetween": {
            "psnr": pytest.approx(25.0),
            "ssim": pytest.approx(0.7),
            "motion_ratio": pytest.approx(10 / 8),  # of sums, not the mean of 0.5 and 1.5
            "n": 3,
        },
        "baselines": {
            "black": {
                "psnr": pytest.approx(6.0),
                "ssim": pytest.approx(0.2),
                "motion_ratio": 0.0,
                "n": 3,
            }
        },
        "truth": {},
        "inbetween_high_motion": {"psnr": 20.0, "ssim": 0.5, "n": 1},
        "baselines_high_motion": {"black": {"psnr": 3.0, "ssim": 0.2, "n": 1}},
        "truth_high_motion": {},
    }


def test_a_level_of_clips_where_it_is_defined():
    """Nothing stands still in one of two clips: the other alone counts; nowhere: no number."""
    table = pd.DataFrame(
        {
            "clip_id": ["a", "b"],
            "method": ["model"] * 2,
            "flicker_still": [4.0, np.nan],
            "repeated": [np.nan, np.nan],
            "step_last": [3.0, 1.0],
            "step_last_true": [0.0, 2.0],
            "motion": [3.0, 1.0],
            "motion_true": [0.0, 0.0],  # the truth stands still: no ratio
        }
    )
    assert method_metrics(table) == {"flicker_still": 4.0, "control_point_ratio": 2.0, "n": 2}


def test_the_truths_own_levels_stand_beside():
    table = rows().assign(flicker_true=[1.0, 1.0, 5.0, 5.0, 3.0, 3.0])
    content = summarize(table)
    assert content["truth"] == {"flicker": 3.0} and content["truth_high_motion"] == {"flicker": 5.0}


def test_a_row_a_group_and_candidate():
    table = group_table(rows()).set_index(["group", "method"])
    assert len(table) == 8 and table.loc[("all", "model"), "n"] == 3
    assert table.loc[("middle", "black"), "psnr"] == 9.0


@pytest.mark.parametrize(
    ("drawn", "true", "error"),
    [
        (4.0, 4.0, 0.0),
        (2.0, 4.0, 1.0),  # half as much
        (8.0, 4.0, 1.0),  # twice as much
        (0.0, 3.2, 5.0),  # standing still counts as 0.1 grey levels
        (4.0, 0.05, None),  # the truth hardly moves
        (None, 4.0, None),
        (4.0, None, None),
    ],
)
def test_motion_error_by_hand(drawn, true, error):
    assert motion_error(drawn, true) == (None if error is None else pytest.approx(error))


def test_the_headline_is_short_and_holds_what_a_run_is_judged_by():
    metrics = dict.fromkeys(("psnr", "ssim", "lpips", "line_chamfer", "motion_ratio", "n"), 1.0)
    names = ("black", "cross_fade", "optical_flow", "rife", "untrained", "without_codes")
    details = {"inbetween": metrics, "inbetween_high_motion": metrics}
    details |= {"tokenizer": metrics | {"codebook_usage": 0.5, "perplexity": 9.0}}
    details |= {"baselines_high_motion": dict.fromkeys(names, metrics)}
    details |= {"beats": dict.fromkeys(("cross_fade", "optical_flow", "rife"), 0)}
    content = headline(details, n_videos=5)
    assert len(flatten(content)) == 26
    assert content["baselines_high_motion"]["rife"] == {"psnr": 1.0, "lpips": 1.0}
    assert "black" not in content["baselines_high_motion"]
    assert content["tokenizer"] == {"psnr": 1.0, "lpips": 1.0, "codebook_usage": 0.5}
    assert content["counts"] == {"clips": 1.0, "clips_high_motion": 1.0, "videos": 5}
