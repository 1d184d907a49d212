"""Tracking: what stages leave in MLflow, on disk and on stderr, and what failures cost."""

import http.server
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from pipeline import config, io, tracking
from pipeline.commands import check
from pipeline.errors import Terminated, UserError
from pipeline.tracking import mlflow_row

REPOSITORY = Path(__file__).resolve().parents[2]
WRITER = """
import os, sys
from pathlib import Path
from pipeline import config, tracking
settings = config.load(Path(sys.argv[1]))
with tracking.stage(sys.argv[2], settings) as run:
    run.log({"train.total": 1.0}, step=10)
"""


@pytest.fixture(scope="module")
def settings():
    return config.load(REPOSITORY / "params.yaml")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No test sees the store, the experiment or the repository of whoever runs the tests."""
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "DVC_EXP_NAME",
        "DVC_EXP_BASELINE_REV",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store that three processes made at the same moment: without the lock they crash.

    Opening a store takes seconds: all tests share this one.
    """
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("DVC_ROOT", str(root))
        patch.setenv("DVC_EXP_NAME", "brave-crow")
        patch.setenv("DVC_EXP_BASELINE_REV", "0123456789")
        command = [sys.executable, "-c", WRITER, REPOSITORY / "params.yaml"]
        writers = [
            subprocess.Popen([*command, stage], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
            for stage in ("a", "b", "c")
        ]
        lines = [writer.communicate()[1].splitlines() for writer in writers]
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    return SimpleNamespace(root=root, lines=lines, client=client)


@pytest.fixture
def other_row(store, monkeypatch):
    """A row of this test's own in the shared store."""

    def name(title: str) -> None:
        monkeypatch.setenv("DVC_ROOT", str(store.root))
        monkeypatch.setenv("DVC_EXP_NAME", title)

    return name


def runs(store, title: str) -> list:
    experiment = store.client.get_experiment_by_name("nakawari")
    condition = f"tags.`nakawari.key` LIKE '{title}/%'"
    return store.client.search_runs([experiment.experiment_id], condition)


def written(run: tracking.Run) -> None:
    """Waits until the store has it; and then it is as if the process were gone."""
    run.writes.put(None)
    run.thread.join()


def steps(store, run, key: str) -> list[int]:
    return sorted(m.step for m in store.client.get_metric_history(run.info.run_id, key))


def test_processes_that_create_the_store_together_share_one_row_quietly(store, settings):
    assert [len(lines) for lines in store.lines] == [2, 2, 2], "start and end, no warning"
    (run,) = runs(store, "brave-crow")
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) == {f"{stage}/train.total" for stage in "abc"}
    assert (store.root / "mlflow.db").is_file()
    assert run.info.artifact_uri.startswith((store.root / "mlartifacts").as_uri())
    assert set(run.data.params) == set(io.flatten(settings.model_dump()))
    assert run.data.params["vqgan.autoencoder.channels_multiplier"] == "[1, 2]"


def test_a_killed_training_continues_its_curve_in_one_run(store, settings, other_row):
    other_row("killed")
    killed = tracking.Run("vqgan_train", settings)
    for step in range(10, 1210):  # more than MLflow takes in one call
        killed.log({"train.total": 1.0 / step}, step)
    killed._flush()
    written(killed)
    (row,) = runs(store, "killed")
    assert row.info.status == "RUNNING"
    process = f"{socket.gethostname()}:{os.getpid()}:5"  # as after another start
    store.client.set_tag(row.info.run_id, "nakawari.process", process)
    other_row("another")
    mlflow_row.MlflowRow(settings).close("FINISHED", None)
    assert runs(store, "killed")[0].info.status == "KILLED", "not running for ever"
    other_row("killed")
    with tracking.stage("vqgan_train", settings) as run:
        for step in range(1200, 1220):  # repeats ten steps
            run.log({"train.total": 1.0 / step}, step)
    (row,) = runs(store, "killed")
    assert row.info.status == "FINISHED"
    assert steps(store, row, "vqgan_train/train.total") == list(range(10, 1220))


def test_a_stage_that_is_killed_outright_is_named_so_by_the_check(store, settings, other_row):
    other_row("running")
    running = tracking.Run("vqgan_train", settings)
    running.log({"train.total": 1.0}, 1)
    written(running)
    other_row("outright")
    killed = WRITER + "    run.writes.put(None); run.thread.join(); os.kill(os.getpid(), 9)\n"
    command = [sys.executable, "-c", killed, REPOSITORY / "params.yaml", "gpt2_train"]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == -9
    home = store.client.get_experiment_by_name("nakawari").experiment_id
    foreign = store.client.create_run(home).info.run_id
    (hint,) = check.tracking_store(settings)
    assert hint.level == "hint" and hint.sentence.startswith("outright")
    assert not list(check.tracking_store(settings)), "once"
    states = [runs(store, name)[0].info.status for name in ("outright", "running")]
    assert states == ["KILLED", "RUNNING"]
    assert store.client.get_run(foreign).info.status == "RUNNING", "not ours"


