"""Presets: sets of parameters by name.

    python -m pipeline presets                  lists them
    python -m pipeline presets tiny             merges presets/tiny.yaml into params.yaml
    python -m pipeline presets tiny --flags     prints it as -S flags: `dvc exp run $(...)`

A preset holds only what it changes, sectioned as params.yaml; its first line is a comment that
describes it. Comments and layout of params.yaml stay.
"""

import argparse
import copy
import json
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import config, io
from pipeline.errors import UserError, read_text

PRESETS = Path("presets")


def names(folder: Path = PRESETS) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def overlay(name: str, folder: Path = PRESETS) -> dict:
    """What a preset changes, nested as in params.yaml."""
    if name not in names(folder):
        known = ", ".join(names(folder)) or f"none, the folder {folder}/ is missing or empty"
        raise UserError(f"{name}: unknown preset; expected one of: {known}")
    return config.read_yaml(folder / f"{name}.yaml", _yaml())


def merged(base: dict, over: dict) -> dict:
    """A copy of `base` with the leaves of `over`; where it has comments, they stay."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(result.get(key, {}), dict)
        result[key] = merged(result.get(key, {}), value) if nested else copy.deepcopy(value)
    return result


def merge(name: str, target: Path = config.PARAMS_FILE, folder: Path = PRESETS) -> list[str]:
    """Writes a preset's values into `target`; returns a line "key: old -> new" for each change.

    The result is checked before anything is written; a mistake in it is a UserError.
    """
    old, buffer = io.flatten(config.read_yaml(target)), StringIO()
    _yaml().dump(merged(config.read_yaml(target, _yaml()), overlay(name, folder)), buffer)
    content = YAML(typ="safe").load(buffer.getvalue())
    config.parse(content, Path(f"{target} with {folder / name}.yaml"))
    with io.atomic(target) as partial:
        partial.write_text(buffer.getvalue(), "utf-8")
    changed = {key: new for key, new in io.flatten(content).items() if old.get(key) != new}
    return [f"{key}: {old.get(key)} -> {new}" for key, new in changed.items()]


def flags(name: str, folder: Path = PRESETS) -> str:
    """The preset as `-S key=value` flags on one line, as the parser of `dvc exp run` reads them.

    The shell splits what a command prints at blanks and takes quotes as they are, so there are
    none. UserError where a value holds a blank.
    """
    words = []
    for key, value in io.flatten(overlay(name, folder)).items():
        word = (
            f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        )
        if len(word.split()) != 1:
            raise UserError(
                f"{name}: {word} has a blank, which flags cannot carry; merge the preset instead: "
                f"`python -m pipeline presets {name}`"
            )
        words += ["-S", word]
    return " ".join(words)


def _yaml() -> YAML:
    """Keeps comments, quotes, and the way a number is written."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    return yaml


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline presets", description="Presets.")
    parser.add_argument("name", nargs="?", help="preset to merge into params.yaml")
    parser.add_argument("--flags", action="store_true", help="print -S flags for `dvc exp run`")
    arguments = parser.parse_args()
    if arguments.name is None:
        for name in names():
            first = read_text(PRESETS / f"{name}.yaml").partition("\n")[0]
            print(f"{name:<20} {first.lstrip('# ')}")
    elif arguments.flags:
        print(flags(arguments.name))
    else:
        changed = merge(arguments.name)
        print("\n".join(changed) or f"params.yaml already has the values of {arguments.name}")
