"""Drawing clips: frames a second by mode and batch, what the cache saves, and how long clips fare.

    python -m benchmarks.generate [--quick] [--rows modes cache lengths] [--threads 2]

Networks of params.yaml's sizes with random weights, which cost as much as trained ones; clips of 20
frames, of which 18 are drawn. Groups of rows:

    modes    every mode in turns, a process of its own for each batch of 1, 4 and 16: frames a
             second in token space (the transformer alone), and with pictures (ends to codes,
             optical flow, pictures of all frames); megabytes of the cache, and of the process
    cache    every mode with the cache against the same drawing without it, in turns: the whole clip
             so far goes through the transformer for each frame, step of maskgit, or position. In
             the last two that pass has a drawing block for every frame so far, though the last
             alone is wanted: a pass without the others would cost a little over half
    lengths  clips of 20, 50 and 100 frames, batch 1: time a frame and bytes of the cache

A time is the best of --rounds (lengths, autoregressive: of one).
"""

import argparse
import functools
import multiprocessing
import time
from collections.abc import Callable
from unittest import mock

import torch
from pipeline.gpt2 import sampling
from pipeline.gpt2.cache import WindowCache
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.model import FrameGpt, Given
from pipeline.gpt2.sampling import Decoding
from pipeline.inbetween.drawing import InBetweener, Style

from benchmarks.evaluate import moving_clips
from benchmarks.gpt2_counts import rounded
from benchmarks.gpt2_row import FRAMES, peak_mb
from benchmarks.gpt2_step import show
from benchmarks.lines import line
from pipeline import frames, params, presets, torch_setup
from pipeline.errors import run_main
from pipeline.models.vqgan.model import Tokenizer

MODES = {
    "seed": Decoding("seed"),
    "maskgit_4": Decoding("maskgit", steps=4),
    "maskgit_8": Decoding("maskgit", steps=8),
    "autoregressive": Decoding("autoregressive"),
}
BATCHES = (1, 4, 16)
LENGTHS = (20, 50, 100)
CACHED = (("seed", 1), ("seed", 16), ("maskgit_4", 1), ("maskgit_8", 1), ("autoregressive", 1))
WARM = 6  # frames of the clip that is drawn first; the cache is full by then


def settings_of(over: dict) -> params.Params:
    every = {"train": {"layout": "clip", "mode": "all"}}
    return params.parse(presets.merged(presets.merged(params.read_yaml(), over), every))


def untrained(over: dict) -> InBetweener:
    """Random networks; the tokenizer is started from pictures, so that it tells them apart."""
    settings = settings_of(over)
    device = torch_setup.prepare(settings.base)
    tokenizer = Tokenizer(settings.vqgan, settings.ingest.height, settings.ingest.width).to(device)
    height, width = settings.ingest.height, settings.ingest.width
    pictures = torch.cat(moving_clips(2))[:, :height, :width].to(device)
    with torch.no_grad():
        images = frames.to_float(pictures)
        if settings.vqgan.autoencoder.shortcut:
            tokenizer.shortcut.start(images)
        vectors = tokenizer.features(images).movedim(1, -1).flatten(0, 2)
        tokenizer.quantizer.init_from_data(vectors, torch.Generator().manual_seed(0))
    gpt = FrameGpt(GptConfig.from_params(settings)).eval().requires_grad_(False)
    gpt.start(tokenizer.codebook.cpu())
    precision = settings.base.precision
    return InBetweener(tokenizer.eval(), gpt.to(device), settings.ingest, device, precision)


def in_tokens(model: InBetweener, decoding: Decoding, batch: int, length: int) -> torch.Tensor:
    """Draws clips between random codes: `B n-2 N`."""
    config, device = model.gpt.config, model.device
    generator = torch.Generator().manual_seed(0)
    shape = (batch, length + 2, config.tokens_per_frame)
    codes = torch.randint(config.num_embeddings, shape, generator=generator).to(device)
    n_frames = torch.full((batch,), length, device=device)
    with torch_setup.autocast(device, model.precision):
        drawn = sampling.draw(
            model.gpt, codes[:, -2], codes[:, -1], n_frames, decoding, moved=codes[:, :-2]
        )
        return torch.stack([frame.codes for frame in drawn], 1).cpu()  # waits for a GPU


def in_pictures(model: InBetweener, decoding: Decoding, batch: int, length: int) -> None:
    first, last = ends(batch, model.ingest.height, model.ingest.width)
    model.draw(first, last, [length] * batch, Style(), decoding)


