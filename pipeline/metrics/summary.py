"""From rows (a clip, a candidate) to the numbers of `metrics/evaluate.json`.

A clip is the mean of its inner frames, a set the mean of its clips, n counts clips.
"""

import math

import pandas as pd

MODEL, ROUND_TRIP = "model", "round_trip"
MEASURES = ("psnr", "ssim")


def high_motion(motion: pd.Series) -> pd.Series:
    """Marks the third of the clips (rounded up) with most motion; ties go to the earlier clip."""
    count = math.ceil(len(motion) / 3)
    order = motion.sort_values(ascending=False, kind="stable").index
    return pd.Series(motion.index.isin(order[:count]), motion.index)


def summarise(rows: pd.DataFrame) -> dict:
    """rows: clip_id, candidate, motion, psnr, ssim. All clips, and the third with most motion."""
    motion = rows.drop_duplicates("clip_id").set_index("clip_id").motion
    moving = rows[rows.clip_id.map(high_motion(motion))]
    content = {}
    for suffix, part in (("", rows), ("_high_motion", moving)):
        means = part.groupby("candidate")[list(MEASURES)].mean()
        counts = part.groupby("candidate").clip_id.nunique()
        named = {
            name: {m: float(means.loc[name, m]) for m in MEASURES} | {"n": int(counts[name])}
            for name in means.index
        }
        content[f"inbetween{suffix}"] = named.pop(MODEL)
        content[f"baselines{suffix}"] = named
    return content
