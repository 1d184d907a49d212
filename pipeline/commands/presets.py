"""Presets: parameter overlays by name. Lists them, merges one into params.yaml, or prints flags.

    python -m pipeline presets                  the presets, a line each
    python -m pipeline presets tiny             merges presets/tiny.yaml into params.yaml
    python -m pipeline presets tiny --flags     the same as -S flags for `dvc exp run`

A preset holds only what it changes, sectioned as params.yaml; its first line is a comment that
describes it. Comments and layout of params.yaml stay.
"""

import argparse
import copy
import json
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import config, io
from pipeline.errors import UserError

PRESETS = Path("presets")


def names(folder: Path = PRESETS) -> list[str]:
    """Names of all presets, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def description(name: str, folder: Path = PRESETS) -> str:
    """The comment in a preset's first line."""
    lines = _preset(name, folder).read_text("utf-8").splitlines()
    return lines[0].lstrip("# ") if lines and lines[0].startswith("#") else ""


def overlay(name: str, folder: Path = PRESETS) -> dict:
    """What a preset changes, nested as in params.yaml."""
    path = _preset(name, folder)
    return _load(path, path.read_text("utf-8"))


def merge(name: str, target: Path = config.PARAMS_FILE, folder: Path = PRESETS) -> list[str]:
    """Writes a preset's values into `target`; returns a line "key: old -> new" for each change.

    The result is checked before anything is written; a mistake in it is a UserError.
    """
    before = config.read_yaml(target)
    content = _load(target, target.read_text("utf-8"))
    _put(content, overlay(name, folder))
    text = _dump(content)
    config.parse(_plain(text), target)
    partial = target.with_suffix(".partial")
    partial.write_text(text, "utf-8")
    partial.replace(target)
    old, new = io.flatten(before), io.flatten(_plain(text))
    return [
        f"{key}: {old.get(key)} -> {value}" for key, value in new.items() if old.get(key) != value
    ]


def flags(name: str, folder: Path = PRESETS) -> str:
    """The preset as `-S key=value` flags on one line, for `dvc exp run $(...)`.

    The shell splits what a command prints at blanks and takes quotes as they are, so there are
    none. UserError where a value holds a blank.
    """
    words = as_flags(config.read_yaml(_preset(name, folder)))
    for word in words:
        if len(word.split()) != 1:
            raise UserError(
                f"{name}: {word} has a blank, which flags cannot carry; merge the preset instead: "
                f"`python -m pipeline presets {name}`"
            )
    return " ".join(words)


def as_flags(changes: dict) -> list[str]:
    """An overlay as words for `dvc exp run`: -S, key=value, -S, ..."""
    flat = io.flatten(changes)
    return [word for key in flat for word in ("-S", f"{key}={_override(flat[key])}")]


def merged(base: dict, over: dict) -> dict:
    """Two overlays as one; `over` wins."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        nested = isinstance(value, dict)
        result[key] = merged(result.get(key, {}), value) if nested else copy.deepcopy(value)
    return result


def _preset(name: str, folder: Path) -> Path:
    path = folder / f"{name}.yaml"
    if name not in names(folder):
        known = ", ".join(names(folder)) or f"none, the folder {folder}/ is missing or empty"
        raise UserError(f"{name}: unknown preset; expected one of: {known}")
    return path


def _round_trip() -> YAML:
    """Keeps comments, quotes, and the way a number is written."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _load(path: Path, text: str) -> dict:
    try:
        return _round_trip().load(text) or {}
    except YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None


def _dump(content: dict) -> str:
    buffer = StringIO()
    _round_trip().dump(content, buffer)
    return buffer.getvalue()


def _plain(text: str) -> dict:
    return YAML(typ="safe").load(text)


def _put(content: dict, changes: dict) -> None:
    """Sets the leaves one by one: replacing a whole section would lose its comments."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            _put(content[key], value)
        else:
            content[key] = value


def _override(value) -> str:
    """A value as the parser of DVC's -S (Hydra's) reads it: lists without spaces, bare words."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline presets", description="Presets.")
    parser.add_argument("name", nargs="?", help="preset to merge into params.yaml")
    parser.add_argument("--flags", action="store_true", help="print -S flags for `dvc exp run`")
    given = parser.parse_args()
    if given.name is None:
        for name in names():
            print(f"{name:<20} {description(name)}")
    elif given.flags:
        print(flags(given.name))
    else:
        changed = merge(given.name)
        print("\n".join(changed) or f"params.yaml already has the values of {given.name}")
