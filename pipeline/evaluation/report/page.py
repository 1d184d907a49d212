"""The page of a run: tables, curves, strips and playing clips in one HTML file.

In: a `Page`, all of it plain data. Out: one file that a browser opens from disk, from a mail or
from MLflow. Pictures and clips travel inside it as data: URIs, a Content-Security-Policy forbids
every request, names from file names are escaped, and the same data gives the same bytes.
"""

import base64
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.evaluation.report.charts import HEIGHT, WIDTH, Chart, Points, chart

TEMPLATE = "page.html.j2"  # beside this file, with page.css and page.js
MISSING = "\N{EN DASH}"  # a number that could not be computed
HIGH, LOW = "high", "low"  # what is best in a column; a number: what is nearest to it


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its confidence interval."""

    value: float
    low: float
    high: float


Cell = str | int | float | Interval | None


@dataclass(frozen=True)
class Table:
    """The first column names the row. `best` says which columns have a best value, and which."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[Cell]]
    best: dict[str, str | float] = field(default_factory=dict)  # column: HIGH, LOW or the ideal
    own: tuple[str, ...] = ()  # rows to be seen first: the model
    aside: tuple[str, ...] = ()  # rows that do not compete, such as a floor
    signed: tuple[str, ...] = ()  # columns of differences
    digits: dict[str, int] = field(default_factory=dict)  # decimals where the rule is not wanted


@dataclass(frozen=True)
class Curve:
    title: str
    x_label: str
    y_label: str
    lines: dict[str, Points]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    title: str
    note: str  # also what is read to those who do not see it
    png: Path | bytes


@dataclass(frozen=True)
class Clip:
    """The same clip by several hands: mp4 files of equal length, shown in step."""

    title: str
    videos: dict[str, Path | bytes]
    note: str = ""
    fps: float = 24.0


@dataclass(frozen=True)
class Page:
    title: str
    verdict: str
    parameters: dict[str, object] = field(default_factory=dict)  # flat: "train.lr_max": 0.001
    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def write_page(path: Path, page: Page) -> None:
    """Writes the page atomically; about 4/3 of the size of its pictures and clips."""
    text = render(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8", newline="\n")
    partial.replace(path)


def render(page: Page) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        page=page,
        tables=[ShownTable(table) for table in page.tables],
        charts=[(curve, chart(curve.lines)) for curve in page.curves],
        pictures=[(picture, data_uri(picture.png, "image/png")) for picture in page.pictures],
        clips=[(clip, _playable(clip)) for clip in page.clips],
        parameters=sections(page.parameters),
        anchor=Anchors(),
        summary=_summary,
        box=(WIDTH, HEIGHT),
    )


class Anchors:
    """Titles to ids that are unique on the page and stay when other titles come or go."""

    def __init__(self):
        self._used: dict[str, int] = {}

    def __call__(self, title: str) -> str:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"
        self._used[name] = count = self._used.get(name, 0) + 1
        return name if count == 1 else f"{name}-{count}"


@dataclass(frozen=True)
class ShownCell:
    text: str
    spread: str = ""  # "[21.9, 23.1]"
    best: bool = False
    is_number: bool = True


