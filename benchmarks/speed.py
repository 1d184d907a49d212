"""Speed of training and generation in float32 and bf16, beside what the processor can do.

    python -m benchmarks.speed [--quick] [--threads 2] [--precision float32|bf16|both]

Random clips of 20 frames and random weights, in the sizes of params.yaml:

    peak         the fastest of some large matrix products, before and after all the rest
    tokenizer    a training step with keyframes as context, and one of preset whole_frames: batch,
                 losses, backward pass and optimizer
    transformer  a training step with teacher forcing; frames are target frames
    generate     clips between two keyframes, optical flow included: 1 and 16 clips, maskgit with 8
                 steps a frame, output of 720x1280; flow alone, once for the 18 frames of a clip

The precisions take turns, and the best of three rounds counts (--quick: one). Operations are matrix
products, convolutions and attention (`torch.utils.flop_counter`). Memory is the peak beyond what
was held before (Linux, CUDA). Prints a table, then a line of JSON a number; ratio: bf16 / float32.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.lines import line, options
from benchmarks.quantizer import extra_peak
from pipeline import config, io, runtime
from pipeline.commands import presets
from pipeline.data.shard_writer import clip_schema, image_schema, open_shard
from pipeline.errors import run_main
from pipeline.inference.inbetweener import InBetweener
from pipeline.models.flow import FlowEstimator
from pipeline.models.gpt.model import FrameGpt, GptConfig
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.models.vqgan.model import Tokenizer
from pipeline.training.gpt import GptTask
from pipeline.training.task import Task
from pipeline.training.vqgan import ImageTask, KeyframeTask

PRECISIONS = ("float32", "bf16")
FRAMES = 20  # of every clip
LARGE = (720, 1280)  # output, height and width
PRODUCTS = {  # M K N, by device
    "cpu": ((1024, 1024, 1024), (2048, 1024, 1024)),
    "cuda": ((8192, 8192, 8192), (16384, 8192, 8192)),
}
CPU_OP = "_scaled_dot_product_flash_attention_for_cpu"
CPU_ATTENTION = {  # shapes to operations; PyTorch's counter leaves it out
    getattr(torch.ops.aten, CPU_OP): lambda *x, **_: sdpa_flop_count(*x[:3]),
    getattr(torch.ops.aten, f"{CPU_OP}_backward"): lambda *x, **_: sdpa_backward_flop_count(*x[:4]),
}


AnyTokenizer = KeyframeTokenizer | Tokenizer


class Row(NamedTuple):
    name: str
    unit: str
    values: dict[str, float]  # by precision


@dataclass
class Benchmark:
    """Measures on one device, in some precisions; the best of `rounds`."""

    device: torch.device
    precisions: list[str]
    rounds: int

    def seconds(self, work: Callable[[str], object], rounds: int) -> dict[str, float]:
        best = dict.fromkeys(self.precisions, float("inf"))
        for _ in range(rounds):
            for precision in self.precisions:
                start = time.perf_counter()
                work(precision)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                best[precision] = min(best[precision], time.perf_counter() - start)
        return best

    def rates(self, work: Callable[[str], object], *amounts: tuple[str, str, float]) -> list[Row]:
        """amounts: name and unit of a row, and how much of it one call of `work` does."""
        seconds = self.seconds(work, self.rounds)
        return [Row(*names, {p: n / seconds[p] for p in seconds}) for *names, n in amounts]

    def peak(self) -> dict[str, float]:
        """GFLOP/s of the fastest product."""
        best = dict.fromkeys(self.precisions, 0.0)
        for m, k, n in PRODUCTS[self.device.type]:
            a, b = torch.randn(m, k, device=self.device), torch.randn(k, n, device=self.device)
            pairs = {"float32": (a, b), "bf16": (a.bfloat16(), b.bfloat16())}
            seconds = self.seconds(lambda p, pairs=pairs: torch.mm(*pairs[p]), 10)
            best = {p: max(best[p], 2 * m * k * n / seconds[p] / 1e9) for p in best}
        return best

    def training(self, name: str, task: Task, rows: int, **amounts: float) -> list[Row]:
        """A step on a batch of `rows`; amounts: what a step has."""

        def step(precision: str) -> None:
            task.precision = precision
            task.module.train()
            for loss in task.losses(range(rows), 0, 0):
                loss.total.backward()
                if loss.is_last:
                    spec = task.optimizers[loss.optimizer]
                    torch.nn.utils.clip_grad_norm_(spec.parameters, spec.clip_norm)
                    spec.optimizer.step()
                    spec.optimizer.zero_grad(set_to_none=True)

        memory = {}
        for precision in self.precisions:  # which warms up, too
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                memory[precision] = peak_memory(lambda p=precision: step(p), self.device)
        counts = [(f"{name}/{what}", f"{what}/s", amount) for what, amount in amounts.items()]
        counts.append((f"{name}/operations", "GFLOP/s", counter.get_total_flops() / 1e9))
        return [*self.rates(step, *counts), Row(f"{name}/memory", "MB", memory)]

    def generation(self, name: str, models: InBetweener, clips: int, **options) -> list[Row]:
        """Clips between random keyframes; options as those of `InBetweener.generate`."""
        height, width = models.ingest.height, models.ingest.width
        ends = torch.stack([random_clip(height, width, k)[[0, -1]] for k in range(clips)], 1)

        def generate(precision: str) -> None:
            models.precision = precision
            models._flows.clear()  # else the second round has none to estimate
            models.generate(*ends, [FRAMES] * clips, **options)

        memory = {p: peak_memory(lambda p=p: generate(p), self.device) for p in self.precisions}
        rows = self.rates(generate, (f"generate/{name}", "frames/s", clips * (FRAMES - 2)))
        return [*rows, Row(f"generate/{name}/memory", "MB", memory)]


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """MB beyond those held before; 0 where neither CUDA nor /proc tells."""
    if device.type == "cuda" or Path("/proc/self/clear_refs").exists():
        return extra_peak(work, device)
    work()
    return 0.0


def random_clip(height: int, width: int, seed: int) -> torch.Tensor:
    """uint8 `T H W 3`: smooth colours that move to the right."""
    colours = torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(seed))
    image = F.interpolate(colours, (height, width), mode="bilinear")[0]
    image = image.movedim(0, -1).mul(255).byte()  # H W 3
    return torch.stack([image.roll(t, 1) for t in range(FRAMES)])


def write_clips(
    folder: Path, split: str, size: tuple[int, int], clips: Iterable[np.ndarray], step: int = 1
) -> None:
    """Shards of a split: clips uint8 `T H W 3`, and each `step`-th of their frames as images."""
    with (
        open_shard(folder / f"clips-{split}-00000.arrow", clip_schema(*size)) as add_clip,
        open_shard(folder / f"images-{split}-00000.arrow", image_schema(*size)) as add_image,
    ):
        for k, clip in enumerate(clips):
            add_clip({"clip_id": f"{k}", "n_frames": len(clip), "images": clip.tobytes()})
            for i in range(0, len(clip), step):
                add_image({"video_id": f"{k}", "frame": i, "image": clip[i].tobytes()})


def new_tokenizer(settings: config.Params, device: torch.device) -> AnyTokenizer:
    size = settings.ingest.height, settings.ingest.width
    if settings.vqgan.context == "keyframes":
        tokenizer = KeyframeTokenizer(settings.vqgan, *size, settings.flow.method)
    else:
        tokenizer = Tokenizer(settings.vqgan, *size)
    return tokenizer.to(device).eval().requires_grad_(False)


def write_data(folder: Path, settings: config.Params, tokenizer: AnyTokenizer) -> None:
    """Random clips and their frames as shards, enough for a batch; token ids and features."""
    size = settings.ingest.height, settings.ingest.width
    channels = getattr(tokenizer, "context_channels", 0)
    for split in ("train", "val"):
        n_clips = 2 + settings.vqgan.trainer.batch_size // (FRAMES - 2)
        write_clips(folder, split, size, (random_clip(*size, k).numpy() for k in range(n_clips)))
        rows, n_tokens = [], FRAMES * tokenizer.tokens_per_frame
        for k in range(settings.train.batch_size):  # of the transformer
            ids = torch.randint(len(tokenizer.codebook), (n_tokens,)).numpy()
            features = torch.randn(n_tokens, channels).half().numpy()
            row = {"clip_id": f"{k}", "flipped": False, "reversed": False, "n_frames": FRAMES}
            rows.append(row | {"tokens": ids, "features": features.tobytes()})
        io.write_table(rows, io.TOKENS, folder / f"{split}.parquet")


def measure(content: dict, precisions: list[str], rounds: int, many: int) -> list[Row]:
    """All rows. content: as params.yaml; many: clips of the larger generation."""
    settings = config.parse(content)
    whole = config.parse(presets.merged(content, presets.overlay("whole_frames")))
    device = runtime.prepare(settings.base)
    benchmark, rows = Benchmark(device, precisions, rounds), []
    peak = benchmark.peak()
    size = settings.ingest.height, settings.ingest.width
    tokenizer = new_tokenizer(settings, device)
    with tempfile.TemporaryDirectory() as folder:
        batch, clips = settings.vqgan.trainer.batch_size, settings.train.batch_size
        folder = Path(folder)
        write_data(folder, settings, tokenizer)
        task = KeyframeTask(settings, folder, device)
        rows += benchmark.training("tokenizer/keyframes", task, batch, frames=batch)
        task = ImageTask(whole, folder, device)
        rows += benchmark.training("tokenizer/whole_frames", task, batch, frames=batch)
        task = GptTask(settings, folder, tokenizer, device)
        frames = clips * (FRAMES - 2)
        rows += benchmark.training("transformer", task, clips, frames=frames, clips=clips)

    estimator = FlowEstimator(settings.flow.method, device)  # float32 in either precision
    first, last = random_clip(*size, 0)[[0, -1]].numpy()
    benchmark.seconds(lambda _: estimator(first, last), 1)  # warms up
    flow = ("generate/flow_alone", "frames/s", FRAMES - 2)
    rows += benchmark.rates(lambda _: estimator(first, last), flow)
    decoding = settings.evaluate.decoding.model_copy(update={"mode": "auto", "steps": 8})
    large = random_clip(*LARGE, 0)[[0, -1]].split(1)
    cases = [("1_clip", "parallel", 1, None), (f"{many}_clips", "parallel", many, None)]
    cases += [("maskgit_8_steps", "maskgit", 1, None), (f"{LARGE[0]}p", "parallel", 1, large)]
    for name, mode, clips, output in cases:
        trained = config.parse(presets.merged(content, {"train": {"mode": mode}}))
        gpt = FrameGpt(GptConfig.from_params(trained, tokenizer.grid, tokenizer.context_channels))
        gpt = gpt.to(device)
        models = InBetweener(tokenizer, gpt.eval(), settings.ingest.frame_size, device, "float32")
        models.estimator = estimator  # warm
        rows += benchmark.generation(name, models, clips, decoding=decoding, large=output)

    peak = {p: max(peak[p], value) for p, value in benchmark.peak().items()}
    for name, _, values in [row for row in rows if row.unit == "GFLOP/s"]:
        share = {p: 100 * values[p] / peak[p] for p in values}
        rows.append(Row(name.replace("operations", "share_of_peak"), "%", share))
    return [Row("peak", "GFLOP/s", peak), *rows]


def show(rows: list[Row], precisions: list[str], title: str) -> list[dict]:
    """Prints a table, the precisions side by side, and a line of JSON a number."""
    table, lines = Table("what", "unit", *precisions, "bf16 / float32", title=title), []
    for name, unit, values in rows:
        ratio = values.get("bf16", 0) / (values.get("float32") or float("inf"))
        cells = [f"{value:.4g}" for value in values.values()]
        table.add_row(name, unit, *cells, f"{ratio:.3g}" if ratio else "")
        for precision, value in values.items():
            against = (ratio, "float32") if ratio and precision == "bf16" else ()
            lines.append(line(f"speed/{name}/{precision}", value, unit, *against))
    Console(width=100).print(table)
    print(*map(json.dumps, lines), sep="\n")
    return lines


def main() -> None:
    parser = options(threads=2)
    parser.add_argument("--quick", action="store_true", help="one round, 4 clips in place of 16")
    parser.add_argument("--precision", choices=(*PRECISIONS, "both"), default="both")
    given = parser.parse_args()
    content = presets.merged(config.read_yaml(), {"base": {"threads": given.threads}})
    precisions = list(PRECISIONS) if given.precision == "both" else [given.precision]
    rows = measure(content, precisions, *((1, 4) if given.quick else (3, 16)))
    show(rows, precisions, f"Speed, {given.threads} threads")


if __name__ == "__main__":
    run_main(main)
