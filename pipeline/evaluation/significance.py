"""Is the model better than a baseline? Paired differences with intervals, and a verdict in words.

A model is worth something where it beats cross-fade, optical flow and RIFE on the third of the
clips with most motion, in PSNR or SSIM *and* in LPIPS or line chamfer distance, with an amount of
motion nearer to the true one: a cross-fade wins PSNR by ghosts, a held frame wins LPIPS by standing
still. It beats a baseline in a metric where the 95 % interval of the mean paired difference lies
on the better side of 0.

Clips of one video share drawings, backgrounds and cuts; resampling them one by one would take them
for independent and give intervals that are too narrow. So the bootstrap resamples videos (bootstrap
of clusters: Davison and Hinkley, Bootstrap Methods and their Application, 1997). With few videos
plain percentiles are too narrow as well: they lack Student's longer tails. The levels are widened
accordingly (expanded percentile interval: Hesterberg, The American Statistician 69, 2015, section
5.3).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from pipeline.evaluation.summary import (
    HIGHER_IS_BETTER,
    MODEL,
    ROUND_TRIP,
    UNTRAINED,
    WITHOUT_CODES,
)

TAIL = 0.025  # on each side
FEWEST_VIDEOS = 5  # of fewer no interval is given: even the widened one would promise too much
N_BOOTSTRAP = 2000
MAX_CELLS = 2**22  # counts drawn at once, 32 MB
COMPETITORS = ("cross_fade", "optical_flow", "rife")
ABLATIONS = (UNTRAINED, WITHOUT_CODES)  # of the model itself: what training, and what codes bring
CRITERIA = (("psnr", "ssim"), ("lpips", "line_chamfer"), ("motion_error",))  # one of each
DISPLAY_NAMES = {
    MODEL: "Nakawari",
    UNTRAINED: "before training",
    WITHOUT_CODES: "decoder alone",
    ROUND_TRIP: "from true codes",
    "cross_fade": "cross-fade",
    "rife": "RIFE",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "line_chamfer": "line distance",
}


@dataclass(frozen=True)
class Interval:
    """Mean over clips and its 95 % interval; without ends where there are too few videos."""

    mean: float
    low: float | None
    high: float | None
    n_clips: int
    n_videos: int


def bootstrap_interval(
    differences: pd.Series | np.ndarray, videos: pd.Series | np.ndarray, n_bootstrap: int, seed: int
) -> Interval:
    """Percentile interval of the mean of `differences`, a number a clip; `videos`: their ids.

    A resample draws as many videos as there are, with replacement, takes all their clips, and
    averages over these clips. Raises ValueError for no clips, and for numbers that are not finite.
    """
    values = np.asarray(differences, np.float64)
    ids = np.asarray(videos)
    assert values.ndim == 1 and values.shape == ids.shape, (values.shape, ids.shape)
    if not len(values):
        raise ValueError("no clips, so no interval of their mean")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"difference {bad[0]} is {values[bad[0]]}, expected finite numbers")
    names, video = np.unique(ids, return_inverse=True)
    n_videos, low, high = len(names), None, None
    if n_videos >= FEWEST_VIDEOS:
        counts, sums = np.bincount(video).astype(np.float64), np.bincount(video, values)
        rng, means = np.random.default_rng(seed), []
        step = max(1, MAX_CELLS // n_videos)
        for start in range(0, n_bootstrap, step):
            size = min(step, n_bootstrap - start)
            resamples = rng.multinomial(
                n_videos, np.full(n_videos, 1 / n_videos), size
            )  # size videos
            means.append((resamples @ sums) / (resamples @ counts))
        tail = expanded_tail(n_videos)
        low, high = np.quantile(np.concatenate(means), (tail, 1 - tail)).tolist()
    return Interval(float(values.mean()), low, high, len(values), n_videos)


def expanded_tail(n_videos: int) -> float:
    """Share of resamples outside on each side, so that few videos get Student's width."""
    n = n_videos
    return float(norm.cdf(np.sqrt(n / (n - 1)) * student.ppf(TAIL, n - 1)))


