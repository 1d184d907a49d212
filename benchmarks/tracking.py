"""Eight queued experiments with two workers, and MLflow at fault: is anything lost or mixed up?

    python -m benchmarks.tracking --folder EMPTY_FOLDER [--steps queue faults]

`queue`: a clone, a tiny configuration, and no store, which both workers make at the same moment.
Each experiment is compared with one of the same parameters that ran alone, and its row in MLflow
with its commit. `faults`: a proxy that delays, drops or refuses stands between `gpt2_train` and a
real server, or the file of the store is spoiled (a full disk wants root); then `report` fills the
row. The table has how many of eight, or the seconds of the training. Half an hour on two cores.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
from mlflow.tracking import MlflowClient

from benchmarks.lines import line, show
from pipeline import io
from pipeline.commands import presets
from pipeline.config import load, read_yaml
from pipeline.errors import run_main
from pipeline.tracking import mlflow_row

ROOT = Path(__file__).parents[1]
SWEEP = ("train.n_frames_before=1,2", "train.lr_max=0.001,0.002", "train.token_noise=0.0,0.5")
QUICK = {
    "base": {"threads": 1},
    "engine": {"workers": 1, "checkpoint_interval": 1},
    "flow": {"method": "dis"},
    "sample_episodes": {"seconds": 30.0},
    "evaluate": {"lpips_network": "none", "fid_network": "none", "video_metrics": []}
    | {"n_samples": 0, "thesis_metrics": "none", "baselines": ["black", "without_codes"]},
}
IDENTITY = {f"GIT_{who}_{k}": "a@b" for who in ("AUTHOR", "COMMITTER") for k in ("NAME", "EMAIL")}
REFUSAL = b"HTTP/1.1 %s no\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
SPOILED = ("locked", "full", "newer")
FAULTS = ("none", "absent", "5 s", "30 s", "dies", "500", "401", *SPOILED)


def run(folder: Path, *command: str, **variables: str) -> str:
    """What a command says; an assertion where it fails."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
    environment = {**clean, **IDENTITY, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{(done.stdout + done.stderr)[-3000:]}"
    return done.stdout + done.stderr


def project(folder: Path, target: str) -> Path:
    """A clone with the tiny configuration, committed and run up to a stage, without a store."""
    run(ROOT, "git", "clone", "-q", str(ROOT), str(folder))
    overlay = presets.merged(presets.overlay("tiny", ROOT / "presets"), QUICK)
    content = presets.merged(read_yaml(folder / "params.yaml"), overlay)
    (folder / "params.yaml").write_text(json.dumps(content))
    run(folder, "git", "commit", "-qam", "tiny")
    run(folder, "dvc", "repro", target)
    run(folder, "git", "commit", "-qam", "results")
    shutil.rmtree(folder / "mlartifacts", ignore_errors=True)
    (folder / "mlflow.db").unlink()
    return folder


def experiments(folder: Path) -> dict[str, tuple[str, Path]]:
    """Name, and a checkout of its commit, of each experiment by the parameters that were set."""
    found = {}
    for ref in run(folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").split():
        name = ref.rpartition("/")[2]
        tree = folder.with_name(f"{folder.name}-{name}")
        run(folder, "git", "worktree", "add", "-q", "--detach", str(tree), ref)
        flat = io.flatten(read_yaml(tree / "params.yaml"))
        found[str([flat[item.split("=")[0]] for item in SWEEP])] = name, tree
    return found


def is_whole(client: MlflowClient, experiment: str, condition: str, tree: Path) -> bool:
    """Whether there is one row, with the parameters, numbers, curve and files of a commit."""
    home = client.get_experiment_by_name(experiment).experiment_id
    row, *more = client.search_runs([home], condition)
    params = io.flatten(load(tree / "params.yaml").model_dump())
    metrics = {path.stem: io.read_json(path) for path in (tree / "metrics").glob("*.json")}
    curve = io.read_csv(tree / "plots/gpt2_train.csv")
    points = client.get_metric_history(row.info.run_id, "gpt2_train/train.total")
    plots = {path.name: path.read_bytes() for path in (tree / "plots").iterdir()}
    files = Path(client.download_artifacts(row.info.run_id, ""))
    differs = {
        "rows": bool(more),
        "status": row.info.status != "FINISHED",
        "parameters": row.data.params != {k: mlflow_row._text(v) for k, v in params.items()},
        "metrics": {k: v for k, v in row.data.metrics.items() if "/" not in k}
        != mlflow_row._numbers(metrics),
        "steps": sorted(point.step for point in points) != list(curve.step),
        "curve": not np.allclose(sorted(p.value for p in points), sorted(curve.total), rtol=1e-4),
        "files": {path.name for path in files.iterdir()} != {*plots, "report.html", "images"},
        "plots": any((files / name).read_bytes() != content for name, content in plots.items()),
    }
    if any(differs.values()):
        print(f"{tree.name}: {[name for name, value in differs.items() if value]}")
    return not any(differs.values())


def compare(here: Path, alone: Path) -> list[dict]:
    """The queued experiments with the same ones that ran alone, and with their rows."""
    states = run(here, "dvc", "exp", "show", "--json")
    client = MlflowClient(f"sqlite:///{here / 'mlflow.db'}")
    same, whole, lonely = 0, 0, experiments(alone)
    for values, (name, tree) in experiments(here).items():
        trees = (tree, lonely[values][1]) if values in lonely else ()
        hashes = [run(path, "git", "rev-parse", "HEAD:metrics", "HEAD:plots") for path in trees]
        same += len(hashes) == 2 and len(set(hashes)) == 1
        condition = f"tags.`{mlflow_row.KEY_TAG}` LIKE '{name}/%'"
        whole += is_whole(client, "nakawari", condition, tree)
    home = client.get_experiment_by_name("nakawari").experiment_id
    return [
        line("queue/success in dvc exp show", len(re.findall('"state": "success"', states)), ""),
        line("queue/metrics and plots as when it ran alone, to the byte", same, ""),
        line("queue/one row, with its own numbers, curve and files", whole, ""),
        line("queue/rows in all", len(client.search_runs([home])), ""),
    ]


def queue(folder: Path) -> list[dict]:
    here, alone = project(folder / "queue", "token_precompute"), folder / "alone"
    shutil.copytree(here, alone)
    sets = [word for item in SWEEP for word in ("-S", item)]
    run(here, "dvc", "exp", "run", "--queue", *sets)
    run(here, "dvc", "queue", "start", "-j", "2")
    while any(word in run(here, "dvc", "queue", "status") for word in ("Queued", "Running")):
        time.sleep(5)
    run(alone, "dvc", "exp", "run", "--queue", *sets)
    run(alone, "dvc", "exp", "run", "--run-all")
    return compare(here, alone)


class Proxy(socketserver.ThreadingTCPServer):
    """Stands before a server of MLflow, with a fault."""

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.port, self.upstream, self.fault, self.requests = (
            self.server_address[1],
            upstream,
            "",
            0,
        )
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.upstream)) as upstream:
            threading.Thread(target=pump, args=(upstream, self.request), daemon=True).start()
            while data := self.request.recv(1 << 20):
                self.server.requests, fault = self.server.requests + 1, self.server.fault
                if fault.isdigit():
                    self.request.sendall(REFUSAL % fault.encode())
                if fault.isdigit() or fault == "absent":
                    return
                if fault == "dies" and self.server.requests > 12:
                    return
                time.sleep(float(fault.split()[0]) if fault.endswith(" s") else 0)
                upstream.sendall(data)


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 20):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


