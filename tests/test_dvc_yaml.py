"""`dvc.yaml` says what each stage reads: code, parameters, files. Here it is held to it."""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import config, io

ROOT = Path(__file__).parents[1]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]

# Change no output: messages, checks, bars, tracking. An edit there must not train anything again.
WITHOUT_EFFECT = {
    ROOT / "pipeline" / name
    for name in (
        "commands/check.py",
        "config/__init__.py",
        "config/params.py",
        "config/sections.py",
        "errors.py",
        "progress.py",
        "tracking/__init__.py",
        "tracking/logged_model.py",
        "tracking/mlflow_row.py",
    )
}
OPERATIONAL = {"engine", "tracking"}


def imports(path: Path) -> set[Path]:
    """Files of the project that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            file = ROOT / (name.replace(".", "/") + ".py")
            if name.startswith("pipeline") and file.is_file():
                found.add(file)
            package = ROOT / name.replace(".", "/") / "__init__.py"
            if name.startswith("pipeline.") and package.is_file() and package.stat().st_size:
                found.add(package)
    return found


def closure(path: Path, stop: Path | None = None) -> set[Path]:
    """All files of the project that `path` imports; of what is imported by `stop` only itself."""
    seen, waiting = set(), {path}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        if file != stop:
            waiting |= imports(file) - seen
    return seen


def code_of(stage: str) -> set[Path]:
    """What may change an output. What `check` looks for is read by others."""
    check = ROOT / "pipeline/commands/check.py"
    return closure(ROOT / "stages" / f"{stage}.py", stop=check) - WITHOUT_EFFECT


@pytest.mark.parametrize("stage", STAGES)
def test_every_imported_file_is_a_dependency(stage):
    deps = [ROOT / dep for dep in STAGES[stage]["deps"]]
    missing = {
        str(file.relative_to(ROOT))
        for file in code_of(stage)
        if not any(file == dep or dep in file.parents for dep in deps)
    }
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_every_code_dependency_is_imported(stage):
    deps = [ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith(("pipeline", "stages"))]
    code = {file for dep in deps for file in (dep.rglob("*.py") if dep.is_dir() else [dep])}
    code = {file for file in code if file.suffix == ".py" and file.stat().st_size}
    assert code <= code_of(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_command_script_and_name_agree(stage):
    launcher = "${base.launcher}" if stage.endswith("_train") else "python"
    assert STAGES[stage]["cmd"] == f"{launcher} -m stages.{stage}"
    assert (ROOT / f"stages/{stage}.py").is_file()
    assert STAGES[stage]["desc"]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_thin(stage):
    assert len((ROOT / f"stages/{stage}.py").read_text().splitlines()) <= 80


def test_parameters_exist_and_operational_ones_are_in_no_stage():
    content = config.read_yaml(ROOT / "params.yaml")
    for stage in STAGES.values():
        for key in stage.get("params", []):
            value = content
            for part in key.split("."):
                value = value[part]
            assert key.split(".")[0] not in OPERATIONAL


def test_every_parameter_is_named_by_some_stage():
    listed = tuple(f"{key}." for stage in STAGES.values() for key in stage.get("params", []))
    keys = io.flatten(config.read_yaml(ROOT / "params.yaml"))
    unread = {key for key in keys if not f"{key}.".startswith(listed)}
    assert {key.split(".")[0] for key in unread} == OPERATIONAL


def test_operational_keys_are_read_by_the_code():
    code = "\n".join(path.read_text() for path in (ROOT / "stages").glob("*.py"))
    code += (ROOT / "pipeline/tracking/__init__.py").read_text()
    code += (ROOT / "pipeline/data/executor.py").read_text()
    for section in ("engine", "tracking"):
        for key in config.Params.model_fields[section].annotation.model_fields:
            assert re.search(rf"(engine|tracking)\.{key}\b", code), f"nothing reads {section}.{key}"


def test_only_report_has_outputs_without_cache():
    for name, stage in STAGES.items():
        uncached = [out for out in stage["outs"] if isinstance(out, dict)]
        assert bool(uncached) == (name == "report")


def test_every_output_is_ignored_by_git_on_a_line_of_its_own():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for stage in STAGES.values():
        for out in stage["outs"]:
            if isinstance(out, str):
                assert f"/{out}" in ignored
    assert "/data/" not in ignored and "/data" not in ignored


def test_parameters_on_the_page_of_a_run_are_those_of_its_stage():
    """A page that shows what the stage does not read would keep old values."""
    from pipeline.evaluation.run import PARAMETERS

    assert set(PARAMETERS) == set(STAGES["evaluate"]["params"])
