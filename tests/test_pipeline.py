"""The whole pipeline with the preset `tiny`, in a clone, through DVC, as a user runs it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from test_dvc_yaml import OPERATIONAL, STAGES, WITHOUT_EFFECT, closure

from pipeline import config, io

ROOT = Path(__file__).parents[1]
TRACE = "trace"  # beside the clone
# Read by git, DVC and MLflow, or to make a row in MLflow.
BYSTANDERS = {"params.yaml", "dvc.lock", ".gitignore", ".gitattributes", "requirements.txt"}
BYSTANDERS |= {"mlflow.db", "mlflow.db-journal", "data/shards/index.json"}
BYSTANDERS |= {"pipeline/commands/mlflow_model.py"}
# What a stage does not read in this run, and when it does.
ELSEWHERE = {
    "ingest": {
        "ingest.on_error": "a file cannot be read whole",
        "source.moving_mnist": "source.kind is moving_mnist",
    },
    "vqgan_train": {"base.gradient_checkpointing": "vqgan.context is none"},
    "gpt2_train": {
        "data/shards": "sequences are drawn anew in each epoch",
        "vqgan.loss.perceptual_loss": "train.perceptual_loss_weight is above 0",
    },
}
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "user.name",
    "GIT_CONFIG_VALUE_0": "test",
    "GIT_CONFIG_KEY_1": "user.email",
    "GIT_CONFIG_VALUE_1": "test@example.org",
}
NOT_IN_GIT = ("deleted", "not in cache")  # what `dvc status` says of data in a fresh clone
for name in ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
    ENVIRONMENT.pop(name, None)


def run(
    folder: Path, *command: str, check: bool = True, **variables: str
) -> subprocess.CompletedProcess:
    environment = ENVIRONMENT | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def stages_run(done: subprocess.CompletedProcess) -> list[str]:
    lines = done.stdout.splitlines()
    return [line.split("'")[1] for line in lines if line.startswith("Running stage")]


def clone_into(folder: Path) -> Path:
    """A clone of the last commit, with the changes of the working tree on top."""
    run(ROOT, "git", "clone", "-q", "--no-hardlinks", ".", str(folder))
    changed = run(ROOT, "git", "ls-files", "-m", "-o", "--exclude-standard").stdout.splitlines()
    for name in changed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    return clone_into(tmp_path_factory.mktemp("untouched") / "project")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A clone in which the preset `tiny` has run, beside a trace of what its stages read."""
    folder = clone_into(tmp_path_factory.mktemp("tiny") / "project")
    run(folder, sys.executable, "-m", "pipeline", "presets", "tiny")
    run(folder, "git", "commit", "-q", "-a", "-m", "tiny")
    for name in run(folder, "git", "ls-files", "-z").stdout.split("\0")[:-1]:
        os.utime(folder / name, (1e9, 1e9))  # git looks into files that are as new as its index,
    run(folder, "git", "status")  # ... and the trace would call that reading
    tracing = {
        "PYTHONPATH": str(ROOT / "tests/tracing"),
        "NAKAWARI_TRACE": str(folder / f"../{TRACE}"),
    }
    run(folder, "dvc", "repro", **tracing)
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", "results")
    return folder


def test_committed_lock_fits_code_and_parameters(untouched):
    status = json.loads(run(untouched, "dvc", "status", "--json").stdout)
    stale = {}
    for stage, changes in status.items():
        for change in changes if isinstance(changes, list) else []:
            for kind, items in change.items() if isinstance(change, dict) else []:
                found = {k: v for k, v in items.items() if v not in NOT_IN_GIT}
                if found:
                    stale.setdefault(stage, {})[kind] = found
            if isinstance(change, str):
                stale.setdefault(stage, {})[change] = True
    assert stale == {}


