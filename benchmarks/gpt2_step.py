"""A training step of the transformer: layouts, modes, ways to save memory; and what fits where.

    python -m benchmarks.gpt2_step [--quick] [--rows thesis modes] [--threads 2]
    python -m benchmarks.gpt2_step --memory

Random clips of 20 frames in the size and with the transformer of params.yaml (64x128: 128 tokens a
frame). A step is forward, backward, clipping and the optimizer's step on a batch: one pass in the
layout `clip`, one for each of the 18 target frames in the layout `windowed` (thesis), which then
step together; weights of the blocks, codes and data are alike. Every row is a process of its own,
which gives its memory (on a GPU, of its tensors); the rows of a group step in turns after a small
step that warms up, --rounds times or more, as --seconds a row allow, and the best counts. Groups:

    thesis/before=M, ours/before=M   clip against windowed, M previous frames. Thesis: a position a
                                     token, no copying; ours: merge 2, copying, moved keys
    modes                            ours, M = 2, layout clip: against `seed`. own_frames: `seed`
                                     that first draws the frames it reads (`train.
                                     stop_ground_truth_after_epoch`); their drawing is no share
    trunks                           ours, M = 2, layout clip: `plain` against `custom`
    memory                           the same with four times the batch, against bf16

Share is that of the operations which the step must do (`gpt2_counts.flops`) in what large matrix
products of the same precision reach on this machine, measured in the same run. --memory prints the
count of bytes (`gpt2_counts`), against measurements of small models, and what fits on which card.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field

from pipeline.gpt2.config import GptConfig
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import gpt2_counts, gpt2_row
from benchmarks.gpt2_counts import OURS, TARGETS, THESIS, rounded
from benchmarks.lines import line
from pipeline.errors import UserError, run_main
from pipeline.presets import merged

BEFORE = (1, 2, 8)
DEFAULT = merged(OURS, {"train": {"layout": "clip", "mode": "seed", "n_frames_before": 2}})


@dataclass
class Row:
    """What is measured, and what was found."""

    name: str
    over: dict  # of params.yaml
    times: int = 1  # the batch is so many times --batch
    accumulation: int = 1
    seconds: list[float] = field(default_factory=list)
    mb: float = 0.0
    peak: float = 0.0  # operations a second of large matrix products
    precision: str = ""  # of both

    def clips(self, batch: int) -> int:
        """In a step."""
        return batch * self.times * self.accumulation


def groups() -> dict[str, list[Row]]:
    """Rows that are compared with the first of their group."""
    found = {}
    for size, over in (("thesis", THESIS), ("ours", OURS)):
        for before in BEFORE:
            train = {"mode": "seed", "n_frames_before": before, "gradient_checkpointing": False}
            found[f"{size}/before={before}"] = [
                Row(layout, merged(over, {"train": train | {"layout": layout}}))
                for layout in ("windowed", "clip")
            ]
    found["modes"] = [
        Row(mode, merged(DEFAULT, {"train": {"mode": mode}}))
        for mode in ("seed", "maskgit", "autoregressive")
    ] + [Row("own_frames", merged(DEFAULT, {"train": {"stop_ground_truth_after_epoch": 0}}))]
    found["trunks"] = [
        Row(kind, merged(DEFAULT, {"transformer": {"transformer_type": kind}}))
        for kind in ("custom", "plain")
    ]
    bf16 = merged(DEFAULT, {"base": {"precision": "bf16"}})
    less = {"train": {"gradient_checkpointing": True}}
    found["memory"] = [
        Row("bf16", bf16, times=4),
        Row("float32", merged(DEFAULT, {"base": {"precision": "float32"}}), times=4),
        Row("checkpointing", merged(bf16, less), times=4),
        Row("accumulation", bf16, accumulation=4),
        Row("both", merged(bf16, less), accumulation=4),
    ]
    return found


class Worker:
    """The process of a row; each answer is waited for."""

    def __init__(self, row: Row, batch: int) -> None:
        command = [sys.executable, "-m", "benchmarks.gpt2_row"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.row, self.process = row, subprocess.Popen(command, text=True, **pipes)
        self.ask({"over": row.over, "batch": batch * row.times, "accumulation": row.accumulation})

    def ask(self, what: object) -> object:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise UserError(
                f"{self.row.name}: its process ended (see above); try a smaller --batch"
            )
        return json.loads(answer)

    def finish(self) -> None:
        for name, value in self.ask("end").items():
            setattr(self.row, name, value)
        self.process.communicate()  # it ends with its input


def measure(rows: list[Row], base: dict, batch: int, rounds: int = 1, seconds: float = 0.0) -> None:
    """Steps of all rows, in turns: so many rounds, and more while fewer seconds a row are spent."""
    for row in rows:
        row.over = merged(row.over, {"base": base | row.over.get("base", {})})
    workers: list[Worker] = []
    try:
        workers += (Worker(row, batch) for row in rows)
        while len(rows[0].seconds) < rounds or sum(rows[0].seconds) < seconds:
            for worker in workers:
                worker.row.seconds.append(worker.ask("step"))
        for worker in workers:
            worker.finish()
    finally:
        for worker in workers:
            worker.process.kill()


def told(group: str, row: Row, first: Row, batch: int, peak: float) -> dict:
    """A row's line: target frames a second, and more. The ratio is of the times a frame.

    peak: operations a second of large matrix products in the row's precision.
    """
    settings = gpt2_row.settings_of(row.over)
    config, clips, seconds = GptConfig.from_params(settings), row.clips(batch), min(row.seconds)
    rate = TARGETS * clips / seconds
    work = clips * gpt2_counts.flops(config, settings.train.gradient_checkpointing)
    against = (rate * min(first.seconds) / TARGETS / first.clips(batch), first.name)
    one = line(
        f"gpt2_step/{group}/{row.name}", rate, "target frames/s", *(against if row != first else ())
    )
    more = {
        "seconds": seconds,
        "tokens_per_s": rate * config.tokens_per_frame,
        "gflop": work / 1e9,
        "matmul_gflop_per_s": peak / 1e9,
        "share_of_matmul_peak": work / seconds / peak,
        "peak_mb": row.mb,
    }
    return one | {"clips": clips, "precision": row.precision} | rounded(more)


COLUMNS = {  # head -> key and form
    "clips": ("clips", "{:.0f}"),
    "s a step": ("seconds", "{:.3f}"),
    "target frames/s": ("value", "{:.1f}"),
    "tokens/s": ("tokens_per_s", "{:,.0f}"),
    "times as fast": ("ratio", "{:.2f}"),
    "as": ("against", "{}"),
    "GFLOP": ("gflop", "{:,.0f}"),
    "share of peak": ("share_of_matmul_peak", "{:.1%}"),
    "MB": ("peak_mb", "{:,.0f}"),
}
CHECKED = {
    "measured MB": ("mb", "{:,.0f}"),
    "all that is allocated": ("value", "{:.3f}"),
    "kept for the way back": ("kept", "{:.3f}"),
}
FITS = {
    "million parameters": ("millions", "{:,.1f}"),
    "GB for them": ("fixed_gb", "{:.1f}"),
    "MB a clip": ("value", "{:,.0f}"),
    "checkpointed": ("checkpointed_mb", "{:,.0f}"),
} | {f"{card} GB": (f"in_{card}_gb", "{0[0]:,} / {0[1]:,}") for card in gpt2_counts.CARDS}


def show(lines: list[dict], columns: dict[str, tuple[str, str]], title: str) -> None:
    """A table in markdown for people, then the lines. A key that a line has not is left blank."""
    table = Table(title=title, box=box.MARKDOWN, title_justify="left")
    table.add_column("what", no_wrap=True)
    for head in columns:
        table.add_column(head, justify="right")
    for one in lines:
        cells = (how.format(one[key]) if key in one else "" for key, how in columns.values())
        table.add_row(one["name"].partition("/")[2], *cells)
    Console(width=160).print(table)
    for one in lines:
        print(json.dumps(one))


def compare(given: argparse.Namespace) -> None:
    wanted = {
        name: rows
        for name, rows in groups().items()
        if not given.rows or any(name.startswith(start) for start in given.rows)
    }
    base = {"threads": given.threads, "device": given.device}
    for rows in wanted.values():
        measure(rows, base, given.batch, given.rounds, given.seconds)
    peaks: dict[str, float] = {}
    for row in (row for rows in wanted.values() for row in rows):
        peaks[row.precision] = max(peaks.get(row.precision, 0.0), row.peak)
    lines = [
        told(name, row, rows[0], given.batch, peaks[row.precision])
        for name, rows in wanted.items()
        for row in rows
    ]
    reached = ", ".join(f"{peak / 1e9:,.0f} GFLOP/s in {key}" for key, peak in peaks.items())
    show(lines, COLUMNS, f"Training step of the transformer; peak: {reached}")


def count() -> None:
    """The memory tables."""
    checked = gpt2_counts.calibrations()
    lines = [
        line(f"gpt2_step/counted/{one.pop('name')}", one.pop("peak"), "measured/counted") | one
        for one in checked
    ]
    show(lines, CHECKED, "Memory of a step on this machine, measured / counted")
    margin = max(1.0, *(one["value"] for one in lines))
    lines = [
        line(f"gpt2_step/fits/{one.pop('name')}", one.pop("mb"), "MB a clip") | one
        for one in gpt2_counts.batches(margin)
    ]
    title = "Largest batch of clips of 20 frames, without / with checkpointing, by count"
    show(lines, FITS, f"{title}" + (f" times {margin:.2f}" if margin > 1 else ""))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpt2_step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--batch", type=int, default=2, help="clips")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--quick", action="store_true", help="one clip, one round")
    parser.add_argument("--rows", nargs="+", help="only groups that begin so")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="count, do not train")
    given = parser.parse_args()
    if given.quick:
        given.batch, given.rounds, given.seconds = 1, 1, 0.0
    count() if given.memory else compare(given)


if __name__ == "__main__":
    run_main(main)
