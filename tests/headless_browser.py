"""A page as a browser sees it: its elements after the scripts ran, its picture, its requests.

    visit = headless_browser.visit(page, tmp_path)

Needs Chromium or Chrome on PATH and skips the test where there is none. The clock of the page is
virtual: a second of it passes as soon as nothing is left to do, so no test waits for a video.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60  # patience with a busy machine
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars"),
]


@dataclass(frozen=True)
class Visit:
    dom: str  # HTML after the scripts ran
    picture: np.ndarray  # uint8 H W 3
    requests: list[str]  # addresses outside of the page that it asked for

    def colours(self) -> int:
        red, green, blue = np.moveaxis(self.picture.astype(np.int32), -1, 0)
        return len(np.unique(red << 16 | green << 8 | blue))


def visit(page: Path, folder: Path, size: tuple[int, int] = (1200, 2000)) -> Visit:
    """Opens the file `page` in a fresh browser; `folder` takes what the browser writes."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH")
    log, picture = folder / "net.json", folder / "picture.png"
    options = [
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",  # what is asked for is logged, and goes nowhere
        f"--log-net-log={log}",
        f"--screenshot={picture}",
        f"--window-size={size[0]},{size[1]}",
        "--virtual-time-budget=4000",
        "--dump-dom",
    ]
    command = [program, *FLAGS, *options, page.resolve().as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=True
    )
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    return Visit(done.stdout, pixels, _requests(log))


def _requests(log: Path) -> list[str]:
    """What the network stack was asked for; files and data: URIs do not get there.

    The browser's own errands (its vendor's time server, its variations) belong to no page: they
    carry no initiator, those of a page do ("null" for a page from disk).
    """
    content = json.loads(log.read_text())
    kinds = content["constants"]["logEventTypes"]
    start = kinds["URL_REQUEST_START_JOB"]
    params = [event.get("params", {}) for event in content["events"] if event["type"] == start]
    return [p["url"] for p in params if p.get("initiator", "not an origin") != "not an origin"]
