"""Two nodes on one machine: what Ray and torchrun do, and what is left when one of them dies.

    python -m benchmarks.two_nodes [CASE ...]

Two network namespaces stand for two machines that share a folder: node-a (10.77.0.1) and node-b
(10.77.0.2), joined by a pair of virtual interfaces. Needs root, Linux, `ip` (iproute2) and Ray
(requirements-ray.txt). The project is a folder of four tiny episodes. Prints a line a command: its
exit code, seconds, whether its files are those of an undisturbed run, and its last word. At the
end, also after an error, everything in the namespaces is killed and both are deleted.
"""

import argparse
import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
from ruamel.yaml import YAML

from pipeline import config
from pipeline.commands import presets
from pipeline.errors import UserError, run_main

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
ADDRESS = {"a": "10.77.0.1", "b": "10.77.0.2"}
SPACE = {node: f"nakawari-{os.getpid()}-{node}" for node in ADDRESS}
HEAD = f"{ADDRESS['a']}:6379"
HOSTS = "127.0.0.1 localhost\n" + "".join(f"{at} node-{node}\n" for node, at in ADDRESS.items())
INGEST = sys.executable, "-m", "stages.ingest"
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
    "--rdzv-backend=c10d", f"--rdzv-endpoint={ADDRESS['a']}:29500", "--rdzv-conf=join_timeout=60",
]  # fmt: skip
RAY_CASES = ("equal", "killed", "cut", "head", "refused")
DATA = ("sample_episodes", "ingest", "scene_split", "frame_subsample", "clip_chunk", "shard_pack")
OUT = {"vqgan_train": "models/vqgan", "gpt2_train": "models/gpt2"}
VARIABLES = os.environ | {
    "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_grpc_client_keepalive_time_ms": "30000", "RAY_grpc_client_keepalive_timeout_ms": "20000",
    "RAY_ADDRESS": HEAD, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
}  # fmt: skip


def run(*command: str, **options) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def local(stage: str) -> None:
    run(sys.executable, "-m", f"stages.{stage}", env=VARIABLES | {"DVC_ROOT": str(Path.cwd())})


@contextlib.contextmanager
def two_nodes() -> Iterator[None]:
    files = {node: Path("/etc/netns") / SPACE[node] for node in ADDRESS}
    try:
        for node in ADDRESS:
            run("ip", "netns", "add", SPACE[node])
            files[node].mkdir(parents=True)  # `ip netns exec` shows what is in it below /etc
            (files[node] / "hosts").write_text(HOSTS)
        ends = "netns", SPACE["a"], "type", "veth", "peer", "name", "veth-b"
        run("ip", "link", "add", "veth-a", *ends, "netns", SPACE["b"])
        for node, address in ADDRESS.items():
            ip = partial(run, "ip", "-n", SPACE[node])
            ip("address", "add", f"{address}/24", "dev", f"veth-{node}")
            for interface in ("lo", f"veth-{node}"):
                ip("link", "set", interface, "up")
        yield
    finally:
        for node in ADDRESS:
            with contextlib.suppress(subprocess.CalledProcessError):  # it was not made
                kill(node)
                run("ip", "netns", "delete", SPACE[node])
            shutil.rmtree(files[node], ignore_errors=True)


def processes(node: str) -> list[psutil.Process]:
    numbers = {int(number) for number in run("ip", "netns", "pids", SPACE[node]).split()}
    return [process for process in psutil.process_iter() if process.pid in numbers]


def kill(node: str, spare: str = "nothing") -> None:
    """SIGKILL to what runs in a namespace, all of it ours, but for commands with that word."""
    for process in processes(node):
        with contextlib.suppress(psutil.NoSuchProcess):
            if spare not in process.cmdline():
                process.kill()


