"""What the evaluation found, as tables and curves of its page."""

import pandas as pd

from pipeline.evaluation.aggregate import CURVES
from pipeline.evaluation.report.page import HIGH, LOW, Cell, Curve, Interval, Table
from pipeline.evaluation.statistics.summary import HIGHER_IS_BETTER, MODEL, SCORES, spoken

TITLES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "line_chamfer": "lines %",
    "motion_ratio": "motion",
    "motion_error": "motion error",
    "control_point_ratio": "last step",
    "flicker": "flicker",
    "flicker_still": "still",
    "repeated": "repeated",
    "diversity": "diversity",
    "n": "clips",
}
GROUP_TITLES = {
    "high": "In-betweens: third with most motion",
    "all": "In-betweens: all test clips",
    "middle": "In-betweens: middle third by motion",
    "low": "In-betweens: third with least motion",
}
DIGITS = {"psnr": 2, "motion_ratio": 2, "motion_error": 2, "control_point_ratio": 2}
DIGITS |= {"flicker": 2, "flicker_still": 2, "repeated": 2, "diversity": 1}
BEST = {TITLES[name]: HIGH if higher else LOW for name, higher in HIGHER_IS_BETTER.items()}
BEST |= {TITLES["motion_ratio"]: 1.0, TITLES["control_point_ratio"]: 1.0}
ABOUT = (
    "Inner frames only; mean of each clip, then over clips. PSNR in dB. Lines: chamfer distance of "
    "outlines, per cent of the diagonal. Motion and last step (into the given last frame): "
    "relative to the truth, 1 is right. Motion error: |log2| of that ratio clip by clip, 1 is half "
    "or twice as much. Flicker: grey levels that a pixel goes and comes back. Still: change where "
    "the truth stands still, grey levels. Repeated: share of steps that repeat the drawing before."
)
ABOUT_SETS = (
    "Half of the drawn samples against the other half of the true ones, mean over the halvings; "
    "floor: true against true, the same halves; n: samples in both halves. Where a distance may "
    "not rank, there are too few samples: it does not reliably order what is known to be better "
    "and worse."
)
ABOUT_PAIRS = (
    "Model minus baseline, clip by clip, with the 95 % interval of a bootstrap that resamples "
    "videos; without one where there are fewer than five videos."
)


def tables(found: dict, frames: dict[str, pd.DataFrame]) -> list[Table]:
    """`found`: the content of metrics.json; `frames`: the tables written beside it."""
    groups = frames["groups"]
    present = [group for group in GROUP_TITLES if (groups.group == group).any()]
    made = [_group(group, groups[groups.group == group], found) for group in present]
    made[2:2] = [_paired(group, frames["paired"]) for group in ("high", "all")]
    made += [_sets(found), _tokenizer(found)]
    if "seed_ruler" in found:
        made.append(_seed_ruler(found["seed_ruler"]))
    return [table for table in made if table.rows]


def _group(group: str, rows: pd.DataFrame, found: dict) -> Table:
    names = [name for name in TITLES if name in rows and rows[name].notna().any()]
    cells = [
        [spoken(row["candidate"]), *(_number(row[name]) for name in names)]
        for row in rows.to_dict("records")
    ]
    truth = found.get({"all": "truth", "high": "truth_high_motion"}.get(group), {})
    if truth:
        cells.append(["truth", *(truth.get(name) for name in names)])
    columns = ["", *(TITLES[name] for name in names)]
    best = {title: rule for title, rule in BEST.items() if title in columns}
    aside = ("truth", spoken("round_trip"))
    note = ABOUT if group == next(iter(GROUP_TITLES)) else "As above."
    digits = {TITLES[name]: places for name, places in DIGITS.items()}
    title = GROUP_TITLES[group]
    return Table(title, note, columns, cells, best, own=(MODEL,), aside=aside, digits=digits)


def _paired(group: str, pairs: pd.DataFrame) -> Table:
    """A row a baseline, a column a measure: the mean difference and its interval."""
    mine = pairs[pairs.group == group]
    measures = [name for name in HIGHER_IS_BETTER if (mine.measure == name).any()]
    rows = []
    for baseline in dict.fromkeys(mine.baseline):
        its = mine[mine.baseline == baseline].set_index("measure")
        rows.append([spoken(baseline), *(_difference(its.loc[name]) for name in measures)])
    titles = [TITLES[name] for name in measures]
    title = {"high": "third with most motion", "all": "all test clips"}[group]
    return Table(
        f"Model minus baseline: {title}", ABOUT_PAIRS, ["", *titles], rows, signed=tuple(titles)
    )