def paired_differences(rows: pd.DataFrame, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """Model minus baseline: a row a group (`all`, `high`), baseline and metric.

    Columns: group, baseline, metric, mean, low, high (95 %; empty where the videos are too few),
    n_clips, n_videos, better (True, False, or empty where the interval holds 0 or there is none).
    """
    table = []
    for group, part in (("all", rows), ("high", rows[rows.group == "high"])):
        values = {
            metric: part.pivot(index="clip_id", columns="method", values=metric)
            for metric in HIGHER_IS_BETTER
            if metric in part
        }
        videos = part.drop_duplicates("clip_id").set_index("clip_id").video_id
        for baseline in dict.fromkeys(part.method):
            if baseline == MODEL:
                continue
            for metric, by_method in values.items():
                difference = (by_method[MODEL] - by_method[baseline]).dropna()
                if difference.empty:
                    continue
                ids = videos[difference.index].to_numpy()
                interval = bootstrap_interval(difference.to_numpy(), ids, n_bootstrap, seed)
                better = None
                if interval.low is not None and not interval.low <= 0 <= interval.high:
                    better = (interval.low > 0) == HIGHER_IS_BETTER[metric]
                about = {"group": group, "baseline": baseline, "metric": metric}
                table.append(about | vars(interval) | {"better": better})
    columns = ["group", "baseline", "metric", *Interval.__dataclass_fields__, "better"]
    return pd.DataFrame(table, columns=columns).astype({"better": object})


def unmet_criteria(pairs: pd.DataFrame) -> dict[str, list[str]]:
    """For each competitor that was measured: what the model lacks to beat it, in words."""
    high = pairs[pairs.group == "high"]
    unmet: dict[str, list[str]] = {}
    for name in COMPETITORS:
        rows = high[high.baseline == name].set_index("metric")
        if rows.empty:
            continue
        unmet[name] = []
        for metrics in CRITERIA:
            present = [metric for metric in metrics if metric in rows.index]
            if not any(rows.better[metric] is True for metric in present):
                words = [_with_interval(metric, rows.loc[metric]) for metric in present]
                words = words or [display_name(metric) for metric in metrics]
                unmet[name].append("not better in " + " nor ".join(words))
    return unmet


def significance_numbers(pairs: pd.DataFrame) -> dict:
    """For details.json: mean and interval of the differences, and 1 where the model is better."""
    rows = pairs[(pairs.group == "high") & pairs.baseline.isin((*COMPETITORS, *ABLATIONS))]
    differences: dict[str, dict] = {}
    for row in rows.itertuples():
        numbers = {"mean": row.mean, "low": row.low, "high": row.high}
        numbers = {key: float(value) for key, value in numbers.items() if pd.notna(value)}
        differences.setdefault(row.baseline, {})[row.metric] = numbers
    beats = {name: int(not unmet) for name, unmet in unmet_criteria(pairs).items()}
    return {"paired_high_motion": differences, "beats": beats}


def verdict(pairs: pd.DataFrame) -> str:
    """One sentence: does the model beat the baselines where most moves?"""
    unmet = unmet_criteria(pairs)
    if not unmet:
        return (
            f"No verdict: {_listed(COMPETITORS, 'or')} would have to be measured beside the model "
            "(evaluate.baselines)."
        )
    high = pairs[(pairs.group == "high") & pairs.baseline.isin(list(unmet))]
    clips, videos = high.n_clips.max(), high.n_videos.max()
    if videos < FEWEST_VIDEOS:
        return (
            f"No verdict: the {clips} test clips with most motion come from {videos} videos, too "
            f"few to tell a difference from chance (at least {FEWEST_VIDEOS} are needed)."
        )
    where = f"On the {clips} test clips with most motion, from {videos} videos, the frames that "
    where += "Nakawari draws are"
    won = [name for name in unmet if not unmet[name]]
    lost = [name for name in unmet if unmet[name]]
    if not lost:
        return f"{where} better than those by {_listed(won, 'and')}."
    if not won:
        return f"{where} not clearly better than those by {_listed(lost, 'or')}."
    return (
        f"{where} better than those by {_listed(won, 'and')}, "
        f"but not clearly better than those by {_listed(lost, 'or')}."
    )


def explanations(pairs: pd.DataFrame) -> list[str]:
    """What the verdict rests on, in sentences: unmet criteria, what training and codes bring."""
    sentences = [
        f"Against {display_name(name)}: {'; '.join(reasons)}."
        for name, reasons in unmet_criteria(pairs).items()
        if reasons
    ]
    high = pairs[pairs.group == "high"]
    absent = [name for name in COMPETITORS if not (high.baseline == name).any()]
    if absent:
        sentences.append(f"Not measured: {_listed(absent, 'and')}.")
    for name, what in ((UNTRAINED, "Training"), (WITHOUT_CODES, "Codes and transformer")):
        rows = high[high.baseline == name].set_index("metric")
        changes = [_with_interval(m, rows.loc[m]) for m in ("psnr", "lpips") if m in rows.index]
        if changes:
            sentences.append(f"{what} changed there: {', '.join(changes)}.")
    return sentences


def display_name(name: str) -> str:
    """A method or metric as readers see it."""
    return DISPLAY_NAMES.get(name, name.replace("_", " "))


def _with_interval(metric: str, row: pd.Series) -> str:
    if pd.isna(row.low):
        return f"{display_name(metric)} ({row['mean']:+.3g}, no interval)"
    return f"{display_name(metric)} ({row['mean']:+.3g}, 95 % {row.low:+.3g} to {row.high:+.3g})"


def _listed(names: Iterable[str], word: str) -> str:
    words = [display_name(name) for name in names]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" {word} {words[-1]}"
