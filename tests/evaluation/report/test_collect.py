"""Report: every stage's numbers under its name, its curves and pictures, and what lacks."""

import json
from pathlib import Path

import pytest
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
        path.write_bytes(b"content %d" % number)
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


def test_dvc_shows_what_the_report_writes():
    assert DVC["metrics"] == [f"metrics/{stage}.json" for stage in collect.SUMMARIES]
    shown = set()
    for plot in DVC["plots"]:
        if isinstance(plot, str):
            shown.add(plot)
        else:
            shown |= {path for options in plot.values() for path in options["y"]}
    assert shown == {f"plots/{name}" for name in collect.PLOTS}
