"""The row of a pipeline run in MLflow's store: found or made, filled, closed.

Pipeline runs share a row where name, baseline revision, parameters, code and data are the same: a
killed training continues its curve, and an edit without a commit has a row of its own.

A row is RUNNING while a training or `report` writes into it. Where such a stage is killed outright,
the next one of this machine that opens the store, or `python -m pipeline check`, marks the row
KILLED; another machine does so after a day without a sign of life. A project may be moved or copied
with its mlflow.db: the pictures of its rows are looked for beside it.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from pipeline import io
from pipeline.config import Params
from pipeline.tracking import logged_model

if TYPE_CHECKING:  # takes seconds to import, and most stages do without it
    from mlflow.tracking import MlflowClient

WAIT_SECONDS = 180  # for a store that another process makes, which takes two seconds, or a minute
# on a busy machine; and at the end of a training
CHECK_SECONDS = 30  # for all that `python -m pipeline check` asks the store
SILENT_SECONDS = 24 * 3600  # a row of another machine that gave no sign for so long is dead
MAX_TEXT = 5000  # characters of a parameter or tag (limits of MLflow: 6000 and 8000)
KEY_TAG, PROCESS_TAG, ERROR_TAG = "nakawari.key", "nakawari.process", "error"
PASSWORD = re.compile(r"//[^/\s]*@")  # and name, of an address
MLFLOW_SETTINGS = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request made twice could make two rows
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
CURVES = {"train": "history.csv", "val": "validation.csv"}  # in the output of a training
ADDRESSES = {  # columns of the store by table, beside that of the experiments
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
DATA = Path("data/shards/index.json")  # holds the hashes of all shards


class MlflowRow:
    """The run of this pipeline run in the store, found or made."""

    def __init__(self, settings: Params) -> None:
        root = io.project_root()
        artifacts = None
        if not _store_uri().startswith("http"):
            artifacts = (root / "mlartifacts").as_uri()
        key, run_name, revision = identity(settings)
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
            tags[PROCESS_TAG] = _sign_of_life()
            run = runs[0] if runs else client.create_run(home, tags=tags, run_name=run_name)
            self.id, self.home, self.settings = run.info.run_id, home, settings
            if runs:
                client.set_tag(self.id, PROCESS_TAG, _sign_of_life())
                client.update_run(self.id, status="RUNNING")
        if ERROR_TAG in run.data.tags:
            self.client.delete_tag(self.id, ERROR_TAG)
        self.steps: dict[str, set[int] | None]  # of each curve; None: to be asked for
        self.steps = dict.fromkeys(run.data.metrics)
        # MLflow refuses a second value of a parameter: those that are there stay.
        params = {k: _text(v) for k, v in io.flatten(settings.model_dump()).items()}
        self._log("params", [item for item in params.items() if item[0] not in run.data.params])

    def log_curve(self, points: list[tuple]) -> None:
        """Logs the points that the row does not have: a resumed training repeats some."""
        missing = []
        for point in points:
            key, _, _, step = point
            if self.steps.get(key, ()) is None:
                history = self.client.get_metric_history(self.id, key)
                self.steps[key] = {metric.step for metric in history}
            steps = self.steps.setdefault(key, set())
            if step not in steps:
                steps.add(step)
                missing.append(point)
        self._log("metrics", missing)

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
            self.client.set_tag(
                self.id, ERROR_TAG, _text(PASSWORD.sub("//", str(error)) or type(error).__name__)
            )
        self.client.set_terminated(self.id, status)

    def _log(self, kind: str, items: list[tuple]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        entity, size = (
            (Metric, 999) if kind == "metrics" else (Param, 100)
        )  # MLflow's limits, a tag with them
        entities = [entity(*item) for item in items]
        for i in range(0, len(entities), size):
            tags = [RunTag(PROCESS_TAG, _sign_of_life())]
            self.client.log_batch(self.id, **{kind: entities[i : i + size]}, tags=tags)


def _store_uri() -> str:
    default = f"sqlite:///{io.project_root() / 'mlflow.db'}"
    return os.environ.get("MLFLOW_TRACKING_URI") or default


def sqlite_file() -> Path | None:
    """The file of the store, where it is one."""
    uri = _store_uri()
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _experiment() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "nakawari"


def set_environment() -> None:
    """What MLflow reads from the environment."""
    for key, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(key, value)


@contextmanager
def _locked_store() -> Iterator["MlflowClient"]:
    """Creating a fresh store from several processes crashes; afterwards many may write."""
    set_environment()
    from filelock import FileLock
    from mlflow.tracking import MlflowClient

    lock = io.project_root() / ".store" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=WAIT_SECONDS):
        store = sqlite_file()
        if store and not store.exists():
            # Made elsewhere: MLflow opens none whose process was killed between its migrations.
            io.remove_stale(lock.parent)
            with io.temporary(lock.parent, Path.mkdir) as folder:
                MlflowClient(tracking_uri=f"sqlite:///{folder / store.name}").search_experiments()
                shutil.move(folder / store.name, store)
        yield MlflowClient(tracking_uri=_store_uri())


def close_killed() -> list[str]:
    """Marks the rows whose process was killed outright; their names.

    TimeoutError after CHECK_SECONDS, and whatever MLflow raises.
    """
    names: Future[list[str]] = Future()

    def close() -> None:
        try:
            with _locked_store() as client:
                known = client.get_experiment_by_name(_experiment())
                names.set_result(_close_killed(client, known.experiment_id) if known else [])
        except Exception as error:
            names.set_exception(error)

    Thread(target=close, daemon=True).start()
    try:
        return names.result(CHECK_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"no answer within {CHECK_SECONDS} s") from None


def _close_killed(client: "MlflowClient", home: str) -> list[str]:
    names = []
    for run in client.search_runs([home], "attributes.status = 'RUNNING'"):
        sign = [*run.data.tags.get(PROCESS_TAG, "").split(":"), "0", "0"][:3]
        if KEY_TAG in run.data.tags and not _is_alive(*sign):
            client.set_terminated(run.info.run_id, "KILLED")
            names.append(run.info.run_name)
    return names


def _sign_of_life() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{time.time():.0f}"


def _is_alive(host: str, pid: str, seen: str) -> bool:
    """Whether the process that writes into a row runs, by what it left there.

    A number of this machine may have come back since that time.
    """
    import psutil

    if host != socket.gethostname():
        return time.time() - int(seen) < SILENT_SECONDS
    try:
        return psutil.Process(int(pid)).create_time() < int(seen) + 5
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


def sentence(error: Exception) -> str:
    """An error of MLflow in one line, without the password of an address in it."""
    text = PASSWORD.sub("//", f"{type(error).__name__}: {error}")
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:150]} … {text[-150:]}"  # causes stand at the end


def fault() -> str | None:
    """What an MLflow of another version wrote, as a sentence with the remedy. Changes nothing."""
    store = sqlite_file()
    if store is None or not store.exists() or not find_spec("mlflow"):
        return None
    from alembic.script import ScriptDirectory

    try:
        uri = f"{store.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=1)) as database:
            (version,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except (sqlite3.Error, TypeError) as error:
        if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
            return None  # locked, or a killed process' half transaction: opening it says, or heals
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


def identity(settings: Params) -> tuple[str, str, str]:
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


def _numbers(metrics: dict) -> dict[str, float]:
    flat = io.flatten(metrics).items()
    return {key: float(value) for key, value in flat if type(value) in (int, float)}


def _text(value: object) -> str:
    """Lists, numbers, true, false and null as JSON writes them."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
