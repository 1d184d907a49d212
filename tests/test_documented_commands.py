"""Commands and links of README.md and docs/: they fit the real parsers, parameters and files."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import __main__, config
from pipeline.commands import presets

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted(
    {
        line.split(" #")[0].strip()
        for page in PAGES
        for line in re.findall(r"^    ((?:dvc|python -m|make) .*)$", page.read_text("utf-8"), re.M)
    }
)
PRESET = re.compile(r"\$\(python -m pipeline presets (\w+) --flags\)")
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
TARGETS = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)


def of(*words: str) -> list[str]:
    commands = [command for command in COMMANDS if command.startswith(" ".join(words))]
    assert commands, f"no page shows `{' '.join(words)}`"
    return commands


@pytest.mark.parametrize("command", of("dvc exp run"))
def test_experiments_have_valid_parameters(command, tmp_path):
    hydra = pytest.importorskip("dvc.utils.hydra")
    words = shlex.split(
        PRESET.sub(lambda found: presets.flags(found[1], ROOT / "presets"), command)
    )
    words = [word for word in words[3:] if word not in ("--queue", "--temp")]
    values = [words[i + 1] for i, word in enumerate(words) if word == "-S"]
    others = [
        w for i, w in enumerate(words) if w not in ("-S", "-C") and words[i - 1] not in ("-S", "-C")
    ]
    assert set(others) <= set(STAGES)
    for sweep in hydra.get_hydra_sweeps({"params.yaml": values}):
        file = tmp_path / "params.yaml"
        file.write_bytes((ROOT / "params.yaml").read_bytes())
        hydra.apply_overrides(file, sweep["params.yaml"])
        config.load(file)


@pytest.mark.parametrize("command", of("python -m pipeline"))
def test_commands_of_the_pipeline_are_parsed(command):
    name, *words = shlex.split(command)[3:]
    assert name in __main__.COMMANDS
    if name in ("app", "export", "generate", "retime"):
        importlib.import_module(f"pipeline.commands.{name}").parser().parse_args(words)
    if name == "presets" and words:
        assert (ROOT / f"presets/{words[0]}.yaml").is_file()


@pytest.mark.parametrize("command", of("make"))
def test_targets_of_make_exist(command):
    assert command.split()[1] in TARGETS


def test_benchmarks_exist():
    for page in [*PAGES, *(ROOT / "docs/results").glob("*.md")]:
        for name in re.findall(r"python -m (benchmarks\.\w+)", page.read_text("utf-8")):
            assert importlib.util.find_spec(name), f"{page.name}: {name}"


def test_links_lead_to_files():
    for page in [*PAGES, *(ROOT / "docs/results").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
