"""docs/thesis.md: it names every figure and table, code that exists, and commands that parse."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import config
from pipeline.commands import generate, presets

ROOT = Path(__file__).parents[1]
LINES = re.findall(r"^\| (.*) \|$", (ROOT / "docs/thesis.md").read_text("utf-8"), re.MULTILINE)
ROWS = [line.split(" | ") for line in LINES]
COMMANDS = sorted(
    {command for line in LINES for command in re.findall(r"`(dvc exp run [^`]*)`", line)}
)
PRESET = re.compile(r"\$\(python -m pipeline presets (\w+) --flags\)")
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def numbers(kind: str) -> set[int]:
    """Those of all figures, or tables, in the first column."""
    found = set()
    for row in ROWS:
        for listed in re.findall(rf"\b{kind}s? ([\d, -]+)", row[0]):
            for first, last in re.findall(r"(\d+)(?:-(\d+))?", listed):
                found |= set(range(int(first), int(last or first) + 1))
    return found


def test_every_figure_and_table_is_named():
    assert numbers("figure") == set(range(1, 47))
    assert numbers("table") == set(range(1, 11))


def test_code_and_tests_exist_and_other_commands_parse():
    table = [row for row in ROWS if len(row) == 5]
    assert len(table) > 40
    for _, _, code, command, result in table[1:]:  # without the titles
        for path in re.findall(r"`((?:\w+/)*(?:\w+/|\w+\.py))`", code):
            assert (ROOT / "pipeline" / path).exists(), path
        for path in re.findall(r"`((?:presets|tests|plots)/[^`]*)`", code + result):
            assert (ROOT / path).exists(), path
        for words in map(shlex.split, re.findall(r"`(python [^`]*)`", command)):
            if words[2] == "pytest":
                assert (ROOT / words[3]).exists(), words
            else:
                assert words[:4] == ["python", "-m", "pipeline", "generate"]
                generate.parser().parse_args(words[4:])


@pytest.mark.parametrize("command", COMMANDS)
def test_each_run_of_a_command_is_valid_and_another(command, tmp_path):
    hydra = pytest.importorskip("dvc.utils.hydra")
    text = PRESET.sub(lambda found: presets.flags(found[1], ROOT / "presets"), command)
    words = shlex.split(text.removeprefix("dvc exp run ").removeprefix("--queue "))
    assert words[-1] in STAGES and set(words[:-1:2]) <= {"-S"}
    runs = []
    for sweep in hydra.get_hydra_sweeps({"params.yaml": words[1:-1:2]}):
        shutil.copy(ROOT / "params.yaml", tmp_path)
        hydra.apply_overrides(tmp_path / "params.yaml", sweep["params.yaml"])
        runs.append(config.load(tmp_path / "params.yaml").model_dump_json())
    assert len(set(runs)) == len(runs)
