"""The model in MLflow: what `report` logs, and what a real server answers."""

import base64
import io as bytes_io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image
from safetensors import safe_open

from pipeline import tracking
from pipeline.tracking import logged_model

FOLDERS = {"vqgan_train": Path("models/vqgan"), "gpt2_train": Path("models/gpt2")}
METRICS = {
    "evaluate": {"inbetween": {"psnr": 25.5}, "baselines_high_motion": {"rife": {"psnr": 20.5}}},
    "ingest": {"frames": 9},
}
SECONDS = 300  # patience with a busy machine


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny, saved_models):
    """A folder as the stages before `report` leave it, with random networks."""
    root = tmp_path_factory.mktemp("project")
    settings = tiny({"tracking.enabled": True})
    saved_models(root / "models", settings)
    for folder in FOLDERS.values():
        (root / folder / "history.csv").write_text("step,epoch,total\n10,1,2\n")
        (root / folder / "validation.csv").write_text("epoch,step,psnr\n1,10,20.5\n")
    (root / "data/shards").mkdir(parents=True)
    counts = {
        f"{kind}_{split}": 3 for kind in ("clips", "images") for split in logged_model.CONTEXTS
    }
    (root / "data/shards/summary.json").write_text(json.dumps(counts))
    outs = [{"path": f"{path}", "md5": f"{path.name}.dir"} for path in FOLDERS.values()]
    outs.append({"path": "data/shards", "md5": "0123.dir"})
    (root / "dvc.lock").write_text(json.dumps({"stages": {"all": {"outs": outs}}}))
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    return SimpleNamespace(root=root, settings=settings, uri=uri, client=client)


