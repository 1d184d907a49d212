"""Quality, speed and memory of retime, beside RIFE 4.0, a cross-fade and held drawings.

    python -m benchmarks.retime FOLDER ... [--triples 4] [--strip strip.png]

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
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.lines import line, show
from pipeline import config, frames, runtime
from pipeline.commands.generate import load_models
from pipeline.commands.retime import Reader, first_reading
from pipeline.errors import UserError, run_main
from pipeline.evaluation.metrics.image import LpipsMetric, psnr, ssim
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.retiming import Drawer
from pipeline.models.flow import EVEN
from pipeline.models.pretrained.rife import Rife, merge
from pipeline.video import decode
from pipeline.video.ffmpeg_input import executable
from pipeline.video.probe import probe

LINES, LARGE = 360, (720, 1280)


def methods(model: InBetweener, device: torch.device) -> dict[str, Callable]:
    """Name to a function of two pictures, uint8 `H W 3` each, that gives the one between."""
    drawer, rife = Drawer(model), Rife.pretrained().to(device)

    def with_tokens(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        size = model.ingest.height, model.ingest.width
        small = [torch.from_numpy(frames.resize(image, *size))[None] for image in (a, b)]
        large = torch.from_numpy(a)[None], torch.from_numpy(b)[None]
        return model.generate(*small, [3], large=large)[0][1].numpy()

    def by_rife(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        ends = [torch.from_numpy(x).movedim(-1, 0)[None].to(device) / 255 for x in (a, b)]
        image = merge(*ends, *rife.flows(*ends, torch.tensor([0.5])))
        return frames.to_uint8(2 * image - 1)[0].cpu().numpy()

    return {
        "retime": lambda a, b: next(drawer(a, b, np.array([0.5]))),
        "with tokens": with_tokens,
        "RIFE 4.0": by_rife,
        "cross-fade": lambda a, b: ((a.astype(np.uint16) + b + 1) // 2).astype(np.uint8),
        "held": lambda a, b: a,
    }


def triples(
    path: Path, model: InBetweener, settings: config.Params, count: int, folder: Path
) -> list[list[np.ndarray]]:
    """Three drawings in a row of one scene, uint8 `H W 3` each."""
    header = probe(path)
    film = first_reading(path, header, model, settings, None, saved := folder / "film.npz", [])
    saved.unlink()
    drawings = np.flatnonzero(film.new)
    rows = [drawings[k : k + 3].tolist() for k in range(len(drawings) - 2)]
    rows = [row for row in rows if not film.cut[row[1:]].any()]
    places = np.linspace(0, len(rows) - 1, count + 2).astype(int)[1:-1] if rows else []
    rows = [rows[k] for k in sorted({*places})]
    scale = min(1, LINES / header.height)
    size = round(header.height * scale), round(header.width * scale)
    with closing(decode.decode(path, header, size, (1, 1))) as batches:
        reader = Reader(batches, 0)
        images = {number: reader(number) for number in sorted({*chain(*rows)})}
    return [[images[number] for number in row] for row in rows]


def peak_memory(seconds: int, video: Path, folder: Path) -> float:
    """GB of the command and its children for a film of that length, a drawing each half second."""
    film = folder / f"{seconds}.mp4"
    held = ["-vf", f"fps=2,fps=24,scale={LARGE[1]}:{LARGE[0]}", "-t", str(seconds), "-an"]
    making = [executable(), "-v", "error", "-stream_loop", "-1", "-i", video, *held, film]
    subprocess.run(making, check=True)
    options = [film, folder / "out.mp4", "--factor", "2", "--holds", "keep"]
    command = [sys.executable, "-m", "pipeline", "retime", *options]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family = [process, *process.children(recursive=True)]
            most = max(most, sum(each.memory_info().rss for each in family))
        time.sleep(0.1)
    assert process.returncode == 0, process.returncode
    return most / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of mp4 files")
    parser.add_argument("--triples", type=int, default=4, help="of each video")
    parser.add_argument("--strip", type=Path, help="a picture of the one that changes most")
    arguments = parser.parse_args()
    for videos in arguments.folders:
        if not any(videos.glob("*.mp4")):
            raise UserError(f"{videos} holds no .mp4; expected a folder with pieces of films")
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
                    images = torch.from_numpy(np.stack([each(a, b) for each in draw.values()]))
                    true = torch.from_numpy(truth).expand_as(images)
                    distances = lpips.distance(lpips.features(images), lpips.features(true))
                    scores.append(torch.stack([psnr(images, true), ssim(images, true), distances]))
                    change = float(np.abs(a.astype(np.int16) - b).mean())
                    rows.append((change, [a, truth, images[0].numpy(), images[2].numpy(), b]))
                    print(path.name, f"{change:.1f}", scores[-1], file=sys.stderr, flush=True)
            if not scores:
                raise UserError(f"{videos}: no film has three drawings in a row; expected some")
            for name, means in zip(draw, torch.stack(scores).mean(0).T.tolist(), strict=True):
                for metric, value in zip(("PSNR", "SSIM", "LPIPS"), means, strict=True):
                    unit = f"{metric}, {len(scores)} of {videos.name}"
                    lines.append(line(f"retime/{name}", value, unit))
        a, b = (frames.resize(rows[-1][1][k], *LARGE) for k in (0, -1))
        times = {name: [] for name in ("retime", "RIFE 4.0")}
        for name in [*times] * 3:
            model._flows.clear()
            begun = time.perf_counter()
            draw[name](a, b)
            times[name].append(time.perf_counter() - begun)
        ours, theirs = (min(measured) for measured in times.values())
        lines.append(line("retime/retime", 1 / ours, "frames/s, 720p", theirs / ours, "RIFE 4.0"))
        lines.append(line("retime/RIFE 4.0", 1 / theirs, "frames/s, 720p"))
        for seconds in (4, 12):
            gigabytes = peak_memory(seconds, path, Path(folder))
            lines.append(line(f"retime/{seconds} s of 720p", gigabytes, "GB, peak"))
    show(lines, "retime")
    if arguments.strip:
        images = [frames.resize(image, 144, 256) for image in max(rows, key=lambda row: row[0])[1]]
        Image.fromarray(np.concatenate(images, 1)).save(arguments.strip)


if __name__ == "__main__":
    run_main(main)