@contextmanager
def spoiled(store: Path, fault: str) -> Iterator[None]:
    """The file of a store with a fault, which is mended at the end."""
    with closing(sqlite3.connect(store, isolation_level=None)) as database:
        if fault == "locked":
            database.execute("BEGIN EXCLUSIVE")
            yield
        elif fault == "newer":
            (version,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
            database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
            yield
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
        else:
            filler = store.with_name("filler")
            with suppress(OSError):
                filler.write_bytes(bytes(1 << 24 if fault == "full" else 0))
            yield
            filler.unlink()


def faults(folder: Path) -> list[dict]:
    here, disk = project(folder / "faults", "report"), folder / "disk"
    disk.mkdir()
    run(folder, "mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk))
    store, told = disk / "mlflow.db", []
    MlflowClient(f"sqlite:///{store}").search_experiments()  # makes the store
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{store}", "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level=error --timeout-keep-alive=600"]
    command += ["--artifacts-destination", str(folder / "files"), "--port", str(port)]
    server = subprocess.Popen(command, start_new_session=True)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(1)
        client, proxy = MlflowClient(f"http://127.0.0.1:{port}"), Proxy(port)
        for fault in FAULTS:
            http, file = f"http://127.0.0.1:{proxy.port}", f"sqlite:///{store}"
            name = f"fault {fault}"
            places = {"MLFLOW_TRACKING_URI": file if fault in SPOILED else http}
            places |= {"MLFLOW_EXPERIMENT_NAME": name}
            proxy.fault, proxy.requests, started = fault, 0, time.monotonic()
            with spoiled(store, fault):
                said = run(here, "python", "-m", "stages.gpt2_train", **places)
            seconds, proxy.fault = time.monotonic() - started, ""
            print(*[text for text in said.splitlines() if "warning" in text], sep="\n")
            run(here, "python", "-m", "stages.report", **places)
            filled = "yes" if is_whole(client, name, "", here) else "NO"
            what = f"{fault}: lines on stderr {said.count('warning: ')}, filled later: {filled}"
            told.append(line(f"faults/{what}", seconds, "s"))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        run(folder, "umount", "-l", str(disk))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, required=True)
    steps = {"queue": queue, "faults": faults}
    parser.add_argument("--steps", nargs="+", choices=steps, default=list(steps))
    given = parser.parse_args()
    found = [one for step in given.steps for one in steps[step](given.folder.resolve())]
    show(found, "Experiment tracking")


if __name__ == "__main__":
    run_main(main)
