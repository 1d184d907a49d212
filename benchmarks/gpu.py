"""All that has to be seen on a GPU, by one command, in a given number of minutes.

    python -m benchmarks.gpu --minutes 8 --data FOLDER [--out gpu] [--steps speed moving_mnist]
    python -m benchmarks.gpu --minutes 2 --data FOLDER --tiny     # the same on a CPU, tiny

Steps, each in a process of its own that is ended when its share of the time is over:

    checks        the tests marked `gpu`
    speed         a training step of both networks and generation, in our size and in the thesis'
    moving_mnist  trains both networks on FOLDER/mnist (idx files) and measures the test clips
    shards        the same with the default parameters on FOLDER/shards (data/shards of a run)

FOLDER may lack either, and packages of pretrained weights may be missing: a line says what is then
left out. Nothing is downloaded, and neither DVC, MLflow nor ffmpeg is needed. A step that fails
does not stop the others. After each number OUT/<step>.json holds all there are so far; at the end
OUT/gpu.json and OUT/gpu.md hold everything, and OUT/*.png clips, the true ones above the model's.
"""

import argparse
import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks import speed
from pipeline import config, io, runtime
from pipeline.commands import presets
from pipeline.data import moving_mnist
from pipeline.data.datasets import ClipSet, batches
from pipeline.data.digits import DIGITS_FILE
from pipeline.errors import UserError, run_main
from pipeline.evaluation.distribution import VideoSets
from pipeline.evaluation.methods import Methods
from pipeline.evaluation.metrics.extractors import VideoFeatures
from pipeline.evaluation.scoring import ClipScorer
from pipeline.evaluation.summary import Remarks, method_metrics
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.tokenize import precompute
from pipeline.models.checkpoints import load_tokenizer, save_tokenizer
from pipeline.models.flow import EVEN
from pipeline.models.pretrained import weights
from pipeline.resume import Resume
from pipeline.training.gpt import GptTask
from pipeline.training.task import Task
from pipeline.training.trainer import TrainConfig, Trainer
from pipeline.training.vqgan import TASKS

ROOT = Path(__file__).parents[1]
GPU = {
    "base": {"device": "cuda", "precision": "bf16", "threads": min(8, os.cpu_count() or 1)},
    "evaluate": {"video_metrics": [], "n_samples": 0, "thesis_metrics": "none"},
    "tracking": {"enabled": False},
}
THESIS = GPU | {"transformer": {"transformer_type": "gpt2-medium", "pretrained": ""}}
MNIST = {  # over preset moving_mnist: what fills a GPU
    "source": {"moving_mnist": {"train_sequences": 4000}},
    "vqgan": {"trainer": {"batch_size": 128}},
    "transformer": {"n_layer": 8, "n_head": 8, "n_embd": 512},
    "train": {"batch_size": 32, "lr_max": 6.0e-4},
}
SHARDS = {"vqgan": {"trainer": {"batch_size": 64}}, "train": {"batch_size": 32}}
TINY = {
    "base": {"device": "cpu", "threads": 1},
    "source": {"moving_mnist": {"train_sequences": 12, "test_sequences": 2}},
    "vqgan": {
        "channels": 8,
        "vqvae": {"num_embeddings": 81, "embedding_dim": 8},
        "autoencoder": {"channels": 8, "z_channels": 8},
        "loss": {"perceptual_loss": "none", "perceptual_subset": 0},
        "trainer": {"batch_size": 4},
    },
    "transformer": {"transformer_type": "custom", "n_layer": 2, "n_head": 2, "n_embd": 32},
    "train": {"batch_size": 2},
    "evaluate": {"lpips_network": "none"},
}
# Of the time that is left; the rest goes into tokens and measuring.
TOKENIZER_SHARE, TRANSFORMER_SHARE = 0.4, 0.6
BASELINES = ["black", "hold_nearest", "cross_fade", "optical_flow", "untrained", "without_codes"]
SHOWN = ("psnr", "ssim", "lpips", "motion_ratio", "fvd", "fvd_floor", "n")  # of a method


