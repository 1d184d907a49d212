"""Is the model better than a baseline? Paired differences clip by clip, and a verdict in words.

A model is worth something where it beats cross-fade, optical flow and RIFE on the third of the
clips with most motion, in PSNR or SSIM *and* in LPIPS or line chamfer distance, with an amount of
motion nearer to the true one: a cross-fade wins PSNR by ghosts, a held frame wins LPIPS by standing
still. It beats a baseline in a measure where the 95 % interval of the mean paired difference lies
on the better side of 0 (bootstrap that resamples videos: clips of a video are not independent).
"""

import math
from collections.abc import Iterable

import pandas as pd

from pipeline.metrics.intervals import Interval, interval
from pipeline.metrics.summary import HIGHER_IS_BETTER, MODEL, RATIOS, SCORES, ratio_of_sums

RIVALS = ("cross_fade", "optical_flow", "rife")
PIXELS, LOOKS = ("psnr", "ssim"), ("lpips", "line_chamfer")


def paired(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Model minus baseline: a row a group (`all`, `high`), baseline and measure.

    Columns: group, baseline, measure, mean, low, high (95 %; empty where all clips are of one
    video), n_clips, n_videos, better (True, False, or empty where the interval holds 0).
    """
    table = []
    for group, part in (("all", rows), ("high", rows[rows.group == "high"])):
        wide = {measure: _wide(part, measure) for measure in SCORES if measure in part}
        videos = part.drop_duplicates("clip_id").set_index("clip_id").video_id
        for baseline in dict.fromkeys(part.candidate):
            if baseline == MODEL:
                continue
            for measure, values in wide.items():
                difference = (values[MODEL] - values[baseline]).dropna()
                if difference.empty:
                    continue
                ids = videos[difference.index].to_numpy()
                found = interval(difference.to_numpy(), ids, resamples, seed)
                about = {"group": group, "baseline": baseline, "measure": measure}
                table.append(about | vars(found) | {"better": _better(measure, found)})
    columns = ["group", "baseline", "measure", *Interval.__dataclass_fields__, "better"]
    return pd.DataFrame(table, columns=columns).astype({"better": object})


def _wide(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    return rows.pivot(index="clip_id", columns="candidate", values=measure)


def _better(measure: str, found: Interval) -> bool | None:
    """Whether the whole interval lies on the better, or on the worse side of 0."""
    if found.low is None or found.low <= 0 <= found.high:
        return None
    return (found.low > 0) == HIGHER_IS_BETTER[measure]


def verdict(rows: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """One sentence at the head of every table: does the model beat the baselines?"""
    moving = rows[rows.group == "high"]
    rivals = [name for name in RIVALS if name in set(moving.candidate)]
    if not rivals:
        return "No verdict: none of " + ", ".join(RIVALS) + " was measured (evaluate.baselines)."
    clips, videos = moving.clip_id.nunique(), moving.video_id.nunique()
    where = f"on the {clips} test clips with most motion ({_counted(videos, 'video')})"
    if videos < 2:
        return f"No verdict: {where} all are of one video, so no interval can be given."
    failed = {name: _shortfalls(name, moving, pairs) for name in rivals}
    beaten = [name for name, lacks in failed.items() if not lacks]
    missing = [name for name in RIVALS if name not in rivals]
    if not any(failed.values()):
        rest = f" ({', '.join(missing)} not measured)" if missing else ""
        return f"The model beats {_named(beaten)} {where}{rest}."
    parts = [f"{_named([name])}: {'; '.join(lacks)}" for name, lacks in failed.items() if lacks]
    won = f" It beats {_named(beaten)}." if beaten else ""
    return f"The model does not beat all baselines {where}. {'. '.join(parts)}.{won}"


def _shortfalls(baseline: str, moving: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """What the model lacks against one baseline, each in a few words."""
    mine = pairs[(pairs.group == "high") & (pairs.baseline == baseline)].set_index("measure")
    lacks = []
    for measures in (PIXELS, LOOKS):
        present = [measure for measure in measures if measure in mine.index]
        if not any(mine.better[measure] is True for measure in present):
            shown = [_shown(measure, mine.loc[measure]) for measure in present]
            lacks.append("not better in " + " nor ".join(shown or measures))
    ours, theirs = (_motion_error(moving, name) for name in (MODEL, baseline))
    if ours is not None and theirs is not None and ours >= theirs:
        lacks.append("its amount of motion is no nearer to the truth")
    return lacks


def _motion_error(rows: pd.DataFrame, candidate: str) -> float | None:
    """How far the amount of motion is from the true one, as a factor (log)."""
    ratio = ratio_of_sums(rows[rows.candidate == candidate], *RATIOS["motion_ratio"])
    if ratio is None:
        return None
    return abs(math.log(ratio)) if ratio > 0 else math.inf


def _shown(measure: str, row: pd.Series) -> str:
    return f"{measure} ({row['mean']:+.3g}, 95 % {row.low:+.3g} to {row.high:+.3g})"


def _named(names: Iterable[str]) -> str:
    words = [name.replace("_", " ") for name in names]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
