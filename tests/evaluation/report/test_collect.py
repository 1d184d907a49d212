"""Report: every stage's numbers under its name, its curves and pictures, and what lacks."""

import json
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.evaluation.report import collect
from pipeline.io import write_json

DVC = YAML(typ="safe").load((Path(__file__).parents[3] / "dvc.yaml").read_text())


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """A folder as all stages leave it."""
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate(collect.SUMMARIES.values()):
        write_json(path, {"n": number, "share": 1 / 3})
    for number, path in enumerate(collect.PLOTS.values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        else:
            path.write_bytes(b"step,loss\n%d,2.5\n" % number)
    collect.PLOTS["vqgan_val.csv"].write_text("epoch,psnr,psnr_without_codes,psnr_start\n1,3,2,1\n")
    return tmp_path


def test_metrics_stand_under_their_stages_names(finished):
    numbers = collect.collect_metrics(Path("metrics"))
    assert list(numbers) == list(collect.SUMMARIES)
    for number, stage in enumerate(numbers):
        written = json.loads((finished / f"metrics/{stage}.json").read_text())
        assert written == {"n": number, "share": 0.333333} == numbers[stage]


def test_curves_and_pictures_are_copied_unchanged(finished):
    paths = collect.collect_plots(Path("plots"))
    assert [path.name for path in paths] == list(collect.PLOTS)
    for path, source in zip(paths, collect.PLOTS.values(), strict=True):
        assert path.read_bytes() == source.read_bytes()


def test_a_tokenizer_without_context_has_all_columns_that_are_plotted(finished):
    """DVC shows nothing of a plot of which one column is missing."""
    collect.PLOTS["vqgan_val.csv"].write_text("epoch,psnr\n1,20.5\n2,21\n")
    collect.collect_plots(Path("plots"))
    wanted = "epoch,psnr,psnr_without_codes,psnr_start\n1,20.5,,\n2,21,,\n"
    assert (finished / "plots/vqgan_val.csv").read_text() == wanted


def test_a_missing_summary_is_named(finished):
    collect.SUMMARIES["ingest"].unlink()
    with pytest.raises(UserError, match=r"data/frames/summary\.json is missing; `dvc repro`"):
        collect.collect_metrics(Path("metrics"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gpt2_train.csv", None, "is missing; `dvc repro` makes it"),
        ("gpt2_train.csv", b"", r"is no readable table \(its last line is cut off\)"),
        ("vqgan_val.csv", b"step,loss\n1,2.", "its last line is cut off"),
        ("codebook.csv", b"\xff\xfe\n", r"is no readable table \(.*codec"),
        ("codebook.csv", b"a,b\n1,2\n1,2,3,4\n", r"is no readable table \(Error tokenizing"),
        ("inbetween_strip.png", None, "is missing; `dvc repro` makes it"),
        ("inbetween_strip.png", b"\x89PNG", "is no readable picture"),
    ],
)
def test_a_curve_or_picture_that_is_damaged_is_named_and_none_is_copied(
    finished, name, content, said
):
    path = collect.PLOTS[name]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path} {said}|^{path} .*{said}"):
        collect.collect_plots(Path("plots"))
    assert not Path("plots").exists()


def test_dvc_shows_what_the_report_writes():
    assert DVC["metrics"] == [f"metrics/{stage}.json" for stage in collect.SUMMARIES]
    shown = set()
    for plot in DVC["plots"]:
        if isinstance(plot, str):
            shown.add(plot)
        else:
            shown |= {path for options in plot.values() for path in options["y"]}
    assert shown == {f"plots/{name}" for name in collect.PLOTS}
