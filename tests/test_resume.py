"""Saved states belong to one run: other parameters or inputs never continue them."""

import os
import signal
from unittest import mock

import pytest
import torch

from pipeline.errors import Terminated
from pipeline.resume import Resume, saved_between


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    path = tmp_path / "index.json"
    path.write_text("{}")
    return [path]


def test_a_state_comes_back(tiny, inputs):
    state = {"step": 3, "module": {"w": torch.rand(2)}, "history": {"steps": [{"total": 0.5}]}}
    base = {"base": tiny().base}
    assert Resume("a", base, inputs).load() is None
    Resume("a", base, inputs).save(state)
    found = Resume("a", base, inputs).load()
    assert found["step"] == 3 and torch.equal(found["module"]["w"], state["module"]["w"])
    assert found["history"] == state["history"]


def test_other_parameters_inputs_and_stages_do_not_continue_it(tiny, inputs):
    base = {"base": tiny().base}
    Resume("a", base, inputs).save({"step": 1})
    assert Resume("b", base, inputs).load() is None
    assert Resume("a", {"base": tiny({"base.seed": 2}).base}, inputs).load() is None
    assert Resume("a", base | {"train": tiny().train}, inputs).load() is None
    inputs[0].write_text("{ }")
    assert Resume("a", base, inputs).load() is None
    inputs[0].write_text("{}")
    assert Resume("a", base, inputs).load() == {"step": 1}


def test_other_code_does_not_continue_it(tiny, inputs, tmp_path, monkeypatch):
    base = {"base": tiny().base}
    monkeypatch.setattr("pipeline.resume.LIBRARY", tmp_path / "code")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/model.py").write_text("a = 1\n")
    Resume("a", base, inputs).save({"step": 1})
    (tmp_path / "code/model.py").write_text("a = 2\n")
    assert Resume("a", base, inputs).load() is None


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
@pytest.mark.parametrize("states", [1, 2])
def test_a_damaged_state_is_set_aside_and_the_one_before_continues(
    tiny, inputs, capsys, kept, states
):
    resume = Resume("a", {"base": tiny().base}, inputs)
    for step in range(1, states + 1):
        resume.save({"step": step, "w": torch.rand(500)})
    content = resume.path.read_bytes()
    resume.path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    state = resume.load()
    assert (state and state["step"]) == (1 if states == 2 else None)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{resume.path} is a damaged saved state" in said
    resume.save({"step": 3})
    resume.path.unlink()
    assert (resume.load() is None) == (states == 1), "a damaged one never takes a good one's place"
    resume.clear()
    assert not resume.folder.exists()


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "Input/output error"), RuntimeError("not enough memory")]
)
def test_a_state_that_cannot_be_read_now_is_no_damaged_one(tiny, inputs, monkeypatch, error):
    resume = Resume("a", {"base": tiny().base}, inputs)
    resume.save({"step": 1})
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(torch, "load", mock.Mock(side_effect=error))
        resume.load()
    assert resume.load() == {"step": 1}


def test_two_runs_with_one_key_have_parts_of_their_own(tiny, inputs):
    one, other = (Resume("a", {"base": tiny().base}, inputs) for _ in range(2))
    with one.parts() as first:
        (first / "a").touch()
        with other.parts() as second:
            assert not list(second.iterdir())
        other.clear()
        assert (first / "a").exists() and not second.exists()
    assert not first.exists()


def test_parts_of_a_killed_run_wait_for_each_process(tiny, inputs):
    resume = Resume("a", {"base": tiny().base}, inputs)
    for rank in (0, 1):
        with pytest.raises(KeyboardInterrupt), resume.parts(rank) as parts:
            (parts / str(rank)).touch()
            raise KeyboardInterrupt
    for rank in (0, 1):
        with resume.parts(rank) as parts:
            assert [path.name for path in parts.iterdir()] == [str(rank)]


def test_a_success_deletes_its_own_failed_state_alone(tiny, inputs):
    resume = Resume("a", {"base": tiny().base}, inputs)
    other = Resume("a", {"base": tiny({"base.seed": 2}).base}, inputs)
    other.save({"step": 5})
    other.save_failed({"step": 1})
    resume.save_failed({"step": 2})
    assert torch.load(resume.failed_path) == {"step": 2} and resume.load() is None
    resume.clear()
    assert not resume.failed_path.exists()
    assert other.failed_path.exists() and other.load() == {"step": 5}, "another experiment's"


def test_clearing_leaves_nothing(tiny, inputs):
    resume = Resume("a", {"base": tiny().base}, inputs)
    resume.save({"step": 1})
    resume.clear()
    assert resume.load() is None and not resume.folder.exists()
    resume.clear()


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_ends_a_loop_after_an_item_and_a_save(number, error):
    done, saves, before = [], [], signal.getsignal(number)
    with pytest.raises(error):
        for item in saved_between(range(5), lambda: saves.append(len(done)), interval=1e9):
            if item == 2:
                os.kill(os.getpid(), number)
            done.append(item)
    assert done == [0, 1, 2] and saves == [3]
    assert signal.getsignal(number) == before
