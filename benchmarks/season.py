"""What a season costs by stage: processor seconds, memory, and bytes on 1, 4 and 16 episodes.

    python -m benchmarks.season --films FOLDER [--episodes 1 4 16] [--seconds 8] [--set KEY=VALUE]

Episodes are made of the films: pieces of two seconds, one behind the other; where a film comes
again it is mirrored, cropped elsewhere and of another hue, so that no filter takes it for the same.
Every stage runs as `python -m stages.NAME` in a scratch project, with the parameters of params.yaml
but one thread, one worker and one epoch; then DVC stores the outputs, and looks at them once more.

CPU seconds are user and system time of all processes of a stage. Memory is the most that they held
together without mapped files, which the system takes back where it needs room. With costs
a + b n^k on counts n that grow by one factor, k is the logarithm, to that factor, of the ratio of
the two increments: fixed costs drop out. A season is a + b n where n makes 1.5 million frames.
"""

import argparse
import ctypes
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.footage_ways import Watch
from pipeline import io
from pipeline.errors import UserError, run_main
from pipeline.video.ffmpeg_input import executable

ROOT = Path(__file__).parents[1]
CODE = ("pipeline", "stages", "dvc.yaml", "params.yaml", ".dvc/config", ".dvcignore", ".gitignore")
PIECE = 2  # seconds
SEASON, THOUSAND = 44 * 24 * 60, 1000 * 24 * 60  # seconds of film
ONE_EPOCH = {
    "source.path": "episodes",
    "base.threads": 1,
    "engine.workers": 1,
    "vqgan.trainer.n_epochs": 1,
    "train.n_epochs": 1,
}


def make_episode(films: list[Path], number: int, seconds: int, path: Path) -> None:
    """Episode `number` of 1280x720 at 24 frames a second."""
    inputs, chains, pieces = [], [], seconds // PIECE
    for place in range(pieces):
        again, film = divmod(number * pieces + place, len(films))
        inputs += ["-stream_loop", "-1", "-t", str(PIECE), "-i", str(films[film])]
        kept = 1 - 0.12 * (again % 4)
        look = f"crop=iw*{kept}:ih*{kept}:(iw-ow)*{again % 3}/2,hue=h={50 * again}"
        look += ",hflip" * (again % 2) + ",fps=24,scale=1280:720,setsar=1,format=yuv420p"
        chains.append(f"[{place}:v]{look}[p{place}]")
    joined = "".join(f"[p{place}]" for place in range(pieces)) + f"concat=n={pieces}[out]"
    command = [executable(), "-v", "error", "-y", *inputs, "-filter_complex"]
    command += [";".join([*chains, joined]), "-map", "[out]", "-an", "-c:v", "libx264"]
    subprocess.run([*command, "-preset", "ultrafast", "-threads", "1", str(path)], check=True)


