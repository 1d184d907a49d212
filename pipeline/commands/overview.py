"""The end of `make repro`: what the stages cost, how good the result is, where to look at it.

    python -m pipeline.commands.overview

Reads `.store/seconds/*.json` (pipeline.tracking), `metrics/evaluate.json`, and names the strip
and a clip. What is not there yet is shown as "-".
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import config, io, tracking
from pipeline.errors import run_main

DVC_FILE = Path("dvc.yaml")
METRICS = Path("metrics/evaluate.json")
PAGE = Path("evaluation/report.html")
NOTES = Path("evaluation/notes.json")
STRIP = Path("plots/inbetween_strip.png")
VIDEOS = Path("evaluation/videos")
MIN_WIDTH = 100  # columns where the output is no terminal, or a narrow one

# Rows of the table of metrics: label, and the keys of all clips and of the third that moves most.
MODEL = ("Nakawari", "inbetween", "inbetween_high_motion")
BASELINES = ("seed", "hold_first", "hold_nearest", "cross_fade", "optical_flow", "rife")
BASELINES += ("black", "round_trip")
MEASURES = {"psnr": ("PSNR dB", 2), "ssim": ("SSIM", 3), "lpips": ("LPIPS", 3)}  # title, digits


def stage_table() -> Table:
    """Seconds and memory of each stage, of the last time that it really ran."""
    table = Table(title="Stages (each as of its last run)", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("peak MB", justify="right")
    total = 0.0
    for name in stage_names():
        cost = _optional_json(tracking.seconds_file(name))
        total += cost.get("seconds", 0.0)
        table.add_row(name, _number(cost.get("seconds"), 1), _number(cost.get("peak_mb"), 0))
    table.add_section()
    table.add_row("sum", _number(total, 1), "")
    return table


def stage_names() -> list[str]:
    """In the order of dvc.yaml."""
    return list(config.read_yaml(DVC_FILE).get("stages") or {})


def metrics_table(metrics: dict) -> Table:
    """The in-betweens' scores, the baselines' below; all clips, then those that move most."""
    flat = io.flatten(metrics)
    table = Table(title="In-betweens (test clips, inner frames)", title_justify="left")
    table.add_column("method")
    for clips in (_clips(flat, MODEL[1], "all"), _clips(flat, MODEL[2], "most motion")):
        for title, _ in MEASURES.values():
            table.add_column(f"{title}\n{clips}", justify="right")
    _add_row(table, flat, *MODEL, style="bold")
    table.add_section()
    for name in BASELINES:
        keys = (f"baselines.{name}", f"baselines_high_motion.{name}")
        _add_row(table, flat, name.replace("_", "-"), *keys)
    return table


def tokenizer_line(metrics: dict) -> str:
    """The tokenizer's reconstruction in a sentence."""
    get = io.flatten(metrics).get
    psnr, ssim = _number(get("tokenizer.psnr"), 2), _number(get("tokenizer.ssim"), 3)
    lpips, usage = (_number(get(f"tokenizer.{key}"), 3) for key in ("lpips", "codebook_usage"))
    return f"Tokenizer: PSNR {psnr} dB, SSIM {ssim}, LPIPS {lpips}, codebook usage {usage}"


def result_paths() -> list[str]:
    """The page of the run, the strip and one generated clip, as far as they exist."""
    found = [PAGE, STRIP, *sorted(VIDEOS.glob("*_generated.mp4"))[:1]]
    return [path.as_posix() for path in found if path.is_file()]


def show(console: Console) -> None:
    """Prints the whole overview."""
    metrics = _optional_json(METRICS)
    console.print(stage_table())
    verdict = _optional_json(NOTES).get("verdict")
    if verdict:
        console.print(verdict)
    console.print(metrics_table(metrics))
    console.print(tokenizer_line(metrics))
    for path in result_paths():
        console.print(f"See {path}")


def _add_row(table: Table, flat: dict, label: str, *keys: str, style: str | None = None) -> None:
    cells = []
    for key in keys:
        cells += [_number(flat.get(f"{key}.{m}"), digits) for m, (_, digits) in MEASURES.items()]
    table.add_row(label, *cells, style=style)


def _clips(flat: dict, key: str, label: str) -> str:
    count = flat.get(f"{key}.n")
    return label if count is None else f"{label}, n={count:.0f}"


def _optional_json(path: Path) -> dict:
    return io.read_json(path) if path.is_file() else {}


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def main() -> None:
    console = Console(highlight=False)
    if console.width < MIN_WIDTH:
        console = Console(highlight=False, width=MIN_WIDTH)
    show(console)


if __name__ == "__main__":
    run_main(main)