def test_every_declared_output_exists(project):
    stages = YAML(typ="safe").load((project / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for out in stage["outs"]:
            path = project / (out if isinstance(out, str) else next(iter(out)))
            assert path.is_dir() and any(path.iterdir()), path


@pytest.mark.skipif(sys.platform != "linux", reason="files are traced by inotify")
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_what_dvc_yaml_names(project, stage):
    lines = project.with_name(TRACE).joinpath(f"{stage}.txt").read_text().splitlines()
    reads = {tuple(line.split(" ", 1)) for line in lines}
    content = config.read_yaml(project / "params.yaml")
    source = content["source"]["path"]
    deps = [dep.replace("${source.path}", source) for dep in STAGES[stage]["deps"]]
    params, elsewhere = STAGES[stage].get("params", []), ELSEWHERE.get(stage, {})

    keys = {what for kind, what in reads if kind == "key"}
    keys = {key for key in keys if key.split(".")[0] not in OPERATIONAL}
    assert {key for key in keys if not within(key, params)} == set(), "dvc.yaml names too few"
    files = {what for kind, what in reads if kind != "key"} - BYSTANDERS
    unnamed = {file for file in files if not within(file, deps) and not is_plain_package(file)}
    for path in WITHOUT_EFFECT:
        unnamed -= {file.relative_to(ROOT).as_posix() for file in closure(path)}
    assert unnamed == set(), "dvc.yaml names too few"

    idle = {key for key in io.flatten(content) if within(key, params)} - keys
    folders = [dep for dep in deps if not dep.endswith(".py")]  # code: tests/test_dvc_yaml.py
    idle |= {dep for dep in folders if not any(within(file, [dep]) for file in files)}
    assert {name for name in idle if not within(name, elsewhere)} == set(), "too many"
    assert {part for part in elsewhere if not any(within(n, [part]) for n in idle)} == set()


def is_plain_package(file: str) -> bool:
    """Whether it is an `__init__.py` without a statement but a docstring."""
    return file.endswith("__init__.py") and not ast.parse((ROOT / file).read_text()).body[1:]


def within(name: str, wholes: Iterable[str]) -> bool:
    """Whether a key is one of, or in one of these sections; the same for files and folders."""
    return any(name == whole or name.startswith((f"{whole}.", f"{whole}/")) for whole in wholes)


def test_second_run_does_nothing(project):
    assert stages_run(run(project, "dvc", "repro")) == []


def test_data_and_models_travel(project, tmp_path):
    """By a remote to a clone, which then has nothing to do; by a tag to who has no clone."""
    clone, weights = tmp_path / "clone", "gpt2/model.safetensors"
    run(ROOT, "git", "clone", "-q", str(project), str(clone))
    for folder, way in ((project, "push"), (clone, "pull")):
        run(folder, "dvc", "remote", "add", "--local", "-d", "store", str(tmp_path / "store"))
        run(folder, "dvc", way)
    assert stages_run(run(clone, "dvc", "repro")) == []
    assert not run(clone, "git", "status", "--porcelain").stdout
    run(project, "git", "tag", "-a", "nakawari@v1.0.0", "-m", "first")
    run(tmp_path, "dvc", "artifacts", "get", str(project), "nakawari", "--rev", "v1.0.0")
    assert (tmp_path / "models" / weights).read_bytes() == (clone / "models" / weights).read_bytes()


def test_metrics_are_complete(project):
    content = json.loads((project / "metrics/evaluate.json").read_text())
    assert len(io.flatten(content)) <= 30 and 0 < content["inbetween"]["psnr"] <= 60
    assert content["counts"]["clips_high_motion"] < content["counts"]["clips"]
    names = {"cross_fade", "optical_flow", "rife", "untrained", "without_codes"}
    assert set(content["baselines_high_motion"]) == names
    details = json.loads((project / "evaluation/details.json").read_text())
    names |= {"black", "hold_first", "hold_nearest", "round_trip"}
    assert set(details["baselines"]) == names == set(details["baselines_high_motion"])
    metrics = {"psnr", "ssim", "lpips", "line_chamfer"}
    assert all(metrics <= set(row) for row in details["baselines"].values())
    assert details["verdict"].startswith("No verdict") and "2 videos" in details["verdict"]
    assert {"fvd", "kvd"} <= set(details["left_out"]), "too few clips to rank by them"
    assert "test" in details["thesis_metrics"]


def test_one_parameter_reruns_only_what_is_below(project):
    done = run(project, "dvc", "exp", "run", "-S", "train.n_frames_before=8", "-n", "eight")
    assert stages_run(done) == ["gpt2_train", "evaluate", "report"]
    config = json.loads((project / "models/gpt2/config.json").read_text())
    assert config["gpt"]["n_frames_before"] == 8
    run(project, "git", "checkout", "-q", ".")
    assert stages_run(run(project, "dvc", "repro")) == []  # everything is in the run-cache


def test_experiments_compare(project):
    shown = run(project, "dvc", "exp", "show", "--json").stdout
    assert "eight" in shown
    changed = json.loads(run(project, "dvc", "params", "diff", "--json", "eight").stdout)
    assert "train.n_frames_before" in changed["params.yaml"]
    run(project, "dvc", "plots", "diff", "eight", "--out", "dvc_plots")
    page = (project / "dvc_plots/index.html").read_text()
    assert "inbetween_strip" in page


def test_one_tracking_row_a_pipeline_run(project):
    script = (
        "import mlflow, json; mlflow.set_tracking_uri('sqlite:///mlflow.db');"
        "runs = mlflow.search_runs(experiment_names=['nakawari'], output_format='list');"
        "print(json.dumps([[r.info.run_name, r.info.status, r.data.params, r.data.metrics,"
        " r.data.tags.get('mlflow.parentRunId')] for r in runs]))"
    )
    rows = json.loads(run(project, sys.executable, "-c", script).stdout.splitlines()[-1])
    parents = [row for row in rows if row[4] is None]
    assert len(parents) == 2 and {row[1] for row in parents} == {"FINISHED"}
    assert {row[2]["train.n_frames_before"] for row in parents} == {"2", "8"}
    assert all("evaluate.inbetween.psnr" in row[3] for row in parents)
    assert len(list((project / "mlartifacts").rglob("report.html"))) == 2
    assert len(list((project / "mlartifacts").glob("models/*/artifacts/MLmodel"))) == 2


def test_generate_from_the_trained_models(project, tmp_path):
    from PIL import Image

    for name, colour in (("a", (200, 40, 40)), ("b", (40, 40, 200))):
        Image.new("RGB", (150, 90), colour).save(tmp_path / f"{name}.png")
    ends = ["--first", str(tmp_path / "a.png"), "--last", str(tmp_path / "b.png")]
    out = ["--n-frames", "5", "--out", str(tmp_path / "clip")]
    run(project, sys.executable, "-m", "pipeline", "generate", *ends, *out)
    assert len(list((tmp_path / "clip").glob("frame_*.png"))) == 5


def test_an_earlier_value_comes_back_without_training(project):
    """8, 2, and 8 again: outputs come from the cache, with the same bytes."""
    ref = run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/eight").stdout
    lock = run(project, "git", "show", f"{ref.strip()}:dvc.lock").stdout
    params = project / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("n_frames_before: 2 ", "n_frames_before: 8 "))
    done = run(project, "dvc", "repro")
    assert stages_run(done) == ["report"]
    for stage in ("gpt2_train", "evaluate"):
        assert f"Stage '{stage}' is cached - skipping run" in done.stdout
    assert (project / "dvc.lock").read_text() == lock
    run(project, "git", "reset", "-q", "--hard")
    assert stages_run(run(project, "dvc", "repro")) == []


def test_temporary_experiment_imports_its_own_copy(project):
    stage = project / "stages/report.py"
    text = stage.read_text()
    show = "    import pipeline, sys\n    print('library:', pipeline.__file__, file=sys.stderr)\n"
    stage.write_text(text.replace("def main() -> None:\n", "def main() -> None:\n" + show))
    try:
        done = run(project, "dvc", "exp", "run", "--temp", "-S", "train.n_frames_before=8")
    finally:
        stage.write_text(text)
    assert stages_run(done) == ["report"], "the others are in the cache"
    library = next(x for x in done.stderr.splitlines() if x.startswith("library:"))
    assert ".dvc/tmp/exps" in library
    assert not (project / ".dvc/tmp/exps/mlflow.db").exists()


def test_bad_parameter_stops_before_any_work(project):
    done = run(project, "dvc", "exp", "run", "-S", "train.lr_max=abc", check=False)
    assert done.returncode != 0
    assert "train.lr_max = 'abc'" in done.stderr and "Traceback" not in done.stderr