def make_project(folder: Path, episodes: list[Path], changes: dict) -> None:
    """A git and DVC project with the code, changed parameters, and links to the episodes."""
    folder.mkdir()
    for name in CODE:
        (folder / name).parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(folder / name)], check=True)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        place = params
        for section in sections:
            place = place[section]
        if key not in place:
            raise UserError(f"--set {dotted}: no such parameter, expected one of params.yaml")
        place[key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "episodes").mkdir()
    for episode in episodes:
        os.link(episode, folder / "episodes" / episode.name)
    for command in ("init -q", "add .", "-c user.name=b -c user.email=b@b commit -qm season"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """Wall and CPU seconds of a command with all its processes, and MB that they held.

    Workers are children of Python's fork server. This process adopts what is left of them
    (`main`), so that `wait4` tells their time too.
    """
    started, cpu = time.monotonic(), 0.0
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        watch, code = Watch(process.pid), None
        while True:
            try:
                pid, status, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            cpu += usage.ru_utime + usage.ru_stime
            if pid == process.pid:
                code = os.waitstatus_to_exitcode(status)
                process.returncode = code
                wall = time.monotonic() - started
    watch.stop()
    if code:
        tail = (folder / "log.txt").read_text(errors="replace")[-600:]
        raise UserError(f"{' '.join(command)} ended with {code}, expected 0: {tail}")
    return {"wall": wall, "cpu": cpu, "mb": watch.together / 2**20}


def run_stages(folder: Path, last: str) -> dict[str, dict[str, float]]:
    """The stages of dvc.yaml behind the sample's up to the last, then DVC's commit and status."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    names, results = list(stages), {}
    names = names[1 : names.index(last) + 1]
    for name in names:
        results[name] = measure([sys.executable, "-m", f"stages.{name}"], folder)
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in stages[name]["outs"]]
        results[name] |= size([folder / out for out in outs])
        print(name, {key: round(value, 2) for key, value in results[name].items()}, flush=True)
    dvc = [sys.executable, "-m", "dvc"]
    results["dvc commit"] = measure([*dvc, "commit", "-q", "-f", *names], folder)
    results["dvc commit"] |= size([folder / ".dvc/cache"])
    results["dvc status"] = measure([*dvc, "status", "-q", *names], folder)
    results["dvc status"] |= size([folder / ".dvc/tmp"])
    results["store"] = size([folder / ".store"])
    results["mlflow"] = size([folder / "mlflow.db", folder / "mlartifacts"])
    return results


def size(paths: list[Path]) -> dict[str, float]:
    files = [f for path in paths for f in ([path] if path.is_file() else path.rglob("*"))]
    files = [file for file in files if file.is_file()]
    return {"disk": sum(file.stat().st_size for file in files) / 1e6, "files": len(files)}


def law(counts: list[int], values: list[float]) -> tuple[float, float, float]:
    """a, b of a + b n by the last two counts; k of a + b n^k by the last three, maybe nan."""
    slope = (values[-1] - values[-2]) / (counts[-1] - counts[-2])
    first, second = values[-2] - values[-3], values[-1] - values[-2]
    k = math.log(second / first, counts[-1] / counts[-2]) if min(first, second) > 0 else math.nan
    return values[-1] - slope * counts[-1], slope, k


def show(results: dict[int, dict], seconds: int) -> None:
    counts = list(results)
    for key, title in (("cpu", "CPU seconds"), ("mb", "MB of memory"), ("disk", "MB on disk")):
        table = Table(title=f"{title} of episodes of {seconds} s")
        for column in ("stage", *map(str, counts), "a", "b", "k", "season", "thousand"):
            table.add_column(column)
        for stage in results[counts[0]]:
            values = [results[n][stage].get(key, math.nan) for n in counts]
            if len(counts) < 3 or math.isnan(values[0]):
                continue
            a, b, k = law(counts, values)
            far = [a + b * length / seconds for length in (SEASON, THOUSAND)]
            numbers = [*values, a, b]
            cells = [*(f"{x:.4g}" for x in numbers), f"{k:.2f}", *(f"{x:,.0f}" for x in far)]
            table.add_row(stage, *cells)
        Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.season", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--films", type=Path, required=True, help="a folder of video files")
    parser.add_argument("--episodes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=int, default=8, help=f"of an episode, by {PIECE}")
    parser.add_argument("--last", default="report", help="the last stage that runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="a parameter")
    parser.add_argument("--out", type=Path, help="a JSON file for all numbers")
    given = parser.parse_args()
    films = sorted(path for path in given.films.resolve().iterdir() if path.is_file())
    changes = ONE_EPOCH | {
        k: yaml.safe_load(v) for k, v in (pair.split("=", 1) for pair in given.set)
    }
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, for `measure`
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        episodes = [Path(scratch) / f"{k:02d}.mp4" for k in range(max(given.episodes))]
        for number, path in enumerate(episodes):
            make_episode(films, number, given.seconds, path)
        for count in given.episodes:
            project = Path(scratch) / f"project-{count}"
            make_project(project, episodes[:count], changes)
            results[count] = run_stages(project, given.last)
            if given.out:
                io.write_json(given.out, {str(n): row for n, row in results.items()})
            subprocess.run(["rm", "-rf", str(project)], check=True)
    show(results, given.seconds)


if __name__ == "__main__":
    run_main(main)
