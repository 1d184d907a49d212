"""Experiment tracking, as the stages see it: `with tracking.stage("ingest", settings) as run:`.

A pipeline run is one run in MLflow. The trainings log their curves into it while they run; `report`
fills in the rest from files: final metrics, pages, pictures, and points of the curves that are
missing. So a store that is dead, slow or absent costs a training one warning line and no time.

Pipeline runs share a row of MLflow where name, baseline revision, parameters, code and data are the
same: a killed training continues its curve, and an edit without a commit has a row of its own.

A row is RUNNING while a training or `report` writes into it. Where such a stage is killed outright,
the next one of this machine that opens the store, or `python -m pipeline check`, marks the row
KILLED. A project may be moved or copied with its mlflow.db: the pictures of its rows are looked for
beside it.
"""

import hashlib
import json
import os
import platform
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import io
from pipeline.config import Params
from pipeline.tracking import logged_model

if TYPE_CHECKING:  # takes seconds to import, and most stages do without it
    from mlflow.tracking import MlflowClient

FLUSH_SECONDS = 15.0  # metrics reach the store at the latest after this time,
MAX_LOGGING_SHARE = 0.05  # or later, where the store is so slow that more time would go there
LOCK_SECONDS = 200  # a fresh store takes two seconds, a minute on a busy machine
MAX_TEXT = 5000  # characters of a parameter or tag (limits of MLflow: 6000 and 8000)
KEY_TAG, PROCESS_TAG, ERROR_TAG = "nakawari.key", "nakawari.process", "error"
MLFLOW_SETTINGS = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # MLflow's own seven wait for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
WEIGHTS = {  # of the trainings
    "vqgan_train": Path("models/vqgan/model.safetensors"),
    "gpt2_train": Path("models/gpt2/model.safetensors"),
}
CURVES = {"train": "history.csv", "val": "validation.csv"}  # in the output of a training
ADDRESSES = {  # columns of the store by table, beside that of the experiments
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
DATA = Path("data/shards/index.json")  # holds the hashes of all shards


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
    run.close("FINISHED")
    parts = [run.headline, f"{time.monotonic() - started:.1f} s", f"{_peak_mb():,.0f} MB"]
    print(f"{name}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)
    if name in WEIGHTS and not resumed:  # of a resumed one only a part is known
        with suppress(OSError):
            _write_cost(WEIGHTS[name], time.monotonic() - started, settings)


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
    with weights.open("rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()
    return io.project_root() / ".store/trainings" / f"{name}.json"


class Run:
    """What a stage may do with its run. Whatever fails in MLflow, the stage's work goes on."""

    def __init__(self, stage: str, settings: Params, is_main: bool = True) -> None:
        self.stage, self.settings, self.headline = stage, settings, ""
        self.enabled = is_main and settings.tracking.enabled
        self.row: MlflowRow | None = None  # opened when something is to be written
        self.points: list[tuple] = []  # key, value, time in ms, step
        self.next_flush = time.monotonic() + FLUSH_SECONDS

    def log(self, values: dict[str, float], step: int) -> None:
        """Points of curves; collected, and written in batches."""
        if self.enabled:
            now = int(time.time() * 1000)
            self.points += [(f"{self.stage}/{k}", float(v), now, step) for k, v in values.items()]
        if self.points and time.monotonic() >= self.next_flush:
            self._flush()

    def finish(self, summary: dict) -> None:
        """The first three counts of the stage's summary end its line on stderr."""
        counts = {key: value for key, value in summary.items() if type(value) is int}
        self.headline = ", ".join(f"{counts[k]:,} {k.replace('_', ' ')}" for k in list(counts)[:3])

    def publish(self, metrics: dict, files: list[Path], trainings: dict[str, Path]) -> None:
        """For `report`: fills the row. trainings: stage to the folder with its model and curves."""
        self._attempt(lambda row: row.fill(metrics, files, trainings))
        if trainings:
            self._attempt(lambda row: row.log_model(metrics, trainings))

    def close(self, status: str, error: BaseException | None = None) -> None:
        if self.points:
            self._flush()
        if self.row is not None:
            self._attempt(lambda row: row.close(status, error))

    def _flush(self) -> None:
        points, self.points = self.points, []
        started = time.monotonic()
        self._attempt(lambda row: row.log_curve(points))
        now = time.monotonic()
        self.next_flush = now + max(FLUSH_SECONDS, (now - started) / MAX_LOGGING_SHARE)

    def _attempt(self, write: Callable[["MlflowRow"], None]) -> None:
        """Nothing is tried twice: `report` fills in what is missing."""
        if not self.enabled:
            return
        try:
            self.row = self.row or MlflowRow(self.settings)
            write(self.row)
        except Exception as error:  # of many kinds: mlflow's, its database's, its network's
            self.enabled = False
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            remedy = "mend that, and `dvc repro -f -s report` fills it in"
            print(f"warning: {self.stage} is not in MLflow ({reason}); {remedy}", file=sys.stderr)


class MlflowRow:
    """The run of this pipeline run in the store, found or made."""

    def __init__(self, settings: Params) -> None:
        root = io.project_root()
        artifacts = None
        if not _store_uri().startswith("http"):
            artifacts = (root / "mlartifacts").as_uri()
        mine = f"{socket.gethostname()}:{os.getpid()}:{time.time():.0f}"
        key, run_name, revision = _identity(settings)
        with _locked_store() as client:
            self.client = client
            known = client.get_experiment_by_name(_experiment())
            home = (
                known.experiment_id if known else client.create_experiment(_experiment(), artifacts)
            )
            if known and "MLFLOW_TRACKING_URI" not in os.environ:
                _move_artifacts(root / "mlflow.db", known.artifact_location, artifacts)
            _close_killed(client, home)
            runs = client.search_runs([home], f"tags.`{KEY_TAG}` = '{key}'")
            tags = {KEY_TAG: key, "mlflow.source.git.commit": revision}
            run = runs[0] if runs else client.create_run(home, tags=tags, run_name=run_name)
            self.id, self.home, self.settings = run.info.run_id, home, settings
            client.update_run(self.id, status="RUNNING")
            client.set_tag(self.id, PROCESS_TAG, mine)
        if ERROR_TAG in run.data.tags:
            self.client.delete_tag(self.id, ERROR_TAG)
        self.stored = set(run.data.metrics)
        # MLflow refuses a second value of a parameter: those that are there stay.
        params = {k: _text(v) for k, v in io.flatten(settings.model_dump()).items()}
        self._log("params", [item for item in params.items() if item[0] not in run.data.params])

    def log_curve(self, points: list[tuple]) -> None:
        """Logs the points that the row does not have: a resumed training repeats some."""
        steps: dict[str, set[int]] = {}
        for key in {key for key, *_ in points} & self.stored:
            steps[key] = {m.step for m in self.client.get_metric_history(self.id, key)}
        self._log("metrics", [p for p in points if p[3] not in steps.get(p[0], ())])

    def fill(self, metrics: dict, files: list[Path], trainings: dict[str, Path]) -> None:
        from PIL import Image

        now = int(time.time() * 1000)
        for stage, folder in trainings.items():
            for split, file in CURVES.items():
                table = io.read_csv(folder / file).drop(columns="epoch").melt("step").dropna()
                rows = [(f"{stage}/{split}.{k}", v, int(i)) for i, k, v in table.to_numpy()]
                self.log_curve([(key, float(value), now, step) for key, value, step in rows])
        self._log("metrics", [(key, value, now, 0) for key, value in _numbers(metrics).items()])
        for path in files:
            self.client.log_artifact(self.id, str(path))
            if path.suffix != ".png":
                continue
            # A name for MLflow's grids of pictures; log_image(key=...) adds a new one each time.
            name = f"images/{re.sub(r'[^a-zA-Z0-9_. -]', '_', path.stem)}+step+0+timestamp+0+0"
            with Image.open(path) as image:
                self.client.log_image(self.id, image.convert("RGB"), f"{name}.png")
                self.client.log_image(self.id, image.convert("RGB"), f"{name}+compressed.webp")
            self.client.set_tag(self.id, "mlflow.loggedImages", "True")

    def log_model(self, metrics: dict, trainings: dict[str, Path]) -> None:
        """The model, and once more what `evaluate` measured on it, as its numbers."""
        folders = {folder.name: folder for folder in trainings.values()}
        tested = {k: v for k, v in metrics["evaluate"].items() if not k.startswith("baselines")}
        numbers = _numbers({"evaluate": tested})
        logged_model.log(self.client, self.home, self.id, self.settings, folders, numbers)

    def close(self, status: str, error: BaseException | None) -> None:
        if error is not None:
            self.client.set_tag(self.id, ERROR_TAG, _text(str(error) or type(error).__name__))
        self.client.set_terminated(self.id, status)

    def _log(self, kind: str, items: list[tuple]) -> None:
        from mlflow.entities import Metric, Param

        entity, size = (Metric, 1000) if kind == "metrics" else (Param, 100)  # MLflow's limits
        entities = [entity(*item) for item in items]
        for i in range(0, len(entities), size):
            self.client.log_batch(self.id, **{kind: entities[i : i + size]})


def _store_uri() -> str:
    default = f"sqlite:///{io.project_root() / 'mlflow.db'}"
    return os.environ.get("MLFLOW_TRACKING_URI") or default


def _experiment() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "nakawari"


@contextmanager
def _locked_store() -> Iterator["MlflowClient"]:
    """Creating a fresh store from several processes crashes; afterwards many may write."""
    for key, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(key, value)
    from filelock import FileLock
    from mlflow.tracking import MlflowClient

    lock = io.project_root() / ".store" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=LOCK_SECONDS):
        yield MlflowClient(tracking_uri=_store_uri())


def close_killed() -> list[str]:
    """Marks the rows whose process was killed outright; their names."""
    with _locked_store() as client:
        known = client.get_experiment_by_name(_experiment())
        return _close_killed(client, known.experiment_id) if known else []


def _close_killed(client: "MlflowClient", home: str) -> list[str]:
    names = []
    for run in client.search_runs([home], "attributes.status = 'RUNNING'"):
        host, pid, opened = [*run.data.tags.get(PROCESS_TAG, "").split(":"), "0", "0"][:3]
        if host == socket.gethostname() and not _is_alive(int(pid), int(opened)):
            client.set_terminated(run.info.run_id, "KILLED")
            names.append(run.info.run_name)
    return names


def _is_alive(pid: int, opened: int) -> bool:
    """Whether the process that opened a row runs; a number may have come back since that time."""
    import psutil

    try:
        return psutil.Process(pid).create_time() < opened + 5
    except psutil.NoSuchProcess:
        return False


def _move_artifacts(store: Path, old: str, new: str) -> None:
    """MLflow stores absolute addresses: corrects those of a moved or copied project."""
    if old == new or not old.endswith("/mlartifacts"):
        return
    with closing(sqlite3.connect(store, timeout=60)) as database, database:
        change = "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?"
        database.execute(change, (new, old))
        for table, column in ADDRESSES.items():
            change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            database.execute(change, (f"{old}/", f"{new}/"))
    print(f"{store} was moved here: its files are now in {new}, not in {old}", file=sys.stderr)


def store_fault(store: Path) -> str | None:
    """What an MLflow of another version wrote, as a sentence with the remedy. Changes nothing."""
    from alembic.script import ScriptDirectory

    try:
        with closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True)) as database:
            (version,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except (sqlite3.Error, TypeError) as error:
        return f"{store} is no store of MLflow ({error}); move it away, and a new one is made"
    mlflow = Path(find_spec("mlflow").submodule_search_locations[0])
    scripts = ScriptDirectory(str(mlflow / "store/db_migrations"))
    if version in scripts.get_heads():
        return None
    if any(version == script.revision for script in scripts.walk_revisions()):
        remedy = f"copy it, and run `mlflow db upgrade sqlite:///{store}`"
        return f"{store} was written by an older MLflow (schema {version}); {remedy}"
    remedy = "move it away, or run `mlflow ui` of that version"
    return f"{store} was written by a newer MLflow (schema {version}), no run is added; {remedy}"


def _identity(settings: Params) -> tuple[str, str, str]:
    """Key, name and baseline revision of the row of this pipeline run."""
    revision = (
        os.environ.get("DVC_EXP_BASELINE_REV")
        or _git("rev-parse", "--verify", "--quiet", "HEAD")
        or "none"
    )
    params = settings.model_dump(exclude={"tracking", "engine"})  # what changes results
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
    root = Path(__file__).parents[2]
    for path in sorted([*(root / "pipeline").rglob("*.py"), *(root / "stages").glob("*.py")]):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    if DATA.is_file():
        digest.update(DATA.read_bytes())
    name = os.environ.get("DVC_EXP_NAME") or f"workspace {revision[:7]}"
    key = f"{name}/{revision}/{digest.hexdigest()[:12]}"
    if _git("status", "--porcelain", "pipeline", "stages"):
        name += f" edited {digest.hexdigest()[:4]}"
    return key.replace("'", "_"), name, revision  # MLflow's filters know no escaped quote


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return ""


def _peak_mb() -> float:
    """Peak resident memory, MB: of this process and of its largest ended child, added."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0.0
    scopes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    kilobytes = sum(resource.getrusage(scope).ru_maxrss for scope in scopes)
    return kilobytes / 1024 / (1024 if sys.platform == "darwin" else 1)


def _numbers(metrics: dict) -> dict[str, float]:
    flat = io.flatten(metrics).items()
    return {key: float(value) for key, value in flat if type(value) in (int, float)}


def _text(value: object) -> str:
    """Lists, numbers, true, false and null as JSON writes them."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
