"""The report page: escaping, one table before the details, the best marked, no requests."""

import re

import headless_browser
import numpy as np
import pandas as pd
import pytest

from pipeline import io
from pipeline.evaluation.report import figures, tables
from pipeline.evaluation.report.page import render, write_page
from pipeline.evaluation.significance import paired_differences
from pipeline.evaluation.summary import group_table, summarize

NASTY = "<script>alert(1)</script>\"' & {{ 7 * 7 }}"
METHODS = {"model": 24.0, "rife": 23.0, "cross_fade": 21.0, "round_trip": 26.0, "black": 5.0}


@pytest.fixture(scope="module")
def folder(moving, tmp_path_factory):
    """An evaluation's figures."""
    folder = tmp_path_factory.mktemp("page")
    truth = moving(12, 0, 64, 128)
    panels = {"model": moving(12, 1, 64, 128), figures.TRUE: truth, "rife": truth // 2}
    for number in (1, 2):
        figures.save_example(panels, folder / "videos", number)
    image = figures.grid({"true": truth[:1], "round_trip": truth[1:2]}, ["frame 0"])
    io.write_png(image, folder / "reconstruction.png")
    return folder


@pytest.fixture(scope="module")
def content():
    rows = pd.DataFrame(
        {"clip_id": f"c{k}", "video_id": f"v{k}", "group": ("low", "middle", "high")[k % 3],
         "method": name, "psnr": value + 0.1 * k, "lpips": 1 / value}
        for k in range(6) for name, value in METHODS.items()
    )  # fmt: skip
    pairs, groups = paired_differences(rows, 200, 0), group_table(rows)
    details = summarize(rows) | {"tokenizer": {"psnr": 26.0, "n": 6}, "verdict": NASTY}
    details |= {"explanations": [NASTY], "warnings": [NASTY], "left_out": {NASTY: NASTY}}
    frames = {"groups": groups, "paired": pairs}
    by_frame = {"method": ["model"] * 2, "frame": [1, 2], "n": 6, "psnr": [24.0, 23.0]}
    frames["by_frame"] = pd.DataFrame(by_frame)
    frames["codebook"] = pd.DataFrame({"rank": [1, 2], "share": [0.7, 0.3]})
    history = pd.DataFrame({"step": [1, 2], "total": [2.0, 1.0]})
    return details, frames, {"train.lr_max": 0.001, "a": NASTY}, {NASTY: history}


def test_names_from_files_are_text_and_never_markup(folder, content):
    text = render(folder, *content)
    assert "alert(1)</script>" not in text and "{{ 7 * 7 }}" in text
    assert text == render(folder, *content), "equal bytes"
    assert not re.search(r"https?:", re.sub(r"base64,[^\"]*", "", text))


def test_clips_come_first_then_one_table_then_details(folder, content):
    text = render(folder, *content)
    places = [text.index(part) for part in ('verdict">', "<video", "<table", "How sure")]
    assert places == sorted(places)
    assert text[: places[3]].count("<table") == 1


def test_the_best_is_marked_among_those_that_compete(content):
    html = tables.results_html(content[0])
    best = re.findall(r'<td class="[^"]*best[^"]*" *>([^<]*)<', html)
    assert best == ["24.35", "0.0417", "24.25", "0.0417"]  # not the round trip's 26
    assert "black" not in html, "simple baselines stand in the details"
    text = tables.results_text(content[0])
    assert "Nakawari" in text and "24.35" in text and "RIFE 4.0" in text


def test_differences_carry_their_interval_and_a_true_minus(content):
    pairs = content[1]["paired"]
    html = tables.differences(pairs[pairs.group == "all"])
    assert "+1.00 [+1.00, +1.00]" in html and "\N{MINUS SIGN}2.00" in html


def test_a_browser_shows_the_page_and_asks_for_nothing(folder, content, tmp_path):
    write_page(folder, *content)
    visit = headless_browser.visit(folder / "report.html", tmp_path)
    assert visit.requests == [] and visit.colours() > 500
    drawn = np.abs(visit.picture.astype(int) - visit.picture[0, 0]).max(-1) > 16
    assert drawn.mean() > 0.02 and drawn[1000:].any()


def test_a_request_would_have_been_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<p>a</p><img src="http://example.invalid/a.png">')
    seen = headless_browser.visit(page, tmp_path, (200, 200))
    assert seen.requests == ["http://example.invalid/a.png"]
