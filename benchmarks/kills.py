"""Kills every long stage and `retime` at random moments, starts them again, and compares the bytes.

    python -m benchmarks.kills [--tries 5] [--seed 1] [--only evaluate] [--folder /tmp/kills]

In a clone with tiny settings: one run without a kill is the reference. Then, for each stage, its
output, saved states and entry of dvc.lock are removed, `dvc repro` is started, and killed (SIGKILL)
at a moment between the first and the last second of the stage's work. In turn die the stage with
its workers, all of it with DVC, or DVC alone, whose stage then runs on beside the next one.
`dvc repro <stage>` without a remedy must end with the bytes and the dvc.lock of the reference.

`lost` are units of work (frames, steps, clips) that were done at the kill and not saved.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import torch
from ruamel.yaml import YAML

from pipeline.commands import presets

ROOT = Path(__file__).parents[1]
CHANGES = {
    "base": {"threads": 1},
    "sample_episodes": {"episodes": 4, "seconds": 20.0},
    "flow": {"method": "dis"},
    "clip_chunk": {"split_by": "scene"},
    "vqgan": {"trainer": {"n_epochs": 5}},
    "train": {"n_epochs": 2},
    "evaluate": {"lpips_network": "none", "fid_network": "none", "video_metrics": [],
                 "baselines": ["cross_fade", "optical_flow", "without_codes", "round_trip"]},
    "tracking": {"enabled": False},
    "engine": {"workers": 1, "checkpoint_interval": 1},
}  # fmt: skip
OUTS = {
    "ingest": "data/frames", "shard_pack": "data/shards", "vqgan_train": "models/vqgan",
    "token_precompute": "data/tokens", "gpt2_train": "models/gpt2", "evaluate": "evaluation",
}  # fmt: skip
RETIME = [sys.executable, "-m", "pipeline", "retime", "film.mp4", "out.mp4", "--factor", "2"]
VICTIMS = ("stage", "stage and dvc", "stage", "stage and dvc", "dvc")
COUNT = re.compile(r"\s(\d+)/\d+ \[")  # of a progress bar


class Command:
    """A command in a terminal of its own, with its words as they come."""

    def __init__(self, words: list[str], folder: Path) -> None:
        master, slave = pty.openpty()
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        self.process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.words = ""
        self.reader = threading.Thread(target=self._read, args=[master], daemon=True)
        self.reader.start()

    def _read(self, master: int) -> None:
        with contextlib.suppress(OSError):  # the end of a terminal
            while chunk := os.read(master, 4096):
                self.words += chunk.decode("utf-8", "replace")

    def wait_for(self, words: str) -> None:
        while words not in self.words and self.process.poll() is None:
            time.sleep(0.02)

    def end(self) -> int:
        code = self.process.wait()
        self.reader.join(2.0)
        return code

    def kill(self, victim: str) -> list[psutil.Process]:
        """SIGKILL; what was started by the command, all of which may not have been killed."""
        own = psutil.Process(self.process.pid)
        below = own.children(recursive=True)
        for process in [own] * ("dvc" in victim) + below * ("stage" in victim):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        return below

    def units(self) -> int:
        """Where the last bar stands; it is drawn twice a second."""
        counts = COUNT.findall(self.words)
        return int(counts[-1]) if counts else 0


def saved(stage: str, folder: Path) -> int:
    """Units of work that are on the disk."""
    states = list((folder / ".resume" / stage).glob("*[0-9a-f].pt"))
    state = torch.load(states[0], weights_only=True) if states else None
    if stage == "ingest":
        rows = [json.loads(path.read_text()) for path in folder.glob(".store/ingest/*.json")]
        return sum(row["n_frames"] for row in rows)
    if stage == "token_precompute":
        parts = (folder / ".resume" / stage).rglob("*.parquet")
        return len({name for path in parts for name in pq.read_table(path)["clip_id"].to_pylist()})
    if stage == "retime":
        return 48 * len(list(folder.glob("out.mp4.parts/*.h264"))) // 2  # every second is drawn
    if stage == "evaluate":
        return 8 * sum(state["evaluation"]["done"].values()) if state else 0
    return state["step"] if state else 0


def fingerprint(stage: str, folder: Path) -> dict[str, str]:
    """Hashes of the output's files, and the stage's entry in dvc.lock."""
    out = folder / OUTS.get(stage, "out.mp4")
    files = sorted(path for path in [out, *out.rglob("*")] if path.is_file())
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    lock = YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]
    return hashes | {"dvc.lock": str(lock.get(stage))}


def forget(stage: str, folder: Path, lock: str) -> None:
    """As if the stage had never run."""
    content = YAML(typ="safe").load(lock)
    content["stages"].pop(stage, None)
    YAML().dump(content, folder / "dvc.lock")
    for name in (OUTS.get(stage, "out.mp4"), ".resume", ".store", ".dvc/cache/runs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.glob("out.mp4*"):
        path.unlink() if path.is_file() else shutil.rmtree(path)


def project(folder: Path) -> None:
    """A clone with tiny settings, in which everything ran once."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    content = presets.merged(YAML(typ="safe").load((ROOT / "params.yaml").read_text()), {})
    for overlay in (presets.overlay("tiny", ROOT / "presets"), CHANGES):
        content = presets.merged(content, overlay)
    YAML().dump(content, folder / "params.yaml")
    run = Command(["dvc", "repro", "evaluate"], folder)
    if run.end():
        sys.exit(run.words[-3000:])
    import imageio_ffmpeg

    film = next((folder / "data/sample/episodes").glob("*.mp4"))
    cut = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-t", "8", "-i", film, "-c", "copy"]
    subprocess.run([*cut, folder / "film.mp4"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=[*OUTS, "retime"])
    parser.add_argument("--folder", type=Path, required=True, help="made; kept for the next call")
    given = parser.parse_args()
    folder, moments = given.folder.resolve(), random.Random(given.seed)
    if not folder.exists():
        project(folder)
    lock = (folder / "dvc.lock").read_text()
    print(f"{'stage':18}killed survived equal  units: all  lost, each time   too late")
    for stage in [given.only] if given.only else [*OUTS, "retime"]:
        command = RETIME if stage == "retime" else ["dvc", "repro", stage]
        begins = "drawings:" if stage == "retime" else f"{stage}: starts"
        forget(stage, folder, lock)
        calm = Command(command, folder)
        calm.wait_for(begins)
        begun = time.monotonic()
        assert calm.end() == 0, calm.words[-3000:]
        seconds, wanted = time.monotonic() - begun, fingerprint(stage, folder)
        lost, survived, equal, late = [], 0, 0, 0
        for number in range(given.tries):
            victim = "stage and dvc" if stage == "retime" else VICTIMS[number % len(VICTIMS)]
            forget(stage, folder, lock)
            run = Command(command, folder)
            run.wait_for(begins)
            time.sleep((number + moments.uniform(0.1, 0.9)) / given.tries * seconds)
            if run.process.poll() is not None:
                late += 1
                continue
            left = run.kill(victim)
            time.sleep(0.2)
            lost.append(max(0, run.units() - saved(stage, folder)))
            again = Command(command, folder)
            code = again.end()
            psutil.wait_procs(left)  # a stage without its DVC
            survived += code == 0
            equal += fingerprint(stage, folder) == wanted
            if code or fingerprint(stage, folder) != wanted:
                print(f"{stage}, {victim} killed, exit code {code}:\n{again.words[-2000:]}")
        print(
            f"{stage:18}{len(lost):6} {survived:8} {equal:5}  {calm.units():10}  "
            f"{', '.join(map(str, lost)):18} {late}",
            flush=True,
        )
    (folder / "dvc.lock").write_text(lock)


if __name__ == "__main__":
    main()
