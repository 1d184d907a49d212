"""The overview at the end of `make repro`: complete where files are there, "-" where not."""

import pytest
from rich.console import Console

from pipeline import io
from pipeline.commands import overview

STAGES = "stages:\n  sample_episodes: {cmd: x}\n  ingest: {cmd: x}\n  report: {cmd: x}\n"
METRICS = {
    "tokenizer": {"psnr": 27.123, "ssim": 0.9, "lpips": 0.05, "codebook_usage": 0.4375, "n": 40},
    "inbetween": {"psnr": 21.234, "ssim": 0.7654, "lpips": 0.1234, "n": 40},
    "inbetween_high_motion": {"psnr": 18.0, "ssim": 0.6, "n": 13},
    "baselines": {"black": {"psnr": 7.1, "ssim": 0.1}, "cross_fade": {"psnr": 22.2, "ssim": 0.8}},
    "baselines_high_motion": {"cross_fade": {"psnr": 17.5, "ssim": 0.55}},
}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("COLUMNS", "40")  # a narrow terminal: the tables are 100 wide all the same
    (tmp_path / "dvc.yaml").write_text(STAGES)
    return tmp_path


def _cells(text: str, label: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if f" {label} " in line]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_all_is_shown(project, capsys):
    io.write_json(project / ".store/seconds/ingest.json", {"seconds": 7.94, "peak_mb": 1234})
    io.write_json(project / ".store/seconds/report.json", {"seconds": 2.0, "peak_mb": 300})
    io.write_json(project / "metrics/evaluate.json", METRICS)
    notes = {"verdict": "The model beats cross-fade."}
    io.write_json(project / "evaluation/notes.json", notes)
    for path in (
        "plots/inbetween_strip.png",
        "evaluation/report.html",
        "evaluation/videos/02_generated.mp4",
        "evaluation/videos/01_generated.mp4",
    ):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).touch()
    overview.main()
    text = capsys.readouterr().out
    assert _cells(text, "ingest") == ["ingest", "7.9", "1,234"]
    assert _cells(text, "sample_episodes") == ["sample_episodes", "-", "-"]
    assert _cells(text, "sum") == ["sum", "9.9", ""]
    assert _cells(text, "Nakawari") == [
        "Nakawari",
        "21.23",
        "0.765",
        "0.123",
        "18.00",
        "0.600",
        "-",
    ]
    assert _cells(text, "cross-fade") == [
        "cross-fade",
        "22.20",
        "0.800",
        "-",
        "17.50",
        "0.550",
        "-",
    ]
    assert _cells(text, "black") == ["black", "7.10", "0.100", "-", "-", "-", "-"]
    assert "n=40" in text and "n=13" in text
    assert "Tokenizer: PSNR 27.12 dB, SSIM 0.900, LPIPS 0.050, codebook usage 0.438" in text
    assert "The model beats cross-fade.\n" in text
    assert "See evaluation/report.html\nSee plots/inbetween_strip.png\nSee evaluation/vid" in text


def test_stages_stand_in_the_order_of_the_pipeline():
    assert overview.stage_names() == ["sample_episodes", "ingest", "report"]


def test_without_any_result_it_is_still_readable(capsys):
    overview.main()
    text = capsys.readouterr().out
    assert _cells(text, "Nakawari") == ["Nakawari", *["-"] * 6]
    assert "Tokenizer: PSNR - dB" in text and "See " not in text


def test_piped_output_holds_no_control_codes(capsys):
    overview.main()
    assert "\x1b" not in capsys.readouterr().out
    assert Console().width == 40  # so the width of 100 is the overview's own doing
