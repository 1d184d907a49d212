"""The page of a run: clips, results and details in one HTML file.

A browser opens it from disk, from a mail or from MLflow. Images and videos travel inside it as
data: URIs, a Content-Security-Policy forbids every request, names from file names are escaped, and
the same data gives the same bytes.
"""

import base64
import json
from pathlib import Path

import pandas as pd

from pipeline.evaluation.report import tables
from pipeline.evaluation.report.figures import ERROR_WHITE, line_chart
from pipeline.evaluation.summary import CURVES, SCORES
from pipeline.io import atomic

TEMPLATE = "page.html.j2"  # beside this file, with page.css
KINDS = {".png": "image/png", ".mp4": "video/mp4"}


def write_page(
    folder: Path, details: dict, frames: dict[str, pd.DataFrame], parameters: dict, histories: dict
) -> None:
    """Writes `folder/report.html` atomically.

    folder: holds videos/ and reconstruction.png; details: the content of details.json; frames:
    the tables written beside it; parameters: flat; histories: title to the table of a training.
    """
    text = render(folder, details, frames, parameters, histories)
    with atomic(folder / "report.html") as partial:
        partial.write_text(text, "utf-8", newline="\n")


def render(
    folder: Path, details: dict, frames: dict[str, pd.DataFrame], parameters: dict, histories: dict
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups, pairs = frames["groups"], frames["paired"]
    codebook = frames["codebook"].set_index("rank")[["share"]]
    truths = {"high": details["truth_high_motion"], "all": details["truth"]}
    return environment.get_template(TEMPLATE).render(
        details=details,
        clips=[
            (data_uri(video), data_uri(video.with_name(video.name[:2] + "_strip.png")))
            for video in sorted(folder.glob("videos/*_compare.mp4"))
        ],
        results=tables.results_html(details),
        differences=[
            (tables.GROUPS[group], tables.differences(pairs[pairs.group == group]))
            for group in ("high", "all")
            if (pairs.group == group).any()
        ],
        groups=[
            (name, tables.group(groups[groups.group == group], truths.get(group, {})))
            for group, name in tables.GROUPS.items()
            if (groups.group == group).any()
        ],
        tokenizer=tables.tokenizer(details["tokenizer"]),
        reconstruction=data_uri(folder / "reconstruction.png"),
        by_frame=_by_frame(frames["by_frame"]),
        codebook=_chart(codebook, "share of all tokens", "log"),
        set_distances=tables.set_distances(details),
        thesis=tables.thesis(details.get("thesis_metrics", {})),
        trainings=[
            (name, _chart(table.set_index("step").filter(["total", "mae"]), "loss"))
            for name, table in histories.items()
        ],
        parameters=[
            f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
            for key, value in parameters.items()
        ],
        error_white=ERROR_WHITE,
    )


def data_uri(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f"data:{KINDS[path.suffix]};base64,{content}"


def _chart(lines: pd.DataFrame, y_label: str, y_scale: str = "linear") -> str:
    svg = line_chart(lines, y_label, y_scale).encode()
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _by_frame(table: pd.DataFrame) -> list[tuple[str, str]]:
    charts = []
    for metric in (name for name in SCORES if name in table):
        lines = table.pivot(index="frame", columns="method", values=metric)
        lines = lines[[name for name in CURVES if name in lines]]
        charts.append((tables.title(metric), _chart(lines, tables.title(metric))))
    return charts
