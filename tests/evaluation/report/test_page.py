"""The page as text: escaping, the same bytes, nothing from outside, numbers as people read them."""

import math
import re
from html.parser import HTMLParser

import pytest

from pipeline.evaluation.report.page import (
    Clip,
    Curve,
    Interval,
    Page,
    Picture,
    ShownTable,
    Table,
    render,
    sections,
    write_page,
)

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"
MP4 = b"\0\0\0\x20ftypisom" + b"video"
NASTY = "<script>alert(1)</script>\"' & {{ 7 * 7 }}"
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def _page(name: str = "clip 1") -> Page:
    table = Table(name, name, ["method", name], [[name, 1.5], ["b", name]])
    return Page(
        title=name,
        verdict=name,
        parameters={"train.lr_max": 0.001, f"train.{name}": name, "seed": None},
        tables=[table],
        curves=[Curve(name, name, name, {name: [(0, 1.0), (1, 2.0)]}, name)],
        pictures=[Picture(name, name, PNG)],
        clips=[Clip(name, {name: MP4, "true": MP4}, name)],
        warnings=[name],
    )


class _Elements(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def test_names_from_files_are_text_and_never_markup():
    text = render(_page(NASTY))
    assert "alert(1)</script>" not in text and "{{ 7 * 7 }}" in text
    page = _Elements(text)
    assert len(page.of("script")) == 1  # the page's own
    assert page.of("video")[0]["aria-label"] == f"{NASTY}, {NASTY}"
    assert not [key for _, a in page.found for key in a if key.startswith("on") or "alert" in key]
    links = [a.get(key) or "" for _, a in page.found for key in ("src", "href")]
    assert not [link for link in links if "alert(" in link]


def test_the_same_data_gives_the_same_bytes(tmp_path):
    for name in ("a.html", "b.html"):
        write_page(tmp_path / "deep" / name, _page())
    first, second = ((tmp_path / "deep" / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"a.html", "b.html"}


def test_nothing_comes_from_outside():
    text = render(_page())
    page = _Elements(text)
    sources = [a[key] for _, a in page.found for key in ("src", "href", "poster") if key in a]
    assert len(sources) > 3
    assert all(source.startswith(("data:image/png;", "data:video/mp4;", "#")) for source in sources)
    assert not re.search(r"https?:|@import|url\(", text)
    assert not page.of("link") and not page.of("iframe")
    (policy,) = [m["content"] for m in page.of("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:;")


def test_links_inside_the_page_arrive():
    page = _Elements(render(_page("Numbers")))  # a table called like the part it stands in
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.of("a")} <= {f"#{name}" for name in ids}


def test_pictures_tables_and_controls_can_be_heard():
    page = _Elements(render(_page()))
    assert all(image["alt"] for image in page.of("img"))
    assert {head["scope"] for head in page.of("th")} == {"col", "row"}
    assert len(page.of("caption")) == len(page.of("table"))
    (drawing,) = [svg for svg in page.of("svg") if svg.get("role") == "img"]
    assert "from 1 to 2" in drawing["aria-label"]
    assert all("aria-label" in part for part in page.of("input") + page.of("select"))
    assert page.of("html")[0]["lang"] == "en"


def test_a_page_with_nothing_but_its_verdict_is_a_page():
    text = render(Page("t", "No clip could be measured."))
    assert "No clip could be measured." in text and "<h2" not in text


def _texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in cells] for _, _, cells in ShownTable(table).rows]


def _winners(table: Table) -> list[list[bool]]:
    return [[cell.best for cell in cells] for _, _, cells in ShownTable(table).rows]


def test_decimals_follow_the_largest_of_a_column():
    columns = ["m", "n", "PSNR", "SSIM", "FVD", "big", "given"]
    rows = [
        ["a", 1042, 22.567, 0.80034, 512.345, 12_345.6, 0.12345],
        ["b", 7, 5.3, -0.0001, 88.0, 1.0, 2.0],
    ]
    assert _texts(Table("t", "", columns, rows, digits={"given": 4})) == [
        ["1,042", "22.57", "0.800", "512.3", "12,346", "0.1235"],
        ["7", "5.30", "0.000", "88.0", "1", "2.0000"],
    ]


def test_differences_carry_their_sign_and_missing_numbers_a_dash():
    rows = [["a", 0.5, None], ["b", -0.25, math.nan], ["c", 0.0, "too few clips"]]
    table = Table("t", "", ["m", "diff", "x"], rows, signed=("diff",))
    assert [row[0] for row in _texts(table)] == ["+0.500", f"{MINUS}0.250", "+0.000"]
    assert [row[1] for row in _texts(table)] == [DASH, DASH, "too few clips"]


def test_intervals_stand_beside_their_value():
    table = Table("t", "", ["m", "PSNR"], [["a", Interval(22.5, 21.04, 23.1)], ["b", 3.0]])
    (first, second) = [cells[0] for _, _, cells in ShownTable(table).rows]
    assert (first.text, first.spread) == ("22.50", "[21.04, 23.10]") and second.spread == ""


@pytest.mark.parametrize(("rule", "winner"), [("high", "c"), ("low", "a"), (1.0, "b")])
def test_the_best_of_a_column_is_marked(rule, winner):
    rows = [["a", 0.2], ["b", 0.9], ["c", 1.4], ["d", None], ["floor", 0.0], ["sky", 1.0]]
    table = Table("t", "", ["m", "motion"], rows, best={"motion": rule}, aside=("floor", "sky"))
    assert dict(zip("abcd", _winners(table), strict=False))[winner] == [True]
    assert sum(row[0] for row in _winners(table)) == 1


def test_what_reads_alike_wins_alike_and_one_value_alone_wins_nothing():
    rows = [["a", 0.80011, 1.0], ["b", 0.80029, None], ["c", 0.7, None]]
    table = Table("t", "", ["m", "SSIM", "FVD"], rows, best={"SSIM": "high", "FVD": "low"})
    assert _winners(table) == [[True, False], [True, False], [False, False]]


def test_parameters_are_grouped_by_section_and_written_as_in_yaml():
    flat = {"base.seed": 1, "base.gpu": True, "a.b.c": [1, None], "x": 1e-5}
    assert sections(flat) == [
        ("base", [("seed", "1"), ("gpu", "true")]),
        ("a", [("b.c", "[1, null]")]),
        ("", [("x", "1e-05")]),
    ]


def test_what_is_no_picture_is_refused():
    with pytest.raises(AssertionError, match="image/png expected"):
        render(Page("t", "v", pictures=[Picture("p", "", b"GIF89a...")]))