class Started:
    """A command on a node, in the project's folder; `hide`: a folder that is empty for it."""

    def __init__(self, node: str, *command: str, hide: str = "", **variables: str):
        self.node, self.begun = node, time.monotonic()
        self.log = Path(f"{time.monotonic_ns()}.log").absolute()
        mount = f"mount -t tmpfs none {hide} && " if hide else ""  # `ip` gives it mounts of its own
        inside = ["ip", "netns", "exec", SPACE[node], "unshare", "--uts", "sh", "-c"]
        inside += [f'hostname "$0" && {mount}exec "$@"', f"node-{node}"]
        env = VARIABLES | {"DVC_ROOT": str(Path.cwd())} | variables
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*inside, *command], stdout=log, stderr=log, env=env)

    def until(self, condition: Callable[[], object]) -> None:
        """Waits for something while the command runs."""
        while not condition():
            if self.process.poll() is not None:
                raise UserError(f"the command ended too early: {self.log.read_text()}")
            time.sleep(0.01)

    def tell(self, what: str, same: Callable[[], bool] | None = None, since: float = 0.0) -> None:
        """Waits for the end, and prints it; `since`: from when seconds are counted."""
        code = self.process.wait()
        seconds = time.monotonic() - (since or self.begun)
        files = "" if same is None else "same files" if same() else "OTHER FILES"
        lines = [line for line in self.log.read_text(errors="replace").split("\n") if line.strip()]
        last = next((line for line in lines if line.startswith("error: ")), lines[-1][-80:])
        print(f"{what:30} node-{self.node}  exit {code}  {seconds:4.0f} s  {files:11}  {last}")


def content(folder: str) -> dict[str, str]:
    """Every file's hash."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_params(launcher: str = "python", kind: str = "local", batch_size: int = 64) -> None:
    changes = {
        "base": {"launcher": launcher, "threads": 1},
        "sample_episodes": {"episodes": 4, "seconds": 6.0},
        "flow": {"method": "dis"},
        "vqgan": {"trainer": {"batch_size": batch_size, "n_epochs": 1}},
        "train": {"batch_size": batch_size},
        "tracking": {"enabled": False},
        "engine": {"kind": kind, "workers": 2, "checkpoint_interval": 0.0},
    }
    tiny = presets.merged(presets.overlay("tiny", ROOT / "presets"), changes)
    YAML().dump(presets.merged(config.read_yaml(ROOT / "params.yaml"), tiny), Path("params.yaml"))


def start_ray(hide: str = "") -> None:
    """One processor a node; a is the head. `hide`: a folder that is empty on b."""
    for node, address in ADDRESS.items():
        where = ["--head", "--include-dashboard=false"] if node == "a" else [f"--address={HEAD}"]
        command = [str(RAY), "start", *where, f"--node-ip-address={address}", "--num-cpus=1"]
        command += ["--object-store-memory=100000000", f"--temp-dir={Path.cwd()}/ray-{node}"]
        for _ in range(5):  # Ray gives itself 30 seconds, which are few on a busy machine
            begun = Started(node, *command, hide=hide if node == "b" else "")
            if begun.process.wait() == 0:
                break
            kill(node)
        else:
            raise UserError(f"ray start failed on node-{node}: {begun.log.read_text()[-500:]}")


def being_written(node: str) -> set[str]:
    """Names of the frame files or shards that Ray's tasks are in the middle of there."""
    names = set()
    for process in processes(node):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("ray::"):
                names |= {Path(file.path).name for file in process.open_files()}
    return {name.partition(".arrow")[0] for name in names if name.endswith(".partial")}


def ray(case: str, wanted: dict) -> None:
    def same() -> bool:
        return content("data/frames") == wanted["frames"]

    write_params(kind="ray")
    for folder in (".store", "data/frames"):
        shutil.rmtree(folder, ignore_errors=True)
    start_ray(hide=str(Path.cwd()) if case == "refused" else "")
    job = Started("b" if case == "head" else "a", *INGEST)
    if case == "equal":
        seen = set()
        while job.process.poll() is None:
            seen |= {node for node in ADDRESS if being_written(node)}
        job.tell(f"ingest, tasks on {' and '.join(sorted(seen))}", same)
        packed = Started("b", sys.executable, "-m", "stages.shard_pack")
        packed.tell("shard_pack", lambda: content("data/shards") == wanted["shards"])
    elif case == "refused":
        job.tell("ingest, folder not on b")
        for what, variables in {
            "wrong token": {"RAY_AUTH_TOKEN": "0" * 64},
            "no such machine": {"RAY_ADDRESS": "10.77.0.9:6379"},
            "port refused": {"RAY_ADDRESS": f"{ADDRESS['a']}:1"},
            "port of something else": {"RAY_ADDRESS": f"{ADDRESS['a']}:10001"},
        }.items():
            Started("a", *INGEST, **variables).tell(f"ingest, {what}")
    else:
        disturb(case, job, same)


