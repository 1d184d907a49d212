"""`python -m pipeline export`: a folder with the model, and a card that says what the run was."""

import hashlib
import json
import shutil
from pathlib import Path

import previous_settings
import pytest
from huggingface_hub import ModelCard
from ruamel.yaml import YAML

from pipeline import tracking
from pipeline.commands import export
from pipeline.errors import UserError
from pipeline.inference import hub

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch, saved_models):
    """A working copy with a small model, and the numbers and parameters of the default run."""
    saved_models(tmp_path / "models")
    shutil.copytree(REPOSITORY / "metrics", tmp_path / "metrics")
    shutil.copy(REPOSITORY / "dvc.lock", tmp_path)
    for part, stage in export.TRAININGS.items():
        shutil.copy(tmp_path / f"metrics/{stage}.json", tmp_path / f"models/{part}/summary.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path


def card(*options: str) -> ModelCard:
    export.main(["out", *options])
    return ModelCard.load("out/README.md")


def edit(path: str, change) -> None:
    content = json.loads(Path(path).read_text())
    change(content)
    Path(path).write_text(json.dumps(content))


def own_footage() -> None:
    """As if the run had been one on the user's own films."""
    lock = YAML(typ="safe").load(Path("dvc.lock"))
    lock["stages"]["ingest"]["params"]["params.yaml"]["source"]["path"] = "data/raw"
    YAML(typ="safe").dump(lock, Path("dvc.lock"))


def test_the_card_holds_the_run_and_what_was_said(run, capsys):
    own_footage()
    said = ("--data", "our\n films ", "--rights", "all --- ours", "--hours", "1.5")
    page = card(*said, "--license", "CC-BY-4.0", "--hardware", "2 cores", "--dataset", "me/films")
    numbers = json.loads(Path("metrics/evaluate.json").read_text())
    sha256 = hashlib.sha256(Path("dvc.lock").read_bytes()).hexdigest()
    every, lpips = numbers["inbetween"], numbers["inbetween"]["lpips"]
    rife = numbers["baselines_high_motion"]["rife"]
    for line in (
        "- Data: our films",
        "- Rights: all --- ours",
        "- Licence of the model: cc-by-4.0",
        "- Hours: 1.5",
        "- Hardware: 2 cores",
        f"- Run: `dvc.lock` with sha256 {sha256}",
        f"| **model**, all clips | {every['psnr']:.2f} | {every['ssim']:.3f} | {lpips:.3f} |",
        f"| rife | {rife['psnr']:.2f} | - | {rife['lpips']:.3f} |",
        "vqgan.trainer.n_epochs: 7",
        "source.path: \"data/raw\"",
    ):  # fmt: skip
        assert f"\n{line}\n" in page.text, line
    assert "better than cross fade, not certainly better than optical flow" in page.text
    assert "{{" not in page.text and not capsys.readouterr().err
    assert hub.from_pretrained("out").folder == Path("out")


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (None, "tokens what optical flow between both keyframes lacks, and"),
        ({"vqgan.context": "none"}, "tokens whole frames, and"),
        (previous_settings.settings(), "tokens how each frame moves on from the one before, and"),
    ],
)
def test_the_card_tells_of_warps_where_there_are_any(run, saved_models, context, words):
    saved_models(run / "models", context)
    page = card("--license", "mit").text
    assert words in page
    assert ("cross-faded" in page) == ("- Masks and flow" in page) == (context is None)
    assert ("\n- Frames are drawn at" in page) == (context is not None)
    limits = page.split("## Limits\n\n")[1].strip()
    assert all(line.startswith("- ") for line in limits.splitlines())


def test_the_metadata_are_the_hubs(run):
    """The hub's own check is on-line; here is what its client knows of the form."""
    own_footage()
    data = card("--license", "mit", "--dataset", "me/films").data
    numbers = json.loads(Path("metrics/evaluate.json").read_text())
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "mit",
        "nakawari",
        "image-to-video",
    )
    assert data.datasets == ["me/films"] and data.metrics == ["psnr", "ssim", "lpips"]
    assert all(isinstance(tag, str) for tag in data.tags)
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values["PSNR"] == numbers["inbetween"]["psnr"]
    assert values["LPIPS, most motion"] == numbers["inbetween_high_motion"]["lpips"]
    for result in data.eval_results:
        assert (result.task_type, result.dataset_split) == ("image-to-video", "test")
        assert result.dataset_type == result.dataset_name == "me/films"


def test_what_was_not_said_is_said_to_be_missing(run, capsys):
    own_footage()
    page = card()
    assert "without --license and --data and --rights the card says" in capsys.readouterr().err
    assert page.data.license is None and "license" not in page.data.to_dict()
    for name in ("Data", "Rights", "Licence of the model", "Hours", "Hardware"):
        assert f"\n- {name}: not said\n" in page.text


