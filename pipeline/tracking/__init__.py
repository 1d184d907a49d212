"""Experiment tracking, as the stages see it: `with tracking.stage("ingest", settings) as run:`.

A pipeline run is one run in MLflow (mlflow_row.py). The trainings log their curves into it while
they run; `report` fills in the rest from files: final metrics, pages, pictures, and points of the
curves that are missing. A thread writes, and no training waits for it but at its end, WAIT_SECONDS
at most: a store that is dead, slow or absent costs one line on stderr.

Where `report` could not fill the row, a note in `.store/not_in_mlflow` says by which command that
is done later, and `python -m pipeline check` reads it out.
"""

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from pipeline import io
from pipeline.config import Params
from pipeline.tracking import mlflow_row
from pipeline.tracking.mlflow_row import WAIT_SECONDS, MlflowRow

FLUSH_SECONDS = 15.0  # metrics are handed to the thread that writes after this time
REPORT_SECONDS = 600  # that `report` waits for the thread; trainings wait WAIT_SECONDS,
STOPPED_SECONDS = 10  # ... and stages that failed or were stopped so long
NOTES = Path(".store/not_in_mlflow")
WEIGHTS = {  # of the trainings
    "vqgan_train": Path("models/vqgan/model.safetensors"),
    "gpt2_train": Path("models/gpt2/model.safetensors"),
}


