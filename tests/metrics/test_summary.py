"""From rows to numbers: the third with most motion, means of clips, by a table made by hand."""

import pandas as pd
import pytest

from pipeline.metrics.summary import high_motion, summarise


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
    found = high_motion(pd.Series(motion))
    assert found[found].index.tolist() == marked


def test_summary_by_hand():
    """Three clips of different length: every clip counts once, whatever its number of frames."""
    rows = [
        {"clip_id": clip, "candidate": name, "motion": motion, "n_frames": n, "psnr": p, "ssim": s}
        for clip, motion, n, name, p, s in [
            ("a", 1.0, 20, "model", 30.0, 0.9),
            ("a", 1.0, 20, "black", 6.0, 0.1),
            ("b", 9.0, 3, "model", 20.0, 0.5),
            ("b", 9.0, 3, "black", 3.0, 0.2),
            ("c", 2.0, 3, "model", 25.0, 0.7),
            ("c", 2.0, 3, "black", 9.0, 0.3),
        ]
    ]
    content = summarise(pd.DataFrame(rows))
    assert content == {
        "inbetween": {"psnr": pytest.approx(25.0), "ssim": pytest.approx(0.7), "n": 3},
        "baselines": {"black": {"psnr": pytest.approx(6.0), "ssim": pytest.approx(0.2), "n": 3}},
        "inbetween_high_motion": {"psnr": 20.0, "ssim": 0.5, "n": 1},
        "baselines_high_motion": {"black": {"psnr": 3.0, "ssim": 0.2, "n": 1}},
    }
