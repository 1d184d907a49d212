"""From rows (a clip, a candidate) to the numbers of `metrics/evaluate.json`.

A clip is the mean of its inner frames, a set the mean of its clips, n counts clips. Amounts (of
motion, of the last step) are compared as ratios of their sums over the clips, so that clips that
stand still do not divide by nothing.
"""

import math

import numpy as np
import pandas as pd

MODEL, ROUND_TRIP = "model", "round_trip"
UNTRAINED, WITHOUT_CODES = "untrained", "without_codes"
SCORES = ("psnr", "ssim", "lpips", "line_chamfer")  # means over inner frames
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips": False, "line_chamfer": False}
HIGHER_IS_BETTER |= {"motion_error": False}
LEVELS = ("motion_error", "flicker", "flicker_still", "repeated", "diversity")  # means over clips
RATIOS = {  # name: drawn amount, true amount; 1 is right
    "motion_ratio": ("motion", "motion_true"),
    "control_point_ratio": ("step_last", "step_last_true"),
}
LEAST_AMOUNT = 0.1  # grey levels a clip: a ratio to a truth that moves less is one of noise
SPOKEN = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "rife": "RIFE"}
GROUPS = ("low", "middle", "high")


def motion_groups(motion: pd.Series) -> pd.Series:
    """Thirds of the clips by motion: `low`, `middle`, `high`; ties go to the earlier clip.

    Where three does not divide them, `high` gets one more first, then `middle`.
    """
    order = motion.sort_values(ascending=False, kind="stable").index
    parts = np.array_split(np.arange(len(order)), 3)
    names = [name for name, part in zip(reversed(GROUPS), parts, strict=True) for _ in part]
    return pd.Series(names, order, dtype=object).reindex(motion.index)


def motion_error(drawn: float | None, true: float | None) -> float | None:
    """How far the amount of motion of a clip is from the true one, as |log2| of their ratio.

    1 is half or twice as much. Ratios of sums cancel (one clip too much, one too little), this does
    not. Amounts below LEAST_AMOUNT count as that; None where the truth moves less.
    """
    if drawn is None or true is None or true < LEAST_AMOUNT:
        return None
    return abs(math.log2(max(drawn, LEAST_AMOUNT) / true))


def spoken(name: str) -> str:
    """A candidate or measure as people read it."""
    return SPOKEN.get(name, name.replace("_", "-"))


def candidate_numbers(rows: pd.DataFrame) -> dict[str, float | int]:
    """Numbers of one candidate over the clips of `rows`; what is undefined is absent."""
    names = [name for name in (*SCORES, *LEVELS) if name in rows]
    numbers = {name: float(rows[name].mean()) for name in names if rows[name].notna().any()}
    for name, (drawn, true) in RATIOS.items():
        ratio = ratio_of_sums(rows, drawn, true)
        if ratio is not None:
            numbers[name] = ratio
    return numbers | {"n": int(rows.clip_id.nunique())}


def ratio_of_sums(rows: pd.DataFrame, drawn: str, true: str) -> float | None:
    """Sum of the drawn amounts over that of the true ones; None where the truth has hardly any."""
    if drawn not in rows:
        return None
    both = rows[[drawn, true]].dropna()
    if both.empty or both[true].mean() < LEAST_AMOUNT:
        return None
    return float(both[drawn].sum() / both[true].sum())


def truth_numbers(rows: pd.DataFrame) -> dict[str, float]:
    """The true clips' own flicker and share of repeated drawings, to be read beside the others."""
    mine = rows[rows.candidate == MODEL]
    names = [name for name in ("flicker", "flicker_still", "repeated") if f"{name}_true" in mine]
    means = {name: mine[f"{name}_true"].mean() for name in names}
    return {name: float(mean) for name, mean in means.items() if pd.notna(mean)}


def summarise(rows: pd.DataFrame) -> dict:
    """All clips, and the third with most motion: the model, the baselines, the truth.

    rows: clip_id, candidate, group, the measures of `clipwise`.
    """
    content = {}
    for suffix, part in (("", rows), ("_high_motion", rows[rows.group == "high"])):
        named = {name: candidate_numbers(mine) for name, mine in part.groupby("candidate")}
        content[f"inbetween{suffix}"] = named.pop(MODEL)
        content[f"baselines{suffix}"] = named
        content[f"truth{suffix}"] = truth_numbers(part)
    return content


def group_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a motion group and candidate, all clips as group `all` first."""
    parts = {"all": rows} | {group: rows[rows.group == group] for group in GROUPS}
    table = [
        {"group": group, "candidate": name} | candidate_numbers(mine)
        for group, part in parts.items()
        for name, mine in part.groupby("candidate", sort=False)
    ]
    return pd.DataFrame(table)
