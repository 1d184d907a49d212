"""Lets `dvc plots show` and `dvc plots diff` write pages that work without a network.

    python -m pipeline.commands.plots_page

DVC's own page loads Vega from a server. This command writes a page with Vega inside it (taken from
an installed package, verified by sha256) to `.dvc/plots_page.html`, and names it as
`plots.html_template` in `.dvc/config.local`. Both files are ignored by git and lie side by side:
DVC stops at a template that is named and missing, so the two must live and die together. Without
them DVC works as always. A template that somebody else chose is left alone.
"""

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

from pipeline import io
from pipeline.errors import UserError, run_main

PACKAGE, MODULE = "django-js-lib-vega-embed==6.29.0.3", "js_lib_vega_embed"
FOLDER = "static/js_lib_vega_embed"
SCRIPTS = {  # in the order in which a page needs them: Vega 5.33.0, Vega-Lite 5.23.0, Embed 6.29.0
    "vega5.js": "6a6c1e9978bd78435dfbb51344d1d536319262e70f2c569ca9764ce5acc203da",
    "vega-lite5.js": "594f554cecafe6b992d51b7c00f4c0e5fc5f92114c7e1a641d2cf150f21cc60d",
    "vega-embed6.js": "dbd49aff8999dfb12983cbcefeefb355ae72af68d7556ddcec12193a0eb46450",
}
TEMPLATE = "plots_page.html"  # DVC looks from its folder, .dvc
OPTION = "plots.html_template"
# What DVC fills in. Its {scripts}, tags that load Vega from a server, are left out on purpose.
PLACES = ("{refresh_tag}", "{plot_divs}")
# Vega compiles its expressions with Function; pictures lie beside the page, in static/.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src 'self' file: data: blob:"
)
STYLE = """
:root { color-scheme: light; }
body { display: flex; flex-wrap: wrap; gap: 2rem; margin: 1.5rem; }
body { color: #1d2129; background: #fff; font: 15px/1.5 system-ui, sans-serif; }
body > div { max-width: 100%; overflow-x: auto; }
img { max-width: 100%; }
table { border-collapse: collapse; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid #dfe2e6; text-align: right; }
"""


def install(root: Path) -> Path:
    """Writes the page below `root` and tells DVC of it; gives the page that DVC now uses."""
    folder = root / ".dvc"
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; run this in the project's folder, a DVC repository")
    page = folder / TEMPLATE
    partial = page.with_name(page.name + ".partial")
    partial.write_text(template(scripts()), "utf-8", newline="\n")
    partial.replace(page)
    chosen = _dvc(root, "config", OPTION)
    if not chosen:
        _dvc(root, "config", "--local", OPTION, TEMPLATE, must=True)
    return folder / (chosen or TEMPLATE)


def template(parts: list[str]) -> str:
    """A page as DVC wants it, with these scripts inside."""
    inside = "\n".join(f"<script>{part}</script>" for part in parts)
    refresh_tag, plot_divs = PLACES
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>DVC plots</title>
<style>{STYLE}</style>
{inside}
</head>
<body>
{plot_divs}
</body>
</html>
"""


def scripts() -> list[str]:
    """Vega, Vega-Lite and Vega-Embed, verified."""
    spec = importlib.util.find_spec(MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package {PACKAGE} is not installed; run `pip install {PACKAGE}`")
    folder = Path(spec.submodule_search_locations[0]) / FOLDER
    return [_verified(folder / name, digest) for name, digest in SCRIPTS.items()]


def _verified(path: Path, expected: str) -> str:
    content = path.read_bytes() if path.is_file() else b""
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise UserError(
            f"{path} has sha256 {digest}, expected {expected}; "
            f"run `pip install --force-reinstall {PACKAGE}`"
        )
    text = content.decode("utf-8")
    assert not any(mark in text for mark in ("</script", *PLACES)), path  # would end it early
    return text


def _dvc(root: Path, *arguments: str, must: bool = False) -> str:
    """What DVC prints; nothing where it fails, which an unset option does."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode and must:
        raise UserError(f"`dvc {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return "" if done.returncode else done.stdout.strip()


def main() -> None:
    page = install(io.project_root())
    if page.name == TEMPLATE:
        print("`dvc plots show` and `dvc plots diff` now need no network")
    else:
        print(f"{OPTION} names {page}, which is kept; unset it and run this again for our page")


if __name__ == "__main__":
    run_main(main)
