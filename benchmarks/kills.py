"""Ends every long stage and `retime` at random moments, starts them again, and compares the bytes.

    python -m benchmarks.kills --folder /tmp/kills [--seed 1] [--only evaluate]

In a clone with tiny settings, which is made: one run without a kill is the reference. Then each
stage's output, saved states and entry of dvc.lock are removed, and `dvc repro <stage>` is started
and ended when its bar passes a random place, seven times in a row: by SIGKILL of the stage with its
workers, of all with DVC, of DVC alone, then by Ctrl-C and by SIGTERM of the stage, which must say
one sentence. The last start must end with the bytes and the dvc.lock of the reference.

`lost` are units of work (frames, rows, steps, clips) that the bar showed and that were not saved.
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
import termios
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
    "vqgan": {"keyframes": {"spans_per_clip": 0}, "trainer": {"n_epochs": 1}},
    "train": {"n_epochs": 1},
    "evaluate": {"lpips_network": "none", "fid_network": "none", "video_metrics": [],
                 "baselines": ["cross_fade", "optical_flow", "without_codes", "round_trip"]},
    "tracking": {"enabled": False},
    "engine": {"workers": 1, "checkpoint_interval": 1},
}  # fmt: skip
OUTS = {
    "ingest": "data/frames", "shard_pack": "data/shards", "vqgan_train": "models/vqgan",
    "token_precompute": "data/tokens", "gpt2_train": "models/gpt2", "evaluate": "evaluation",
}  # fmt: skip
BARS = {
    "ingest": "decoding", "shard_pack": "packing", "vqgan_train": "tokenizer",
    "token_precompute": "tokens, train", "gpt2_train": "transformer",
    "evaluate": "evaluating, test", "retime": "drawing",
}  # fmt: skip
RETIME = [sys.executable, "-m", "pipeline", "retime", "film.mp4", "out.mp4", "--factor", "2"]
KILL, STOPPED = signal.SIGKILL, "interrupted; run the same command again to continue"
ENDS = [(KILL, "stage"), (KILL, "all"), (KILL, "stage"), (KILL, "all"), (KILL, "dvc")]
ENDS += [(signal.SIGINT, "all"), (signal.SIGTERM, "stage")]


class Command:
    """A command in a terminal of its own, with its words as they come."""

    def __init__(self, words: list[str], folder: Path) -> None:
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 100))
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        self.process = psutil.Popen(
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

    def end(self) -> int:
        code = self.process.wait()
        self.reader.join(2.0)
        return code

    def stop(self, number: int, victim: str) -> list[psutil.Process]:
        """Sends a signal; what the command had started, which may still be there."""
        below = self.process.children(recursive=True)
        stage = below if number == KILL else below[:1]  # whose workers end with it
        if self.process.cmdline()[1:2] == ["-m"]:  # no DVC above: the command itself
            stage = [self.process, *below] if number == KILL else [self.process]
        victims = {"stage": stage or [self.process], "dvc": [self.process]}
        for process in victims.get(victim, [self.process, *below]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return below

    def progress(self, bar: str) -> tuple[int, int]:
        """Units that are done, and all, as the bar of that name was last drawn (twice a second)."""
        counts = re.findall(rf"{bar}:[^\r\n]*?\s(\d+)/(\d+) \[", self.words)
        return (int(counts[-1][0]), int(counts[-1][1])) if counts else (0, 0)

    def runs_to(self, bar: str, share: float) -> bool:
        """Waits until the bar passes that share of all units; False where the command ended."""
        while self.process.poll() is None:
            done, total = self.progress(bar)
            if total and done >= share * total:
                return True
            time.sleep(0.02)
        return False


def saved(stage: str, folder: Path) -> int:
    """Units of work that are on the disk."""
    states = [path for path in (folder / ".resume" / stage).glob("*.pt") if len(path.stem) == 16]
    state = torch.load(states[0], weights_only=True) if states else None
    if stage == "ingest":
        rows = [json.loads(path.read_text()) for path in folder.glob(".store/ingest/*.json")]
        return sum(row["n_frames"] for row in rows)
    if stage == "token_precompute":
        parts = (folder / ".resume" / stage).rglob("train/*.parquet")
        return sum(pq.read_table(path).num_rows for path in parts) // 4
    if stage == "retime":
        return 48 * len(list(folder.glob("out.mp4.parts/*.h264"))) // 2  # every second is drawn
    if stage == "evaluate":
        return 8 * state["evaluation"]["done"]["test"] if state else 0
    return state["step"] if state else 0


def fingerprint(stage: str, folder: Path, film: str = "out.mp4") -> dict[str, str]:
    """Hashes of the output's files, and the stage's entry in dvc.lock."""
    out = folder / OUTS.get(stage, film)
    files = sorted(path for path in [out, *out.rglob("*")] if path.is_file())
    hashes = {str(path)[len(str(out)) :]: hashlib.sha256(path.read_bytes()) for path in files}
    lock = YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"].get(stage)
    return {name: digest.hexdigest() for name, digest in hashes.items()} | {"lock": str(lock)}


def forget(stage: str, folder: Path, lock: str) -> None:
    """As if the stage had never run."""
    content = YAML(typ="safe").load(lock)
    content["stages"].pop(stage, None)
    YAML().dump(content, folder / "dvc.lock")
    for name in (OUTS.get(stage, "out.mp4.parts"), ".resume", ".store", ".dvc/cache/runs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "out.mp4").unlink(missing_ok=True)


def project(folder: Path, film: bool) -> None:
    """A clone with tiny settings, in which everything ran once; `film`: also `retime`."""
    import imageio_ffmpeg

    if not folder.exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        content = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        for overlay in (presets.overlay("tiny", ROOT / "presets"), CHANGES):
            content = presets.merged(content, overlay)
        YAML().dump(content, folder / "params.yaml")
    commands = [["dvc", "repro", "report"]]
    if film and not (folder / "wanted.mp4").exists():
        source = folder / "data/sample/episodes/episode_01.mp4"
        cut = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", source, "-t", "4"]
        commands += [[*cut, "-c", "copy", "film.mp4"]]
        commands += [[*RETIME[:-3], "wanted.mp4", *RETIME[-2:]]]
    for command in commands:
        run = Command(command, folder)
        if run.end():
            sys.exit(run.words[-3000:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, required=True, help="made; kept for the next call")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=BARS)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    folder, moments = given.folder.resolve(), random.Random(given.seed)
    project(folder, given.only in (None, "retime"))
    lock, n_wrong = (folder / "dvc.lock").read_text(), 0
    for stage in [given.only] if given.only else BARS:
        command = RETIME if stage == "retime" else ["dvc", "repro", stage]
        wanted = fingerprint(stage, folder, "wanted.mp4")
        forget(stage, folder, lock)
        lost, total, left, wrong = [], 0, [], []
        for k, (number, victim) in enumerate(ENDS):
            run = Command(command, folder)
            if not run.runs_to(BARS[stage], (k + moments.random()) / len(ENDS)):
                wrong.append(f"ended before signal {k + 1}: {run.words[-1500:]}")
                break
            time.sleep(moments.uniform(0, 0.5))
            left += run.stop(number, victim)
            code = run.end()
            done, total = run.progress(BARS[stage])
            finished = done == total  # before the signal met it
            # DVC's own: of a stage that failed, of a Ctrl-C that met DVC between stages
            expected = (128 + number,) if stage == "retime" else (255, 252)
            said = code in expected and STOPPED in run.words and "Traceback" not in run.words
            if number != KILL and not finished and not said:
                wrong.append(f"{number.name}, exit code {code}: {run.words[-1500:]}")
            lost.append(0 if finished else max(0, done - saved(stage, folder)))
        last = Command(command, folder)
        code = last.end()
        psutil.wait_procs(left)
        if code or fingerprint(stage, folder) != wanted:
            wrong.append(f"exit code {code}, other bytes or dvc.lock: {last.words[-2000:]}")
        verdict = "NOT WELL" if wrong else "the same bytes"
        ended = ", ".join(
            f"{n.name} {who} {lost[k]}" for k, (n, who) in enumerate(ENDS[: len(lost)])
        )
        print(f"{stage}: {verdict}; lost of {total} in '{BARS[stage]}': {ended}", flush=True)
        print(*wrong, sep="\n", end="\n" if wrong else "", flush=True)
        n_wrong += len(wrong)
    (folder / "dvc.lock").write_text(lock)
    sys.exit(n_wrong > 0)


if __name__ == "__main__":
    main()
