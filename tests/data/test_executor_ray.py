"""The same work on Ray's processes: results, bytes, deaths, and an end in the middle."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.data import executor
from pipeline.data.executor import Place
from pipeline.data.executor.nodes import Home, reachable
from pipeline.data.frame_file import read_videos
from pipeline.data.ingest import ingest
from pipeline.data.shard_writer import pack
from pipeline.errors import UserError

RAY = Place("ray", workers=2)
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="pip install -r requirements-ray.txt"
)


@pytest.fixture(scope="module")
def instance():
    """One instance of two processors; the pools of the tests join it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the tasks below
        with executor.opened(RAY, __name__):
            yield


def counted(units: int) -> tuple[int, str]:
    executor.count(units)
    return units, str(Path.cwd())


def killed(flag: Path | None = None) -> str:
    """Kills its process; with a flag only the first time."""
    if flag is None or not flag.exists():
        if flag is not None:
            flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    executor.count(1)
    return "done"


def loses_a_child(flag: Path) -> str:
    if not flag.exists():
        flag.touch()
        raise executor.Died("a.mp4", "ffmpeg was killed")
    return "done"


def mistaken(_: int) -> None:
    raise UserError("a.mp4 = 3: expected 4; mend it")


def long(started: Path, tidied: Path) -> None:
    started.touch()
    try:
        for _ in range(600):
            time.sleep(0.1)
    finally:
        tidied.touch()


@needs_ray
def test_results_and_units_come_back_in_order_from_the_same_folder(instance, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with executor.opened(RAY, __name__) as pool:
        futures = [pool.executor.submit(counted, units) for units in (1, 2, 3)]
        pool.watch(futures, 6, what="tests", unit="task")
        assert [future.result() for future in futures] == [(n, str(tmp_path)) for n in (1, 2, 3)]
        assert pool.done() == 6
        assert [n for n, _ in pool.executor.map(counted, [4, 5])] == [4, 5]


@needs_ray
def test_an_error_of_a_task_arrives_as_it_was_raised(instance):
    with executor.opened(RAY, __name__) as pool, pytest.raises(UserError) as caught:
        pool.watch([pool.executor.submit(mistaken, 0)], 1, what="tests", unit="task")
    assert str(caught.value) == "a.mp4 = 3: expected 4; mend it"


@needs_ray
def test_ctrl_c_ends_tasks_that_tidy_up(instance, tmp_path):
    started, tidied = tmp_path / "started", tmp_path / "tidied"

    def interrupt():
        while not started.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), executor.opened(RAY, __name__) as pool:
        future = pool.executor.submit(long, started, tidied)
        threading.Thread(target=interrupt, daemon=True).start()
        pool.watch([future], 1, what="tests", unit="task")
    assert tidied.exists()


def write_film(path: Path, seed: int) -> None:
    shape = (24, 48, 3)
    film = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 12, shape[1::-1])
    random = np.random.default_rng(seed)
    for _ in range(9):
        film.write(random.integers(0, 256, shape, np.uint8))
    film.release()


def made(raw: Path, out: Path, size, where: int | Place) -> dict[str, bytes]:
    """Everything that ingest and pack write."""
    summary = ingest(raw, out / "frames", size, where)
    ids = read_videos(out / "frames").video_id.sort_values()
    index = [
        {"video_id": name, "frame": k, "scene_id": name, "use_image": True}
        for name in ids
        for k in range(6)
    ]
    clip = {"split": "train", "frames": [1, 2, 3], "n_frames": 3}
    clips = [clip | {"clip_id": f"{n}-00", "scene_id": n, "video_id": n} for n in ids]
    tables = pd.DataFrame(index), pd.DataFrame(clips)
    packed = pack(out / "frames", *tables, out / "shards", (size.height, size.width), 1e-3, where)
    assert (summary["videos"], packed["clips_train"], packed["shards"] > 4) == (3, 3, True)
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@needs_ray
def test_the_same_bytes_as_without_ray(instance, tmp_path, tiny, monkeypatch):
    (tmp_path / "raw").mkdir()
    for seed in range(3):
        write_film(tmp_path / "raw" / f"{seed}.avi", seed)
    (tmp_path / "raw" / "notes.txt").write_text("no video")
    size = tiny().ingest
    content = []
    for name, where in (("here", 1), ("ray", RAY)):
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / f"root-{name}"))  # nothing is taken over
        content.append(made(tmp_path / "raw", tmp_path / name, size, where))
    assert content[0] == content[1]


@needs_ray
@pytest.mark.parametrize("task", [killed, loses_a_child])
def test_a_task_whose_process_died_is_done_again(instance, tmp_path, task):
    with executor.opened(RAY, __name__) as pool:
        futures = [pool.executor.submit(task, tmp_path / "died"), pool.executor.submit(counted, 1)]
        pool.watch(futures, 2, what="tests", unit="task")
        assert futures[0].result() == "done" and (tmp_path / "died").exists()


@needs_ray
def test_a_task_that_kills_every_process_ends_the_run(instance):
    def work():
        with executor.opened(RAY, __name__) as pool:
            pool.watch([pool.executor.submit(killed)], 1, what="tests", unit="task")

    with pytest.raises(UserError, match=r"killed 3 times.*at a\.mp4.*engine\.workers = 2"):
        executor.again(work, RAY, lambda: ["a.mp4"])


def test_ray_is_not_imported_unless_it_is_chosen():
    code = (
        "import sys; from stages import ingest, shard_pack; from pipeline import engine\n"
        "with executor.opened(1, 'pipeline.data.executor') as pool:\n"
        "    assert pool.executor.submit(len, 'abc').result() == 3\n"
        "assert 'ray' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_ray_that_is_not_installed_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(executor.importlib.util, "find_spec", lambda name: None)
    words = r"engine\.kind = ray: Ray is not installed; run `pip install -r requirements-ray\.txt`"
    with pytest.raises(UserError, match=words), executor.opened(RAY, __name__):
        pass
    assert executor.without_ray("local") == ""


@needs_ray
def test_an_address_where_nobody_listens_is_named():
    from pipeline.data.executor.ray import _connect

    with socket.socket() as taken:  # a port that nobody listens at
        taken.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"engine\.address = {address}: .*ray start --head"):
            _connect(Place("ray", 1, address))


@pytest.mark.parametrize("address", ["auto", "local", ""])
def test_addresses_that_ray_looks_up_itself(address):
    reachable(address)


def test_a_node_has_to_see_the_folder_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = Home.here(shared=True)
    home.enter()
    home.leave()
    assert not list((tmp_path / ".store").iterdir())
    with pytest.raises(UserError, match="a file system that all nodes share, at the same path"):
        home.enter()
    absent = Home(tmp_path / "absent", None, home.versions)
    with pytest.raises(UserError, match="is not the folder that the run was started in"):
        absent.enter()


def test_a_node_has_to_have_the_same_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    versions = dict(Home.here(shared=False).versions)
    other = Home(tmp_path, None, tuple((versions | {"numpy": "1.0"}).items()))
    with pytest.raises(UserError, match=rf"numpy {versions['numpy']} instead of 1\.0"):
        other.enter()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (RAY, r"set engine\.workers = 2 lower"),
        (Place("ray", 2, "auto"), r"node went.*ray status.*ray start --num-cpus"),
    ],
)
def test_what_to_do_about_deaths_depends_on_the_place(place, words):
    def dies():
        raise executor.Died

    with pytest.raises(UserError, match=words):
        executor.again(dies, place)