def test_another_experiment_is_that_of_mlflows_own_variable(
    store, settings, other_row, monkeypatch
):
    other_row("elsewhere")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "series two")
    mlflow_row.MlflowRow(settings).close("FINISHED", None)
    home = store.client.get_experiment_by_name("series two").experiment_id
    assert len(store.client.search_runs([home])) == 1 and not runs(store, "elsewhere")


def test_a_copied_project_keeps_its_files_beside_its_store(
    store, settings, monkeypatch, tmp_path, capsys
):
    copy = shutil.copytree(store.root, tmp_path / "a copy")
    monkeypatch.setenv("DVC_ROOT", str(copy))
    monkeypatch.setenv("DVC_EXP_NAME", "copied")
    (tmp_path / "page.html").write_text("new")
    lines = []
    for _ in range(2):
        with tracking.stage("report", settings) as run:
            run.publish({}, [tmp_path / "page.html"], {})
        lines.append([line for line in capsys.readouterr().err.splitlines() if "moved" in line])
    assert [len(each) for each in lines] == [1, 0], "one line, once"
    (page,) = copy.rglob("page.html")
    assert page.is_relative_to(copy / "mlartifacts") and not list(store.root.rglob("page.html"))
    client = MlflowClient(tracking_uri=f"sqlite:///{copy / 'mlflow.db'}")
    (old,) = runs(SimpleNamespace(client=client), "brave-crow")
    assert old.info.artifact_uri.startswith((copy / "mlartifacts").as_uri())


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (None, None),
        ("451aebb31d03", "older MLflow .*`mlflow db upgrade sqlite:///.*mlflow.db`"),
        ("0123456789ab", "newer MLflow .*; move it away"),
        ("", r"is no store of MLflow \(file is not a database\); move it away"),
    ],
)
def test_a_store_of_another_version_is_said(store, settings, version, words):
    path = Path("mlflow.db")
    shutil.copy(store.root / path, path)
    if version:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    elif version is not None:
        path.write_text("no database, but a text that is long enough to be taken for one" * 9)
    before = path.read_bytes()
    sentences = [finding.sentence for finding in check.tracking_store(settings)]
    assert len(sentences) == (words is not None) and all(re.search(words, s) for s in sentences)
    assert path.read_bytes() == before


def test_a_store_with_a_half_transaction_is_not_called_broken(store, settings):
    """As a kill in the middle of a commit leaves it; whoever opens it next rolls it back."""
    path = Path("mlflow.db")
    shutil.copy(store.root / path, path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN")
        database.execute("CREATE TABLE large AS SELECT zeroblob(4000) FROM params")
        journal = Path("mlflow.db-journal")
        assert journal.stat().st_size
        parts = path.read_bytes(), journal.read_bytes()
    path.write_bytes(parts[0])
    journal.write_bytes(parts[1])
    assert mlflow_row.fault() is None


def test_report_fills_in_what_was_missed_and_a_rerun_updates_the_same_row(
    store, settings, other_row, monkeypatch, tmp_path
):
    monkeypatch.setattr(mlflow_row.MlflowRow, "log_model", lambda *a: None)  # test_logged_model.py
    other_row("reported")
    with tracking.stage("vqgan_train", settings) as run:
        run.log({"train.total": 2.0}, step=10)
    (tmp_path / "history.csv").write_text("step,epoch,total,late\n10,1,2,\n20,2,1,0.5\n")
    (tmp_path / "validation.csv").write_text("epoch,step,psnr\n1,10,20.5\n")
    for psnr, red in ((20.0, 10), (21.0, 200)):
        Image.new("RGB", (8, 6), (red, 0, 0)).save(tmp_path / "strip.png")
        with tracking.stage("report", settings) as run:
            metrics = {"evaluate": {"psnr": psnr, "kind": "text", "yes": True}}
            run.publish(metrics, [tmp_path / "strip.png"], {"vqgan_train": tmp_path})
    (row,) = runs(store, "reported")
    assert row.info.status == "FINISHED" and row.data.metrics["evaluate.psnr"] == 21.0
    assert steps(store, row, "vqgan_train/train.total") == [10, 20]
    assert steps(store, row, "vqgan_train/train.late") == [20], "absent before it began"
    assert steps(store, row, "vqgan_train/val.psnr") == [10]
    files = [item.path for item in store.client.list_artifacts(row.info.run_id, "images")]
    assert len(files) == 2, "a picture and its small copy, once"
    image = store.client.download_artifacts(row.info.run_id, files[0], str(tmp_path))
    assert abs(Image.open(image).convert("RGB").getpixel((4, 3))[0] - 200) < 5, "the new one"


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (Terminated(15), "KILLED", "SIGTERM"),
        (UserError("models/gpt2 is missing"), "FAILED", "models/gpt2 is missing"),
        (OSError("no http://me:s@cret@host:5/x"), "FAILED", "no http://host:5/x"),
    ],
)
def test_an_exception_is_passed_on_with_its_status(
    store, settings, other_row, error, status, sentence
):
    other_row(f"it's {sentence[:7]}")  # MLflow's filters know no escaped quote
    with pytest.raises(type(error)), tracking.stage("failing", settings) as run:
        run.log({"train.total": 1.0}, 1)
        raise error
    (row,) = runs(store, f"it_s {sentence[:7]}")
    assert row.info.status == status and row.data.tags["error"] == sentence


