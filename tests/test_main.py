"""`python -m pipeline`: the list of commands, and what it says where it cannot start one."""

import importlib
import subprocess
import sys

import pytest

from pipeline import __main__


def run(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["pipeline", *words])
    __main__.main()


def test_every_command_is_listed_and_can_be_imported(monkeypatch, capsys):
    run(monkeypatch)
    text = capsys.readouterr().out
    for name in __main__.COMMANDS:
        assert f"  {name} " in text
        assert callable(importlib.import_module(f"pipeline.commands.{name}").main)


@pytest.mark.parametrize(
    ("words", "line"),
    [(["generate"], "loading the model ...\n"), (["generate", "--help"], ""), (["check"], "")],
)
def test_a_terminal_is_told_at_once_what_takes_seconds(monkeypatch, capsys, words, line):
    command = type("Command", (), {"main": staticmethod(lambda: None)})
    monkeypatch.setattr(importlib, "import_module", lambda name: command)
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        run(monkeypatch, *words)
        assert capsys.readouterr().err == (line if terminal else "")


def test_an_unknown_command_is_named(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "draw")
    assert capsys.readouterr().err.startswith("error: 'draw' is no command\n\nusage: ")


def test_a_missing_package_is_one_sentence(monkeypatch):
    def import_module(name: str):
        raise ModuleNotFoundError("No module named 'cv2'", name="cv2")

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(SystemExit, match=r"cv2 is not installed.*pip install -r requirements\.txt"):
        run(monkeypatch, "check")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("presets | true", 141, ""),  # as `| head`, which does not read on
        ("presets > /dev/full", 1, "error: No space left on device. Free some space and run"),
    ],
)
def test_output_that_nobody_reads(command, code, words):
    script = f"set -o pipefail; {sys.executable} -m pipeline {command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == code and done.stderr.startswith(words)
    assert done.stderr.count("\n") == bool(words)


def test_interrupted_while_a_command_is_imported(monkeypatch, capsys):
    def import_module(name: str):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(SystemExit, match="130"):
        run(monkeypatch, "generate")
    assert capsys.readouterr().err.startswith("interrupted")