@dataclass
class Step:
    """What a step is told, and its results so far."""

    data: Path
    out: Path  # a file
    scratch: Path
    deadline: float  # of time.time()
    tiny: bool = False
    results: dict = field(default_factory=dict)

    def add(self, results: dict) -> None:
        """Prints, and keeps on disk at once."""
        results = json.loads(json.dumps(results), parse_float=lambda x: float(f"{float(x):.4g}"))
        self.results |= results
        print(f"{self.out.stem}: {results}", flush=True)
        with io.atomic(self.out) as partial:
            partial.write_text(json.dumps(self.results, indent=1), "utf-8")

    @property
    def seconds_left(self) -> float:
        return max(1.0, self.deadline - time.time())

    def settings(self, *layers: dict) -> config.Params:
        """params.yaml with these changes, for the device, without weights that are not there."""
        content = config.read_yaml(ROOT / "params.yaml")
        for layer in (GPU, *layers, TINY if self.tiny else {}):
            content = presets.merged(content, layer)
        missing: dict = {"evaluate": {"baselines": BASELINES}}
        if not installed(weights.RIFE):
            missing["flow"] = {"method": "dis"}
        if not installed(weights.LPIPS_ALEXNET):
            missing["evaluate"]["lpips_network"] = "none"
        networks = {"alexnet": weights.LPIPS_ALEXNET, "vgg16": weights.LPIPS_VGG16}
        network = networks.get(content["vqgan"]["loss"]["perceptual_loss"])
        if network is None or not installed(network):  # VGG19 is a file that nobody has here
            missing["vqgan"] = {"loss": {"perceptual_loss": "none"}}
            missing["train"] = {"perceptual_loss_weight": 0.0}
        print(f"{self.out.stem}: by the weights that are there: {missing}", flush=True)
        return config.parse(presets.merged(content, missing))


def installed(file: weights.Weights) -> bool:
    try:
        return weights.find(file).is_file()
    except UserError:
        return False


def checks(step: Step) -> None:
    """How each test marked `gpu` went, and the end of the output where one failed."""
    test = ROOT / "tests/training/test_gpu.py"
    command = [sys.executable, "-m", "pytest", "-vv", "-m", "gpu", "--rootdir", ROOT, test]
    output, at_once = [], os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=at_once, stdout=subprocess.PIPE, text=True) as run:
        for text in run.stdout:
            output.append(text.rstrip())
            if outcome := re.match(r"\S+::(\S+) (PASSED|FAILED|ERROR|SKIPPED)", text):
                step.add({outcome[1]: outcome[2].lower()})
    if run.returncode:
        step.add({"output": output[-150:]})
        raise SystemExit(1)


def measure_speed(step: Step) -> None:
    """Rates, share of the measured peak in bf16, and memory: in our size and in the thesis'."""
    paper = presets.overlay("paper_kny", ROOT / "presets")
    sizes = {"ours": step.settings(), "thesis": step.settings(paper, THESIS)}
    benchmark = speed.Benchmark(
        runtime.prepare(sizes["ours"].base), ["bf16"], rounds=1 if step.tiny else 3
    )
    peak = benchmark.peak()["bf16"]
    step.add({"peak (GFLOP/s)": peak})
    for size, settings in sizes.items():
        tokenizer = speed.new_tokenizer(settings, benchmark.device)
        speed.write_data(step.scratch, settings, tokenizer)
        for part in ("tokenizer", "transformer", "generate"):
            try:
                rows = speed_rows(part, benchmark, settings, step.scratch, tokenizer)
            except Exception as error:  # too little memory, for instance
                traceback.print_exc()
                step.add({f"{size}/{part} failed": repr(error)[:300]})
                continue
            values = {f"{size}/{name} ({unit})": row["bf16"] for name, unit, row in rows}
            for name in [name for name in values if name.endswith("(GFLOP/s)")]:
                values[name.replace("(GFLOP/s)", "(% of peak)")] = 100 * values[name] / peak
            step.add(values)


def speed_rows(
    part: str, benchmark: speed.Benchmark, settings: config.Params, data: Path, tokenizer: nn.Module
) -> list[speed.Row]:
    device, n_tokens = benchmark.device, tokenizer.tokens_per_frame
    if part == "tokenizer":
        batch = settings.vqgan.trainer.batch_size
        task = tokenizer_task(settings, data, device)
        return benchmark.training(part, task, batch, images=batch)
    task, batch = GptTask(settings, data, tokenizer, device), settings.train.batch_size
    if part == "transformer":
        frames = batch * (speed.FRAMES - 2)
        return benchmark.training(part, task, batch, images=frames, tokens=frames * n_tokens)
    gpt, rest = task.module.eval(), (device, "bf16", settings.flow.method)
    models = InBetweener(tokenizer, gpt, settings.ingest.frame_size, *rest)
    options = {"decoding": settings.evaluate.decoding}
    rows = benchmark.generation(f"{batch}_clips", models, batch, **options)
    tokens = {precision: rate * n_tokens for precision, rate in rows[0].values.items()}
    return [*rows, speed.Row(f"{rows[0].name}/tokens", "tokens/s", tokens)]


