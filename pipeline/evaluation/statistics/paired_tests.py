"""Is the model better than a baseline? Paired differences clip by clip, and a verdict in words.

A model is worth something where it beats cross-fade, optical flow and RIFE on the third of the
clips with most motion, in PSNR or SSIM *and* in LPIPS or line chamfer distance, with an amount of
motion nearer to the true one: a cross-fade wins PSNR by ghosts, a held frame wins LPIPS by standing
still. It beats a baseline in a measure where the 95 % interval of the mean paired difference lies
on the better side of 0 (`intervals`: clips of a video are not independent).
"""

from collections.abc import Iterable

import pandas as pd

from pipeline.evaluation.statistics.bootstrap import FEWEST_VIDEOS, Interval, interval
from pipeline.evaluation.statistics.summary import (
    HIGHER_IS_BETTER,
    MODEL,
    UNTRAINED,
    WITHOUT_CODES,
    spoken,
)

RIVALS = ("cross_fade", "optical_flow", "rife")
PARTS = (UNTRAINED, WITHOUT_CODES)  # of the model itself: what training, and what codes bring
NEEDED = (("psnr", "ssim"), ("lpips", "line_chamfer"), ("motion_error",))  # better in one of each


def paired(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Model minus baseline: a row a group (`all`, `high`), baseline and measure.

    Columns: group, baseline, measure, mean, low, high (95 %; empty where the videos are too few),
    n_clips, n_videos, better (True, False, or empty where the interval holds 0 or there is none).
    """
    table = []
    for group, part in (("all", rows), ("high", rows[rows.group == "high"])):
        wide = {measure: _wide(part, measure) for measure in HIGHER_IS_BETTER if measure in part}
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


def beaten(pairs: pd.DataFrame) -> dict[str, list[str]]:
    """For each rival that was measured: what the model lacks to beat it, in words."""
    moving = pairs[pairs.group == "high"]
    return {
        name: _lacks(moving[moving.baseline == name].set_index("measure"))
        for name in RIVALS
        if (moving.baseline == name).any()
    }


def verdict(pairs: pd.DataFrame) -> str:
    """One sentence at the head of every table: does the model beat the baselines?"""
    lacks = beaten(pairs)
    if not lacks:
        names = _listed(RIVALS)
        return f"No verdict: none of {names} was measured (evaluate.baselines)."
    moving = pairs[(pairs.group == "high") & pairs.baseline.isin(list(lacks))]
    clips, videos = moving.n_clips.max(), moving.n_videos.max()
    where = f"on the {clips} test clips with most motion ({videos} videos)"
    if videos < FEWEST_VIDEOS:
        return f"No verdict {where}: it takes clips of at least {FEWEST_VIDEOS} videos."
    won = [name for name, missing in lacks.items() if not missing]
    absent = [name for name in RIVALS if name not in lacks]
    rest = f" Not measured: {_listed(absent)}." if absent else ""
    rest += _worth(pairs)
    if len(won) == len(lacks):
        return f"The model beats {_listed(won)} {where}.{rest}"
    parts = [
        f" {spoken(name)}: {'; '.join(missing)}." for name, missing in lacks.items() if missing
    ]
    also = f" It beats {_listed(won)}." if won else ""
    return f"The model does not beat all baselines {where}.{''.join(parts)}{also}{rest}"


def _worth(pairs: pd.DataFrame) -> str:
    """What training and codes bring on the clips with most motion, in words."""
    high = pairs[pairs.group == "high"]
    sentences = []
    for name, what in ((UNTRAINED, "Training"), (WITHOUT_CODES, "Codes and transformer")):
        rows = high[high.baseline == name].set_index("measure")
        shown = [
            _shown(measure, rows.loc[measure])
            for measure in ("psnr", "lpips")
            if measure in rows.index
        ]
        if shown:
            sentences.append(f" {what} there: {', '.join(shown)}.")
    return "".join(sentences)


def _lacks(mine: pd.DataFrame) -> list[str]:
    """What the model lacks against one baseline; `mine`: rows of its pairs, by measure."""
    lacks = []
    for measures in NEEDED:
        present = [measure for measure in measures if measure in mine.index]
        if not any(mine.better[measure] is True for measure in present):
            shown = [_shown(measure, mine.loc[measure]) for measure in present]
            lacks.append("not better in " + " nor ".join(shown or map(spoken, measures)))
    return lacks


def _shown(measure: str, row: pd.Series) -> str:
    if pd.isna(row.low):
        return f"{spoken(measure)} ({row['mean']:+.3g}, no interval)"
    return f"{spoken(measure)} ({row['mean']:+.3g}, 95 % {row.low:+.3g} to {row.high:+.3g})"


def _listed(names: Iterable[str]) -> str:
    words = [spoken(name) for name in names]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
