"""Saved states: a killed training continues where it was, a failed one can be looked at.

The state of a running stage lives outside every output of DVC, in
`<DVC_ROOT>/.resume/<stage>/<key>.pt`. The key is a hash of parameters, inputs and code, so that a
state is never continued by anything else. It is replaced atomically and deleted at success.

`<key>.failed.pt` is the state before a step whose loss was not finite, in the same format. Nothing
continues it by itself; renamed to `<key>.pt` it makes the same command begin with that step. There
is one a stage at most, and none after a success.
"""

import contextlib
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Section
from pipeline.errors import UserError
from pipeline.io import project_root
from pipeline.training.task import Task

LIBRARY = Path(__file__).parents[1]


class Resume:
    """The saved state of one training run."""

    def __init__(self, stage: str, settings: dict[str, Section], inputs: list[Path]) -> None:
        self.folder = project_root() / ".resume" / stage
        self.path = self.folder / f"{_key(settings, inputs)}.pt"

    def load(self) -> dict[str, Any] | None:
        """The state, or None where there is nothing to continue."""
        if not self.path.is_file():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(
                f"{self.path} is a damaged saved state ({str(error).splitlines()[0]}); "
                "delete it and run again"
            ) from None

    def save(self, state: dict[str, Any]) -> None:
        _write(state, self.path)

    def save_failed(self, state: dict[str, Any]) -> Path:
        """Keeps the state before a step that failed, and no older one; gives its path."""
        self._clear_failed()
        path = self.path.with_suffix(".failed.pt")
        _write(state, path)
        return path

    def clear(self) -> None:
        """After success. States of other parameters stay: another experiment may be under way."""
        self.path.unlink(missing_ok=True)
        self._clear_failed()
        with contextlib.suppress(OSError):  # not empty
            self.folder.rmdir()

    def _clear_failed(self) -> None:
        for path in self.folder.glob("*.failed.pt"):
            path.unlink(missing_ok=True)


class Moment:
    """What a step changes before the optimizers do: buffers and random numbers. Cheap to keep."""

    def __init__(self, task: Task, names: set[str]) -> None:
        """names: of the buffers that a state holds (`saved_buffers`)."""
        self.buffers = {
            name: buffer.detach().clone()
            for name, buffer in task.module.named_buffers()
            if name in names
        }
        self.random = {"cpu": torch.get_rng_state(), "generator": task.generator.get_state()}
        device = _device(task)
        if device.type == "cuda":
            self.random["cuda"] = torch.cuda.get_rng_state(device)


def saved_buffers(task: Task) -> set[str]:
    """Names of the buffers in the module's state."""
    return {name for name, _ in task.module.named_buffers()} & task.module.state_dict().keys()


def set_random(task: Task, random: dict[str, torch.Tensor]) -> None:
    """Goes on with the random numbers of a saved moment."""
    torch.set_rng_state(random["cpu"])
    task.generator.set_state(random["generator"])
    device = _device(task)
    if device.type == "cuda" and "cuda" in random:  # `auto` may find a GPU that was not there
        torch.cuda.set_rng_state(random["cuda"], device)


def _device(task: Task) -> torch.device:
    return next(task.module.parameters()).device


def _write(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        torch.save(state, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _key(settings: dict[str, Section], inputs: list[Path]) -> str:
    plain = {name: section.model_dump() for name, section in settings.items()}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for path in [*sorted(LIBRARY.rglob("*.py")), *inputs]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
