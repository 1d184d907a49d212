"""Tracking: what a stage leaves in the store, on disk and on stderr, and what failures cost."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from pipeline import config, io, tracking, tracking_store
from pipeline.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = ("ingest", "scene_split")  # written by bare writers, beside a whole stage


@pytest.fixture(scope="module")
def settings():
    return config.load(REPOSITORY / "params.yaml")


@pytest.fixture
def untracked(settings):
    return settings.model_copy(
        update={"tracking": settings.tracking.model_copy(update={"enabled": False})}
    )


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No test sees the store, the experiment or the repository of whoever runs the tests."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def store(settings, tmp_path_factory):
    """A store that three processes made at the same moment: without the lock they crash.

    Two are bare writers, the third belongs to the stage `vqgan_train`. Opening a store takes
    seconds: all tests share this one.
    """
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("DVC_ROOT", str(root))
        patch.setenv("DVC_EXP_NAME", "brave-crow")
        patch.setenv("DVC_EXP_BASELINE_REV", "0123456789")
        sessions = [tracking._session(stage, settings) for stage in STAGES]
        writers = [_start_writer(session) for session in sessions]
        _train(settings, root)
    outcomes = [(writer.communicate()[1], writer.returncode) for writer in writers]
    for key, value in tracking_store.QUIET.items():
        os.environ.setdefault(key, value)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=sessions[0]["uri"])
    return SimpleNamespace(root=root, session=sessions[0], outcomes=outcomes, client=client)


def _start_writer(session: dict) -> subprocess.Popen:
    """A writer with all its events in its pipe."""
    command = [sys.executable, "-m", "pipeline.tracking_store"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    writer = subprocess.Popen(command, cwd=REPOSITORY, **pipes)
    events = [session, {"do": "metrics", "points": [["n", 1.0, 1, 0]]}]
    events.append({"do": "end", "status": "FINISHED"})
    writer.stdin.write("".join(json.dumps(event) + "\n" for event in events))
    writer.stdin.close()
    writer.stdin = None
    return writer


def _train(settings, root: Path) -> None:
    """A stage that uses all that a stage can."""
    with tracking.stage("vqgan_train", settings) as run:
        for step in range(1200):  # more than MLflow takes in one call
            run.log({"train.loss": 1.0 / (step + 1)}, step=step)
        (root / "curve.csv").write_text("step,loss\n")
        run.artifact(root / "curve.csv")
        run.finish({"images": 4992, "psnr": 24.5, "net": {"kind": "ema"}}, root / "out")


def _runs(store, condition: str = "") -> list:
    experiment = store.client.get_experiment_by_name("nakawari")
    return store.client.search_runs([experiment.experiment_id], condition)


def _child(store, stage: str):
    (run,) = _runs(store, f"tags.`nakawari.stage` = '{stage}'")
    return run


def test_processes_that_create_the_store_together_share_one_parent_quietly(store):
    assert store.outcomes == [("", 0)] * len(STAGES)
    (parent,) = _runs(store, "tags.`nakawari.key` LIKE 'nakawari/brave-crow/0123456789/%'")
    assert parent.info.run_name == "brave-crow"
    children = [_child(store, stage) for stage in (*STAGES, "vqgan_train")]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.info.status for child in children} == {"FINISHED"}


def test_the_store_and_its_artifacts_lie_in_the_real_repository(store):
    assert (store.root / "mlflow.db").is_file()
    assert _runs(store)[0].info.artifact_uri.startswith((store.root / "mlartifacts").as_uri())


def test_a_new_parent_has_all_parameters(store, settings):
    (parent,) = _runs(store, "attributes.run_name = 'brave-crow'")
    flat = io.flatten(settings.model_dump())
    assert set(parent.data.params) == set(flat)
    multiplier = json.dumps(settings.vqgan.autoencoder.channels_multiplier)
    assert parent.data.params["vqgan.autoencoder.channels_multiplier"] == multiplier
    assert parent.data.params["tracking.enabled"] == "true"


def test_a_stage_leaves_metrics_tags_artifacts_and_a_summary(store):
    child = _child(store, "vqgan_train")
    assert child.info.status == "FINISHED"
    assert child.data.metrics["psnr"] == 24.5 and child.data.metrics["images"] == 4992
    assert {"seconds", "peak_mb"} <= set(child.data.metrics)
    assert child.data.tags["net.kind"] == "ema"
    history = store.client.get_metric_history(child.info.run_id, "train.loss")
    assert [point.step for point in history] == list(range(1200))
    assert [item.path for item in store.client.list_artifacts(child.info.run_id)] == ["curve.csv"]
    assert io.read_json(store.root / "out/summary.json")["net"] == {"kind": "ema"}


def test_a_failed_child_is_continued_and_a_finished_one_replaced(store):
    session = {**store.session, "stage": "evaluate"}
    failed = tracking_store.Store(session)
    failed.handle({"do": "tags", "tags": {"error": "models/gpt2 is missing"}})
    failed.handle({"do": "end", "status": "FAILED"})
    assert _child(store, "evaluate").info.status == "FAILED"
    continued = tracking_store.Store(session)
    assert continued.child_id == failed.child_id
    assert "error" not in _child(store, "evaluate").data.tags
    continued.handle({"do": "end", "status": "FINISHED"})
    replaced = tracking_store.Store(session)
    assert replaced.child_id != continued.child_id
    assert _child(store, "evaluate").info.run_id == replaced.child_id  # the only one


def test_a_killed_stage_stays_running_and_is_reopened(store):
    session = {**store.session, "stage": "gpt2_train"}
    events = [session, {"do": "metrics", "points": [["loss", 2.0, 1, 0]]}]
    tracking_store.Delivery(session, StringIO()).serve(_Inbox(events[1:]))
    killed = _child(store, "gpt2_train")
    assert killed.info.status == "RUNNING" and killed.data.metrics == {"loss": 2.0}
    assert tracking_store.Store(session).child_id == killed.info.run_id


def test_publish_finishes_the_parent_and_a_rerun_updates_the_same_row(store, tmp_path):
    (tmp_path / "strip.png").write_bytes(b"png")
    session = {**store.session, "stage": "report"}
    for psnr in (20.0, 21.0):
        run = tracking_store.Store(session)
        event = {"do": "publish", "points": [["inbetween.psnr", psnr, 1, 0]]}
        run.handle({**event, "artifacts": [str(tmp_path / "strip.png")]})
        run.handle({"do": "end", "status": "FINISHED"})
    (parent,) = _runs(store, "attributes.run_name = 'brave-crow'")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["inbetween.psnr"] == 21.0
    assert [item.path for item in store.client.list_artifacts(parent.info.run_id)] == ["strip.png"]


def test_pictures_stand_in_the_grids_once_however_often_they_are_published(store, tmp_path):
    """MLflow sets pictures of one key and step side by side, run by run."""
    session = {**store.session, "key": "nakawari/pictures/rev/0", "name": "pictures"}
    colours = {}
    for red in (10, 200):  # a parent that is reopened
        Image.new("RGB", (8, 6), (red, 0, 0)).save(tmp_path / "strip.png")
        run = tracking_store.Store({**session, "stage": "report"})
        shown = [["strip", str(tmp_path / "strip.png")], ["strip/2", str(tmp_path / "strip.png")]]
        run.handle({"do": "publish", "points": [], "artifacts": [], "pictures": shown})
        names = [item.path for item in store.client.list_artifacts(run.parent_id, "images")]
        for name in names:
            file = store.client.download_artifacts(run.parent_id, name, str(tmp_path))
            colours[red, name.split("+")[0]] = Image.open(file).convert("RGB").getpixel((4, 3))[0]
        # a picture and its small copy each
        assert sorted(Path(name).suffix for name in names) == [".png", ".png", ".webp", ".webp"]
    assert {key for _, key in colours} == {"images/strip", "images/strip_2"}
    assert all(abs(value - red) < 5 for (red, _), value in colours.items())
    assert store.client.get_run(run.parent_id).data.tags["mlflow.loggedImages"] == "True"


def test_other_parameters_make_another_parent_and_odd_names_are_stored(store):
    long = {"key": "nakawari/it's/rev/other", "name": "it's", "stage": "ingest"}
    session = {**store.session, **long, "params": {"a[0]": "x" * 10_000, "b": "1"}}
    first, again = tracking_store.Store(session), tracking_store.Store(session)
    assert first.parent_id == again.parent_id
    found = store.client.get_run(first.parent_id)
    assert len(found.data.params["a_0_"]) == tracking_store.MAX_TEXT
    first.handle({"do": "metrics", "points": [["loss [dB]", 1.0, 1, 0]]})
    assert "loss _dB_" in store.client.get_run(first.child_id).data.metrics


def test_without_tracking_only_files_and_two_lines_are_written(
    untracked, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tracking.subprocess, "Popen", None)
    with tracking.stage("ingest", untracked) as run:
        run.log({"loss": 1.0}, step=1)
        run.finish({"frames": 4992}, tmp_path / "out")
        run.publish({"a": 1.0}, [tmp_path / "out/summary.json"])
    assert io.read_json(tmp_path / "out/summary.json") == {"frames": 4992}
    printed = capsys.readouterr()
    first, last = printed.err.splitlines()
    assert first == "ingest: starts" and last.startswith("ingest: 4,992 frames, ")
    assert printed.out == ""
    assert set(io.read_json(tmp_path / ".store/seconds/ingest.json")) == {"seconds", "peak_mb"}


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (UserError("models/gpt2 is missing"), "FAILED", "models/gpt2 is missing"),
    ],
)
def test_an_exception_is_passed_on_with_its_status(settings, monkeypatch, error, status, sentence):
    sent = []
    writer = SimpleNamespace(send=sent.append, close=lambda: None)
    monkeypatch.setattr(tracking, "_Writer", lambda session: writer)
    with pytest.raises(type(error)), tracking.stage("ingest", settings):
        raise error
    assert sent == [{"do": "tags", "tags": {"error": sentence}}, {"do": "end", "status": status}]
    assert not tracking.seconds_file("ingest").exists()


def test_a_server_that_does_not_answer_is_refused_before_the_work(settings, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    refused = pytest.raises(UserError, match=r"127\.0\.0\.1:9: no answer")
    with refused, tracking.stage("ingest", settings):
        pytest.fail("the work has begun")


def test_a_missing_mlflow_is_refused_before_the_work(settings, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    refused = pytest.raises(UserError, match="mlflow is not installed")
    with refused, tracking.stage("ingest", settings):
        pytest.fail("the work has begun")


def test_a_writer_that_dies_costs_one_line(settings, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tracking.sys, "executable", "/bin/true")
    with tracking.stage("ingest", settings) as run:
        run._writer._process.wait()
        for step in range(5):
            run.log({"loss": 1.0}, step=step)
    assert capfd.readouterr().err.count("warning: tracking ended early") == 1


def test_results_decide_the_hash_and_operations_do_not(settings):
    engine = settings.engine.model_copy(update={"workers": 7})
    train = settings.train.model_copy(update={"n_frames_before": 5})
    same = settings.model_copy(update={"engine": engine})
    other = settings.model_copy(update={"train": train})
    assert tracking.params_hash(same) == tracking.params_hash(settings)
    assert tracking.params_hash(other) != tracking.params_hash(settings)


def test_names_come_from_the_experiment_or_the_revision(settings, monkeypatch):
    monkeypatch.setattr(tracking, "_git_head", lambda: "abcdef0123456")
    assert tracking._session("ingest", settings)["name"] == "workspace abcdef0"
    monkeypatch.setenv("DVC_EXP_NAME", "calm-fox")
    assert tracking._session("ingest", settings)["name"] == "calm-fox"


class _Outage(Exception):
    error_code = "INTERNAL_ERROR"


class _Inbox:
    """A queue that has all its events, then the end of the pipe."""

    def __init__(self, events: list[dict]):
        self._events = [*events, None]

    def get(self, timeout: float) -> dict | None:
        return self._events.pop(0)


def _delivery(monkeypatch, handle) -> tuple[tracking_store.Delivery, StringIO]:
    monkeypatch.setattr(tracking_store, "Store", lambda session: SimpleNamespace(handle=handle))
    complaints = StringIO()
    session = {"stage": "ingest", "flush_seconds": 0.0}
    return tracking_store.Delivery(session, complaints), complaints


def test_an_outage_costs_one_line_and_no_event(monkeypatch):
    stored, failures = [], [_Outage("gone"), _Outage("gone")]

    def handle(event):
        if failures:
            raise failures.pop()
        stored.append(event["n"])

    delivery, complaints = _delivery(monkeypatch, handle)
    delivery.serve(_Inbox([{"do": "tags", "n": n} for n in range(4)]))
    assert stored == [0, 1, 2, 3]
    assert complaints.getvalue() == "warning: tracking of ingest: _Outage: gone\n"


def test_an_event_that_can_never_be_stored_does_not_block_the_next(monkeypatch):
    stored = []

    def handle(event):
        if event["n"] == 1:
            raise FileNotFoundError("a.png")
        stored.append(event["n"])

    delivery, complaints = _delivery(monkeypatch, handle)
    delivery.serve(_Inbox([{"do": "tags", "n": n} for n in range(3)]))
    assert stored == [0, 2] and "a.png" in complaints.getvalue()


def test_what_is_not_stored_in_the_end_is_counted(monkeypatch):
    def handle(event):
        raise _Outage("gone")

    delivery, complaints = _delivery(monkeypatch, handle)
    delivery.serve(_Inbox([{"do": "tags"}, {"do": "end"}]))
    assert (
        complaints.getvalue()
        .splitlines()[-1]
        .endswith("2 events of this stage are not in the store")
    )


def test_points_are_collected_into_batches():
    delivery = tracking_store.Delivery({"stage": "ingest"}, StringIO())
    inbox = _Inbox([{"do": "metrics", "points": [["a", float(n), 1, n]]} for n in range(1500)])
    while not delivery._take(inbox, due=0.0):
        pass
    assert [len(event["points"]) for event in delivery.pending] == [1000, 500]


def test_publish_names_pictures_and_does_without_them(settings, tmp_path, monkeypatch):
    sent = []
    writer = SimpleNamespace(send=sent.append, close=lambda: None)
    monkeypatch.setattr(tracking, "_Writer", lambda session: writer)
    (tmp_path / "strip.png").write_bytes(b"png")
    with tracking.stage("report", settings) as run:
        run.publish({"a": 1.0}, [tmp_path / "strip.png"], {"strip": tmp_path / "strip.png"})
        run.publish({"a": 1.0}, [])
    first, second = [event for event in sent if event["do"] == "publish"]
    assert first["pictures"] == [["strip", str(tmp_path / "strip.png")]]
    assert second["pictures"] == []
