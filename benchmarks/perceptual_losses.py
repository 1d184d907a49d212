"""What the perceptual losses and the edge loss cost a training step.

    python -m benchmarks.perceptual_losses [--threads 2] [--rounds 3]

Milliseconds for 16 pictures of 64x128: features of both sides and the gradient back to the drawn
ones. VGG19's weights are random here, which costs as much.
"""

import time

import torch

from benchmarks.lines import line, options, show
from pipeline import config, runtime
from pipeline.errors import run_main
from pipeline.models.pretrained.vgg import VGG19, VggFeatures
from pipeline.training.perceptual import Perceptual, edge_loss, feature_distance, perceptual_loss

SHAPE = (16, 3, 64, 128)  # B 3 H W


def losses(device: torch.device) -> dict:
    settings = config.load().vqgan.loss

    def asked(kind: str) -> Perceptual:
        return perceptual_loss(settings.model_copy(update={"perceptual_loss": kind}), device)

    vgg19 = Perceptual(VggFeatures(VGG19).to(device), feature_distance)
    lpips = {"vgg16": asked("vgg16"), "alexnet": asked("alexnet")}
    return lpips | {"vgg19": vgg19, "style": asked("style"), "edge": edge_loss}


def seconds(loss, device: torch.device, precision: str, rounds: int) -> float:
    """The best of so many, after one that warms up."""
    torch.manual_seed(0)
    drawn, images = (torch.rand(SHAPE, device=device) * 2 - 1 for _ in range(2))
    drawn = drawn.contiguous(memory_format=torch.channels_last).requires_grad_()
    images = images.contiguous(memory_format=torch.channels_last)
    spent = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        with runtime.autocast(device, precision):
            value = loss(drawn, images).mean()
        float(torch.autograd.grad(value, drawn)[0].sum())  # waits for a GPU
        spent.append(time.perf_counter() - started)
    return min(spent[1:])


def main() -> None:
    parser = options(threads=2, rounds=3, device="cpu")
    given = parser.parse_args()
    base = config.load().base
    device = runtime.prepare(
        base.model_copy(update={"threads": given.threads, "device": given.device})
    )
    lines = [
        line(f"perceptual_losses/{name}/{precision}", 1000 * took, "ms")
        for name, loss in losses(device).items()
        for precision in ("float32", "bf16")
        for took in (seconds(loss, device, precision, given.rounds),)
    ]
    show(lines, "Perceptual losses, 16 pictures of 64x128")


if __name__ == "__main__":
    run_main(main)
