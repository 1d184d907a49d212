"""Clips a second of each measure and baseline, and whether memory grows with the clips.

    python -m benchmarks.evaluate [--clips 8] [--device auto] [--threads 2]

The clips are drawn by the embedded cartoon's code, 20 frames of 64x128. Each line is the time for
one candidate of a clip. Beside ours stands the plain way where there is one: a call a frame of the
reference library, features computed again for each candidate. The last lines are a whole
evaluation of clips that exist already (as after generating elsewhere): seconds for 1,000 clips at
this rate, and the memory that the second half of the clips added.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pipeline import frames, params, torch_setup
from pipeline.evaluation.candidates import Drawn
from pipeline.evaluation.clipwise import ClipScorer
from pipeline.metrics.baselines import cross_fade
from pipeline.metrics.distances import frechet
from pipeline.metrics.extractors import VideoFeatures, image_network
from pipeline.metrics.flow import RifeBaseline, optical_flow
from pipeline.metrics.image import psnr, ssim
from pipeline.metrics.lines import Outlines, chamfer
from pipeline.metrics.perceptual import Perceptual
from pipeline.metrics.video import diagnose
from pipeline.pretrained.rife import Rife
from pipeline.shards.loaders import Clip

FRAMES, HEIGHT, WIDTH = 20, 64, 128
HOLD_THRESHOLD = 1.5


def moving_clips(count: int, seed: int = 0) -> list[torch.Tensor]:
    """uint8 `20 64 128 3`: a few coloured discs with outlines over a slope, each on its way."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    clips = []
    for _ in range(count):
        ground = np.stack([x, y * 2, 128 + 0 * x], -1) * random.uniform(0.3, 1.0, 3)
        clip = np.repeat(ground[None], FRAMES, 0)
        for _ in range(4):
            start, way = random.uniform((0, 0), (WIDTH, HEIGHT)), random.uniform(-40, 40, 2)
            radius, colour = random.uniform(6, 16), random.uniform(0, 255, 3)
            for i in range(FRAMES):
                centre = start + way * (i // 2 * 2) / FRAMES  # on twos
                apart = np.hypot(x - centre[0], y - centre[1])
                clip[i][apart < radius] = colour
                clip[i][abs(apart - radius) < 1.2] = 20
        clips.append(torch.from_numpy(clip.clip(0, 255).astype(np.uint8)))
    return clips


def seconds(work: Callable[[int], object], count: int, device: torch.device) -> float:
    """Mean seconds a clip, after one clip to warm up."""
    work(0)
    _wait(device)
    started = time.perf_counter()
    for k in range(count):
        work(k)
    _wait(device)
    return (time.perf_counter() - started) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measures(clips: list[torch.Tensor], device: torch.device) -> dict[str, tuple]:
    """Name to our way and, where there is one, the plain way and its name; each of clip number."""
    drawn = [torch.cat([clip[:1], cross_fade(clip), clip[-1:]]) for clip in clips]
    inner = [
        (a[1:-1].contiguous(), b[1:-1].contiguous()) for a, b in zip(drawn, clips, strict=True)
    ]
    alexnet, vgg16 = (Perceptual(name, None, device) for name in ("alexnet", "vgg16"))
    seen = {id(p): [p.see(truth) for _, truth in inner] for p in (alexnet, vgg16)}
    lines = [Outlines.of(truth) for _, truth in inner]
    video, rife = VideoFeatures(None, device), RifeBaseline(Rife.pretrained(), device)
    image = image_network("vgg16", None, device)

    def lpips(network: Perceptual) -> Callable:
        return lambda k: network.distance(network.see(inner[k][0]), seen[id(network)][k])

    def lpips_plain(network: Perceptual) -> Callable:
        def work(k: int) -> list:
            floats = [frames.to_float(x.to(device)) for x in inner[k]]  # T 3 H W
            with torch.inference_mode():
                return [network.lpips(a[None], b[None]) for a, b in zip(*floats, strict=True)]

        return work

    return {
        "psnr": (lambda k: psnr(*inner[k]), _skimage(inner, "psnr"), "scikit-image"),
        "ssim": (lambda k: ssim(*inner[k]), _skimage(inner, "ssim"), "scikit-image"),
        "lpips_alexnet": (lpips(alexnet), lpips_plain(alexnet), "plain"),
        "lpips_vgg16": (lpips(vgg16), lpips_plain(vgg16), "plain"),
        "line_chamfer": (lambda k: chamfer(Outlines.of(inner[k][0]), lines[k]),),
        "diagnostics": (lambda k: diagnose(drawn[k], clips[k], HOLD_THRESHOLD),),
        "i3d_features": (lambda k: video(inner[k][0]),),
        "vgg16_features": (lambda k: image(inner[k][0]),),
        "optical_flow": (lambda k: optical_flow(clips[k]),),
        "rife": (lambda k: rife(clips[k]),),
    }


def _skimage(inner: list[tuple], name: str) -> Callable:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    def work(k: int) -> list[float]:
        pairs = [(a.numpy(), b.numpy()) for a, b in zip(*inner[k], strict=True)]
        if name == "psnr":
            return [peak_signal_noise_ratio(b, a, data_range=255) for a, b in pairs]
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        options |= {"data_range": 255, "channel_axis": -1}
        return [structural_similarity(b, a, **options) for a, b in pairs]

    return work


def frechet_lines(count: int = 21, width: int = 400) -> list[dict]:
    """One Fréchet distance of few samples, ours and clean-fid's."""
    torch_setup.repair_torchvision()
    from cleanfid.fid import frechet_distance

    a, b = np.random.default_rng(0).normal(size=(2, count, width))
    started = time.perf_counter()
    frechet(a, b)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    moments = [m for x in (a, b) for m in (x.mean(0), np.cov(x, rowvar=False))]
    frechet_distance(*moments)
    theirs = time.perf_counter() - started
    return [_line("evaluate/frechet", 1 / ours, "1/s", theirs / ours, "clean-fid")]


def whole(clips: list[torch.Tensor], device: torch.device) -> list[dict]:
    """The model's side of an evaluation: scores, diagnostics and I3D features of drawn clips."""
    scorer = ClipScorer(params.load().evaluate, HOLD_THRESHOLD, device)
    video = VideoFeatures(None, device)
    peaks = []

    def work(k: int) -> None:
        clip = clips[k]
        drawn = torch.cat([clip[:1], cross_fade(clip), clip[-1:]])
        scorer.rows(Drawn(Clip(str(k), clip), {"model": drawn}, []), {"clip_id": str(k)})
        video(drawn[1:-1]), video(clip[1:-1])
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    spent = seconds(work, len(clips), device)
    grown = peaks[-1] - peaks[len(peaks) // 2]
    return [
        _line("evaluate/whole", 1 / spent, "clips/s"),
        _line("evaluate/whole/1000_clips", 1000 * spent, "s"),
        _line("evaluate/whole/memory_growth", grown, "MB"),
    ]


def _line(name: str, value: float, unit: str, ratio: float = 0.0, against: str = "") -> dict:
    line = {"name": name, "value": float(f"{value:.4g}"), "unit": unit}
    return line | ({"ratio": float(f"{ratio:.3g}"), "against": against} if against else {})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    base = params.load().base
    device = torch_setup.prepare(
        base.model_copy(update={"device": given.device, "threads": given.threads})
    )
    clips = moving_clips(given.clips)
    lines = []
    for name, (ours, *plain) in measures(clips, device).items():
        spent = seconds(ours, given.clips, device)
        ratio = (seconds(plain[0], given.clips, device) / spent, plain[1]) if plain else ()
        lines.append(_line(f"evaluate/{name}", 1 / spent, "clips/s", *ratio))
    lines += frechet_lines() + whole(clips, device)
    table = Table(title=f"{FRAMES} frames of {HEIGHT}x{WIDTH}, {device}, {given.threads} threads")
    for column in ("what", "value", "unit", "times as fast", "as"):
        table.add_column(column)
    for line in lines:
        ratio = f"{line['ratio']:.3g}" if "ratio" in line else ""
        name = line["name"].removeprefix("evaluate/")
        table.add_row(name, f"{line['value']:.4g}", line["unit"], ratio, line.get("against", ""))
    Console(width=100).print(table)
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
