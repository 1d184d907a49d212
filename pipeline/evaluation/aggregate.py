"""From what was measured to the numbers of metrics.json and the tables beside it."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pipeline.evaluation.distribution import RANKS_FROM
from pipeline.evaluation.per_clip import Scores
from pipeline.evaluation.statistics.paired_tests import PARTS, RIVALS, beaten
from pipeline.evaluation.statistics.summary import GROUPS, MODEL

PLOTTED = ("psnr", "lpips")  # measures of which `dvc plots` shows curves
CURVES = (
    "model",
    "without_codes",
    "untrained",
    "cross_fade",
    "optical_flow",
    "rife",
    "round_trip",
)
BESIDE = ("half", "half_deviation", "floor", "floor_deviation", "n")  # of a distance of sets


@dataclass
class FrameMeans:
    """Means by frame index, over the clips that are long enough to have that frame."""

    sums: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)

    def add(self, scores: dict[str, Scores]) -> None:
        for candidate, measures in scores.items():
            for measure, values in measures.items():
                for frame, value in enumerate(values, 1):
                    entry = self.sums.setdefault((candidate, measure, frame), [0.0, 0])
                    entry[0] += float(value)
                    entry[1] += 1

    def table(self) -> pd.DataFrame:
        """candidate, frame, n, and a column a measure."""
        rows: dict[tuple[str, int], dict] = {}
        for (candidate, measure, frame), (total, n) in self.sums.items():
            row = rows.setdefault((candidate, frame), {"candidate": candidate, "frame": frame})
            row |= {"n": n, measure: total / n}
        return pd.DataFrame(rows.values())


def rivals(pairs: pd.DataFrame) -> dict:
    """What the verdict is made of: mean and interval of the differences, and 1 where beaten."""
    rows = pairs[(pairs.group == "high") & pairs.baseline.isin((*RIVALS, *PARTS))]
    differences: dict[str, dict] = {}
    for row in rows.itertuples():
        numbers = {"mean": row.mean, "low": row.low, "high": row.high}
        numbers = {key: float(value) for key, value in numbers.items() if pd.notna(value)}
        differences.setdefault(row.baseline, {})[row.measure] = numbers
    beats = {name: int(not lacks) for name, lacks in beaten(pairs).items()}
    found = {"paired_high_motion": differences, "beats": beats}
    return {name: part for name, part in found.items() if part}


def with_video_numbers(found: dict, numbers: dict[str, dict]) -> dict:
    """FVD and KVD beside the other numbers of their candidate (all clips only)."""
    for name, values in numbers.items():
        (found["inbetween"] if name == MODEL else found["baselines"][name]).update(values)
    return found


def without_rank(found: dict) -> dict:
    """Moves distances of too few samples under `unranked`, each at its own place there."""
    unranked: dict = {}
    places = {("tokenizer",): found["tokenizer"], ("inbetween",): found["inbetween"]}
    places |= {("baselines", name): row for name, row in found["baselines"].items()}
    for path, numbers in places.items():
        for key in [k for k in numbers if f"{k}_floor" in numbers]:
            if numbers[f"{key}_n"] >= RANKS_FROM[key.split("_")[0]]:
                continue
            place = unranked
            for part in path:
                place = place.setdefault(part, {})
            names = [key, *(f"{key}_{x}" for x in (*BESIDE, "deviation"))]
            place |= {name: numbers.pop(name) for name in names if name in numbers}
    return found | ({"unranked": unranked} if unranked else {})


def ranked_codes(uses: np.ndarray) -> pd.DataFrame:
    """Share of all tokens by rank of the code: a flat curve is a codebook in full use."""
    share = np.sort(uses)[::-1] / max(1, uses.sum())
    return pd.DataFrame({"rank": np.arange(1, len(share) + 1), "share": share})


def curves(groups: pd.DataFrame, by_frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A column a candidate, as `dvc plots` wants its curves: by frame, and by third of motion.

    Always the same files and columns, as dvc.yaml names them; empty where a measure is off.
    """
    number = {group: number for number, group in enumerate(GROUPS, 1)}
    thirds = groups[groups.group != "all"].assign(third=groups.group.map(number))
    found = {}
    for name, table, x in (("frame", by_frame, "frame"), ("motion", thirds, "third")):
        for measure in PLOTTED:
            full = table if measure in table else table.assign(**{measure: np.nan})
            wide = full.pivot(index=x, columns="candidate", values=measure)
            found[f"by_{name}_{measure}"] = wide.reindex(columns=list(CURVES)).reset_index()
    return found