def test_the_sample_has_its_own_rights(run, capsys):
    page = card("--license", "mit", "--hours", "1", "--hardware", "x")
    assert "- Data: the sample cartoon that Nakawari's own code draws\n" in page.text
    assert "- Rights: MIT licence, as the Nakawari repository\n" in page.text
    assert not capsys.readouterr().err


def test_hours_and_hardware_are_those_of_these_weights(run, tiny):
    """As the stages leave them; a training that was resumed leaves none."""
    settings = tiny({"base.threads": 3})
    for weights in tracking.WEIGHTS.values():
        tracking._write_cost(weights, 5400.0, settings)
    page = card("--license", "mit").text
    assert "- Hours: 3\n" in page and "- Hardware: 3 threads, " in page
    for stage, written in (("vqgan_train", True), ("gpt2_train", False)):
        shutil.rmtree(".store")
        if not written:
            Path(f".resume/{stage}").mkdir(parents=True)
        with tracking.stage(stage, settings):
            pass
        assert Path(".store/trainings").exists() == written
        Path(".store").mkdir(exist_ok=True)
    assert "- Hours: not said\n" in card("--license", "mit").text


def test_a_run_without_some_numbers_has_a_card(run):
    """Other presets measure less: no LPIPS, no baselines, too few videos for a verdict."""

    def less(numbers: dict) -> None:
        del numbers["inbetween"]["lpips"], numbers["inbetween_high_motion"]["lpips"]
        del numbers["beats"]
        numbers["baselines_high_motion"] = {}

    edit("metrics/evaluate.json", less)
    page = card("--license", "mit")
    assert page.data.metrics == ["psnr", "ssim"]
    assert "Too few videos for a verdict" in page.text and "rife" not in page.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--license gpl3", "--license gpl3: not on the hub's list; expected .*gpl-3.0"),
        ("--license mit-licence", "not on the hub's list; expected mit or .*other"),
        ("--license proprietary", "--license proprietary: not on the hub's list; expected .*other"),
        ("--license other", "--license other: expected the terms beside it, in --rights"),
        ("--license=", "--license : not on the hub's list"),
        ("--dataset a/b/c", "--dataset 'a/b/c': expected a name on the hub"),
        ("--hours 0", "--hours 0: expected more than 0"),
        ("--hours nan", "--hours nan: expected more than 0"),
        ("--private", "--private: expected --push beside it"),
        ("--push model --license mit", "'model': expected a name on the hub, USER/MODEL"),
        ("--push me/model --license mit", "me/model cannot be uploaded: nobody is logged in"),
    ],
)
def test_wrong_options_write_nothing(run, monkeypatch, options, words):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(UserError, match=words):
        export.main(["out", *options.split()])
    assert not Path("out").exists()


def test_what_is_uploaded_says_its_rights(run, monkeypatch):
    own_footage()
    monkeypatch.setattr(hub, "get_token", lambda: "token")
    monkeypatch.setattr(hub, "push_to_hub", lambda *values: pushed.append(values) or "address")
    pushed = []
    with pytest.raises(UserError, match="--push me/m: expected --license and --rights beside it"):
        export.main(["out", "--push", "me/m", "--data", "films"])
    assert not Path("out").exists() and not pushed
    said = ["--license", "mit", "--data", "films", "--rights", "ours"]
    export.main(["out", "--push", "me/m", "--private", *said])
    assert pushed == [(Path("out"), "me/m", True)]
    assert '("me/m")' in Path("out/README.md").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: shutil.rmtree("models/gpt2"), "models lacks gpt2/config.json and gpt2/model"),
        (lambda: Path("models/gpt2/summary.json").unlink(), "gpt2/summary.json is missing"),
        (lambda: Path("models/gpt2/model.safetensors").unlink(), "lacks gpt2/model.safetensors"),
        (lambda: Path("dvc.lock").unlink(), "dvc.lock is missing"),
        (lambda: Path("dvc.lock").write_text("stages: {}"), "has no parameters of ingest"),
        (lambda: Path("dvc.lock").write_text("a: b: c"), "dvc.lock is no valid YAML"),
        (lambda: shutil.rmtree("metrics"), "metrics/evaluate.json is missing"),
        (lambda: Path("metrics/evaluate.json").write_text("{"), "is no readable JSON"),
        (
            lambda: edit("metrics/vqgan_train.json", lambda content: content.update(steps=1)),
            "metrics/vqgan_train.json is not of the model in models/vqgan",
        ),
        (lambda: Path("out").write_text(""), "out is a file; expected a new folder"),
    ],
)
def test_what_is_no_finished_run_is_named(run, change, words):
    change()
    with pytest.raises(UserError, match=words):
        export.main(["out", "--license", "mit"])
    assert not Path("out").is_dir()


@pytest.mark.parametrize("folder", [".", "models"])
def test_the_working_copy_is_not_written_over(run, folder):
    Path("README.md").write_text("mine")
    with pytest.raises(UserError, match="is not of an earlier export; expected a new folder"):
        export.main([folder, "--license", "mit"])
    assert Path("README.md").read_text() == "mine"