def test_other_parameters_code_or_data_make_another_row(settings, monkeypatch, tmp_path):
    keys = [mlflow_row.identity(settings)[0]]
    engine = settings.engine.model_copy(update={"workers": 7})
    assert mlflow_row.identity(settings.model_copy(update={"engine": engine}))[0] == keys[0]
    train = settings.train.model_copy(update={"n_frames_before": 5})
    keys.append(mlflow_row.identity(settings.model_copy(update={"train": train}))[0])
    for place in ("pipeline", "stages", "data/shards"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.setattr(mlflow_row, "__file__", str(tmp_path / "pipeline/tracking/mlflow_row.py"))
    for file in ("pipeline/a.py", "stages/b.py", "data/shards/index.json"):
        (tmp_path / file).write_text("first")
        keys.append(mlflow_row.identity(settings)[0])
        (tmp_path / file).write_text("edited")
        keys.append(mlflow_row.identity(settings)[0])
    assert len(set(keys)) == len(keys)


def test_names_tell_the_experiment_or_the_revision_and_edits(settings, monkeypatch):
    answers = {"rev-parse": "abcdef0123456", "status": ""}
    monkeypatch.setattr(mlflow_row, "_git", lambda *arguments: answers[arguments[0]])
    assert mlflow_row.identity(settings)[1] == "workspace abcdef0"
    answers["status"] = " M pipeline/frames.py"
    assert mlflow_row.identity(settings)[1].startswith("workspace abcdef0 edited ")
    monkeypatch.setenv("DVC_EXP_NAME", "calm-fox")
    assert mlflow_row.identity(settings)[1].startswith("calm-fox edited ")


def test_without_tracking_two_lines_are_all(settings, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "MlflowRow", None)
    off = settings.tracking.model_copy(update={"enabled": False})
    with tracking.stage("ingest", settings.model_copy(update={"tracking": off})) as run:
        run.log({"loss": 1.0}, step=1)
        run.finish({"frames": 4992, "net": {"kind": "ema"}})
        run.publish({"a": 1.0}, [], {})
    printed = capsys.readouterr()
    first, last = printed.err.splitlines()
    assert first == "ingest: starts" and last.startswith("ingest: 4,992 frames, ")
    assert printed.out == ""


def test_a_stage_without_curves_does_not_touch_mlflow(settings, monkeypatch):
    monkeypatch.setattr(tracking, "MlflowRow", None)
    with tracking.stage("ingest", settings) as run:
        run.finish({"frames": 1})
    with tracking.stage("other", settings, is_main=False) as run:
        run.log({"loss": 1.0}, 3)


class Answer(http.server.BaseHTTPRequestHandler):
    """A server at fault: what it does with a request is its fault's name."""

    def do_GET(self) -> None:
        self.server.count += 1
        if self.server.fault == "no answer":
            self.server.over.wait()
        elif self.server.fault == "text":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>welcome to the hotel</html>")
        elif self.server.fault.isdigit():
            self.send_error(int(self.server.fault))

    do_POST = do_GET

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    """Starts a server with a fault, as the store."""
    started = []

    def start(fault: str) -> http.server.ThreadingHTTPServer:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        server.fault, server.count, server.over = fault, 0, threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        uri = f"http://me:secret@127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        return server

    yield start
    for server in started:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("absent", "Failed to establish a new connection"),
        ("drops", "Remote end closed connection"),
        ("no answer", "not all was written within 0.2 s"),
        ("500", "500"),
        ("401", "401"),
        ("text", "not in a valid JSON"),
    ],
)
def test_a_server_at_fault_costs_a_line_and_is_told_by_the_check(
    settings, server, monkeypatch, capsys, fault, words
):
    started = server(fault)
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.0)
    if fault == "no answer":
        monkeypatch.setattr(tracking, "WAIT_SECONDS", 0.2)
        monkeypatch.setattr(mlflow_row, "CHECK_SECONDS", 0.2)
    if fault == "absent":
        started.server_close()
    with tracking.stage("vqgan_train", settings) as run:
        for step in range(50):
            run.log({"loss": 1.0}, step)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "vqgan_train is not in MLflow" in line and "`report` fills it" in line
    assert re.search(words, line) and "secret" not in line
    assert started.count < 3, "nothing is tried twice"
    (warning,) = check.tracking_store(settings)
    assert warning.level == "warning" and "secret" not in warning.sentence


