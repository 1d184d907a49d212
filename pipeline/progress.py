"""One progress bar for everything that may take more than five seconds."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def bar(
    items: Iterable[Item] | None = None, *, what: str, unit: str, total: float | None = None
) -> "tqdm[Item]":
    """A bar with count, rate and remaining time; in a log file a line every five seconds."""
    interval = 0.5 if sys.stderr.isatty() else 5.0
    return tqdm(items, desc=what, unit=unit, total=total, mininterval=interval, dynamic_ncols=True)
