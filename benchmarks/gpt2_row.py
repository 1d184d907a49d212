"""Training steps of one transformer on random tokens, in a process of its own.

    python -m benchmarks.gpt2_row

A line of JSON in, a line of JSON out. First the case: `over` (what differs from params.yaml),
`batch`, `accumulation`; answered when the network is built and has done one small step. Then
`"step"`, each time: the seconds of a step. Then `"end"`: peak memory in MB, and operations a second
of a large matrix product in the same precision.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from pipeline.training.transformer import TransformerTask

from pipeline import params, presets, schema, torch_setup
from pipeline.models.vqgan.model import Tokenizer

FRAMES = 20  # of every clip
DEVIATION = 0.02
SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product is timed
REPEATS = 8


def settings_of(over: dict) -> params.Params:
    """params.yaml with changes; ground truth and no faults, so that a step is one way there."""
    plain = {"train": {"stop_ground_truth_after_epoch": 1, "corruption": 0.0, "key_dropout": 0.0}}
    plain["train"]["perceptual_loss_weight"] = 0.0
    return params.parse(presets.merged(presets.merged(params.read_yaml(), plain), over))


def write_tokens(settings: params.Params, clips: int, folder: Path) -> None:
    """Random clips of FRAMES frames, the same ones for every network."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = settings.grid
    count, codes = FRAMES * rows * columns, settings.vqgan.vqvae.num_embeddings
    for split, number in (("train", clips), ("val", 1)):
        made = torch.randint(codes, (number, 2, count), generator=generator).numpy()
        table = [
            {"clip_id": f"{split}-{k}", "n_frames": FRAMES, "tokens": tokens, "moved": moved}
            for k, (tokens, moved) in enumerate(made)
        ]
        schema.write_table(table, schema.TOKENS, folder / f"{split}.parquet")


def make_task(settings: params.Params, clips: int, device: torch.device) -> TransformerTask:
    """A task on random tokens; code table and blocks are alike in all layouts of one size."""
    tokenizer = Tokenizer(settings.vqgan, settings.ingest.height, settings.ingest.width)
    tokenizer = tokenizer.to(device).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(settings, clips, Path(folder))
        task = TransformerTask(settings, Path(folder), tokenizer, device)
    generator = torch.Generator(device).manual_seed(0)
    for weights in (task.module.table, *task.module.gpt.h.parameters()):
        if weights.dim() > 1:
            weights.data.normal_(std=DEVIATION, generator=generator)
    task.module.train()
    return task


def step(task: TransformerTask, batches: list[range]) -> float:
    """Forward and backward of each batch, clipping and the optimizer's step; the seconds."""
    started = time.perf_counter()
    for batch in batches:
        for loss in task.losses(batch, 0, 0):  # windowed: one a target frame
            (loss.total / len(batches)).backward()
    player = task.players["gpt"]
    norm = torch.nn.utils.clip_grad_norm_(player.parameters, player.clip_norm)
    player.optimizer.step()
    player.optimizer.zero_grad(set_to_none=True)
    float(norm)
    if task.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def precision_of(settings: params.Params, device: torch.device) -> torch.dtype:
    """What matrix products are taken in."""
    with torch_setup.autocast(device, settings.base.precision):
        mixed = torch.is_autocast_enabled(device.type)
    return torch.bfloat16 if mixed else torch.float32


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the product of two large square matrices, the best of some."""
    side = SIDES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        float((a @ b)[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def peak_mb(device: torch.device) -> float:
    """Of this process, or on a GPU of its tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def answer(content: object) -> None:
    print(json.dumps(content), flush=True)


def main() -> None:
    case = json.loads(sys.stdin.readline())
    settings = settings_of(case["over"])
    device = torch_setup.prepare(settings.base)
    batch, gathered = case["batch"], case["accumulation"]
    task = make_task(settings, batch * gathered, device)
    batches = [range(k * batch, (k + 1) * batch) for k in range(gathered)]
    answer(step(task, [range(1)]))
    for line in sys.stdin:
        if json.loads(line) == "step":
            answer(step(task, batches))
        else:
            mb = peak_mb(device)  # before the large matrices
            dtype = precision_of(settings, device)
            told = {"precision": str(dtype).removeprefix("torch.")}
            answer(told | {"mb": mb, "peak": matmul_peak(device, dtype)})


if __name__ == "__main__":
    main()
