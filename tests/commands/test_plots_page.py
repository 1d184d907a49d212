"""DVC's plot pages with Vega inside: what is written, and what a browser makes of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import headless_browser
import pytest

from pipeline.commands import plots_page
from pipeline.errors import UserError

CHART = """\
plots:
  - loss:
      x: step
      y:
        loss.csv: [total, mae]
  - strip.png
"""


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A DVC repository with a curve and a picture, apart from whoever runs the tests."""
    from PIL import Image

    for name in [name for name in os.environ if name.startswith(("DVC_", "GIT_"))]:
        monkeypatch.delenv(name)
    for level in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(level, str(tmp_path / "elsewhere"))
    for switch in ("DVC_NO_ANALYTICS", "CI"):  # DVC sends nothing and asks for no newer version
        monkeypatch.setenv(switch, "true")
    folder = tmp_path / "project"
    folder.mkdir()
    _run(folder, "git", "init", "-q")
    _run(folder, sys.executable, "-m", "dvc", "init", "-q")
    rows = [f"{step},{1 / (step + 1)},{0.5 / (step + 1)}" for step in range(20)]
    (folder / "loss.csv").write_text("\n".join(["step,total,mae", *rows]) + "\n")
    Image.new("RGB", (64, 48), (200, 30, 90)).save(folder / "strip.png")
    (folder / "dvc.yaml").write_text(CHART)
    return folder


def _show(folder: Path) -> Path:
    _run(folder, sys.executable, "-m", "dvc", "plots", "show")
    return folder / "dvc_plots" / "index.html"


def _packaged() -> None:
    if plots_page.importlib.util.find_spec(plots_page.MODULE) is None:
        pytest.skip(f"{plots_page.PACKAGE} is not installed")


def test_charts_are_drawn_without_a_network(repository, tmp_path):
    _packaged()
    plots_page.install(repository)
    visit = headless_browser.visit(_show(repository), tmp_path, (1000, 1400))
    assert visit.requests == []
    charts = re.findall(r"<(?:canvas|svg)[^>]*\bmarks\b|class=\"marks\"", visit.dom)
    assert charts, "no chart was drawn"
    assert visit.colours() > 50
    assert ((visit.picture == (200, 30, 90)).all(-1)).sum() == 64 * 48  # the picture beside them


def test_dvc_alone_asks_a_server(repository, tmp_path):
    """What this command is for; and that the test above would have seen a request."""
    visit = headless_browser.visit(_show(repository), tmp_path, (1000, 1400))
    assert any("vega" in address for address in visit.requests)


def test_a_second_time_changes_nothing(repository):
    _packaged()
    page = plots_page.install(repository)
    local = repository / ".dvc/config.local"
    before = page.read_bytes(), local.read_bytes()
    assert plots_page.install(repository) == page
    assert (page.read_bytes(), local.read_bytes()) == before
    assert b"html_template = plots_page.html" in before[1]


def test_a_template_that_somebody_chose_and_other_settings_stay(repository, monkeypatch):
    monkeypatch.setattr(plots_page, "scripts", lambda: ["var vega = 1;"])
    local = repository / ".dvc/config.local"
    mine = "[plots]\n    html_template = mine.html\n[cache]\n    dir = /tmp/elsewhere\n"
    local.write_text(mine)
    assert plots_page.install(repository).name == "mine.html"
    assert local.read_text() == mine


def test_the_page_has_dvcs_places_and_no_address():
    text = plots_page.template(["var a = 1;", "var b = 2;"])
    assert all(place in text for place in plots_page.PLACES) and "{scripts}" not in text
    assert text.index("var a") < text.index("var b") < text.index("{plot_divs}")
    assert not re.search(r"https?:|src=", text)


def test_a_missing_package_and_a_changed_script_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plots_page, "MODULE", "no_such_module")
    with pytest.raises(UserError, match=r"django-js-lib-vega-embed==\S+ is not installed"):
        plots_page.scripts()
    (tmp_path / "vega5.js").write_text("alert(1)")
    with pytest.raises(UserError, match=r"vega5\.js has sha256 \w+, expected 00; run"):
        plots_page._verified(tmp_path / "vega5.js", "00")


def test_outside_of_a_dvc_repository_it_says_so(tmp_path):
    with pytest.raises(UserError, match=r"\.dvc is missing; run this in the project's folder"):
        plots_page.install(tmp_path)
