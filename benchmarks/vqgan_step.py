"""Images a second and memory of one training step of the tokenizer: ours against a plain one.

    python -m benchmarks.vqgan_step [--batch 8] [--steps 4] [--device cpu]

Sizes: the thesis' (preset paper_kny) and ours (params.yaml), 64x128 pictures, forward and backward
and the optimizer's step, in float32 and bf16; once with the absolute error alone, once with LPIPS
and the adversarial loss with its adaptive weight (`full`). Plain is the same network with the same
losses, written as one would at first: PyTorch's default memory layout and allocator, distances of
all tokens to all codes in one matrix, each gradient of the adaptive weight through the whole loss.
Every case is a process of its own, which gives its memory; both sides in turn, the best of
--rounds.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from unittest import mock

import torch
from torch import nn

from benchmarks.lines import line, show
from pipeline import params, presets, torch_setup
from pipeline.errors import run_main
from pipeline.models.vqgan.discriminator import Discriminator
from pipeline.models.vqgan.model import Tokenizer
from pipeline.pretrained.lpips import Lpips
from pipeline.training.adversarial import discriminator_loss, generator_loss
from pipeline.training.vqgan import ImageTask

FORMS = ("mae", "full")
PRECISIONS = ("float32", "bf16")
SIZES = ("thesis", "ours")
LATE = 10**9  # a step at which every loss has begun


def settings_of(size: str, form: str, precision: str, threads: int, device: str) -> params.Params:
    over = {"base": {"threads": threads, "device": device, "precision": precision}}
    full = form == "full"
    losses = {
        "perceptual_loss": "vgg16" if full else "none",
        "discriminator": {
            "factor": 1.0 if full else 0.0,
            "iter_start": 0,
            "weighting": "adaptive",
        },
    }
    over["vqgan"] = {"loss": losses, "discriminator": {"input_scale": 1, "paired": False}}
    over["vqgan"]["trainer"] = {"augmentation": "none"}
    preset = presets.overlay("paper_kny" if size == "thesis" else "whole_frames")
    return params.parse(presets.merged(presets.merged(params.read_yaml(), preset), over))


class Plain:
    """The same network and losses without what makes ours fast."""

    def __init__(self, settings: params.Params, device: torch.device) -> None:
        self.settings, self.device, self.precision = settings.vqgan, device, settings.base.precision
        height, width = settings.ingest.height, settings.ingest.width
        self.tokenizer = Tokenizer(settings.vqgan, height, width).to(device)
        self.codebook = nn.Parameter(self.tokenizer.codebook.detach().clone())
        trainer, rules = settings.vqgan.trainer, settings.vqgan.loss.discriminator
        ours = [p for p in self.tokenizer.parameters() if p is not self.tokenizer.codebook]
        self.adam = torch.optim.Adam([*ours, self.codebook], lr=trainer.gen_lr)
        wanted = settings.vqgan.loss.perceptual_loss == "vgg16"
        self.lpips = Lpips.pretrained().to(device) if wanted else None
        self.discriminator = None
        if rules.factor:
            self.discriminator = Discriminator(settings.vqgan.discriminator).to(device)
            self.adam_d = torch.optim.Adam(self.discriminator.parameters(), lr=trainer.disc_lr)

    def quantize(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = features.float().movedim(1, -1).flatten(0, 2)  # B h w D -> BN D
        with torch.autocast(self.device.type, enabled=False):
            squares = flat.square().sum(1, keepdim=True) + self.codebook.square().sum(1)
            codes = (squares - 2 * flat @ self.codebook.T).argmin(1)  # BN V -> BN
        vectors = self.codebook[codes].unflatten(0, features[:, 0].shape).movedim(-1, 1)
        loss = 0.25 * (features - vectors.detach()).square().mean()
        loss = loss + (vectors - features.detach()).square().mean()
        return features + (vectors - features).detach(), loss

    def step(self, images: torch.Tensor) -> None:
        last = self.tokenizer.decoder.last_layer
        with torch_setup.autocast(self.device, self.precision):
            vectors, codes = self.quantize(self.tokenizer.features(images))
            drawn = self.tokenizer.decode_features(vectors)
            total = (drawn - images).abs().mean()
            if self.lpips is not None:
                total = total + 4.0 * self.lpips(drawn, images).mean()
            if self.discriminator is not None:
                fooled = generator_loss(self.discriminator(drawn, images), "hinge")
                (ours,) = torch.autograd.grad(total, last, retain_graph=True)
                (theirs,) = torch.autograd.grad(fooled, last, retain_graph=True)
                total = total + 0.8 * ours.norm() / (theirs.norm() + 1e-6) * fooled
        (total + codes).backward()
        self.adam.step()
        self.adam.zero_grad()
        if self.discriminator is not None:
            self.discriminate(images, drawn.detach())

    def discriminate(self, images: torch.Tensor, drawn: torch.Tensor) -> None:
        self.adam_d.zero_grad()
        with torch_setup.autocast(self.device, self.precision):
            real, fake = self.discriminator(images, images), self.discriminator(drawn, images)
            loss = discriminator_loss(real, fake, "hinge")
        loss.backward()
        self.adam_d.step()


class Ours:
    """Our task of whole frames, with pictures that are not read from shards."""

    def __init__(self, settings: params.Params, device: torch.device) -> None:
        with (
            mock.patch("pipeline.training.vqgan.ImageSet"),
            mock.patch.object(ImageTask, "_start"),
        ):
            self.task = ImageTask(settings, None, device)
        self.task._floats = lambda images: self.images
        self.images = None

    def step(self, images: torch.Tensor) -> None:
        """Forward, backward, clipping and every optimizer's step, as the loop takes them."""
        self.images = images.contiguous(memory_format=torch.channels_last)
        for loss in self.task.losses(range(len(images)), 0, LATE):
            loss.total.backward()
            player = self.task.players[loss.player]
            torch.nn.utils.clip_grad_norm_(player.parameters, player.clip_norm)
            player.optimizer.step()
            player.optimizer.zero_grad(set_to_none=True)
            self.task.stepped(loss.player)