@contextmanager
def stage(name: str, settings: Params, is_main: bool = True) -> Iterator["Run"]:
    """One stage: its line on stderr at start and end, its seconds and memory, its curves.

    Of a stage in several processes only the main one leaves traces.
    """
    run = Run(name, settings, is_main)
    if not is_main:
        yield run
        return
    started, resumed = time.monotonic(), (io.project_root() / ".resume" / name).exists()
    print(f"{name}: starts", file=sys.stderr, flush=True)
    try:
        yield run
    except BaseException as error:
        run.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", error)
        raise
    seconds = time.monotonic() - started
    run.close("FINISHED")
    parts = [run.headline, f"{time.monotonic() - started:.1f} s", f"{_peak_mb():,.0f} MB"]
    print(f"{name}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)
    if name in WEIGHTS and not resumed:  # of a resumed one only a part is known
        with suppress(OSError):
            _write_cost(WEIGHTS[name], seconds, settings)


def _write_cost(weights: Path, seconds: float, settings: Params) -> None:
    """Beside the run and not in models/, whose bytes do not depend on the machine."""
    device = settings.base.device
    if device.startswith("cuda"):
        import torch

        name, number = torch.cuda.get_device_name(device), int(os.environ.get("WORLD_SIZE", 1))
        hardware = f"{number} x {name}"
    else:
        cpuinfo = Path("/proc/cpuinfo")
        model = re.search("model name.*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
        hardware = f"{settings.base.threads} threads, {model[1] if model else platform.machine()}"
    io.write_json(_cost_of(weights), {"seconds": seconds, "hardware": hardware})


def read_cost(weights: Path) -> dict | None:
    """`seconds` and `hardware` of the training of these weights, where it ran here as a whole."""
    path = _cost_of(weights)
    return io.read_json(path) if path.is_file() else None


def _cost_of(weights: Path) -> Path:
    return io.project_root() / ".store/trainings" / f"{io.sha256(weights)}.json"


class Run:
    """What a stage may do with its run. Whatever fails in MLflow, the stage's work goes on."""

    def __init__(self, stage: str, settings: Params, is_main: bool = True) -> None:
        self.stage, self.settings, self.headline = stage, settings, ""
        self.enabled = is_main and settings.tracking.enabled
        self.points: list[tuple] = []  # key, value, time in ms, step
        self.next_flush = 0.0
        self.writes: SimpleQueue[Callable[[MlflowRow], None] | None] = SimpleQueue()
        self.thread: Thread | None = None  # started when something is to be written
        self.patience = WAIT_SECONDS
        self.note: Path | None = None  # left where `report` could not fill the row

    def log(self, values: dict[str, float], step: int) -> None:
        """Points of curves; collected, and written in batches."""
        if not self.enabled:
            return
        now = int(time.time() * 1000)
        self.points += [(f"{self.stage}/{k}", float(v), now, step) for k, v in values.items()]
        if time.monotonic() >= self.next_flush:
            self._flush()

    def finish(self, summary: dict) -> None:
        """The first three counts of the stage's summary end its line on stderr."""
        counts = {key: value for key, value in summary.items() if type(value) is int}
        self.headline = ", ".join(f"{counts[k]:,} {k.replace('_', ' ')}" for k in list(counts)[:3])

    def publish(self, metrics: dict, files: list[Path], trainings: dict[str, Path]) -> None:
        """For `report`: fills the row. trainings: stage to the folder with its model and curves."""
        if not self.enabled:
            return
        name = os.environ.get("DVC_EXP_NAME", "workspace").replace("/", "_")
        self.note = io.project_root() / NOTES / f"{name}.json"
        with suppress(OSError):
            io.write_json(self.note, {"command": _command()})
        self.patience = REPORT_SECONDS
        self._write(lambda row: row.fill(metrics, files, trainings))
        if trainings:
            self._write(lambda row: row.log_model(metrics, trainings))

    def close(self, status: str, error: BaseException | None = None) -> None:
        """Waits for the thread. A signal ends no more than that: the stage's work is done."""
        if self.points:
            self._flush()
        if self.thread is None:
            return
        self._write(lambda row: row.close(status, error))
        self.writes.put(None)
        patience = self.patience if self.enabled and error is None else STOPPED_SECONDS
        with suppress(KeyboardInterrupt):
            self.thread.join(patience)
        if self.thread.is_alive() and self.enabled:
            self._give_up(TimeoutError(f"not all was written within {patience} s"))
        if self.enabled and self.note:
            self.note.unlink(missing_ok=True)

    def _flush(self) -> None:
        points, self.points = self.points, []
        self._write(lambda row: row.log_curve(points))
        self.next_flush = time.monotonic() + FLUSH_SECONDS

    def _write(self, write: Callable[[MlflowRow], None]) -> None:
        if self.thread is None:
            mlflow_row.set_environment()  # before there are two threads
            self.thread = Thread(target=self._write_all, daemon=True)
            self.thread.start()
        self.writes.put(write)

    def _write_all(self) -> None:
        """Nothing is tried twice: `report` fills in what is missing."""
        row = None
        try:
            for write in iter(self.writes.get, None):
                row = row or MlflowRow(self.settings)
                write(row)
        except Exception as error:  # of many kinds: mlflow's, its database's, its network's
            if self.enabled:
                self._give_up(error)
            if row is not None:
                with suppress(Exception):  # what failed may have been an upload alone
                    row.close("FAILED", error)

    def _give_up(self, error: Exception) -> None:
        self.enabled, reason = False, None
        with suppress(Exception):  # the work of the stage is done, whatever MLflow's files say
            reason = mlflow_row.fault()
        reason = reason or mlflow_row.sentence(error)
        remedy = f"mend that, and `{_command()}` fills it in" if self.note else "`report` fills it"
        print(f"warning: {self.stage} is not in MLflow ({reason}); {remedy}", file=sys.stderr)


def _command() -> str:
    """What fills in the row of this pipeline run later."""
    name, revision = os.environ.get("DVC_EXP_NAME"), os.environ.get("DVC_EXP_BASELINE_REV")
    if name is None:
        return "dvc repro -f -s report"
    variables = f"DVC_EXP_NAME={name}"
    if revision:
        variables += f" DVC_EXP_BASELINE_REV={revision}"
    return f"dvc exp apply {name} && {variables} python -m stages.report"


def unfilled() -> list[tuple[str, str]]:
    """Pipeline runs whose row `report` could not fill: name, and the command that does it."""
    notes = sorted((io.project_root() / NOTES).glob("*.json"))
    return [(note.stem, io.read_json(note)["command"]) for note in notes]


def _peak_mb() -> float:
    """Peak resident memory, MB: of this process and of its largest ended child, added."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0.0
    scopes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    kilobytes = sum(resource.getrusage(scope).ru_maxrss for scope in scopes)
    return kilobytes / 1024 / (1024 if sys.platform == "darwin" else 1)
