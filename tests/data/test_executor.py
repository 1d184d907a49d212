"""Jobs in processes of this machine and of Ray: results, errors, deaths, the same bytes."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.data import executor
from pipeline.data.executor import LocalPool, RayPool, open_pool
from pipeline.data.frame_file import read_videos
from pipeline.data.ingest import ingest
from pipeline.data.shard_writer import pack
from pipeline.errors import UserError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="pip install -r requirements-ray.txt"
)
SHOWN = {"what": "tests", "unit": "job"}


@pytest.fixture(scope="module")
def ray_pool():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the jobs below
        engine = config.Engine(kind="ray", workers=2, checkpoint_interval=60.0)
        with open_pool(engine) as pool:
            yield pool


@pytest.fixture(params=["local", pytest.param("ray", marks=needs_ray)])
def pool(request):
    return LocalPool(2) if request.param == "local" else request.getfixturevalue("ray_pool")


def counted(units: int) -> tuple[int, str]:
    executor.count(units)
    return units, str(Path.cwd())


def killed(flag: Path | None = None) -> str:
    """Kills its process; with a flag only the first time."""
    if flag is None or not flag.exists():
        if flag is not None:
            flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def loses_a_child(flag: Path) -> str:
    if not flag.exists():
        flag.touch()
        raise executor.Died("a.mp4", "ffmpeg was killed")
    return "done"


def fails(flag: Path | None) -> None:
    if flag is None:
        raise UserError("a.mp4 = 3: expected 4; mend it")
    flag.touch()


def takes_long(started: Path, tidied: Path) -> None:
    started.touch()
    try:
        for _ in range(600):
            time.sleep(0.1)
            executor.count(1)
    finally:
        tidied.touch()


@pytest.mark.parametrize("total", [None, 6])
def test_results_come_in_order_from_the_same_folder(pool, tmp_path, monkeypatch, total):
    monkeypatch.chdir(tmp_path)
    jobs = [(units,) for units in (1, 2, 3)]
    results = pool.run(counted, jobs, **SHOWN, total=total)
    assert [units for units, _ in results] == [1, 2, 3]
    if isinstance(pool, RayPool):  # whose workers are anywhere to begin with
        assert {folder for _, folder in results} == {str(tmp_path)}
    assert pool.run(counted, [], **SHOWN) == []


def test_an_error_arrives_as_it_was_raised(pool, tmp_path):
    with pytest.raises(UserError) as caught:
        pool.run(fails, [(None,)], **SHOWN)
    assert str(caught.value) == "a.mp4 = 3: expected 4; mend it"


@pytest.mark.parametrize("job", [killed, loses_a_child])
def test_a_job_whose_process_died_is_done_again(pool, tmp_path, job):
    assert pool.run(job, [(tmp_path / "died",)], **SHOWN) == ["done"]
    assert (tmp_path / "died").exists()


def test_a_job_that_kills_every_process_ends_the_run(pool):
    words = r"killed 3 times \(the last time at a\.mp4\).*memory.*set engine\.workers lower"
    with pytest.raises(UserError, match=words):
        pool.run(killed, [(None,)], **SHOWN, in_progress=lambda: ["a.mp4"])


def test_ctrl_c_ends_jobs_that_tidy_up(pool, tmp_path):
    started, tidied = tmp_path / "started", tmp_path / "tidied"

    def interrupt():
        while not started.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by jobs of a shell
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            pool.run(takes_long, [(started, tidied)], **SHOWN, total=600)
    finally:
        signal.signal(signal.SIGINT, before)
    assert tidied.exists()


def test_a_job_outside_a_pool_counts_nothing():
    executor.count(3)


def write_all(raw: Path, out: Path, size, pool) -> dict[str, bytes]:
    """Everything that ingest and pack write."""
    summary = ingest(raw, out / "frames", size, pool)
    ids = read_videos(out / "frames").video_id.sort_values()
    rows = [
        {"video_id": name, "frame": k, "scene_id": name, "use_image": True}
        for name in ids
        for k in range(6)
    ]
    clip = {"split": "train", "frames": [1, 2, 3], "n_frames": 3}
    clips = [clip | {"clip_id": f"{n}-00", "scene_id": n, "video_id": n} for n in ids]
    tables = pd.DataFrame(rows), pd.DataFrame(clips)
    packed = pack(out / "frames", *tables, out / "shards", (size.height, size.width), pool, 1e-3)
    assert (summary["videos"], packed["clips_train"], packed["shards"] > 4) == (3, 3, True)
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@needs_ray
def test_the_same_bytes_with_and_without_ray(ray_pool, tmp_path, tiny, monkeypatch, make_video):
    for seed in range(3):
        images = np.random.default_rng(seed).integers(0, 256, (9, 24, 48, 3), np.uint8)
        make_video(tmp_path / "raw" / f"{seed}.avi", images)
    (tmp_path / "raw" / "notes.txt").write_text("no video")
    content = []
    for name, pool in (("local", LocalPool(1)), ("ray", ray_pool)):
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / f"root-{name}"))  # nothing is in the cache
        content.append(write_all(tmp_path / "raw", tmp_path / name, tiny().ingest, pool))
    assert content[0] == content[1]


def test_ray_is_not_imported_unless_it_is_chosen():
    code = (
        "import sys; from stages import ingest, shard_pack\n"
        "from pipeline.data.executor import LocalPool\n"
        "assert LocalPool(1).run(ascii, [('a',)], what='', unit='') == [\"'a'\"]\n"
        "assert 'ray' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_ray_that_is_not_installed_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(executor.importlib.util, "find_spec", lambda name: None)
    words = r"engine\.kind = ray: Ray is not installed; run `pip install -r requirements-ray\.txt`"
    with pytest.raises(UserError, match=words):
        RayPool(2)


REFUSALS = {  # what ray.init raises, what is said
    "version": (
        RuntimeError,
        "Version mismatch: with:\n    Ray: 2.9\nThis. See",
        "with: Ray: 2.9 This",
    ),
    "silent": (ConnectionError, "Failed to connect. Last error: Trace", "Failed to connect"),
    "token": (None, "InvalidAuthToken: missing or incorrect. Note: ...", "missing or incorrect"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_cluster_that_refuses_is_one_sentence(monkeypatch, case):
    kind, text, said = REFUSALS[case]
    errors = SimpleNamespace(RayError=type("RayError", (Exception,), {}))

    def init(*arguments, **options):
        raise (kind or errors.RayError)(text)

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, exceptions=errors))
    monkeypatch.setattr(executor.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    for name in executor.RAY_ENVIRONMENT | executor.RAY_OF_CLUSTER:
        monkeypatch.setenv(name, "")  # whatever is set is taken back
    with pytest.raises(UserError) as caught:
        RayPool(1)
    assert str(caught.value).startswith("RAY_ADDRESS = auto: ")
    assert f"{said}; expected a cluster" in str(caught.value) and "\n" not in str(caught.value)


def test_a_node_that_sees_another_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"^{tmp_path} on node .* is not the folder of this run"):
        executor._run_on_node(tmp_path / ".store/mark", ascii, ("a",))


def test_a_head_that_no_longer_answers_ends_the_run(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    pool = object.__new__(RayPool)
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        pool.head = head.getsockname()
        pool.heard = time.monotonic() - executor.HEAD_SECONDS
        with pytest.raises(UserError, match=r"the head of the cluster at 127\.0\.0\.1 no longer"):
            pool._require_head()
        head.listen()
        pool._require_head()
        assert time.monotonic() - pool.heard < executor.CHECK_SECONDS


@needs_ray
def test_an_address_where_nobody_listens_is_named():
    with socket.socket() as taken:  # a port that nobody listens at
        taken.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{taken.getsockname()[1]}"
        code = "from pipeline.data.executor import RayPool; RayPool(1)"
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=root,
            env=os.environ | {"RAY_ADDRESS": address},
        )  # fmt: skip
    assert f"RAY_ADDRESS = {address}: " in done.stderr and "ray start --head" in done.stderr