def tokenizer_task(settings: config.Params, shards: Path, device: torch.device) -> Task:
    kind = TASKS[settings.vqgan.context]
    return kind(settings, shards, device)


def train_moving_mnist(step: Step) -> None:
    settings = step.settings(presets.overlay("moving_mnist", ROOT / "presets"), MNIST)
    rules, frames = settings.source.moving_mnist, settings.frame_subsample.image_step
    train, test = moving_mnist.open_parts(step.data / "mnist", rules)
    n_train = train.count - max(1, train.count // 20)
    splits = {"train": range(n_train), "val": range(n_train, train.count)}
    for split, numbers in (splits | {"test": range(test.count)}).items():
        part = test if split == "test" else train
        clips = (np.repeat(part.sequence(number)[..., None], 3, 3) for number in numbers)
        speed.write_clips(step.scratch, split, (part.height, part.width), clips, frames)
    if rules.epoch_sequences:
        digits, _ = moving_mnist.read_idx(train.file)
        counts = {"epoch_sequences": rules.epoch_sequences}
        np.savez(step.scratch / DIGITS_FILE, digits=digits, **counts)
    train_and_measure(step, settings, step.scratch)


def train_on_shards(step: Step) -> None:
    height, width, _ = ClipSet(step.data / "shards", "test").shape
    settings = step.settings({"ingest": {"height": height, "width": width}}, SHARDS)
    train_and_measure(step, settings, step.data / "shards")


def train_and_measure(step: Step, settings: config.Params, shards: Path) -> None:
    """Both networks, one after the other, and then the test clips, all before the deadline."""
    vqgan, tokens = step.scratch / "vqgan", step.scratch / "tokens"
    device, precision = runtime.prepare(settings.base), settings.base.precision
    task = tokenizer_task(settings, shards, device)
    step.add({"seconds that are left for training": step.seconds_left})
    train_for(step, "tokenizer", task, settings.vqgan.trainer.batch_size, TOKENIZER_SHARE)
    save_tokenizer(task.tokenizer, settings, vqgan, getattr(task, "easing", EVEN))
    loaded = load_tokenizer(vqgan, device)
    parts = step.scratch / "parts"
    step.add({"tokens": precompute(loaded, shards, tokens, device, precision, parts)})
    task = GptTask(settings, tokens, loaded.tokenizer, device, shards=shards)
    train_for(step, "transformer", task, settings.train.batch_size, TRANSFORMER_SHARE)
    rest = (loaded.ingest, device, precision, loaded.flow_method, loaded.easing)
    measure(step, InBetweener(loaded.tokenizer, task.module.eval(), *rest), settings, shards)


def train_for(step: Step, name: str, task: Task, batch_size: int, share: float) -> None:
    """Trains for a share of the time that is left, by which the learning rate goes, too.

    Teacher forcing has the share of the time that its epochs have of all.
    """
    seconds, started, forced, told = share * step.seconds_left, time.time(), 1.0, 0.0

    def log(values: dict[str, float], at: int) -> None:
        nonlocal told
        if time.time() - told > 10:
            told = time.time()
            curve = step.results.get(f"{name} curve", [])
            step.add({f"{name} curve": [*curve[-200:], {"step": at} | values]})

    plan = TrainConfig(batch_size, 1, seed=1, checkpoint_interval=float("inf"))
    trainer = Trainer(task, plan, Resume(f"gpu_{name}", {}, []), log)
    if isinstance(task, GptTask):
        forced = task.settings.stop_ground_truth_after_epoch / task.settings.n_epochs
        task.settings = task.settings.model_copy(update={"stop_ground_truth_after_epoch": 10**9})
    while (done := (time.time() - started) / seconds) < 1:
        if done > forced:
            task.settings = task.settings.model_copy(update={"stop_ground_truth_after_epoch": 0})
        trainer.total_steps = max(trainer.step + 1, round(trainer.step / max(done, 1e-3)))
        trainer.train_step()
    task.module.eval()
    with torch.no_grad():
        numbers = task.validate([range(min(task.size("val"), batch_size))])
    step.add({name: {"steps": trainer.step, "steps/s": trainer.step / seconds} | numbers})


def measure(step: Step, model: InBetweener, settings: config.Params, shards: Path) -> None:
    """Metrics of the model and of baselines on the test clips, as many as the time allows."""
    scorer = ClipScorer(settings.evaluate, settings.frame_subsample.hold_threshold, model.device)
    videos, rows, strips = None, [], []
    if installed(weights.I3D_KINETICS) and not step.tiny:
        videos = VideoSets(VideoFeatures(model.device), ("model", "cross_fade"))
    clips, methods = ClipSet(shards, "test"), Methods(model, settings.evaluate, seed=1)
    portions = (methods.generate([clips[k] for k in rows], 0) for rows in batches(len(clips), 8))
    for one in itertools.chain.from_iterable(portions):
        rows += scorer.rows(one, {"clip_id": one.clip.clip_id})
        if videos:
            videos.add(one.clip.clip_id, one.clip.frames, one.methods)
        if len(strips) < 4:
            pair = one.clip.frames, one.methods["model"]  # T H W 3 each
            strips.append(torch.cat([torch.cat(list(clip), 1) for clip in pair]))  # 2H TW 3
            cv2.imwrite(str(step.out.with_suffix(".png")), torch.cat(strips).numpy()[..., ::-1])
        if step.seconds_left < 10:
            break
    numbers = {name: method_metrics(part) for name, part in pd.DataFrame(rows).groupby("method")}
    step.add({"methods": numbers})  # distances of sets take longer
    if videos:
        for name, distances in videos.numbers(1, Remarks()).items():
            numbers[name] |= distances
    step.add({"methods": numbers})


def page(results: dict[str, dict]) -> str:
    """The results as markdown; curves and the output of tests stay in the JSON."""
    lines = ["# On a GPU"]
    for name, values in results.items():
        methods = values.get("methods", {})
        rest = io.flatten({key: value for key, value in values.items() if key != "methods"})
        lines += ["", f"## {name}", "", "| what | value |", "|---|---|"]
        lines += [f"| {k} | {v} |" for k, v in rest.items() if not isinstance(v, list)]
        if methods:
            columns = [key for key in SHOWN if any(key in row for row in methods.values())]
            lines += ["", f"| method | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        for method, row in methods.items():
            lines.append(f"| {method} | {' | '.join(str(row.get(key, '')) for key in columns)} |")
    return "\n".join(lines) + "\n"


STEPS: dict[str, tuple[Callable[[Step], None], int, str]] = {  # parts of the time, needed folder
    "checks": (checks, 2, ""),
    "speed": (measure_speed, 2, ""),
    "moving_mnist": (train_moving_mnist, 3, "mnist"),
    "shards": (train_on_shards, 2, "shards"),
}


def run_step(name: str, seconds: float, given: argparse.Namespace) -> dict:
    """Its results, as far as it came in a process of its own, with the failure if there is one."""
    _, _, folder = STEPS[name]
    if folder and not (given.data / folder).is_dir():
        return {"left out": f"no folder {given.data / folder}"}
    path = given.out / f"{name}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--data", given.data, "--out", given.out]
    command += ["--step", name, "--deadline", str(time.time() + seconds), *["--tiny"] * given.tiny]
    failure = {}
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            if code := process.wait(seconds + 5):
                failure = {"failed": f"exit code {code}, see the output"}
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # pytest, too
            failure = {"failed": f"ended after {seconds:.0f} seconds"}
    print(f"{name}: {failure.get('failed', 'done')}", flush=True)
    return (json.loads(path.read_text("utf-8")) if path.is_file() else {}) | failure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--data", type=Path, default=ROOT / "data", metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("gpu"), metavar="FOLDER")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)  # in its own process
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.step:
        out = given.out / f"{given.step}.json"
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["DVC_ROOT"] = scratch  # states of a training
            step = Step(given.data, out, Path(scratch), given.deadline, given.tiny)
            return STEPS[given.step][0](step)
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not given.tiny:
        raise UserError("PyTorch sees no GPU; --tiny does the same on a CPU")
    gpu = torch.cuda.get_device_name() if has_gpu else "none"
    software = f"Python {platform.python_version()}, torch {torch.__version__}"
    results = {"machine": {"GPU": gpu, "software": software}}
    end = time.time() + 60 * given.minutes - 5
    for number, name in enumerate(given.steps):
        parts = [STEPS[later][1] for later in given.steps[number:]]
        results[name] = run_step(name, (end - time.time()) * parts[0] / sum(parts), given)
        (given.out / "gpu.json").write_text(json.dumps(results, indent=1), "utf-8")
        (given.out / "gpu.md").write_text(page(results), "utf-8")
    print((given.out / "gpu.md").read_text("utf-8"))


if __name__ == "__main__":
    run_main(main)
