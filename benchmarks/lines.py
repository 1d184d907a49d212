"""What benchmarks share: options, and results as a table for people and a line of JSON a row."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table


def options(**defaults: object) -> argparse.ArgumentParser:
    """`clips=8` is an option with this default, `videos=Path` one that must be given."""
    main = sys.modules["__main__"]
    name, form = f"python -m {main.__spec__.name}", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(name, description=main.__doc__, formatter_class=form)
    for name, value in defaults.items():
        kind = {"type": type(value), "default": value}
        if isinstance(value, type):
            kind = {"type": value, "required": True}
        elif isinstance(value, Path):
            kind["type"] = Path
        parser.add_argument(f"--{name.replace('_', '-')}", **kind)
    return parser


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
