"""Saved states: a killed training continues where it was, a failed one can be looked at.

The state of a running stage lives outside every output of DVC, in
`<DVC_ROOT>/.resume/<stage>/<key>.pt`. The key is a hash of parameters, inputs and code, so that a
state is never continued by anything else. It is replaced atomically, and the stage deletes it once
the finished model is on disk.

`<key>.failed.pt` is the state before a step whose loss was not finite, in the same format. Nothing
continues it by itself; renamed to `<key>.pt` it makes the same command begin with that step. It is
deleted at the success of the same key; those of other experiments stay.
"""

import contextlib
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Section
from pipeline.errors import UserError
from pipeline.io import atomic, project_root, remove_stale
from pipeline.training.task import Task

LIBRARY = Path(__file__).parents[1]
BLOCK_BYTES = 2**22


class Resume:
    """The saved state of one training run."""

    def __init__(self, stage: str, settings: dict[str, Section], inputs: list[Path]) -> None:
        plain = {name: section.model_dump() for name, section in settings.items()}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
        for path in [*sorted(LIBRARY.rglob("*.py")), *inputs]:
            digest.update(path.name.encode())
            with path.open("rb") as file:  # tokens of a season take 20 GB
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
        self.folder = project_root() / ".resume" / stage
        self.path = self.folder / f"{digest.hexdigest()[:16]}.pt"
        self.failed_path = self.path.with_suffix(".failed.pt")

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
        self._write(state, self.path)

    def save_failed(self, state: dict[str, Any]) -> None:
        self._write(state, self.failed_path)

    def clear(self) -> None:
        """After success. States of other parameters stay: another experiment may be running."""
        self.path.unlink(missing_ok=True)
        self.failed_path.unlink(missing_ok=True)
        remove_stale(self.folder)
        with contextlib.suppress(OSError):  # not empty
            self.folder.rmdir()

    def _write(self, state: dict[str, Any], path: Path) -> None:
        with atomic(path) as partial:
            torch.save(state, partial)


class BuffersAndRng:
    """What a step changes before the optimizers do. Cheap to keep."""

    def __init__(self, task: Task) -> None:
        saved = task.module.state_dict().keys()
        self.buffers = {
            name: buffer.detach().clone()
            for name, buffer in task.module.named_buffers()
            if name in saved
        }
        self.rng = {"cpu": torch.get_rng_state(), "generator": task.generator.get_state()}
        device = _device(task)
        if device.type == "cuda":
            self.rng["cuda"] = torch.cuda.get_rng_state(device)


def set_rng(task: Task, rng: dict[str, torch.Tensor]) -> None:
    """Continues with the random numbers of a saved state."""
    torch.set_rng_state(rng["cpu"])
    task.generator.set_state(rng["generator"])
    device = _device(task)
    if device.type == "cuda" and "cuda" in rng:  # `auto` may find a GPU that was not there
        torch.cuda.set_rng_state(rng["cuda"], device)


def _device(task: Task) -> torch.device:
    return next(task.module.parameters()).device