def disturb(case: str, job: Started, same: Callable[[], bool]) -> None:
    """The middle of the run: node b is in a video."""
    job.until(lambda: being_written("b"))
    since, video, on_b = time.monotonic(), being_written("b"), processes("b")
    if case == "cut":  # b still writes, and goes on when a has begun the same video
        run("ip", "-n", SPACE["b"], "link", "set", "veth-b", "down")
        for process in on_b:
            process.suspend()
        job.until(lambda: being_written("a") & video)
        for process in on_b:
            if process.name() != "raylet":  # which would end its workers
                process.resume()
        job.tell("ingest, b cut off", same, since)
        time.sleep(20)
        print("    20 s later:", "same files" if same() else "OTHER FILES")
        return
    kill("a" if case == "head" else "b")
    job.tell(f"ingest, {'head' if case == 'head' else 'b'} killed", same, since)
    if case == "head":
        kill("b")
        start_ray()
        Started("b", *INGEST).tell("the same again", same)


def train(stage: str, nodes: str = "ab") -> list[Started]:
    shutil.rmtree(OUT[stage], ignore_errors=True)
    return [Started(node, *TORCHRUN, "-m", f"stages.{stage}") for node in nodes]


def training(stage: str, wanted: dict) -> None:
    write_params()
    if stage == "gpt2_train":
        local("vqgan_train")
        local("token_precompute")
    local(stage)
    alone = pd.read_csv(Path(OUT[stage], "history.csv"))
    write_params("torchrun", batch_size=32)
    for job in train(stage, nodes="a"):
        job.tell(f"{stage}, b never comes")
    for job in train(stage):
        job.tell(stage)
    both, whole = pd.read_csv(Path(OUT[stage], "history.csv")), content(OUT[stage])
    worst = ((both - alone).abs() / alone.abs().clip(lower=1e-6)).max().max()
    print(f"    its curve and that of one process with batches of 64 differ by {worst:.0e} at most")
    for lost in ("process", "node"):
        jobs = train(stage)
        jobs[0].until(lambda: list(Path(".resume", stage).glob("*.pt")))
        since = time.monotonic()
        kill("b", spare="torch.distributed.run" if lost == "process" else "nothing")
        for job in jobs:
            job.tell(f"{stage}, {lost} on b killed", None, since)
        for job in train(stage):
            job.tell("the same again", lambda: content(OUT[stage]) == whole)


CASES = {f"ray_{case}": partial(ray, case) for case in RAY_CASES}
CASES |= {stage: partial(training, stage) for stage in OUT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "case", nargs="*", choices=[[], *CASES], metavar="CASE", help=", ".join(CASES)
    )
    cases = parser.parse_args().case or list(CASES)
    if os.geteuid() != 0 or not shutil.which("ip") or not RAY.exists():
        raise UserError(
            "two nodes need root, `ip` (apt-get install iproute2) and Ray (pip install -r "
            "requirements-ray.txt); run this with all three"
        )
    with tempfile.TemporaryDirectory(prefix="two-nodes-") as folder, contextlib.chdir(folder):
        write_params()
        for stage in DATA:
            local(stage)
        wanted = {name: content(f"data/{name}") for name in ("frames", "shards")}
        for case in cases:
            with two_nodes():
                CASES[case](wanted)


if __name__ == "__main__":
    run_main(main)
