"""Tracking: what stages leave in MLflow, on disk and on stderr, and what failures cost."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from pipeline import config, io, tracking
from pipeline.commands import check
from pipeline.errors import Terminated, UserError

REPOSITORY = Path(__file__).resolve().parents[2]
WRITER = """
import sys
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
    killed._flush()  # and then the process is gone
    process = f"{tracking.socket.gethostname()}:{os.getpid()}:5"  # as after another start
    store.client.set_tag(killed.row.id, "nakawari.process", process)
    assert runs(store, "killed")[0].info.status == "RUNNING"
    other_row("another")
    tracking.Run("gpt2_train", settings)._attempt(lambda row: row.close("FINISHED", None))
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
    running._flush()
    other_row("outright")
    killed = WRITER + "    run._flush()\n    import os; os.kill(os.getpid(), 9)\n"
    command = [sys.executable, "-c", killed, REPOSITORY / "params.yaml", "gpt2_train"]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == -9
    (hint,) = check.tracking_store(settings, store.root / "mlflow.db")
    assert hint.level == "hint" and hint.sentence.startswith("outright")
    assert not list(check.tracking_store(settings, store.root / "mlflow.db")), "once"
    states = [runs(store, name)[0].info.status for name in ("outright", "running")]
    assert states == ["KILLED", "RUNNING"]
    running.close("FINISHED")


def test_another_experiment_is_that_of_mlflows_own_variable(
    store, settings, other_row, monkeypatch
):
    other_row("elsewhere")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "series two")
    tracking.Run("gpt2_train", settings)._attempt(lambda row: row.close("FINISHED", None))
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
        ("451aebb31d03", "older MLflow .*`mlflow db upgrade sqlite:///mlflow.db`"),
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


def test_report_fills_in_what_was_missed_and_a_rerun_updates_the_same_row(
    store, settings, other_row, monkeypatch, tmp_path
):
    monkeypatch.setattr(tracking.MlflowRow, "log_model", lambda *a: None)  # test_logged_model.py
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
    keys = [tracking._identity(settings)[0]]
    engine = settings.engine.model_copy(update={"workers": 7})
    assert tracking._identity(settings.model_copy(update={"engine": engine}))[0] == keys[0]
    train = settings.train.model_copy(update={"n_frames_before": 5})
    keys.append(tracking._identity(settings.model_copy(update={"train": train}))[0])
    for place in ("pipeline", "stages", "data/shards"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "pipeline/tracking/__init__.py"))
    for file in ("pipeline/a.py", "stages/b.py", "data/shards/index.json"):
        (tmp_path / file).write_text("first")
        keys.append(tracking._identity(settings)[0])
        (tmp_path / file).write_text("edited")
        keys.append(tracking._identity(settings)[0])
    assert len(set(keys)) == len(keys)


def test_names_tell_the_experiment_or_the_revision_and_edits(settings, monkeypatch):
    answers = {"rev-parse": "abcdef0123456", "status": ""}
    monkeypatch.setattr(tracking, "_git", lambda *arguments: answers[arguments[0]])
    assert tracking._identity(settings)[1] == "workspace abcdef0"
    answers["status"] = " M pipeline/frames.py"
    assert tracking._identity(settings)[1].startswith("workspace abcdef0 edited ")
    monkeypatch.setenv("DVC_EXP_NAME", "calm-fox")
    assert tracking._identity(settings)[1].startswith("calm-fox edited ")


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


def test_a_server_that_is_absent_costs_one_line_and_no_time(settings, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.0)
    started = time.monotonic()
    with tracking.stage("vqgan_train", settings) as run:
        for step in range(50):
            run.log({"loss": 1.0}, step)
    assert time.monotonic() - started < 20
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "vqgan_train is not in MLflow" in line and "dvc repro -f -s report" in line


def test_a_slow_store_is_written_less_often(settings, monkeypatch):
    clock = [0.0]

    class Slow:
        def __init__(self, settings):
            self.calls = []

        def log_curve(self, points):
            clock[0] += 3.0
            self.calls.append(len(points))

        def close(self, status, error):
            pass

    monkeypatch.setattr(tracking, "MlflowRow", Slow)
    monkeypatch.setattr(tracking.time, "monotonic", lambda: clock[0])
    run = tracking.Run("vqgan_train", settings)
    for step in range(600):
        clock[0] += 1.0
        run.log({"loss": 1.0}, step)
    run.close("FINISHED")
    assert sum(run.row.calls) == 600 and len(run.row.calls) == 600 // 60 + 1
