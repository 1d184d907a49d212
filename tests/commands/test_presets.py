"""Presets: merging keeps the manual in params.yaml, and the flags say the same to DVC."""

import shutil
import sys
from pathlib import Path

import pytest

from pipeline import config
from pipeline.commands import presets
from pipeline.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = [path.stem for path in sorted((REPOSITORY / "presets").glob("*.yaml"))]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A copy of params.yaml and the presets, as the current folder."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _add(project: Path, text: str) -> str:
    (project / "presets/own.yaml").write_text(text)
    return "own"


def test_tiny_and_windowed_are_shipped():
    assert {"tiny", "windowed"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_preset_is_described_valid_and_changes_something(name):
    assert Path(f"presets/{name}.yaml").read_text().startswith("# ")
    assert presets.merge(name)
    config.load(Path("params.yaml"))
    assert presets.merge(name) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_dvc_reads_the_flags_as_the_merge_writes_them(name, project):
    hydra = pytest.importorskip("dvc.utils.hydra")
    shutil.copy("params.yaml", "flags.yaml")
    words = presets.flags(name).split()  # as the shell does within $(...)
    assert set(words[0::2]) == {"-S"}
    hydra.apply_overrides("flags.yaml", words[1::2])
    presets.merge(name)
    assert config.read_yaml(Path("flags.yaml")) == config.read_yaml(Path("params.yaml"))


def test_merging_keeps_every_line_that_it_does_not_change(project):
    before = Path("params.yaml").read_text().splitlines()
    old = config.load(Path("params.yaml")).train
    text = "train:\n  lr_max: 3.1e-2\n  n_frames_before: 77\n"
    assert presets.merge(_add(project, text)) == [
        f"train.n_frames_before: {old.n_frames_before} -> 77",
        f"train.lr_max: {old.lr_max} -> 0.031",
    ]
    after = Path("params.yaml").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new.split("#")[0].strip() for _, new in changed] == [
        "n_frames_before: 77",
        "lr_max: 3.1e-2",
    ]
    assert [new.partition("#")[2] for _, new in changed] == [
        old.partition("#")[2] for old, _ in changed
    ]


def test_a_replaced_list_stays_on_its_line_with_its_comment(project):
    text = "vqgan:\n  autoencoder:\n    channels_multiplier: [1, 2]\n"
    text += "    attention_resolution: []\n"
    presets.merge(_add(project, text))
    content = config.read_yaml(Path("params.yaml"))
    assert content["vqgan"]["autoencoder"]["channels_multiplier"] == [1, 2]
    (line,) = [
        line
        for line in Path("params.yaml").read_text().splitlines()
        if "channels_multiplier:" in line
    ]
    assert line.strip().startswith("channels_multiplier: [1, 2] ") and "#" in line


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("train:\n  n_epoch: 3\n", "train.n_epoch: unknown key"),
        ("train:\n  lr_max: abc\n", "train.lr_max = 'abc'"),
        ("ingest:\n  height: 63\n", "ingest.height = 63"),
        ("nonsense: 1\n", "nonsense: unknown key"),
        ("", "own.yaml holds nothing"),
        ("- 1\n", "own.yaml holds a list"),
        ("train: &a {x: *a}\n", "own.yaml is no valid YAML: a section or a list is repeated"),
    ],
)
def test_a_preset_with_a_mistake_writes_nothing(project, text, named):
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        presets.merge(_add(project, text))
    assert Path("params.yaml").read_bytes() == before
    assert not list(project.glob("*.partial"))


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(UserError, match=r"tinny: unknown preset; expected one of: .*tiny"):
        presets.merge("tinny")
    with pytest.raises(UserError, match="unknown preset"):
        presets.overlay("../params")


def test_flags_are_words_that_the_shell_splits(project):
    name = _add(
        project,
        "vqgan:\n  autoencoder:\n    channels_multiplier: [1, 2]\ntracking:\n  enabled: false\n",
    )
    assert presets.flags(name) == (
        "-S vqgan.autoencoder.channels_multiplier=[1,2] -S tracking.enabled=false"
    )


def test_a_blank_in_a_value_is_no_flag(project):
    name = _add(project, "source:\n  path: /my films\n")
    with pytest.raises(UserError, match=r"source\.path=/my films has a blank.*merge the preset"):
        presets.flags(name)


def test_the_command_lists_presets_and_prints_changes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["presets"])
    presets.main()
    assert "tiny" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["presets", "windowed"])
    presets.main()
    assert " -> " in capsys.readouterr().out
