"""Trains one tokenizer and measures it on the test pictures, in a process of its own.

    python -m benchmarks.tokenizer_row SETTINGS.json SHARDS OUT --steps 600
    python -m benchmarks.tokenizer_row SETTINGS.json SHARDS OUT --steps 600 --speed

Writes OUT/row.json and OUT/pictures.npy (uint8 `B H W 3`, reconstructions of test pictures, evenly
taken); a run that was killed goes on where it was. With --speed it only times a few steps, with
the losses of the last of them, and writes OUT/speed.json.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from pipeline.training.tokenizer import TokenizerTask, perplexity

from benchmarks import one_step
from pipeline import params, torch_setup
from pipeline.frames import to_float, to_uint8
from pipeline.metrics.image import psnr, ssim
from pipeline.metrics.perceptual import Perceptual
from pipeline.models.vqgan.model import Tokenizer
from pipeline.records import write_json
from pipeline.shards.loaders import ImageSet
from pipeline.training.checkpoint import Resume
from pipeline.training.loop import Plan, train

BATCH = 16
SHOWN = 6  # test pictures in the figure
TIMED = 6  # steps, after one that warms up; the fastest counts


def reconstruct(
    tokenizer: Tokenizer, images: ImageSet, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """All pictures of a set as the decoder gives them back, uint8 `B H W 3`, and their codes."""
    drawn, codes = [], []
    device = next(tokenizer.parameters()).device
    with torch.inference_mode(), torch_setup.autocast(device, precision):
        for first in range(0, len(images), BATCH):
            rows = range(first, min(first + BATCH, len(images)))
            batch = to_float(images.batch(rows).to(device))
            codes.append(tokenizer.encode(batch).cpu())
            drawn.append(to_uint8(tokenizer.decode(codes[-1].to(device))).cpu())
    return torch.cat(drawn), torch.cat(codes)


def measure(tokenizer: Tokenizer, shards: Path, precision: str) -> tuple[dict, np.ndarray]:
    images = ImageSet(shards, "test")
    drawn, codes = reconstruct(tokenizer.eval(), images, precision)
    truth = images.batch(range(len(images)))
    lpips = Perceptual("vgg16", None, torch.device("cpu"))
    parts = zip(drawn.split(BATCH), truth.split(BATCH), strict=True)
    distances = torch.cat([lpips.distance(lpips.see(a), lpips.see(b)) for a, b in parts])
    counts = torch.bincount(codes.flatten(), minlength=len(tokenizer.codebook))
    found = {
        "psnr": float(psnr(drawn, truth).mean()),
        "ssim": float(ssim(drawn, truth).mean()),
        "lpips": float(distances.mean()),
        "usage": float((counts > 0).float().mean()),
        "perplexity": float(perplexity(counts)),
    }
    return found, drawn[:: max(1, len(drawn) // SHOWN)][:SHOWN].numpy()


def speed(task: TokenizerTask, batch: int, number: int) -> dict[str, float]:
    """Images a second of training, and the process' peak memory."""
    spent = []
    for _ in range(TIMED + 1):
        started = time.perf_counter()
        one_step.step(task, range(batch), number)
        spent.append(time.perf_counter() - started)
    return {"images_a_second": batch / min(spent[1:]), "peak_mb": peak()}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenizer_row")
    parser.add_argument("settings", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--speed", action="store_true")
    given = parser.parse_args()
    settings = params.Params.model_validate(json.loads(given.settings.read_text()))
    device = torch_setup.prepare(settings.base)
    task = TokenizerTask(settings, given.shards, device)
    batch = settings.vqgan.trainer.batch_size
    if given.speed:
        write_json(given.out / "speed.json", speed(task, batch, given.steps))
        return
    epochs = max(1, round(given.steps / (task.size("train") // batch)))
    plan = Plan(batch_size=batch, n_epochs=epochs, seed=settings.base.seed)
    resume = Resume(f"bench-{given.out.name}", {"vqgan": settings.vqgan}, [])
    started = time.perf_counter()
    history = train(task, plan, given.out.name, resume, lambda values, step: None)
    seconds = time.perf_counter() - started
    steps = history.steps[-1]["step"]
    found, pictures = measure(task.finished, given.shards, settings.base.precision)
    weights = sum(p.numel() for p in task.tokenizer.parameters())
    trained = {"steps": steps, "seconds": seconds, "millions": weights / 1e6}
    write_json(given.out / "row.json", found | trained)
    np.save(given.out / "pictures.npy", pictures)
    history.save(given.out)


if __name__ == "__main__":
    main()