def measure(given: argparse.Namespace) -> dict[str, float]:
    """In a process of its own: images a second, peak MB."""
    settings = settings_of(given.size, given.form, given.precision, given.threads, given.device)
    if given.side == "ours":
        device = torch_setup.prepare(settings.base)
    else:
        torch.set_num_threads(given.threads)
        torch.manual_seed(0)
        device = torch_setup.find_device(given.device)
    trained = (Ours if given.side == "ours" else Plain)(settings, device)
    shape = (given.batch, 3, settings.ingest.height, settings.ingest.width)
    images = torch.rand(shape, device=device) * 2 - 1
    cuda = device.type == "cuda"
    spent = []
    for _ in range(given.steps + 1):  # the first one warms up
        started = time.perf_counter()
        trained.step(images)
        if cuda:
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if cuda:
        peak = torch.cuda.max_memory_allocated() / 1e6
    return {"rate": given.batch / min(spent[1:]), "mb": peak}


def apart(given: argparse.Namespace, side: str, size: str, form: str, precision: str) -> dict:
    words = ["--side", side, "--size", size, "--form", form, "--precision", precision]
    for key in ("batch", "steps", "threads", "device"):
        words += [f"--{key}", str(getattr(given, key))]
    command = [sys.executable, "-m", "benchmarks.vqgan_step", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(given: argparse.Namespace) -> list[dict]:
    lines = []
    for size in given.sizes:
        for form in FORMS:
            for precision in PRECISIONS:
                best: dict[str, dict] = {}
                for _ in range(given.rounds):
                    for side in ("plain", "ours"):
                        found = apart(given, side, size, form, precision)
                        best[side] = max(best.get(side, found), found, key=lambda f: f["rate"])
                name = f"vqgan_step/{size}/{form}/{precision}"
                ours, plain = best["ours"], best["plain"]
                ratio = ours["rate"] / plain["rate"]
                lines += [
                    line(name, ours["rate"], "images/s", ratio, "plain"),
                    line(f"{name}/plain", plain["rate"], "images/s"),
                    line(f"{name}/memory", ours["mb"], "MB", plain["mb"] / ours["mb"], "plain"),
                ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vqgan_step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    for key in ("side", "size", "form", "precision"):
        parser.add_argument(f"--{key}", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measure(given)))
    else:
        show(compare(given), f"Training step of the tokenizer, batches of {given.batch}")


if __name__ == "__main__":
    run_main(main)