def run_report(project, name: str) -> tuple:
    """What the stage `report` does with MLflow, under a name: its row and the row's models."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_BASELINE_REV"):
            patch.delenv(variable, raising=False)
        patch.setenv("DVC_ROOT", str(project.root))
        patch.setenv("DVC_EXP_NAME", name)
        patch.chdir(project.root)
        with tracking.stage("report", project.settings) as stage:
            stage.publish(METRICS, [], FOLDERS)
    home = [project.client.get_experiment_by_name("nakawari").experiment_id]
    (row,) = project.client.search_runs(home, f"tags.`nakawari.key` LIKE '{name}/%'")
    models = project.client.search_logged_models(home, f"source_run_id = '{row.info.run_id}'")
    return row, models


@pytest.fixture
def report(project):
    return lambda name: run_report(project, name)


@pytest.fixture(scope="module")
def champion(project):
    """Version 1 of the registered model, as docs/using.md makes it."""
    _, (model,) = run_report(project, "served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", project.uri)
        version = mlflow.register_model(f"models:/{model.model_id}", "nakawari")
    project.client.set_registered_model_alias("nakawari", "champion", version.version)
    return version


def folder_of(model) -> Path:
    return Path(model.artifact_location.removeprefix("file://"))


def test_a_row_has_one_model_with_its_numbers_and_data(report):
    report("once")
    row, (model,) = report("once")
    assert model.status == "READY" and row.info.status == "FINISHED"
    assert [output.model_id for output in row.outputs.model_outputs] == [model.model_id]
    numbers = {(m.key, m.value, m.dataset_name, m.dataset_digest) for m in model.metrics}
    name = "data/sample/episodes, test"
    assert numbers == {("evaluate.inbetween.psnr", 25.5, name, "0123.dir")}, "not of baselines"
    assert row.data.metrics["ingest.frames"] == 9
    assert model.params["transformer.n_layer"] == "2"
    inputs = {(i.dataset.name, i.tags[0].value) for i in row.inputs.dataset_inputs}
    contexts = logged_model.CONTEXTS.items()
    assert inputs == {(f"data/sample/episodes, {split}", c) for split, c in contexts}
    files = {path.suffix for path in folder_of(model).rglob("*") if path.is_file()}
    assert ".safetensors" in files and not files & {".pkl", ".pyc"}
    assert not (folder_of(model) / "code/pipeline/training").exists()
    with safe_open(next(folder_of(model).rglob("vqgan/model.safetensors")), "pt") as file:
        assert file.keys()


def test_large_networks_stay_with_dvc(report, monkeypatch):
    monkeypatch.setattr(logged_model, "MAX_COPY", 100)
    _, (model,) = report("large")
    assert model.status == "READY" and model.metrics and not folder_of(model).exists()
    assert model.tags["dvc.models/gpt2"] == "gpt2.dir"
    assert model.tags["mlflow.model.isExternal"] == "true"


def test_other_weights_are_another_model(report, project):
    report("weights")
    path = project.root / "models/gpt2/model.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        _, models = report("weights")
    finally:
        path.write_bytes(before)
    assert len(models) == 2


def test_a_failed_copy_costs_one_line_and_no_number(report, monkeypatch, capsys):
    def full(self, model_id: str, folder: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", full)
        row, (model,) = report("full")
    assert model.status == "FAILED" and row.data.metrics["evaluate.inbetween.psnr"] == 25.5
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "No space left" in line and "dvc exp apply full && " in line
    assert "READY" in {model.status for model in report("full")[1]}, "the next report mends it"


def test_a_copied_project_has_copies_of_its_models(project, champion, tmp_path):
    root = shutil.copytree(project.root, tmp_path / "copy")
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    copy = SimpleNamespace(root=root, settings=project.settings, client=client)
    _, (model,) = run_report(copy, "served")
    places = model.artifact_location, client.get_model_version_download_uri("nakawari", "1")
    assert all(place.startswith((root / "mlartifacts").as_uri()) for place in places)
    assert (folder_of(model) / "MLmodel").is_file()


@pytest.fixture(scope="module")
def ask(project, champion, tmp_path_factory):
    """Sends a request to `mlflow models serve`, on loopback: HTTP status and answer."""
    folder = tmp_path_factory.mktemp("elsewhere")  # nothing of the project's folder is needed
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/nakawari@champion"]
    command += ["--env-manager", "local", "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": project.uri}

    def post(content: dict) -> tuple[int, dict]:
        data, kind = json.dumps(content).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", data, kind)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    with (folder / "log").open("w") as log:
        streams = {"stdout": log, "stderr": log}
        server = subprocess.Popen(
            command, cwd=folder, env=environment, **streams, start_new_session=True
        )
    try:
        started = time.monotonic()
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping"):
                break
            if server.poll() is not None or time.monotonic() - started > SECONDS:
                pytest.fail((folder / "log").read_text()[-3000:])
            time.sleep(0.2)
        yield post
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(SECONDS)


def base64_of(height: int = 30, width: int = 50, colour="red", kind: str = "png") -> str:
    content = bytes_io.BytesIO()
    Image.new("RGB", (width, height), colour).save(content, kind)
    return base64.b64encode(content.getvalue()).decode()


RED, BLUE = base64_of(), base64_of(colour="blue")


def clip_of(answer: dict, folder: Path, suffix: str = ".mp4") -> list:
    """Frames uint8 `H W 3` of the first clip of an answer."""
    path = (folder / "clip").with_suffix(suffix)
    path.write_bytes(base64.b64decode(answer["predictions"][0]["clip"]))
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


@pytest.mark.parametrize(
    ("row", "params", "shape", "note"),
    [
        ({}, {}, (20, 30, 50), ""),
        ({}, {"n_frames": 7, "on": 2, "ease": 2.5, "fps": 12.0}, (7, 30, 50), ""),
        ({}, {"n_frames": 5, "format": "gif", "fps": 25.0}, (5, 30, 50), ""),
        ({}, {"n_frames": 5, "format": "gif", "fps": 99.0}, (5, 30, 50), "at most 50 frames a sec"),
        ({}, {"n_frames": 5, "temperature": 1, "seed": 3, "size": "64x80"}, (5, 64, 80), "stretch"),
        ({"first": f"data:image/png;base64,{RED[:40]}\n{RED[40:]}"}, {}, (20, 30, 50), ""),
        ({"last": base64_of(90, 60, kind="jpeg")}, {}, (20, 30, 50), r"last \(90x60\): scaled"),
    ],
)
def test_a_server_answers_pictures_with_a_clip(ask, tmp_path, row, params, shape, note):
    content = {"dataframe_records": [{"first": RED, "last": BLUE, **row}], "params": params}
    status, answer = ask(content)
    assert status == 200, answer
    frames = clip_of(answer, tmp_path, f".{params.get('format', 'mp4')}")
    assert (len(frames), *frames[0].shape[:2]) == shape
    assert np.abs(frames[0].astype(int) - (255, 0, 0)).max() < 6, "the given picture"
    notes = answer["predictions"][0]["notes"]
    assert re.search(note, notes) if note else not notes


@pytest.mark.parametrize(
    ("row", "params", "words"),
    [
        ({"first": "hello!!"}, {}, r"first is no base64 \(.*\); expected the text"),
        ({"first": "/etc/passwd"}, {}, "first is no base64"),
        ({"last": 5}, {}, "last is no base64"),
        ({"last": None}, {}, "last is no base64"),
        ({"last": ""}, {}, "last cannot be read: empty file"),
        ({"last": base64.b64encode(b"a text").decode()}, {}, "last cannot be read: in a format"),
        ({"first": RED[:80]}, {}, "first cannot be read: broken"),
        ({"first": base64_of(1, 1)}, {}, "first is 1x1 pixels; expected at least 16x16"),
        ({"first": base64_of(9000, 9000)}, {}, "first cannot be read: .* too many; expected"),
        ({}, {"n_frames": 1}, "n_frames 1: expected 3 to 1000"),
        ({}, {"n_frames": 10**9}, "n_frames 1000000000: expected"),
        ({}, {"n_frames": None}, "n_frames is null"),
        ({}, {"n_frames": "abc"}, "Invalid parameters found: .*n_frames"),
        ({}, {"n_frames": 5.5}, "Invalid parameters found: .*n_frames"),
        ({}, {"on": 0}, "on 0: expected 1 to"),
        ({}, {"ease": 0.5}, "^ease 0.5: expected from 1, even timing, to 16"),
        ({}, {"ease": float("nan")}, "ease nan: expected"),
        ({}, {"temperature": -1.0}, "temperature -1.0: expected"),
        ({}, {"fps": float("inf")}, "fps inf: expected"),
        ({}, {"format": "../x"}, "format '../x': expected mp4 or gif"),
        ({}, {"size": "5x5"}, "^size 5x5: expected sides from 16"),
        ({}, {"size": "8192x8192", "n_frames": 1000, "format": "gif"}, "^the clip (needs|would)"),
        ({}, {"frames": 5}, "unknown: 'frames'; expected columns first and last, and as params"),
        ({"n_frames": 5}, {}, "unknown: 'n_frames'; expected columns first"),
    ],
)
def test_a_wrong_request_is_answered_with_a_sentence(ask, row, params, words):
    content = {"dataframe_records": [{"first": RED, "last": BLUE, **row}], "params": params}
    status, answer = ask(content)
    assert status == 400 and re.search(words, answer["message"]), answer
    assert "stack_trace" not in answer and "/tmp" not in answer["message"]


def test_the_wrong_row_of_several_is_named(ask):
    rows = [{"first": RED, "last": BLUE}, {"first": RED, "last": "x"}]
    status, answer = ask({"dataframe_records": rows, "params": {"n_frames": 3}})
    assert status == 400 and answer["message"].startswith("row 1: last is no base64")


def test_the_example_of_the_model_is_a_request(ask, champion, project):
    _, (model,) = run_report(project, "served")
    status, answer = ask(json.loads((folder_of(model) / "serving_input_example.json").read_text()))
    assert status == 200 and len(answer["predictions"]) == 1
