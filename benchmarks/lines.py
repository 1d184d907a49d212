"""How a benchmark says what it found: a table for people, then a line of JSON a row."""

import json

from rich.console import Console
from rich.table import Table


def line(name: str, value: float, unit: str, ratio: float = 0.0, against: str = "") -> dict:
    """`ratio` is the time of `against` over ours: above 1 we are faster. Four digits, three."""
    told = {"name": name, "value": float(f"{value:.4g}"), "unit": unit}
    return told | ({"ratio": float(f"{ratio:.3g}"), "against": against} if against else {})


def show(lines: list[dict], title: str) -> None:
    """Prints both; the table leaves out the benchmark's name, which all lines begin with."""
    table = Table(title=title)
    for column in ("what", "value", "unit", "times as fast", "as"):
        table.add_column(column)
    for told in lines:
        ratio = f"{told['ratio']:.3g}" if "ratio" in told else ""
        name = told["name"].partition("/")[2]
        table.add_row(name, f"{told['value']:.4g}", told["unit"], ratio, told.get("against", ""))
    Console(width=100).print(table)
    for told in lines:
        print(json.dumps(told))
