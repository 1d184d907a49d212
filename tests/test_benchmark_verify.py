"""`benchmarks.verify` on a pipeline of three stages, the last of which writes into git."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IGNORED = ("/fixed", "/drifting", "/kept", "__pycache__")
STABLE = "mkdir drifting; echo other > drifting/a"  # than fixed/a: else DVC copies that
STAGES = """
stages:
  fixed:
    cmd: mkdir fixed; echo 1 > fixed/a
    deps: [.gitignore]
    outs: [fixed]
  drifting:
    cmd: {command}
    deps: [fixed]
    outs: [drifting]
  shown:
    cmd: mkdir metrics; cp drifting/a metrics/b
    deps: [drifting]
    outs: [metrics: {{cache: false}}]
"""


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | variables
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def commit(project: Path) -> None:
    run(project, "git", "init", "-q")
    run(project, "git", "add", "-A")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    run(project, "git", *identity, "commit", "-q", "-m", "results")


@pytest.fixture
def verify(tmp_path):
    """Commits a pipeline whose stage `drifting` is `command`, and verifies it."""
    project, clones = tmp_path / "project", tmp_path / "clones"

    def do(command: str, **variables: str) -> tuple[subprocess.CompletedProcess, list[Path]]:
        project.mkdir()
        (project / "dvc.yaml").write_text(STAGES.format(command=command))
        (project / ".gitignore").write_text("\n".join(IGNORED) + "\n")
        run(project, "git", "init", "-q")
        run(project, "dvc", "init", "-q")
        run(project, "dvc", "repro", "-q", **variables)
        commit(project)
        module = (sys.executable, "-m", "benchmarks.verify", "--folder", str(clones))
        done = run(project, *module, "--repro", f"{sys.executable} -m dvc repro", **variables)
        return done, list(clones.iterdir())

    return do


def test_equal_clones_are_deleted(verify, tmp_path):
    """Both run every stage, also where the caller's settings name a cache that has the results."""
    (tmp_path / "config").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    done, clones = verify(STABLE, DVC_GLOBAL_CONFIG_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical: outputs of 3 stages" in done.stdout and not clones
    assert len([line for line in done.stdout.splitlines() if line.endswith("shown")]) == 2
    assert (tmp_path / "shared/runs").is_dir()


def test_the_first_stage_and_file_that_differ_are_named(verify):
    done, clones = verify(f"{STABLE}; pwd > drifting/b; date +%Z > drifting/c")
    assert done.returncode == 1
    assert "drifting differs, in b of drifting" in done.stderr
    assert len(list(clones[0].glob("*.log"))) == 2


def test_what_differs_from_the_commit_alone_is_named(verify):
    done, _ = verify(f"{STABLE}; test $(basename $PWD) = project || echo 2 > drifting/a")
    assert done.returncode == 1
    assert "both clones agree, and drifting differs from what HEAD records" in done.stderr


def test_uncommitted_changes_are_refused(tmp_path):
    (tmp_path / "a").write_text("1")
    commit(tmp_path)
    (tmp_path / "a").write_text("2")
    done = run(tmp_path, sys.executable, "-m", "benchmarks.verify", "--repro", "false")
    assert done.returncode == 2 and "1 files are changed" in done.stderr
