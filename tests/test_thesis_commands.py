"""The commands of docs/thesis.md: each run that DVC makes of one has valid parameters."""

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import config
from pipeline.commands import presets

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/thesis.md").read_text("utf-8")
ROWS = re.findall(r"^\| (.*?) \|.*`(dvc exp run [^`]*)` \|$", TEXT, re.MULTILINE)
PRESET = re.compile(r"\$\(python -m pipeline presets (\w+) --flags\)")
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def test_every_figure_has_its_command():
    numbers = {int(number) for figure, _ in ROWS for number in re.findall(r"\b\d\d\b", figure)}
    assert numbers >= {24, 26, 30, 31, 32, 33, 34, 35, 36, 37, 38, 42, 45, 46}


@pytest.mark.parametrize("command", [command for _, command in ROWS])
def test_each_run_of_a_command_is_valid_and_another(command, tmp_path):
    hydra = pytest.importorskip("dvc.utils.hydra")
    words = PRESET.sub(lambda found: presets.flags(found[1], ROOT / "presets"), command).split()
    assert words[:4] == ["dvc", "exp", "run", "--queue"] and words[-1] in STAGES
    assert set(words[4:-1:2]) <= {"-S"}
    runs = []
    for sweep in hydra.get_hydra_sweeps({"params.yaml": words[5:-1:2]}):
        shutil.copy(ROOT / "params.yaml", tmp_path)
        hydra.apply_overrides(tmp_path / "params.yaml", sweep["params.yaml"])
        runs.append(config.load(tmp_path / "params.yaml").model_dump_json())
    assert len(set(runs)) == len(runs)
