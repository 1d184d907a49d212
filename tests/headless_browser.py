"""A page as a browser sees it: its elements after the scripts ran, its picture, its requests.

    visit = headless_browser.visit(page, tmp_path)
    with headless_browser.opened(address, tmp_path) as tab: tab.run("document.title")

Needs Chromium or Chrome on PATH and skips the test where there is none. The clock of a visited page
is virtual: a second of it passes as soon as nothing is left to do, so no test waits for a video.
"""

import base64
import io
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def program() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH")
    return found


def visit(page: Path, folder: Path, size: tuple[int, int] = (1200, 2000)) -> Visit:
    """Opens the file `page` in a fresh browser; `folder` takes what the browser writes."""
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
    command = [program(), *FLAGS, *options, page.resolve().as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=True
    )
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    return Visit(done.stdout, pixels, requests(log))


def requests(log: Path) -> list[str]:
    """What the network stack was asked for; files and data: URIs do not get there.

    The browser's own errands (its vendor's time server, its variations) belong to no page: they
    carry no initiator, those of a page do ("null" for a page from disk).
    """
    content = json.loads(log.read_text())
    kinds = content["constants"]["logEventTypes"]
    start = kinds["URL_REQUEST_START_JOB"]
    params = [event.get("params", {}) for event in content["events"] if event["type"] == start]
    return [p["url"] for p in params if p.get("initiator", "not an origin") != "not an origin"]


class Tab:
    """A page that is used: Chrome's DevTools protocol, over pipes."""

    def __init__(self, send: io.FileIO, receive: io.FileIO) -> None:
        self.send, self.receive, self.session, self.count = send, receive, None, 0
        self.rest = b""
        (target,) = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attach = {"targetId": target["targetId"], "flatten": True}
        self.session = self("Target.attachToTarget", **attach)["sessionId"]

    def __call__(self, method: str, **params) -> dict:
        """Calls a method of the protocol; events in between are dropped."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        self.send.write(json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                block = self.receive.read(2**16)
                assert block, "the browser ended"
                self.rest += block
            answer, _, self.rest = self.rest.partition(b"\0")
            answer = json.loads(answer)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> object:
        """What a JavaScript expression gives; a promise is awaited."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> object:
        """The same, as soon as it is true."""
        end = time.monotonic() + SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"still not true: {script}"
            time.sleep(0.1)
        return value

    def upload(self, selector: str, *paths: Path) -> None:
        """Gives files to an `<input type=file>`."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(path.absolute()) for path in paths])

    def picture(self) -> np.ndarray:
        """uint8 `H W 3` of what is seen."""
        data = base64.b64decode(self("Page.captureScreenshot")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@contextmanager
def opened(address: str, folder: Path, size: tuple[int, int] = (1280, 1000)) -> Iterator[Tab]:
    """A browser that shows the page at `address`; `folder` takes what it writes."""
    (read_command, command), (answer, write_answer) = os.pipe(), os.pipe()
    options = [f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe"]
    options += [f"--window-size={size[0]},{size[1]}", f"--log-net-log={folder / 'net.json'}"]
    words = shlex.join([program(), *FLAGS, *options, address])
    process = subprocess.Popen(
        ["bash", "-c", f"exec {words} 3<&{read_command} 4>&{write_answer}"],
        pass_fds=(read_command, write_answer),
        env={**os.environ, "HOME": str(folder)},
        stderr=subprocess.DEVNULL,
    )
    for handle in (read_command, write_answer):
        os.close(handle)
    with open(command, "wb", 0) as send, open(answer, "rb", 0) as receive:  # noqa: PTH123
        tab = Tab(send, receive)
        try:
            yield tab
        finally:
            tab.session = None
            tab("Browser.close")
            process.wait(SECONDS)