def test_a_training_does_not_wait_for_a_slow_store(settings, monkeypatch, capsys):
    answer, points = threading.Event(), []

    class Slow:
        def __init__(self, settings) -> None:
            answer.wait(60)

        def log_curve(self, batch) -> None:
            points.extend(batch)

        def close(self, status, error) -> None:
            pass

    monkeypatch.setattr(tracking, "MlflowRow", Slow)
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.0)
    with tracking.stage("vqgan_train", settings) as run:
        for step in range(600):
            run.log({"loss": 1.0}, step)
        assert not points
        answer.set()
    assert [point[3] for point in points] == list(range(600))
    assert "warning" not in capsys.readouterr().err


def test_a_signal_while_the_store_is_waited_for_does_not_undo_the_work(settings, monkeypatch):
    def silent(settings) -> mock.Mock:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(60)
        return mock.Mock()

    monkeypatch.setattr(tracking, "MlflowRow", silent)
    with tracking.stage("vqgan_train", settings) as run:
        run.points = [("loss", 1.0, 0, 1)]  # written at the end


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (None, "dvc repro -f -s report"),
        ("calm-fox", "dvc exp apply calm-fox && DVC_EXP_NAME=calm-fox DVC_EXP_BASELINE_REV=abc"),
    ],
)
def test_a_report_that_is_not_in_mlflow_is_told_until_it_is(
    settings, server, monkeypatch, capsys, name, command
):
    server("500")
    if name:
        monkeypatch.setenv("DVC_EXP_NAME", name)
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    with tracking.stage("report", settings) as run:
        run.publish({}, [], {})
    assert command in capsys.readouterr().err
    hint = next(item for item in check.tracking_store(settings) if item.level == "hint")
    assert hint.sentence.startswith(name or "workspace") and command in hint.sentence
    monkeypatch.setattr(tracking, "MlflowRow", mock.Mock())
    with tracking.stage("report", settings) as run:
        run.publish({}, [], {})
    assert not tracking.unfilled()


def test_a_store_is_there_as_a_whole_or_not_at_all(monkeypatch):
    """MLflow never opens one whose process was killed between its migrations."""

    def killed(tracking_uri: str) -> None:
        Path(tracking_uri.removeprefix("sqlite:///")).write_text("half a store")
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow.tracking.MlflowClient", killed)
    with pytest.raises(KeyboardInterrupt), mlflow_row._locked_store():
        pass
    assert not list(Path().glob("*.db*"))


@pytest.mark.parametrize(
    ("host", "age", "alive"),
    [
        (socket.gethostname(), 0, True),
        (socket.gethostname(), 9e6, False),  # this number was another process then
        ("elsewhere", 3600, True),
        ("elsewhere", 2 * 24 * 3600, False),
    ],
)
def test_a_row_of_another_machine_is_dead_after_a_day(host, age, alive):
    assert mlflow_row._is_alive(host, str(os.getpid()), str(int(time.time() - age))) is alive


def test_a_locked_store_is_not_taken_for_a_broken_one(store, settings, other_row, monkeypatch):
    other_row("locked")
    monkeypatch.setattr(mlflow_row, "CHECK_SECONDS", 0.2)
    with closing(sqlite3.connect(store.root / "mlflow.db")) as database:
        database.execute("BEGIN EXCLUSIVE")
        (warning,) = check.tracking_store(settings)
    assert "no answer within 0.2 s" in warning.sentence
