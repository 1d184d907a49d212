"""Full and read-only folders below every command that writes, then the cure: needs root (mounts).

    python -m benchmarks.disks --folder /tmp/kills [--only vqgan_train]

In the folder that `benchmarks.kills` made. A tmpfs of 8 kB, or one mounted read-only, takes the
place of a folder: the command must end with code 1 or 2 and one sentence, and no traceback. Then it
is unmounted, and the same command must end with the bytes of a run that met no such thing.
"""

import argparse
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.kills import OUTS, RETIME

INDEX = "data/frame_index"
PYTHON = [sys.executable, "-m"]
GENERATE = [*PYTHON, "pipeline", "generate", "--first", "a.png", "--last", "b.png", "--n-frames"]
# name: command, folders that it writes in, what is compared
CASES = {
    "sample_episodes": ([*PYTHON, "stages.sample_episodes"], ["data/sample"], "data/sample"),
    "scene_split": ([*PYTHON, "stages.scene_split"], ["data/scenes"], "data/scenes"),
    "frame_subsample": ([*PYTHON, "stages.frame_subsample"], [INDEX], INDEX),
    "clip_chunk": ([*PYTHON, "stages.clip_chunk"], ["data/clips"], "data/clips"),
    "report": ([*PYTHON, "stages.report"], ["metrics", "plots"], "metrics"),
    "generate": ([*GENERATE, "9", "--out", "o/clip.mp4"], ["o"], "o"),
    "frames": ([*GENERATE, "9", "--out", "o/clip"], ["o"], "o"),
    "gif": ([*GENERATE, "9", "--out", "o/clip.gif"], ["o"], "o"),
    "retime": ([*RETIME[:-3], "o/out.mp4", *RETIME[-2:]], ["o"], "o"),
    "export": ([*PYTHON, "pipeline", "export", "o/model"], ["o"], "o"),
}  # fmt: skip
STATES = {"ingest": [".store"], "shard_pack": []}  # the others: .resume
CASES |= {
    stage: ([*PYTHON, f"stages.{stage}"], [out, *STATES.get(stage, [".resume"])], out)
    for stage, out in OUTS.items()
}


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def call(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", choices=CASES)
    given = parser.parse_args()
    root, n_wrong = given.folder.resolve(), 0
    for seed, keyframe in enumerate(("a.png", "b.png")):  # noise: no clip of it fits into 8 kB
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 128, 3), np.uint8)
        Image.fromarray(pixels).save(root / keyframe)
    for name in [given.only] if given.only else CASES:
        words, places, compared = CASES[name]
        if compared == "o":
            shutil.rmtree(root / "o", ignore_errors=True)
            (root / "o").mkdir()
            assert call(words, root).returncode == 0
        wanted = hashes(root / compared)
        assert wanted, f"{compared} is empty: run benchmarks.kills first"
        for place, kind in itertools.product(places, ("size=8k", "size=8k,ro")):
            small = root / place
            for folder in (compared, ".resume", ".store"):
                shutil.rmtree(root / folder, ignore_errors=True)
            for folder in (small, root / compared):
                folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", kind, "none", small], check=True)
            try:
                done = call(words, root)
            finally:
                subprocess.run(["umount", small], check=True)
            said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
            fine = done.returncode in (1, 2) and said.startswith("error: ")
            fine = fine and "Traceback" not in done.stderr
            n_wrong += not fine
            verdict = "well" if fine else f"BAD, {done.stderr[-1500:]}"
            print(f"{name}, {place} {kind}: code {done.returncode}, {said}: {verdict}", flush=True)
        cured = call(words, root)
        same = hashes(root / compared) == wanted
        n_wrong += not same
        print(f"{name}, cured: code {cured.returncode}, same bytes: {same}", flush=True)
    sys.exit(n_wrong > 0)


if __name__ == "__main__":
    main()
