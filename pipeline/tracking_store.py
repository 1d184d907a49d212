"""The process that writes a stage's events to the MLflow store; the only module that knows mlflow.

`pipeline.tracking` starts it as `python -m pipeline.tracking_store` and sends JSON lines: first
the session, then events ({"do": "metrics" | "tags" | "artifact" | "publish" | "end", ...}). The
pipe's end without an "end" event means that the stage was killed: the child stays RUNNING.
"""

import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from filelock import FileLock

MAX_BATCH = 1000  # metrics a call (limit of MLflow)
MAX_PARAMS = 100  # parameters or tags a call (limit of MLflow)
MAX_TEXT = 5000  # characters of a parameter or tag (limits of MLflow: 6000 and 8000)
LOCK_SECONDS = 300  # a fresh store takes two seconds, seven on a busy machine
KEY_TAG, STAGE_TAG, ERROR_TAG = "nakawari.key", "nakawari.stage", "error"
QUIET = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own seven wait for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class Store:
    """The parent and the child run of one stage, found or made when this is constructed."""

    def __init__(self, session: dict):
        from mlflow.tracking import MlflowClient

        self.session = session
        lock = Path(session["lock"])
        lock.parent.mkdir(parents=True, exist_ok=True)
        # Creating a fresh store from several processes crashes; afterwards many may write.
        with FileLock(lock, timeout=LOCK_SECONDS):
            self.client = MlflowClient(tracking_uri=session["uri"])
            self.experiment_id = self._experiment()
            self.parent_id = self._parent()
            self.child_id = self._child()

    def handle(self, event: dict) -> None:
        """Stores one event; raises what MLflow raises."""
        getattr(self, f"_do_{event['do']}")(event)

    def _do_metrics(self, event: dict) -> None:
        self._log_points(self.child_id, event["points"])

    def _do_tags(self, event: dict) -> None:
        self._log_texts(self.child_id, "tags", event["tags"])

    def _do_artifact(self, event: dict) -> None:
        self.client.log_artifact(self.child_id, event["path"])

    def _do_publish(self, event: dict) -> None:
        self._log_missing_params()
        self._log_points(self.parent_id, event["points"])
        for path in event["artifacts"]:
            self.client.log_artifact(self.parent_id, path)
        for key, path in event.get("pictures", []):
            self._show_picture(_picture_key(key), path)
        self.client.set_terminated(self.parent_id, "FINISHED")

    def _do_end(self, event: dict) -> None:
        self.client.set_terminated(self.child_id, event["status"])
        if event["status"] != "FINISHED":
            self.client.set_terminated(self.parent_id, event["status"])

    def _experiment(self) -> str:
        name = self.session["experiment"]
        known = self.client.get_experiment_by_name(name)
        if known is None:
            return self.client.create_experiment(name, self.session["artifacts"])
        if known.lifecycle_stage == "deleted":
            self.client.restore_experiment(known.experiment_id)
        return known.experiment_id

    def _parent(self) -> str:
        """The run of this pipeline run: reopened where one with the same key exists."""
        session = self.session
        key = session["key"].replace("'", "_")  # MLflow's filters know no escaped quote
        known = self._find(f"tags.`{KEY_TAG}` = '{key}'")
        if known:
            return self._reopened(known)
        tags = {KEY_TAG: key, "mlflow.source.git.commit": session["revision"]}
        made = self.client.create_run(self.experiment_id, tags=tags, run_name=session["name"])
        self.parent_id = made.info.run_id
        self._log_missing_params()  # so that unfinished runs can be compared, too
        return self.parent_id

    def _child(self) -> str:
        """An unfinished run of this stage is continued; a finished one is replaced."""
        stage = self.session["stage"]
        known = self._find(
            f"tags.`mlflow.parentRunId` = '{self.parent_id}' and tags.`{STAGE_TAG}` = '{stage}'"
        )
        if known and known.info.status != "FINISHED":
            return self._reopened(known)
        if known:
            self.client.delete_run(known.info.run_id)
        tags = {"mlflow.parentRunId": self.parent_id, STAGE_TAG: stage}
        return self.client.create_run(self.experiment_id, tags=tags, run_name=stage).info.run_id

    def _reopened(self, run) -> str:
        self.client.update_run(run.info.run_id, status="RUNNING")
        if ERROR_TAG in run.data.tags:
            self.client.delete_tag(run.info.run_id, ERROR_TAG)
        return run.info.run_id

    def _find(self, condition: str):
        found = self.client.search_runs([self.experiment_id], condition, max_results=1)
        return found[0] if found else None

    def _log_missing_params(self) -> None:
        """MLflow refuses a second value of a parameter: those that are there stay."""
        present = self.client.get_run(self.parent_id).data.params
        missing = {k: v for k, v in self.session["params"].items() if _name(k) not in present}
        self._log_texts(self.parent_id, "params", missing)

    def _show_picture(self, key: str, path: str) -> None:
        """A picture for MLflow's image grids, in the place of an earlier one of its name."""
        from PIL import Image

        files = [item.path for item in self.client.list_artifacts(self.parent_id, "images")]
        earlier = [name for name in files if name.startswith(f"images/{key}+step+")]
        with Image.open(path) as image:
            self.client.log_image(self.parent_id, image.convert("RGB"), key=key, step=0)
        self._remove_artifacts(earlier)  # MLflow names files by time and chance: they would pile up

    def _remove_artifacts(self, names: list[str]) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        place = self.client.get_run(self.parent_id).info.artifact_uri
        # some stores let nobody delete: the earlier pictures then stay beside the new one
        with suppress(Exception):
            repository = get_artifact_repository(place, tracking_uri=self.session["uri"])
            for name in names:
                repository.delete_artifacts(name)

    def _log_points(self, run_id: str, points: list) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_name(key), *rest) for key, *rest in points]
        for start in range(0, len(metrics), MAX_BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + MAX_BATCH])

    def _log_texts(self, run_id: str, kind: str, texts: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        entity = {"params": Param, "tags": RunTag}[kind]
        items = [entity(_name(key), _shortened(text)) for key, text in texts.items()]
        for start in range(0, len(items), MAX_PARAMS):
            self.client.log_batch(run_id, **{kind: items[start : start + MAX_PARAMS]})


class Delivery:
    """Keeps events until the store has taken them; complains once, in one line."""

    def __init__(self, session: dict, complaints: TextIO):
        self.session, self.complaints = session, complaints
        self.store: Store | None = None
        self.pending: deque[dict] = deque()
        self.complained = False

    def serve(self, inbox: queue.Queue) -> None:
        """Delivers at once (this opens the store), then every flush_seconds and at the end."""
        due, closed = time.monotonic(), False
        while not closed:
            closed = self._take(inbox, due)
            if closed or time.monotonic() >= due:
                self.deliver()
                due = time.monotonic() + self.session["flush_seconds"]
        if self.pending:
            self._say(f"{len(self.pending)} events of this stage are not in the store")

    def deliver(self) -> None:
        """Stores what is pending, oldest first. Whatever fails, the stage's work must go on."""
        try:
            self.store = self.store or Store(self.session)
            while self.pending:
                self._deliver_first()
        except Exception as error:
            self._complain(error)

    def _deliver_first(self) -> None:
        try:
            self.store.handle(self.pending[0])
        except Exception as error:
            if _may_pass(error):
                raise
            self._complain(error)  # this event can never be stored: go on with the next
        self.pending.popleft()

    def _take(self, inbox: queue.Queue, due: float) -> bool:
        """Waits for an event until `due`; True at the end of the pipe."""
        try:
            event = inbox.get(timeout=max(0.0, due - time.monotonic()))
        except queue.Empty:
            return False
        if event is None:
            return True
        last = self.pending[-1] if self.pending else {"do": None}
        if event["do"] == last["do"] == "metrics" and len(last["points"]) < MAX_BATCH:
            last["points"] += event["points"]
        else:
            self.pending.append(event)
        return False

    def _complain(self, error: Exception) -> None:
        if not self.complained:
            self._say(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        self.complained = True

    def _say(self, sentence: str) -> None:
        stage = self.session["stage"]
        print(f"warning: tracking of {stage}: {sentence}", file=self.complaints, flush=True)


def _may_pass(error: Exception) -> bool:
    """Whether a failure may be gone at the next try: a server or database out of reach."""
    passing = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
    return getattr(error, "error_code", None) in passing


def _name(key: str) -> str:
    """MLflow allows letters, digits and `_-. :/`, at most 250."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]


def _picture_key(key: str) -> str:
    """MLflow allows letters, digits and `_-. ` in the name of a picture, and its files carry it."""
    return re.sub(r"[^a-zA-Z0-9_\-. ]", "_", key)[:100]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _read(pipe: TextIO, inbox: queue.Queue) -> None:
    """Empties the pipe at once, so that a slow store never blocks the stage."""
    for line in pipe:
        inbox.put(json.loads(line))
    inbox.put(None)


def _silenced() -> TextIO:
    """Sends everything that libraries print to nowhere; returns the real stderr."""
    real = os.fdopen(os.dup(2), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return real


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the stage, which then says so
    complaints = _silenced()
    os.environ.pop("MLFLOW_RUN_ID", None)
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    inbox = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin, inbox), daemon=True).start()
    session = inbox.get()
    if session is not None:
        Delivery(session, complaints).serve(inbox)


if __name__ == "__main__":
    main()
