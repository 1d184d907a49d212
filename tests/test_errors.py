"""What ends a command becomes one line on stderr and an exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError, naming, run_main

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, signal, time
from pipeline.errors import UserError, run_main
def main():
    {body}
    time.sleep(60)
run_main(main)
"""
AGAIN = "run the same command again"
MEND, FREE = f"Mend that and {AGAIN}", f"Free some space and {AGAIN}"


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("raise UserError('a.mp4 is a folder')", 2, "error: a.mp4 is a folder"),
        (r"raise UserError('\x1b[2Ja.mp4')", 2, r"error: \x1b[2Ja.mp4"),
        ("open('/absent')", 1, f"error: No such file or directory at /absent. {MEND}"),
        ("raise OSError(28, 'No space left')", 1, f"error: No space left. {FREE}"),
        ("raise OSError(28, 'Full', 'read', None, 'made')", 1, f"error: Full at made. {FREE}"),
        ("raise OSError(5, 'Bad', 'o/.nakawari-1f.partial/a')", 1, f"error: Bad at o/a. {MEND}"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, f"interrupted; {AGAIN} to continue"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, f"interrupted; {AGAIN} to continue"),
    ],
)
def test_one_line_and_an_exit_code(body, code, line):
    program = [sys.executable, "-c", PROGRAM.format(body=body)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (code, line + "\n", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [(None, "out/a.json"), ("out/.nakawari-1.partial", "out/a.json"), ("other", "other")],
)
def test_a_disk_is_named_by_the_file_that_was_wanted(given, said):
    error = OSError(30, "Read-only file system", given)
    assert naming(error, Path("out/a.json")).filename == said


def test_a_stage_ends_with_the_dvc_that_was_killed(tmp_path):
    """Else it would write the files that the next run writes."""
    (tmp_path / "stage.py").write_text(PROGRAM.format(body="print('runs', flush=True)"))
    command = f"{sys.executable} {tmp_path / 'stage.py'}; :"
    (tmp_path / "dvc").write_text(f"import os\nos.system({command!r})")
    environment = {**os.environ, "DVC_STAGE": "ingest", "PYTHONPATH": str(ROOT)}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    dvc = subprocess.Popen([sys.executable, tmp_path / "dvc"], env=environment, **both)
    assert dvc.stdout.readline() == "runs\n"
    dvc.kill()
    assert dvc.stdout.read() == f"interrupted; {AGAIN} to continue\n", "read to the stage's end"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "not enough memory"),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory"),
            "a smaller batch_size",
        ),
        (RuntimeError("a bug"), None),
    ],
)
def test_a_want_of_memory_is_one_sentence_and_a_bug_is_not(error, said):
    def main():
        raise error

    with pytest.raises(SystemExit if said else RuntimeError, match=said or "a bug"):
        run_main(main)


def test_a_long_value_leaves_the_thing_and_the_remedy():
    assert str(UserError("a short sentence")) == "a short sentence"
    said = str(UserError(f"--size {'9' * 9000}: expected WIDTHxHEIGHT"))
    assert said.startswith("--size 999") and " ... " in said
    assert said.endswith("999: expected WIDTHxHEIGHT")
    assert len(said) < 3000
