"""The transformer's speed: a training step, and generation in token space.

    python -m benchmarks.gpt2_step [--quick] [--rows step generate] [--batch 4] [--threads 2]

Random clips of 20 frames and random weights in the sizes of params.yaml. Groups of rows, each
compared with its first:

    step      forward, backward, clipping and the optimizer's step on a batch, teacher forcing:
              sliding_window (thesis, one pass a frame), full_clip, maskgit, and the plain GPT;
              own_predictions also generates the frames that it reads
    generate  the 18 in-betweens of a batch with the key/value cache: parallel, and maskgit with 8
              steps a frame

A time is the best of --rounds; the rows of a group take turns. Frames are target frames.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.lines import line, show
from pipeline import params, presets, schema, torch_setup
from pipeline.errors import run_main
from pipeline.models.gpt.sampling import Decoding, generate
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.models.vqgan.model import Tokenizer
from pipeline.training.gpt import GptTask

FRAMES = 20  # of every clip
ROWS = {  # name -> changes of params.yaml
    "step": {
        "sliding_window": {"train": {"sequence": "sliding_window"}},
        "full_clip": {},
        "own_predictions": {"train": {"stop_ground_truth_after_epoch": 0}},
        "maskgit": {"train": {"mode": "maskgit"}},
        "plain": {"transformer": {"transformer_type": "plain"}},
    },
    "generate": {"parallel": {}, "maskgit_8": {"train": {"mode": "maskgit"}}},
}
BASE = {
    "train": {
        "sequence": "full_clip",
        "mode": "parallel",
        "stop_ground_truth_after_epoch": 1,
        "token_noise": 0.0,
        "perceptual_loss_weight": 0.0,
    },
    "transformer": {"transformer_type": "custom", "pretrained": ""},
    "evaluate": {"decoding": {"mode": "auto"}},
}


def make_task(changes: dict, batch: int, threads: int, device: str) -> GptTask:
    """A task with `batch` random clips, the same ones for every row."""
    base = {"base": {"threads": threads, "device": device}}
    content = presets.merged(presets.merged(params.read_yaml(), BASE), base)
    settings = params.parse(presets.merged(content, changes))
    chosen = torch_setup.prepare(settings.base)
    size = settings.ingest.height, settings.ingest.width
    if settings.vqgan.context == "keyframes":
        tokenizer = KeyframeTokenizer(settings.vqgan, *size)
        channels = tokenizer.context_channels
    else:
        tokenizer, channels = Tokenizer(settings.vqgan, *size), 0
    tokenizer = tokenizer.to(chosen).eval().requires_grad_(False)
    rows, columns = settings.grid
    n_tokens = FRAMES * rows * columns
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            table = []
            for k in range(batch):
                ids = torch.randint(
                    settings.vqgan.vqvae.num_embeddings, (n_tokens,), generator=generator
                )
                features = torch.randn(n_tokens, channels, generator=generator).half()
                row = {"clip_id": f"{split}-{k}", "flipped": False, "reversed": False}
                row |= {"n_frames": FRAMES, "tokens": ids.numpy()}
                table.append(row | {"features": features.numpy().tobytes()})
            schema.write_table(table, schema.TOKENS, Path(folder) / f"{split}.parquet")
        return GptTask(settings, Path(folder), tokenizer, chosen)


def step(task: GptTask) -> None:
    task.module.train()
    for loss in task.losses(range(task.size("train")), 0, 0):  # sliding window: one a target frame
        loss.total.backward()
    player = task.players["gpt"]
    norm = torch.nn.utils.clip_grad_norm_(player.parameters, player.clip_norm)
    player.optimizer.step()
    player.optimizer.zero_grad(set_to_none=True)
    float(norm)  # waits for a GPU


def inbetweens(task: GptTask) -> None:
    task.module.eval()
    batch = task.tokens["val"].batch(range(task.size("val")), task.device, task.generator)
    with torch_setup.autocast(task.device, task.precision):
        frames = list(generate(task.module, batch.ids[:, 0], batch.cond, Decoding(steps=8)))
    int(frames[-1].sum())  # waits for a GPU


WORK: dict[str, Callable[[GptTask], None]] = {"step": step, "generate": inbetweens}


def measure(group: str, batch: int, rounds: int, threads: int, device: str) -> list[dict]:
    """A line for each row of a group."""
    tasks = {
        name: make_task(changes, batch, threads, device) for name, changes in ROWS[group].items()
    }
    best = dict.fromkeys(tasks, float("inf"))
    for number in range(rounds + 1):  # the first one warms up
        for name, task in tasks.items():
            started = time.perf_counter()
            WORK[group](task)
            if number:
                best[name] = min(best[name], time.perf_counter() - started)
    first = next(iter(best))
    lines = []
    for name, seconds in best.items():
        against = (best[first] / seconds, first) if name != first else ()
        rate = batch * (FRAMES - 2) / seconds
        lines.append(line(f"gpt2_step/{group}/{name}", rate, "frames/s", *against))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpt2_step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--batch", type=int, default=4, help="clips")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one clip, one round")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    batch, rounds = (1, 1) if given.quick else (given.batch, given.rounds)
    lines = []
    for group in given.rows:
        lines += measure(group, batch, rounds, given.threads, given.device)
    show(lines, "Transformer: training steps and generation")


if __name__ == "__main__":
    run_main(main)
