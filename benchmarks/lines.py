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
    compared = any("ratio" in told for told in lines)
    for column in ("what", "value", "unit", *(("times as fast", "as") if compared else ())):
        table.add_column(column)
    for told in lines:
        ratio = (f"{told['ratio']:.3g}", told["against"]) if "ratio" in told else ()
        table.add_row(told["name"].partition("/")[2], f"{told['value']:.4g}", told["unit"], *ratio)
    Console(width=100).print(table)
    for told in lines:
        print(json.dumps(told))
