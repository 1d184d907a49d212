"""Ways from video files to small frames, each timed from outside: ours, ffmpeg's, the thesis'.

All take real files and give seconds of wall clock; nothing of one way's output is used by another.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import psutil

from pipeline.errors import UserError
from pipeline.video.ffmpeg_input import executable

Size = tuple[int, int]  # height, width
WATCH_SECONDS = 0.1
ERROR_LENGTH = 500  # characters of a program's last words


@dataclass(frozen=True)
class Ours:
    """What one run of `ingest_once` took."""

    seconds: float  # of ingest, with the start of the process
    scene_split: float  # seconds on top
    memory: float  # MB: the most that all its processes held together
    largest: float  # MB: the most that one of its Python processes held

    @property
    def whole(self) -> float:
        return self.seconds + self.scene_split


def ours(videos: Path, out: Path, store: Path, size: Size, workers: int) -> Ours:
    """Ingest and scene_split of a folder in a new process; `store` stands for the project's root.

    Memory is sampled from the system: a worker's parent is Python's fork server, for which nobody
    waits, so `getrusage` of children never sees workers.
    """
    command = [sys.executable, "-m", "benchmarks.ingest_once", str(videos), str(out)]
    command += [str(number) for number in (*size, workers)]
    environment = os.environ | {"DVC_ROOT": str(store)}
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=errors, env=environment)
        watch = Watch(process.pid)
        process.wait()
        spent = time.perf_counter() - started
        watch.stop()
        for file in (printed, errors):
            file.seek(0)
        _require(process.returncode, "benchmarks.ingest_once", videos, errors.read())
        split = json.loads(printed.read().splitlines()[-1])["scene_split"]
    return Ours(spent - split, split, watch.together / 2**20, watch.largest / 2**20)


class Watch(threading.Thread):
    """Samples the memory of a process and all below it, in bytes.

    Counted is resident memory without shared pages, where the system tells them: those are frame
    files mapped into memory, which it takes back when it needs room. A sample takes a millisecond
    or two; peaks shorter than WATCH_SECONDS may be missed.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.together, self.largest, self._over = pid, 0, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            held = self._sample()
            self.together = max(self.together, sum(held.values()))
            pythons = (held[process] for process in held if "python" in process.name())
            try:
                self.largest = max([self.largest, *pythons])
            except psutil.Error:
                continue  # it ended between the two questions

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _sample(self) -> dict[psutil.Process, int]:
        held = {}
        try:
            top = psutil.Process(self.pid)
            processes = [top, *top.children(recursive=True)]
        except psutil.Error:
            return held
        for process in processes:
            try:
                memory = process.memory_info()
                held[process] = memory.rss - getattr(memory, "shared", 0)
            except psutil.Error:
                continue
        return held


def ffmpeg(files: list[Path], size: Size | None, at_once: int = 1) -> float:
    """Decodes every file with ffmpeg and, where a size is given, reduces it; into nothing.

    Reduced by `area` without more flags, which is what one would type.
    """
    scale = [] if size is None else ["-vf", f"scale={size[1]}:{size[0]}:flags=area,format=rgb24"]
    into_nothing = ["-fps_mode", "passthrough", "-f", "null", "-"]

    def decode(file: Path) -> None:
        _run([executable(), *QUIET, "-i", str(file), "-map", "0:V:0", *scale, *into_nothing], file)

    def decode_all() -> None:
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(decode, files))

    return _timed(decode_all)


def thesis(files: list[Path], size: Size) -> tuple[float, float]:
    """The thesis' data step, file by file, then all frames of its pieces resized with OpenCV.

    Gives seconds of PySceneDetect's command, and of reading and resizing.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = _ffmpeg_on_path(Path(folder) / "bin")
        pieces = Path(folder) / "pieces"
        cutting = _timed(
            lambda: [_cut(file, pieces / str(k), path) for k, file in enumerate(files)]
        )
        reading = _timed(lambda: [read_resized(piece, size) for piece in pieces.glob("*/*.mp4")])
    return cutting, reading


def read_resized(video: Path, size: Size) -> int:
    """Reads every frame of a file with OpenCV, as RGB of that size; returns their number."""
    capture, count = cv2.VideoCapture(str(video)), 0
    while True:
        there, frame = capture.read()
        if not there:
            capture.release()
            return count
        cv2.cvtColor(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        count += 1


def repackaged(video: Path, target: Path) -> None:
    """The same pictures under other bytes, for a video that no store knows."""
    copied = ["-map", "0:V:0", "-c", "copy", str(target)]
    _run([executable(), *QUIET, "-i", str(video), *copied], video)


QUIET = ("-nostdin", "-y", "-v", "error")


def _cut(file: Path, out: Path, path: str) -> None:
    command = [sys.executable, "-m", "scenedetect", "-i", str(file), "-o", str(out), "-q"]
    steps = ["detect-content", "list-scenes", "save-images", "split-video"]
    _run([*command, *steps], file, os.environ | {"PATH": path})


def _ffmpeg_on_path(folder: Path) -> str:
    """A PATH on which PySceneDetect finds the wheel's program under the name `ffmpeg`."""
    folder.mkdir()
    (folder / "ffmpeg").symlink_to(executable())
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _run(command: list[str], file: Path, environment: dict | None = None) -> None:
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    _require(
        done.returncode, command[0], file, (done.stderr or done.stdout).decode("utf-8", "replace")
    )


def _require(returncode: int, program: str, file: Path, errors: str) -> None:
    if returncode:
        raise UserError(
            f"{file}: {Path(program).name} ended with {returncode}, expected 0: "
            f"{errors.strip()[-ERROR_LENGTH:]}; leave the file out, or give a folder of others"
        )
