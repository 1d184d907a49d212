"""Small JSON files that travel between stages and into git: six digits, sorted keys, no NaN."""

import json
import math
import os
from pathlib import Path

from pipeline.errors import UserError


def project_root() -> Path:
    """The real repository, also inside a temporary or queued experiment; else the current folder.

    DVC sets DVC_ROOT in stages. What outlives an experiment's copy (tracking store, saved states,
    seconds) lies below it.
    """
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def write_json(path: Path, content: dict) -> None:
    """Writes atomically; numbers keep six significant digits, so that a diff shows real changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(
        json.dumps(_rounded(content, path), indent=2, sort_keys=True) + "\n", "utf-8"
    )
    partial.replace(path)


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise UserError(f"{path} is missing; `dvc repro` makes it")
    return json.loads(path.read_text("utf-8"))


def flatten(content: dict, prefix: str = "") -> dict[str, float | int | str | bool | None]:
    """{"a": {"b": 1}} to {"a.b": 1}; lists stay as they are."""
    flat = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def _rounded(value, path: Path):
    if isinstance(value, dict):
        return {str(key): _rounded(item, path) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item, path) for item in value]
    if isinstance(value, float):
        assert math.isfinite(value), f"{value} in {path}"
        return float(f"{value:.6g}")
    return value
