"""The nearest-code search against the plain form, and a training step of each quantizer.

    python -m benchmarks.quantizer [--device cpu] [--threads 2] [--rounds 5]

Plain: one matrix of all distances, then argmin. Both forms are timed in turns in one process;
memory is what a fresh process needs beyond vectors and codebook. A training step is forward and
backward of the quantizer alone, for 16 pictures of 8x16 tokens and 2,048 codes.
"""

import ctypes
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.lines import line, options, show
from pipeline import config, runtime
from pipeline.config import Vqvae
from pipeline.errors import run_main
from pipeline.models.vqgan.quantizers import QUANTIZERS, nearest

SIZES = ((8192, 50257, 128), (8192, 1024, 32), (8192, 2048, 8))  # N V D
CODES, DIM = 2048, 32  # of the training step


def plain(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    return (codebook.square().sum(1).mul(0.5) - vectors @ codebook.T).argmin(1)


WAYS: dict[str, Callable] = {"plain": plain, "ours": nearest}


def inputs(size: tuple[int, int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    n, codes, dim = size
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(n, dim, generator=generator)
    return vectors.to(device), torch.randn(codes, dim, generator=generator).to(device)


def extra_peak(work: Callable[[], object], device: torch.device) -> float:
    """MB that `work` needs at its peak beyond what is held before it. CPU: Linux only."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # gives back what glibc keeps of earlier work
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 1e6


def _resident(which: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(float(one.split()[1]) for one in lines if one.startswith(which))


def peak_of(way: str, size: tuple[int, int, int], base: config.Base) -> float:
    device = runtime.prepare(base)
    vectors, codebook = inputs(size, device)
    return extra_peak(lambda: WAYS[way](vectors, codebook), device)


def milliseconds(
    works: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, float]:
    """The best of so many rounds of each, in turns; others on the machine only add to a time."""
    best = dict.fromkeys(works, float("inf"))
    for number in range(rounds + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:  # the first warms up
                best[name] = min(best[name], 1000 * (time.perf_counter() - started))
    return best


def search(base: config.Base, rounds: int) -> list[dict]:
    device, lines = runtime.prepare(base), []
    for size in SIZES:
        vectors, codebook = inputs(size, device)
        works = {way: lambda f=f, v=vectors, c=codebook: f(v, c) for way, f in WAYS.items()}
        with torch.no_grad():
            times = milliseconds(works, device, rounds)
        name = "quantizer/search/{}x{}x{}".format(*size)
        lines.append(line(f"{name}/plain", times["plain"], "ms"))
        lines.append(line(name, times["ours"], "ms", times["plain"] / times["ours"], "plain"))
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            peaks = {way: pool.apply(peak_of, (way, size, base)) for way in WAYS}
        lines.append(line(f"{name}/plain/memory", peaks["plain"], "MB"))
        lines.append(line(f"{name}/memory", peaks["ours"], "MB"))
    return lines


def training_step(kind: str, device: torch.device) -> Callable[[], None]:
    settings = Vqvae(quantizer=kind, beta=0.25, num_embeddings=CODES, embedding_dim=DIM)
    generator = torch.Generator().manual_seed(0)
    quantizer = QUANTIZERS[kind](settings).to(device)
    features = torch.randn(16, DIM, 8, 16, generator=generator).to(device)
    quantizer.init_from_data(features.movedim(1, -1).flatten(0, 2), generator)
    features.requires_grad_()

    def work() -> None:
        found = quantizer(features, generator)
        (found.vectors.sum() + found.commitment_loss + found.codebook_loss).backward()
        features.grad = None
        quantizer.zero_grad()

    return work


def training(base: config.Base, rounds: int) -> list[dict]:
    device = runtime.prepare(base)
    works = {f"quantizer/step/{kind}": training_step(kind, device) for kind in QUANTIZERS}
    times = milliseconds(works, device, 4 * rounds)
    return [line(name, value, "ms") for name, value in times.items()]


def main() -> None:
    parser = options(device="cpu", threads=2, rounds=5)
    given = parser.parse_args()
    changes = {"device": given.device, "threads": given.threads}
    base = config.load().base.model_copy(update=changes)
    show([*search(base, given.rounds), *training(base, given.rounds)], "Quantizers")


if __name__ == "__main__":
    run_main(main)
