"""Experiment tracking, as the stages see it: `with tracking.stage("ingest", settings) as run:`.

One parent run a pipeline run, one child a stage. The work on the store is done by a process of its
own (`pipeline.tracking_store`, the only module that imports mlflow): importing MLflow and opening
its store take two seconds and 200 MB, which so pass beside the stage's work, and no thread lives
in a stage that forks workers. Events travel to it as JSON lines through a pipe.

What happens when tracking fails: mlflow not installed or a server that does not answer when a
stage starts is a UserError before any work. A failure later costs one warning line; the work goes
on, events are kept and sent again every 15 s and once more at the end. A stage killed outright
leaves its child RUNNING, and the next start of the stage continues that child.
"""

import hashlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline import io
from pipeline.config import Params
from pipeline.errors import UserError

FLUSH_SECONDS = 15.0  # metrics reach the store at the latest after this time
CLOSE_SECONDS = 300.0  # patience with a slow server or machine at the end of a stage
PROBE_SECONDS = 10.0  # patience with a server at the start
UNTRACKED = ("tracking", "engine")  # sections that change no result


def seconds_file(name: str) -> Path:
    """Where the wall-clock of a stage is kept: never in an output of DVC."""
    return io.project_root() / ".store" / "seconds" / f"{name}.json"


@contextmanager
def stage(name: str, settings: Params, first: bool = True) -> Iterator["Run"]:
    """One stage: its line on stderr at start and end, its seconds and memory, its child run.

    An exception marks the child FAILED (KILLED for Ctrl-C) with its sentence, and goes on. Of a
    stage in several processes only the `first` leaves traces.
    """
    if not first:
        yield Run(name, settings, None)
        return
    writer = _Writer(_session(name, settings)) if settings.tracking.enabled else None
    run = Run(name, settings, writer)
    _say(f"{name}: starts")
    try:
        yield run
    except BaseException as error:
        run._fail(error)
        raise
    run._succeed()


class Run:
    """What a stage may do with its run. Without tracking only files and lines are written."""

    def __init__(self, name: str, settings: Params, writer: "_Writer | None"):
        self._name, self._settings, self._writer = name, settings, writer
        self._started = time.monotonic()
        self._headline = ""

    def log(self, values: dict[str, float], step: int = 0) -> None:
        """Points of curves on the child run; collected, and written in batches."""
        now = int(time.time() * 1000)
        points = [(key, float(value), now, int(step)) for key, value in values.items()]
        self._send("metrics", points=points)

    def artifact(self, path: Path) -> None:
        """A file, kept with the child run."""
        self._send("artifact", path=_existing(path))

    def finish(self, summary: dict, out: Path) -> None:
        """Writes `out/summary.json`, and its numbers as metrics, its other values as tags."""
        io.write_json(out / "summary.json", summary)
        flat = io.flatten(summary)
        self._headline = _headline(summary)
        self.log({key: value for key, value in flat.items() if _is_number(value)})
        others = {key: value for key, value in flat.items() if not _is_number(value)}
        self._send("tags", tags=_texts(others))

    def publish(
        self, metrics: dict, artifacts: list[Path], pictures: dict[str, Path] | None = None
    ) -> None:
        """For `report`: parameters, final metrics and files onto the parent, which then ends.

        `pictures`, by the name under which MLflow sets those of several runs side by side.
        """
        now = int(time.time() * 1000)
        flat = io.flatten(metrics)
        points = [(key, float(flat[key]), now, 0) for key in flat if _is_number(flat[key])]
        files = [_existing(path) for path in artifacts]
        shown = [[key, _existing(path)] for key, path in (pictures or {}).items()]
        self._send("publish", points=points, artifacts=files, pictures=shown)

    def _succeed(self) -> None:
        seconds, peak = round(time.monotonic() - self._started, 2), round(_peak_mb())
        io.write_json(seconds_file(self._name), {"seconds": seconds, "peak_mb": peak})
        self.log({"seconds": seconds, "peak_mb": peak})
        self._close("FINISHED")
        parts = [self._headline, f"{seconds:.1f} s", f"{peak:,} MB"]
        _say(f"{self._name}: {', '.join(part for part in parts if part)}")

    def _fail(self, error: BaseException) -> None:
        killed = isinstance(error, KeyboardInterrupt)
        sentence = str(error) or type(error).__name__
        self._send("tags", tags=_texts({"error": sentence}))
        self._close("KILLED" if killed else "FAILED")

    def _send(self, do: str, **content) -> None:
        if self._writer:
            self._writer.send({"do": do, **content})

    def _close(self, status: str) -> None:
        self._send("end", status=status)
        if self._writer:
            self._writer.close()