@functools.cache  # the time of drawing them is none of ours
def ends(batch: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    clips = torch.stack(moving_clips(batch))[:, :, :height, :width]  # B T H W 3
    return clips[:, 0], clips[:, -1]


def best(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, in turns; all must have been warmed up."""
    found = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            found[name] = min(found[name], time.perf_counter() - started)
    return found


class Watched(WindowCache):
    """Remembers the most bytes that any cache held."""

    most = 0

    def update(self, *given: object) -> tuple[torch.Tensor, torch.Tensor]:
        found = super().update(*given)
        Watched.most = max(Watched.most, self.bytes)
        return found


def cache_mb(model: InBetweener, decoding: Decoding, batch: int, length: int) -> float:
    Watched.most = 0
    with mock.patch("pipeline.gpt2.rollout.WindowCache", Watched):
        in_tokens(model, decoding, batch, length)
    return Watched.most / 1e6


def of_batch(over: dict, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """All modes in turns, in a process of its own: frames a second of both ways, megabytes."""
    model, works = untrained(over), {}
    for mode, decoding in MODES.items():
        for work in (in_tokens, in_pictures):
            work(model, decoding, batch, WARM)
            works[mode, work] = functools.partial(work, model, decoding, batch, FRAMES)
    rates = {key: batch * (FRAMES - 2) / spent for key, spent in best(works, rounds).items()}
    peak = peak_mb(model.device)
    return {
        mode: {
            "tokens": rates[mode, in_tokens],
            "pictures": rates[mode, in_pictures],
            "cache_mb": cache_mb(model, decoding, batch, WARM),
            "peak_mb": peak,
        }
        for mode, decoding in MODES.items()
    }


def modes(over: dict, rounds: int) -> list[dict]:
    lines, spawn = [], multiprocessing.get_context("spawn")
    for batch in BATCHES:
        with spawn.Pool(1, maxtasksperchild=1) as pool:
            found = pool.apply(of_batch, (over, batch, rounds))
        rates = {mode: its.pop("tokens") for mode, its in found.items()}
        for mode, its in found.items():
            against = () if mode == "seed" else (rates[mode] / rates["seed"], "seed")
            one = line(f"generate/modes/{mode}/batch={batch}", rates[mode], "frames/s", *against)
            lines.append(one | rounded(its))
    return lines


class Uncached:
    """What `sampling` asks of a clip that is drawn, without a cache: all of it anew each time."""

    def __init__(self, model: FrameGpt, given: Given, guidance: float, one_pass: bool) -> None:
        self.model, self.given, self.one_pass = model, given, one_pass
        self.config, self.rollout = model.config, self
        self.frames: list[torch.Tensor] = []  # B N

    def feed(self, frame: torch.Tensor) -> torch.Tensor | None:
        self.frames.append(frame)
        if not self.one_pass:
            return None  # other modes do not look at it
        last, n_frames, _, moved = self.given
        return self.model(torch.stack(self.frames, 1), last, n_frames, moved=moved)[:, -1]

    def complete(self, drawn: torch.Tensor, causal: bool = False) -> torch.Tensor:
        seen = torch.stack(self.frames, 1)  # B T N
        drawings = torch.stack([*self.frames[1:], drawn], 1)
        last, n_frames, _, moved = self.given
        return self.model.complete(seen, last, n_frames, drawings, causal, moved=moved)[1][:, -1]

    def position(self, place: int, drawn: torch.Tensor) -> torch.Tensor:
        size = self.config.merge**2
        return self.complete(drawn, True)[:, self.model.order[place * size : (place + 1) * size]]


def uncached(model: InBetweener, decoding: Decoding, batch: int, length: int) -> torch.Tensor:
    clips = functools.partial(Uncached, one_pass=decoding.mode == "seed")
    with mock.patch.object(sampling, "_Clips", clips):
        return in_tokens(model, decoding, batch, length)


def cache(over: dict, rounds: int) -> list[dict]:
    model, lines = untrained(over), []
    for mode, batch in CACHED:
        given, works = (model, MODES[mode], batch), {}
        short = [work(*given, WARM) for work in (in_tokens, uncached)]
        for work in (in_tokens, uncached):
            works[work] = functools.partial(work, *given, FRAMES)
        spent = best(works, rounds)
        rates = {work: batch * (FRAMES - 2) / seconds for work, seconds in spent.items()}
        ratio = rates[in_tokens] / rates[uncached]
        name = f"generate/cache/{mode}/batch={batch}"
        one = line(name, rates[in_tokens], "frames/s", ratio, "uncached")
        same = (short[0] == short[1]).float().mean().item()
        lines.append(one | rounded({"uncached": rates[uncached], "same_codes": same}))
    return lines


def lengths(over: dict, rounds: int) -> list[dict]:
    model, lines = untrained(over), []
    for mode in ("seed", "autoregressive"):
        held = {n: cache_mb(model, MODES[mode], 1, n) for n in LENGTHS}
        works = {n: functools.partial(in_tokens, model, MODES[mode], 1, n) for n in LENGTHS}
        spent = best(works, rounds if mode == "seed" else 1)
        frame = {n: seconds / (n - 2) for n, seconds in spent.items()}
        for n in LENGTHS:
            against = () if n == LENGTHS[0] else (frame[LENGTHS[0]] / frame[n], str(LENGTHS[0]))
            one = line(f"generate/lengths/{mode}/{n}", 1000 * frame[n], "ms/frame", *against)
            lines.append(one | rounded({"cache_mb": held[n]}))
    return lines


RATE = {"times as fast": ("ratio", "{:.2f}"), "as": ("against", "{}")}
CACHE = {"cache, MB": ("cache_mb", "{:.2f}")}
GROUPS = {  # name -> what measures it, columns
    "modes": (
        modes,
        {"in tokens, frames/s": ("value", "{:.1f}")}
        | RATE
        | {"with pictures, frames/s": ("pictures", "{:.1f}")}
        | CACHE
        | {"process, MB": ("peak_mb", "{:,.0f}")},
    ),
    "cache": (
        cache,
        {"frames/s": ("value", "{:.1f}"), "uncached": ("uncached", "{:.2f}")}
        | RATE
        | {"same codes": ("same_codes", "{:.1%}")},
    ),
    "lengths": (lengths, {"ms a frame": ("value", "{:.2f}")} | RATE | CACHE),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rows", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    over = {"base": {"threads": given.threads, "device": given.device}}
    for name in given.rows:
        work, columns = GROUPS[name]
        show(work(over, 1 if given.quick else given.rounds), columns, f"Drawing clips: {name}")


if __name__ == "__main__":
    run_main(main)