def _difference(row: pd.Series) -> Cell:
    if pd.isna(row.low):
        return float(row["mean"])
    return Interval(float(row["mean"]), float(row.low), float(row.high))


def _sets(found: dict) -> Table:
    """Distances of sets, wherever in `found` they stand."""
    rows: list[list[Cell]] = []
    for rank, place in (("yes", found), ("no", found.get("unranked", {}))):
        named = {MODEL: place.get("inbetween", {})} | place.get("baselines", {})
        for name, numbers in (named | {"tokenizer": place.get("tokenizer", {})}).items():
            for key in sorted(numbers):
                if f"{key}_floor" in numbers:
                    value = numbers.get(f"{key}_half", numbers[key])
                    beside = [numbers[f"{key}_{x}"] for x in ("floor", "floor_deviation", "n")]
                    rows.append([spoken(name), key, value, *beside, rank])
    columns = ["", "distance", "value", "floor", "deviation of the floor", "n", "may rank"]
    return Table("Distances of sets", ABOUT_SETS, columns, rows)


def _tokenizer(found: dict) -> Table:
    known = found["tokenizer"] | found.get("unranked", {}).get("tokenizer", {})
    beside = {key for key in known if key.startswith("fid") and f"{key}_n" not in known}
    numbers = {key: value for key, value in known.items() if key not in beside}
    titles = [TITLES.get(key, key.replace("_", " ")) for key in numbers if key != "n"]
    rows = [["reconstruction", *(numbers[key] for key in numbers if key != "n"), numbers["n"]]]
    note = (
        "Frames of the test clips through the tokenizer and back: as if the transformer made no "
        "error."
    )
    return Table("Tokenizer", note, ["", *titles, "pictures"], rows)


def _seed_ruler(found: dict) -> Table:
    """split -> candidate -> measure -> mean, deviation."""
    rows: list[list[Cell]] = []
    for split, candidates in found.items():
        for name, measures in candidates.items():
            for measure, numbers in sorted(measures.items()):
                cells = [numbers["mean"], numbers["deviation"], numbers["n"]]
                rows.append([f"{split}, {spoken(name)}", measure, *cells])
    note = (
        "The thesis' own arithmetic, which wraps grey levels and counts the given last frame. To "
        "be read beside its tables 7 to 10 only, never beside the numbers above."
    )
    return Table("By the thesis' ruler", note, ["", "measure", "mean", "deviation", "clips"], rows)


def curves(frames: dict[str, pd.DataFrame], trainings: list[str]) -> list[Curve]:
    """Measures by frame index, use of the codebook, losses of the trainings."""
    codes = frames["codebook"]
    points = list(zip(codes["rank"].tolist(), (codes.share * 100).tolist(), strict=True))
    note = "A flat curve is a codebook in full use."
    use = Curve(
        "Use of the codebook", "rank of the code", "% of all tokens", {"codes": points}, note
    )
    return [*_by_frame(frames["by_frame"]), use, *(_training(t, frames[t]) for t in trainings)]


def _by_frame(table: pd.DataFrame) -> list[Curve]:
    note = "Mean over the clips that have this frame: does the drawing drift from the truth?"
    shown = [name for name in CURVES if name in set(table.candidate)]
    found = []
    for measure in (name for name in SCORES if name in table):
        lines = {}
        for name in shown:
            mine = table[table.candidate == name]
            lines[spoken(name)] = list(zip(mine.frame, mine[measure], strict=True))
        title = f"{TITLES[measure]} by frame"
        found.append(Curve(title, "frame", TITLES[measure], lines, note))
    return found


def _training(title: str, history: pd.DataFrame) -> Curve:
    columns = [name for name in ("total", "mae") if name in history]
    lines = {name: list(zip(history.step, history[name], strict=True)) for name in columns}
    return Curve(title, "step", "loss", lines)


def _number(value: float) -> float | int | None:
    if pd.isna(value):
        return None
    return int(value) if float(value).is_integer() else float(value)
