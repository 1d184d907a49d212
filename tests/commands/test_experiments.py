"""Named experiments: each variant is valid, its command is DVC's, and its curves are drawn."""

import io
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from pipeline import config
from pipeline.commands import experiments, presets
from pipeline.errors import UserError

ROOT = Path(__file__).parents[2]
SHIPPED = [path.stem for path in sorted((ROOT / "presets/experiments").glob("*.yaml"))]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_variants_are_valid_different_and_described(name):
    found = experiments.load(name)
    assert found.description and len(found.variants) > 1
    content = config.read_yaml()
    settings = [config.parse(presets.merged(content, over)) for over in found.variants.values()]
    assert len({one.model_dump_json() for one in settings}) == len(settings)


@pytest.mark.parametrize("number", [24, 26, 30, 31, *range(33, 39)])
def test_every_figure_of_the_thesis_has_its_experiment(number):
    found = experiments.load(f"figure_{number}")
    stage = "vqgan_train" if number > 31 else "gpt2_train"
    assert number in found.figures and found.stage == stage


def test_the_command_is_what_dvc_takes(monkeypatch):
    hydra = pytest.importorskip("dvc.utils.hydra")
    found = experiments.load("upsampling")
    command = found.command("bilinear", queue=True)
    assert command[:6] == ["dvc", "exp", "run", "--queue", "--name", "upsampling-bilinear"]
    assert command[-1] == "vqgan_train"
    flags = command[6:-1]
    assert set(flags[::2]) == {"-S"}
    hydra.apply_overrides("params.yaml", flags[1::2])
    assert config.load().vqgan.autoencoder.upsampling == "bilinear"


def test_a_variant_stands_on_preset_and_base(project):
    text = (
        "# A test.\nstage: vqgan_train\npreset: tiny\n"
        "base: {vqgan: {trainer: {n_epochs: 7}}}\nvariants:\n  a:\n  b:\n    base: {seed: 5}\n"
    )
    (project / "presets/experiments/own.yaml").write_text(text)
    variants = experiments.load("own").variants
    assert variants["a"]["vqgan"]["trainer"]["n_epochs"] == 7
    assert variants["b"]["base"] == presets.overlay("tiny")["base"] | {"seed": 5}
    assert "seed" not in variants["a"]["base"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage: evaluate\nvariants: {a: {}, b: {}}\n", "stage is evaluate, expected"),
        ("stage: vqgan_train\nvariant: {a: {}}\nvariants: {}\n", "unknown variant"),
    ],
)
def test_mistakes_are_named(project, text, said):
    (project / "presets/experiments/own.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        experiments.load("own")


@pytest.mark.parametrize("name", ["nonsense", "figure_1", "figure_x"])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(UserError, match=r"upsampling"):
        experiments.load(name)


def test_queueing_ends_with_dvcs_refusal(monkeypatch):
    calls = []

    def refuse(command):
        calls.append(command)
        return subprocess.CompletedProcess(command, len(calls) - 1)

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(UserError, match="dvc refused upsampling-bilinear"):
        experiments.queue(experiments.load("upsampling"))
    assert len(calls) == 2


def test_curves_of_those_that_ran(monkeypatch, tmp_path):
    """One variant has not run, the others are drawn beside each other."""
    import dvc.api
    import dvc.exceptions

    def read(path: str, rev: str) -> str:
        if rev == "upsampling-nearest":
            raise dvc.exceptions.DvcException("no such revision")
        table = pd.DataFrame({"epoch": [1, 2], "psnr": [20.0, 21.0 + len(rev)]})
        buffer = io.StringIO()
        table.to_csv(buffer, index=False)
        return buffer.getvalue()

    monkeypatch.setattr(dvc.api, "read", read)
    experiment = experiments.load("upsampling")
    table = experiments.curves(experiment)
    assert list(table.columns) == ["bilinear", "transposed"] and table.loc[1].tolist() == [20, 20]
    experiments.plot(table, experiment, tmp_path / "a.png")
    experiments.plot(table, experiment, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    monkeypatch.setattr(dvc.api, "read", lambda path, rev: read(path, "upsampling-nearest"))
    with pytest.raises(UserError, match="no run of upsampling is there yet"):
        experiments.curves(experiment)
