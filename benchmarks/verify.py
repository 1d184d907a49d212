"""Do two fresh clones of HEAD end with the same bytes? What `make verify` runs, without packages.

    make verify                                    # as `make repro`, twice: half an hour, 6 GB
    make verify TORCH_INDEX=https://download.pytorch.org/whl/cpu
    python3.11 -m benchmarks.verify --keep --folder /data/verify

Each clone gets its own environment, and neither DVC's caches nor settings of DVC, MLflow or Python
from outside. Folder, time zone, language and Python's hash seed differ. Outputs of all stages,
dvc.lock, metrics/ and plots/ are compared with each other, and with HEAD. The first stage that
differs is named, with the first file. Exit code 0: all the same; 1: something differs, and the
clones stay; 2: it could not be tried.
"""

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.errors import UserError, run_main

CLONE_GB = 3.5  # environment, cache and data
# Of the caller's: another repository, store, cache, package or make.
FOREIGN = re.compile(r"(DVC_|MLFLOW_|RAY_|PYTHON|MAKE|MFLAGS|VIRTUAL_ENV|GIT_(DIR|WORK|INDEX)).*")
CLONES = {  # name of the folder: what differs in its environment
    "a": {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
    "the second clone": {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"},
}
RUNNING = re.compile(r"Running stage '(\S+)'")
TRACKED = ("dvc.lock", "metrics", "plots")

Outs = dict[str, dict[str, str]]  # stage -> output -> hash, in the order of the pipeline


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repro", default="make repro", help="what runs in each clone")
    parser.add_argument("--folder", type=Path, help="for the clones; by default a temporary one")
    parser.add_argument("--keep", action="store_true", help="do not delete equal clones")
    options = parser.parse_args()
    head = git(Path(), "rev-parse", "HEAD")
    if changed := git(Path(), "status", "--porcelain", "--untracked-files=no"):
        raise UserError(
            f"{len(changed.splitlines())} files are changed and not committed, and clones hold "
            "commits only; commit or stash them"
        )
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="verify-", dir=options.folder))
    free = shutil.disk_usage(folder).free / 1e9
    print(f"clones of {head[:7]} in {folder}: {free:.0f} GB free, {2 * CLONE_GB:.0f} GB needed")
    if free < 2 * CLONE_GB and not options.folder:
        raise UserError(f"{folder} is too small; name a larger place with --folder")
    clones, seconds = [folder / name for name in CLONES], []
    for clone, own in zip(clones, CLONES.values(), strict=True):
        started = time.monotonic()
        order = run(clone, head, options.repro, own)
        seconds.append(time.monotonic() - started)
    if fault := difference(*clones, order):
        sys.exit(f"{fault}\nThe clones stay in {folder}")
    n_files = sum(1 for name in TRACKED for path in walk(clones[0] / name) if path.is_file())
    if not options.keep:
        shutil.rmtree(folder)
    minutes = " and ".join(f"{value / 60:.1f}" for value in seconds)
    print(
        f"identical: outputs of {len(order)} stages, and {n_files} files of {', '.join(TRACKED)}, "
        f"with each other and with {head[:7]}; git is clean in both; {minutes} minutes"
    )


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]} failed in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()


def run(clone: Path, head: str, command: str, own: dict[str, str]) -> list[str]:
    """Clones that commit and runs the command in it, a line a stage. The stages as they ran.

    The log lies beside the clone.
    """
    environment = {k: v for k, v in os.environ.items() if not FOREIGN.fullmatch(k)} | own
    environment["DVC_NO_ANALYTICS"] = "1"
    for place in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
        environment[f"DVC_{place}_DIR"] = f"{clone}-settings"
    git(Path(), "clone", "--quiet", "--no-hardlinks", ".", str(clone))
    git(clone, "reset", "--quiet", "--hard", head)  # whatever is committed meanwhile
    for outs in recorded(clone).values():
        for out in outs:  # in git: without it, its stage is run, and must write the same
            shutil.rmtree(clone / out, ignore_errors=True)
    log, started, ran = Path(f"{clone}.log"), time.monotonic(), []
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command, shell=True, cwd=clone, env=environment, encoding="utf-8", errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            for line in process.stdout:
                out.write(line)
                if match := RUNNING.match(line):
                    ran.append(match[1])
                    minutes, rest = divmod(int(time.monotonic() - started), 60)
                    print(f"  {clone.name}  {minutes:3}:{rest:02}  {match[1]}", flush=True)
        except BaseException:
            process.terminate()
            raise
        finally:
            process.wait()
    if process.returncode:
        raise UserError(f"`{command}` ended with exit code {process.returncode}; see {log}")
    if skipped := [stage for stage in recorded(clone) if stage not in ran]:
        raise UserError(
            f"{clone} did not run {', '.join(skipped)}: results from outside; see {log}"
        )
    return ran


def recorded(clone: Path) -> Outs:
    """What dvc.lock says of the outputs. DVC writes a line a value: no YAML parser is needed."""
    return read_lock((clone / "dvc.lock").read_text("utf-8"))


def read_lock(text: str) -> Outs:
    stages: Outs = {}
    part = stage = path = ""
    for line in text.splitlines():
        indent, (key, _, value) = len(line) - len(line.lstrip()), line.strip().partition(": ")
        if indent == 2 and line.endswith(":"):
            stage, part = line.strip(" :"), ""
            stages[stage] = {}
        elif indent == 4 and line[4] != "-":
            part = key.rstrip(":")
        elif part == "outs" and key == "- path":
            path = value
        elif part == "outs" and key == "md5":
            stages[stage][path] = value
    return stages


def difference(a: Path, b: Path, order: list[str]) -> str:
    """A sentence on the first stage and file that differ, or a file of git; "" where none does."""
    head = read_lock(git(a, "show", "HEAD:dvc.lock"))
    first, second = recorded(a), recorded(b)
    for stage in order:
        outs, others = first[stage], second.get(stage, {})
        for out in outs | others:
            if outs.get(out) != others.get(out):
                return f"{stage} differs, in {first_file(a / out, b / out)} of {out}"
    for name in TRACKED:
        for path in walk(a / name) | walk(b / name):
            file = path.relative_to(a if a in path.parents else b)
            if not same(a / file, b / file):
                return f"{file} differs"
    for stage in order:
        for out, md5 in first[stage].items():
            if head.get(stage, {}).get(out) != md5:
                return (
                    f"both clones agree, and {stage} differs from what HEAD records, in {out}: "
                    "another kind of processor, or packages of another version"
                )
    for clone in (a, b):
        if changed := git(clone, "status", "--porcelain"):
            return f"git is not clean in {clone}: {changed.splitlines()[0]}"
    return ""


def first_file(a: Path, b: Path) -> str:
    """The first file in which two outputs differ, relative to them."""
    names = {path.relative_to(root).as_posix() for root in (a, b) for path in walk(root)}
    for name in sorted(names):
        if not same(a / name, b / name):
            return name
    return "no file that is still there"


def walk(root: Path) -> set[Path]:
    return {root} if root.is_file() else {path for path in root.rglob("*") if path.is_file()}


def same(a: Path, b: Path) -> bool:
    return a.is_file() and b.is_file() and filecmp.cmp(a, b, shallow=False)


if __name__ == "__main__":
    run_main(main)