class _Writer:
    """The process that writes to the store, seen from the stage. Its loss never stops a stage."""

    def __init__(self, session: dict):
        source = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.tracking_store"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            encoding="utf-8",
        )
        self._lost = False
        self.send(session)

    def send(self, message: dict) -> None:
        if self._lost:
            return
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            self._lost = True
            _say("warning: tracking ended early; the work goes on without it")

    def close(self) -> None:
        """Waits until everything is stored, at most CLOSE_SECONDS."""
        with suppress(OSError):  # it ended early, which was said by `send`
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            _say(f"warning: tracking was not done after {CLOSE_SECONDS:.0f} s and was stopped")


def _session(name: str, settings: Params) -> dict:
    """All that the writer must know, found out here, where the stage's environment is."""
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(
            "tracking.enabled = True and mlflow is not installed; "
            "`pip install -r requirements.txt`, or set tracking.enabled to false"
        )
    store = io.project_root() / "mlflow.db"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store}"
    served = uri.startswith(("http://", "https://"))
    if served:
        _probe(uri)
    revision = os.environ.get("DVC_EXP_BASELINE_REV") or _git_head() or "none"
    title = os.environ.get("DVC_EXP_NAME") or "workspace"
    experiment = settings.tracking.experiment
    return {
        "stage": name,
        "uri": uri,
        "artifacts": None if served else (io.project_root() / "mlartifacts").as_uri(),
        "lock": str(io.project_root() / ".store" / "mlflow.lock"),
        "experiment": experiment,
        "key": f"{experiment}/{title}/{revision}/{params_hash(settings)}",
        "name": title if title != "workspace" else f"workspace {revision[:7]}",
        "revision": revision,
        "params": _texts(io.flatten(settings.model_dump())),
        "flush_seconds": FLUSH_SECONDS,
    }


def params_hash(settings: Params) -> str:
    """Twelve hex digits over the parameters that change results: not tracking, not engine."""
    content = settings.model_dump(exclude=set(UNTRACKED))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _probe(uri: str) -> None:
    """Says before hours of work, not after, that a tracking server is not there."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # it answers; /health may be hidden behind a login
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"MLFLOW_TRACKING_URI = {uri}: no answer from the server ({reason}); start it, unset "
            "the variable to use mlflow.db in the project, or set tracking.enabled to false"
        ) from None


def _git_head() -> str:
    try:
        command = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return ""


def _peak_mb() -> float:
    """Peak resident memory, MB: of this process and of its largest ended child, added."""
    scopes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    kilobytes = sum(resource.getrusage(scope).ru_maxrss for scope in scopes)
    return kilobytes / 1024 / (1024 if sys.platform == "darwin" else 1)


def _headline(summary: dict) -> str:
    """The first three counts of a summary: "4,992 frames, 6 videos"."""
    counts = {key: value for key, value in summary.items() if type(value) is int}
    return ", ".join(f"{counts[key]:,} {key.replace('_', ' ')}" for key in list(counts)[:3])


def _existing(path: Path) -> str:
    assert Path(path).is_file(), f"{path} is to be kept with the run and does not exist"
    return str(Path(path).resolve())


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _texts(values: dict) -> dict[str, str]:
    """Values as text; lists, numbers, true, false and null as JSON writes them."""
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
