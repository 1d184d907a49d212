"""Tables of the report page: pandas frames, and pandas' HTML of them."""

from collections.abc import Iterable

import pandas as pd

from pipeline.evaluation.significance import display_name
from pipeline.evaluation.summary import HIGHER_IS_BETTER, MODEL, ROUND_TRIP

DIGITS = {"psnr": 2, "ssim": 3, "lpips": 4, "line_chamfer": 3, "motion_ratio": 2}
DIGITS |= {"motion_error": 2, "control_point_ratio": 2, "flicker": 2, "flicker_still": 2}
DIGITS |= {"repeated": 2, "diversity": 1, "n": 0, "images": 0, "samples": 0}
TITLES = {
    "psnr": "PSNR dB",
    "line_chamfer": "line distance %",
    "motion_ratio": "motion",
    "control_point_ratio": "last step",
    "flicker_still": "flicker, still",
    "n": "clips",
}
METHODS = {  # of the first table, in its order
    MODEL: "Nakawari",
    "rife": "RIFE 4.0",
    "optical_flow": "optical flow (DIS)",
    "cross_fade": "cross-fade",
    "without_codes": "Nakawari's decoder alone, without codes",
    "untrained": "Nakawari before training (eased warp)",
    ROUND_TRIP: "decoded from the true frames' codes",
}
GROUPS = {"high": "Third with most motion", "all": "All test clips"}
GROUPS |= {"middle": "Middle third by motion", "low": "Third with least motion"}


def results(details: dict) -> pd.DataFrame:
    """The main table: a row a method, columns (clips, metric)."""
    columns = {}
    for suffix, clips, metrics in (
        ("_high_motion", "clips with most motion", ("psnr", "ssim", "lpips", "motion_ratio")),
        ("", "test clips", ("psnr", "ssim", "lpips")),
    ):
        of_model = details[f"inbetween{suffix}"]
        methods = {MODEL: of_model} | details[f"baselines{suffix}"]
        head = f"{of_model['n']} {clips}" if suffix else f"all {of_model['n']} {clips}"
        for metric in metrics:
            values = {name: row.get(metric) for name, row in methods.items() if name in METHODS}
            if metric in of_model:
                columns[head, metric] = values
    table = pd.DataFrame(columns)
    return table.reindex([name for name in METHODS if name in table.index])


def results_text(details: dict) -> str:
    """The main table as plain text."""
    table = results(details).rename(index=METHODS)
    formats = {c: f"{{:.{DIGITS[c[1]]}f}}".format for c in table.columns}
    table.columns = pd.MultiIndex.from_tuples([(head, title(name)) for head, name in table.columns])
    formats = dict(zip(table.columns, formats.values(), strict=True))
    return table.to_string(formatters=formats, na_rep="-", justify="right")


def results_html(details: dict) -> str:
    return _html(results(details), METHODS)


def group(table: pd.DataFrame, truth: dict) -> str:
    """All metrics of the methods on one group of clips; rows of groups.csv."""
    frame = table.set_index("method").drop(columns="group")
    if truth:
        frame = pd.concat([frame, pd.DataFrame([truth], index=["true frames"])])
    metrics = [name for name in DIGITS if name in frame and frame[name].notna().any()]
    return _html(frame[metrics])


def differences(pairs: pd.DataFrame) -> str:
    """Model minus baseline with its interval, a column a metric; rows of paired.csv."""
    cells: dict[str, dict[str, str]] = {}
    for row in pairs.itertuples():
        digits = DIGITS[row.metric]
        text = f"{row.mean:+.{digits}f}"
        if pd.notna(row.low):
            text += f" [{row.low:+.{digits}f}, {row.high:+.{digits}f}]"
        cells.setdefault(row.metric, {})[row.baseline] = text.replace("-", "\N{MINUS SIGN}")
    return _html(pd.DataFrame(cells))


def tokenizer(numbers: dict) -> str:
    names = ("psnr", "ssim", "lpips", "codebook_usage", "perplexity")
    row = {name: numbers[name] for name in names if name in numbers} | {"images": numbers["n"]}
    return _html(pd.DataFrame([row], ["reconstruction"]))


def set_distances(details: dict) -> str:
    """FID, FVD and KVD with what is to be read beside them; "" where there are none."""
    rows = []
    for rank, place in (("yes", details), ("no, too few samples", details.get("unranked", {}))):
        methods = {MODEL: place.get("inbetween", {})} | place.get("baselines", {})
        for name, numbers in (methods | {"tokenizer": place.get("tokenizer", {})}).items():
            for key in sorted(key for key in numbers if f"{key}_floor" in numbers):
                value = numbers.get(f"{key}_half", numbers[key])
                beside = [numbers[f"{key}_{end}"] for end in ("floor", "floor_deviation", "n")]
                rows.append([display_name(name), key, value, *beside, rank])
    columns = ["", "distance", "half against half", "floor", "its deviation", "samples", "ranks"]
    return _html(pd.DataFrame(rows, columns=columns).set_index("")) if rows else ""


def thesis(numbers: dict) -> str:
    """split -> method -> metric -> mean, deviation, n."""
    rows = {
        f"{split}, {display_name(name)}, {metric}": values
        for split, methods in numbers.items()
        for name, metrics in methods.items()
        for metric, values in sorted(metrics.items())
    }
    columns = ["mean", "deviation", "n"]
    return _html(pd.DataFrame.from_dict(rows, "index")[columns], index=str) if rows else ""


def title(name: str) -> str:
    """Of a column, with the direction in which it is better."""
    arrow = {True: " ↑", False: " ↓"}.get(HIGHER_IS_BETTER.get(name), "")
    return TITLES.get(name, display_name(name)) + arrow


def _html(table: pd.DataFrame, labels: dict | None = None, index=display_name) -> str:
    """Numbers by their metric's digits, the best of a column bold, what does not compete grey."""
    table = table.rename_axis(index=None)
    classes = pd.DataFrame("", table.index, table.columns)
    competing = [name for name in table.index if name not in (ROUND_TRIP, "true frames")]
    formats = {}
    for column in table.columns:
        metric = column[-1] if isinstance(column, tuple) else column
        values = table[column]
        if not pd.api.types.is_numeric_dtype(values):
            continue
        formats[column] = f"{{:,.{DIGITS.get(metric, 3)}f}}"
        best = _best(values[competing].round(DIGITS.get(metric, 3)).dropna(), metric)
        classes.loc[best, column] = "best"
    classes.loc[~classes.index.isin(competing)] = "aside"
    style = table.style.format(formats, na_rep="\N{EN DASH}", escape="html")
    style.set_td_classes(classes).set_uuid("").set_table_attributes('class="numbers"')
    style.cell_ids = False
    style.format_index(labels.get if labels else index, escape="html")
    style.format_index(title, axis=1, level=table.columns.nlevels - 1)
    return style.to_html(sparse_columns=True)


def _best(values: pd.Series, metric: str) -> Iterable:
    if len(values) < 2:
        return []
    if metric in ("motion_ratio", "control_point_ratio"):
        values = -(values - 1).abs()
    elif metric not in HIGHER_IS_BETTER:
        return []
    elif not HIGHER_IS_BETTER[metric]:
        values = -values
    return values.index[values == values.max()]