class ShownTable:
    """A table as text: decimals by column, the best values marked."""

    def __init__(self, table: Table):
        width = len(table.columns)
        assert all(len(row) == width for row in table.rows), (table.title, width)
        assert set(table.best) <= set(table.columns), (table.title, table.best)
        self.table = table
        columns = [self._column(number) for number in range(1, width)]
        self.spreads = [any(cell.spread for cell in column) for column in columns]
        arrows = [_arrow(table.best.get(name)) for name in table.columns]
        words = [any(not cell.is_number for cell in column) for column in columns]
        kinds = [False, *self.spreads], [False, *words]
        self.heads = list(zip(table.columns, arrows, *kinds, strict=True))
        self.rows = [
            (str(row[0]), self._kind(str(row[0])), [column[r] for column in columns])
            for r, row in enumerate(table.rows)
        ]

    def _kind(self, name: str) -> str:
        return "own" if name in self.table.own else "aside" if name in self.table.aside else ""

    def _column(self, number: int) -> list[ShownCell]:
        table, name = self.table, self.table.columns[number]
        cells = [row[number] for row in table.rows]
        values = {r: v for r, v in enumerate(map(number_of, cells)) if v is not None}
        digits = table.digits.get(name, decimals(list(values.values())))
        shown = [shown_cell(cell, digits, name in table.signed) for cell in cells]
        ranked = {r: v for r, v in values.items() if str(table.rows[r][0]) not in table.aside}
        if name not in table.best or len(ranked) < 2:
            return shown
        winner = shown[best_row(ranked, table.best[name])].text  # what reads alike wins alike
        return [
            replace(cell, best=r in ranked and cell.text == winner) for r, cell in enumerate(shown)
        ]


def best_row(values: dict[int, float], rule: str | float) -> int:
    """The row whose value is highest, lowest, or nearest to the number `rule`."""
    if rule == HIGH:
        return max(values, key=values.__getitem__)
    if rule == LOW:
        return min(values, key=values.__getitem__)
    return min(values, key=lambda row: abs(values[row] - float(rule)))


def number_of(cell: Cell) -> float | None:
    """The finite number in a cell, if there is one."""
    value = cell.value if isinstance(cell, Interval) else cell
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def decimals(values: list[float]) -> int:
    """The same for a whole column: none for counts, else four significant digits of its largest."""
    if all(isinstance(value, int) for value in values):
        return 0
    largest = max(abs(value) for value in values)
    return 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0


def shown_cell(cell: Cell, digits: int, signed: bool) -> ShownCell:
    if isinstance(cell, str):
        return ShownCell(cell, is_number=False)
    value = number_of(cell)
    if value is None:
        return ShownCell(MISSING)
    spread = ""
    if isinstance(cell, Interval):
        spread = f"[{_text(cell.low, digits, signed)}, {_text(cell.high, digits, signed)}]"
    return ShownCell(_text(value, digits, signed), spread)


def _text(value: float, digits: int, signed: bool) -> str:
    if not math.isfinite(value):
        return MISSING
    rounded = round(value, digits) + 0.0  # no "-0.000"
    return f"{rounded:{'+' if signed else ''},.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _arrow(rule: str | float | None) -> tuple[str, str]:
    """What stands behind a column's name, and what it says."""
    if rule is None:
        return "", ""
    if isinstance(rule, str):
        assert rule in (HIGH, LOW), rule
        return ("↑", "higher is better") if rule == HIGH else ("↓", "lower is better")
    return f"→{rule:g}", f"nearer to {rule:g} is better"


def sections(parameters: dict[str, object]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Flat parameters by the word before their first dot, in their order."""
    grouped: dict[str, list[tuple[str, str]]] = {}
    for key, value in parameters.items():
        section, dot, rest = key.partition(".")
        name, label = (section, rest) if dot else ("", key)
        grouped.setdefault(name, []).append((label, _parameter(value)))
    return list(grouped.items())


def _parameter(value: object) -> str:
    """As params.yaml writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_parameter(item) for item in value) + "]"
    return str(value)


def data_uri(content: Path | bytes, kind: str) -> str:
    content = content.read_bytes() if isinstance(content, Path) else content
    head = content[:8] == b"\x89PNG\r\n\x1a\n" if kind == "image/png" else content[4:8] == b"ftyp"
    assert head, f"{kind} expected, found {content[:12]!r}"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _playable(clip: Clip) -> list[tuple[str, str]]:
    return [(name, data_uri(video, "video/mp4")) for name, video in clip.videos.items()]


def _summary(curve: Curve, drawn: Chart) -> str:
    ends = "; ".join(line.ends for line in drawn.lines)
    return f"{curve.title}: {curve.y_label} by {curve.x_label}. {ends}."
