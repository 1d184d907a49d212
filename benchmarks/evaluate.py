"""Clips a second of each measure and baseline, and whether memory grows with the clips.

    python -m benchmarks.evaluate [--clips 8] [--whole 64] [--device cpu] [--threads 2]

The clips are drawn by the embedded cartoon's code, 20 frames of 64x128. Each line is the time for
one candidate of a clip. Beside ours stands the plain way where there is one: a call a frame of the
reference library, features computed again for each candidate. The last lines are a whole
evaluation of clips that exist already (as after generating elsewhere): seconds for 1,000 clips at
this rate, and the memory that the second half of the clips added.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import torch

from benchmarks.lines import line, options, show
from pipeline import config, frames, runtime
from pipeline.data.shard_writer import clip_schema, image_schema, open_shard
from pipeline.evaluation.baselines import RifeBaseline, cross_fade, optical_flow
from pipeline.evaluation.metrics.distances import frechet
from pipeline.evaluation.metrics.extractors import VideoFeatures, image_network
from pipeline.evaluation.metrics.image import LpipsMetric, psnr, ssim
from pipeline.evaluation.metrics.line_chamfer import Outlines, chamfer
from pipeline.evaluation.metrics.video import diagnose
from pipeline.evaluation.run import evaluate
from pipeline.models.pretrained.rife import Rife

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
    alexnet, vgg16 = (LpipsMetric(name, device) for name in ("alexnet", "vgg16"))
    seen = {id(p): [p.features(truth) for _, truth in inner] for p in (alexnet, vgg16)}
    lines = [Outlines.of(truth) for _, truth in inner]
    video, rife = VideoFeatures(device), RifeBaseline(Rife.pretrained(), device)
    image = image_network("vgg16", device)

    def lpips(network: LpipsMetric) -> Callable:
        return lambda k: network.distance(network.features(inner[k][0]), seen[id(network)][k])

    def lpips_plain(network: LpipsMetric) -> Callable:
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
    runtime.repair_torchvision()
    from cleanfid.fid import frechet_distance

    a, b = np.random.default_rng(0).normal(size=(2, count, width))
    started = time.perf_counter()
    frechet(a, b)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    moments = [m for x in (a, b) for m in (x.mean(0), np.cov(x, rowvar=False))]
    frechet_distance(*moments)
    theirs = time.perf_counter() - started
    return [line("evaluate/frechet", 1 / ours, "1/s", theirs / ours, "clean-fid")]


class Ready:
    """In the place of a model whose clips were generated elsewhere: gives cross-fades at once."""

    has_context = False

    def __init__(self, device: torch.device, codes: int = 64) -> None:
        self.device, self.ingest = device, config.load().ingest
        self.tokenizer = SimpleNamespace(codebook=torch.zeros(codes, 1))

    def generate(self, first, last, n_frames, decoding, generator) -> list[torch.Tensor]:
        ends = zip(first, last, n_frames, strict=True)
        clips = [torch.stack([a, *[b] * (n - 1)]) for a, b, n in ends]
        return [torch.cat([clip[:1], cross_fade(clip), clip[-1:]]) for clip in clips]

    def given_frame(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def round_trip(self, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inner = clip[1:-1]
        return inner // 2 * 2, inner[:, ::8, ::8, 0].flatten(1).long() % 64


def whole(count: int, device: torch.device) -> list[dict]:
    """A whole evaluation of `count` clips, and of a quarter of them: time and memory."""
    settings = config.load()
    spent, peaks = {}, {}
    for n in (count // 4, count):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
            os.environ["DVC_ROOT"] = folder  # an empty store of features
            table = _write_shards(Path(folder), n)
            started = time.perf_counter()
            evaluate(Ready(device), Path(folder), table, settings, Path(folder) / "out")
            spent[n] = time.perf_counter() - started
        peaks[n] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = (count - count // 4) / (spent[count] - spent[count // 4])
    return [
        line("evaluate/whole", rate, "clips/s"),
        line("evaluate/whole/1000_clips", spent[count] + (1000 - count) / rate, "s"),
        line("evaluate/whole/memory", peaks[count], "MB"),
        line("evaluate/whole/memory_per_clip", (peaks[count] - peaks[count // 4]) / count, "MB"),
    ]


def _write_shards(folder: Path, count: int) -> pd.DataFrame:
    """Test clips and a picture of each, from ten videos."""
    about = []
    with (
        open_shard(folder / "clips-test-00000.arrow", clip_schema(HEIGHT, WIDTH)) as add_clip,
        open_shard(folder / "images-test-00000.arrow", image_schema(HEIGHT, WIDTH)) as add_image,
    ):
        for k in range(count):
            (clip,) = moving_clips(1, seed=k)
            name = f"clip-{k:05d}"
            row = {"clip_id": name, "n_frames": FRAMES, "images": clip.numpy().tobytes()}
            add_clip(row)
            add_image({"video_id": name, "frame": 0, "image": clip[0].numpy().tobytes()})
            motion = float((clip[1:].float() - clip[:-1].float()).abs().mean())
            about.append({"clip_id": name, "video_id": f"video-{k % 10}", "motion": motion})
    return pd.DataFrame(about)


def main() -> None:
    parser = options(clips=8, whole=64, device="cpu", threads=2)
    given = parser.parse_args()
    base = config.load().base
    device = runtime.prepare(
        base.model_copy(update={"device": given.device, "threads": given.threads})
    )
    clips = moving_clips(given.clips)
    lines = []
    for name, (ours, *plain) in measures(clips, device).items():
        spent = seconds(ours, given.clips, device)
        ratio = (seconds(plain[0], given.clips, device) / spent, plain[1]) if plain else ()
        lines.append(line(f"evaluate/{name}", 1 / spent, "clips/s", *ratio))
    lines += frechet_lines() + whole(given.whole, device)
    show(lines, f"{FRAMES} frames of {HEIGHT}x{WIDTH}, {device}, {given.threads} threads")


if __name__ == "__main__":
    main()
