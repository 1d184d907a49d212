"""Quality, speed and memory of retime, beside RIFE 4.0, a cross-fade and held drawings.

    python -m benchmarks.retime FOLDER ... [--triples 4] [--strip strip.png] [--skip-memory]

Of each video's distinct drawings every second one is taken away and drawn anew from its two
neighbours, at most 360 lines high; `--triples` of each video, spread evenly, never across a cut.
Then frames a second of 720x1280 on one thread, by turns, and the peak memory of the whole command,
with ffmpeg's processes, for a film of 4 and one of 12 seconds. Prints a table, then a line of JSON
a number. Run it where models/ is.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.lines import line, show
from pipeline import config, frames, runtime
from pipeline.commands.generate import load_models
from pipeline.commands.retime import Reader, first_reading
from pipeline.errors import run_main
from pipeline.evaluation.metrics.image import LpipsMetric, psnr, ssim
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.retiming import Drawer
from pipeline.models.flow import EVEN
from pipeline.models.pretrained.rife import Rife, merge
from pipeline.video import decode
from pipeline.video.ffmpeg_input import executable
from pipeline.video.probe import probe

LINES, LARGE = 360, (720, 1280)
SHOWN = 2  # triples of the picture, those with the largest change among the first of each video
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]  # uint8 `H W 3` twice to the one between


def methods(model: InBetweener, device: torch.device) -> dict[str, Method]:
    drawer, rife = Drawer(model), Rife.pretrained().to(device)

    def with_tokens(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        size = model.ingest.height, model.ingest.width
        small = [torch.from_numpy(frames.resize(image, *size))[None] for image in (a, b)]
        large = torch.from_numpy(a)[None], torch.from_numpy(b)[None]
        return model.generate(*small, [3], large=large)[0][1].numpy()

    def by_rife(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        ends = [torch.from_numpy(x)[None].movedim(-1, 1).float().div(255) for x in (a, b)]
        flow, share = rife.flows(*(x.to(device) for x in ends), torch.tensor([0.5]))
        image = merge(*(x.to(device) for x in ends), flow, share)
        return image[0].mul(255).round().clamp(0, 255).byte().movedim(0, -1).cpu().numpy()

    return {
        "retime": lambda a, b: next(drawer(a, b, np.array([0.5]))),
        "with tokens": with_tokens,
        "RIFE 4.0": by_rife,
        "cross-fade": lambda a, b: ((a.astype(np.uint16) + b + 1) // 2).astype(np.uint8),
        "held": lambda a, b: a,
    }


def triples(
    path: Path, model: InBetweener, settings: config.Params, count: int, folder: Path
) -> Iterator[list[np.ndarray]]:
    """Three drawings in a row of one scene, uint8 `H W 3` each."""
    header = probe(path)
    saved = folder / f"{path.name}.npz"
    film = first_reading(path, header, model, settings, None, saved, [])
    drawings = np.flatnonzero(film.new)
    inside = [k for k in range(len(drawings) - 2) if not film.cut[drawings[k + 1 : k + 3]].any()]
    chosen = sorted({inside[i] for i in np.linspace(0, len(inside) - 1, count + 2).astype(int)})
    scale = min(1, LINES / header.height)
    size = round(header.height * scale), round(header.width * scale)
    batches = decode.decode(path, header, size, (1, 1))
    images, last = {}, -1
    reader = Reader(batches, 0)
    for k in chosen[1:-1]:
        for number in drawings[k : k + 3].tolist():
            if number > last:
                images[number], last = reader(number), number
        yield [images[number] for number in drawings[k : k + 3].tolist()]
    batches.close()


def score(images: dict[str, np.ndarray], truth: np.ndarray, lpips: LpipsMetric) -> dict:
    """PSNR, SSIM and LPIPS by method."""
    true = torch.from_numpy(truth)[None]
    features, rows = lpips.features(true), {}
    for name, image in images.items():
        drawn = torch.from_numpy(np.ascontiguousarray(image))[None]
        distance = lpips.distance(lpips.features(drawn), features)
        rows[name] = [float(x) for x in (psnr(drawn, true), ssim(drawn, true), distance)]
    return rows


def peak_memory(seconds: int, video: Path, folder: Path) -> float:
    """GB of the command and its children for a film of that length, a drawing each half second."""
    film = folder / f"{seconds}.mp4"
    held = ["-vf", f"fps=2,fps=24,scale={LARGE[1]}:{LARGE[0]}", "-t", str(seconds)]
    given = ["-stream_loop", "-1", "-i", str(video)]
    subprocess.run([executable(), "-v", "error", *given, *held, "-an", str(film)], check=True)
    options = ["--factor", "2", "--holds", "keep"]
    command = [sys.executable, "-m", "pipeline", "retime", film, folder / "out.mp4", *options]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            most = max(most, sum(each.memory_info().rss for each in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    assert process.returncode == 0, process.returncode
    return most / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of mp4 files")
    parser.add_argument("--triples", type=int, default=4, help="of each video")
    parser.add_argument("--strip", type=Path, help="a picture of some of them")
    parser.add_argument("--skip-memory", action="store_true")
    arguments = parser.parse_args()
    settings = config.load()
    device = runtime.prepare(settings.base)
    torch.set_num_threads(1)
    model = load_models(device, settings.base.precision)
    model.easing = EVEN
    draw, lpips, lines, rows = methods(model, device), LpipsMetric("alexnet", device), [], []
    with tempfile.TemporaryDirectory() as folder:
        for videos in arguments.folders:
            scores = []
            for path in sorted(videos.glob("*.mp4")):
                for a, truth, b in triples(path, model, settings, arguments.triples, Path(folder)):
                    images = {name: method(a, b) for name, method in draw.items()}
                    scores.append(score(images, truth, lpips))
                    change = float(np.abs(a.astype(np.int16) - b).mean())
                    rows.append((change, [a, truth, images["retime"], images["RIFE 4.0"], b]))
                    print(path.name, f"{change:.1f}", scores[-1], file=sys.stderr, flush=True)
            for name in draw:
                means = np.mean([row[name] for row in scores], 0)
                for metric, value in zip(("PSNR", "SSIM", "LPIPS"), means, strict=True):
                    unit = f"{metric}, {len(scores)} of {videos.name}"
                    lines.append(line(f"retime/{name}", float(value), unit))
        a, b = (frames.resize(rows[-1][1][k], *LARGE) for k in (0, -1))
        times = {name: [] for name in ("retime", "RIFE 4.0")}
        for _ in range(3):
            for name, measured in times.items():
                model._flows.clear()
                begun = time.perf_counter()
                draw[name](a, b)
                measured.append(time.perf_counter() - begun)
        ours, theirs = (min(measured) for measured in times.values())
        lines.append(line("retime/retime", 1 / ours, "frames/s, 720p", theirs / ours, "RIFE 4.0"))
        lines.append(line("retime/RIFE 4.0", 1 / theirs, "frames/s, 720p"))
        if not arguments.skip_memory:
            for seconds in (4, 12):
                gigabytes = peak_memory(seconds, path, Path(folder))
                lines.append(line(f"retime/{seconds} s of 720p", gigabytes, "GB, peak"))
    show(lines, "retime")
    if arguments.strip:
        rows.sort(key=lambda row: -row[0])
        images = [np.concatenate([frames.resize(x, 144, 256) for x in r[1]], 1) for r in rows]
        Image.fromarray(np.concatenate(images[: 2 * SHOWN : 2])).save(arguments.strip)


if __name__ == "__main__":
    run_main(main)
