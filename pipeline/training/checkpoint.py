"""Saved states: a killed training continues where it was.

The state of a running stage lives outside every output of DVC, in
`<DVC_ROOT>/.resume/<stage>/<key>`. The key is a hash of parameters, inputs and code, so that a
state is never continued by anything else. It is replaced atomically and deleted at success.
"""

import contextlib
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.params import Section
from pipeline.records import project_root

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
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        try:
            torch.save(state, partial)
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)

    def clear(self) -> None:
        """After success. States of other parameters stay: another experiment may be under way."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.folder.rmdir()


def _key(settings: dict[str, Section], inputs: list[Path]) -> str:
    plain = {name: section.model_dump() for name, section in settings.items()}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for path in [*sorted(LIBRARY.rglob("*.py")), *inputs]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
