"""From rows (a clip, a method) to numbers, and the few of them by which a run is judged.

A clip is the mean of its inner frames, a set the mean of its clips, n counts clips. Amounts (of
motion, of the last step) are compared as ratios of their sums over the clips, so that clips that
stand still do not divide by nothing.
"""

import math
import sys
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

MODEL, ROUND_TRIP = "model", "round_trip"
UNTRAINED, WITHOUT_CODES = "untrained", "without_codes"
SCORES = ("psnr", "ssim", "lpips", "line_chamfer")  # means over inner frames
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips": False, "line_chamfer": False}
HIGHER_IS_BETTER |= {"motion_error": False}
LEVELS = ("motion_error", "flicker", "flicker_still", "repeated", "diversity")  # means over clips
TRUE_LEVELS = ("flicker", "flicker_still", "repeated")  # that the true clips have as well
RATIOS = {  # name: generated amount, true amount; 1 is right
    "motion_ratio": ("motion", "motion_true"),
    "control_point_ratio": ("step_last", "step_last_true"),
}
LEAST_AMOUNT = 0.1  # grey levels a clip: a ratio to a truth that moves less is one of noise
GROUPS = ("low", "middle", "high")
PLOTTED = ("psnr", "lpips")  # metrics of which `dvc plots` shows curves
CURVES = (MODEL, WITHOUT_CODES, UNTRAINED, "cross_fade", "optical_flow", "rife", ROUND_TRIP)
# Of metrics/evaluate.json: at most 30 numbers, those by which a run is judged.
HEADLINE = {
    "inbetween": ("psnr", "ssim", "lpips"),
    "inbetween_high_motion": ("psnr", "ssim", "lpips", "motion_ratio"),
    "tokenizer": ("psnr", "lpips", "codebook_usage"),
}
HEADLINE_BASELINES = ("cross_fade", "optical_flow", "rife", UNTRAINED, WITHOUT_CODES)


@dataclass
class Remarks:
    """What was left out, and warnings: printed while measuring, written to details.json."""

    left_out: dict[str, str] = field(default_factory=dict)  # metric to reason
    warnings: list[str] = field(default_factory=list)

    KEPT = ("left_out", "warnings")  # what a killed evaluation goes on with

    def leave_out(self, metric: str, reason: str) -> None:
        self.left_out[metric] = reason
        print(f"evaluate: {metric} left out: {reason}", file=sys.stderr, flush=True)

    def warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)
            print(f"evaluate: {sentence}", file=sys.stderr, flush=True)


def motion_groups(motion: pd.Series) -> pd.Series:
    """Thirds of the clips by motion: `low`, `middle`, `high`; ties go to the earlier clip.

    Where three does not divide them, `high` gets one more first, then `middle`.
    """
    order = motion.sort_values(ascending=False, kind="stable").index
    parts = np.array_split(np.arange(len(order)), 3)
    names = [name for name, part in zip(reversed(GROUPS), parts, strict=True) for _ in part]
    return pd.Series(names, order, dtype=object).reindex(motion.index)


def motion_error(generated: float | None, true: float | None) -> float | None:
    """How far the amount of motion of a clip is from the true one, as |log2| of their ratio.

    1 is half or twice as much. Ratios of sums cancel (one clip too much, one too little), this does
    not. Amounts below LEAST_AMOUNT count as that; None where the truth moves less.
    """
    if generated is None or true is None or true < LEAST_AMOUNT:
        return None
    return abs(math.log2(max(generated, LEAST_AMOUNT) / true))


def method_metrics(rows: pd.DataFrame) -> dict[str, float | int]:
    """Metrics of one method over the clips of `rows`; what is undefined is absent."""
    names = [name for name in (*SCORES, *LEVELS) if name in rows and rows[name].notna().any()]
    metrics = {name: float(rows[name].mean()) for name in names}
    for name, (generated, true) in RATIOS.items():
        if generated in rows:
            pairs = rows[[generated, true]].dropna()
            if not pairs.empty and pairs[true].mean() >= LEAST_AMOUNT:
                metrics[name] = float(pairs[generated].sum() / pairs[true].sum())
    return metrics | {"n": int(rows.clip_id.nunique())}


def summarize(rows: pd.DataFrame) -> dict:
    """All clips, and the third with most motion: the model, the baselines, the truth.

    rows: clip_id, method, group, the metrics of `scoring`.
    """
    content = {}
    for suffix, part in (("", rows), ("_high_motion", rows[rows.group == "high"])):
        methods = {name: method_metrics(group) for name, group in part.groupby("method")}
        content[f"inbetween{suffix}"] = methods.pop(MODEL)
        content[f"baselines{suffix}"] = methods
        of_model = part[part.method == MODEL]
        levels = [name for name in TRUE_LEVELS if f"{name}_true" in part]
        true = {name: of_model[f"{name}_true"].mean() for name in levels}
        content[f"truth{suffix}"] = {k: float(v) for k, v in true.items() if pd.notna(v)}
    return content


def group_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a motion group and method, all clips as group `all` first."""
    parts = {"all": rows} | {group: rows[rows.group == group] for group in GROUPS}
    table = [
        {"group": group, "method": name} | method_metrics(of_method)
        for group, part in parts.items()
        for name, of_method in part.groupby("method", sort=False)
    ]
    return pd.DataFrame(table)


def headline(details: dict, n_videos: int) -> dict:
    """The numbers of metrics/evaluate.json, out of all that were computed."""
    content = {
        section: {name: details[section][name] for name in names if name in details[section]}
        for section, names in HEADLINE.items()
    }
    content["baselines_high_motion"] = {
        name: {metric: value for metric, value in metrics.items() if metric in ("psnr", "lpips")}
        for name, metrics in details["baselines_high_motion"].items()
        if name in HEADLINE_BASELINES
    }
    content["counts"] = {
        "clips": details["inbetween"]["n"],
        "clips_high_motion": details["inbetween_high_motion"]["n"],
        "videos": n_videos,
    }
    return content | {"beats": details["beats"]}


def code_usage(counts: np.ndarray) -> pd.DataFrame:
    """Share of all tokens by rank of the code: a flat curve is a codebook in full use."""
    share = np.sort(counts)[::-1] / max(1, counts.sum())
    return pd.DataFrame({"rank": np.arange(1, len(share) + 1), "share": share})


def curves(groups: pd.DataFrame, by_frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A column a method, as `dvc plots` wants its curves: by frame, and by third of motion.

    Always the same files and columns, as dvc.yaml names them; empty where a metric is off.
    """
    number = {group: number for number, group in enumerate(GROUPS, 1)}
    thirds = groups[groups.group != "all"].assign(third=groups.group.map(number))
    tables = {}
    for name, table, x in (("frame", by_frame, "frame"), ("motion", thirds, "third")):
        for metric in PLOTTED:
            full = table if metric in table else table.assign(**{metric: np.nan})
            wide = full.pivot(index=x, columns="method", values=metric)
            tables[f"by_{name}_{metric}"] = wide.reindex(columns=list(CURVES)).reset_index()
    return tables
