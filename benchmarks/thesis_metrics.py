"""What videos without a model score on Moving MNIST, by the thesis' metrics and by ours.

    python -m benchmarks.thesis_metrics [--mnist FOLDER] [--clips 500]

Clips of 10 frames, as the thesis measured, and of 20. Prints a table, then a JSON line a number.
`given`: frames 1..n-1, as the thesis counts, the given last one among them; `inner`: 1..n-2. A
candidate that hands over the given last frame has a PSNR of infinity there.

Also, by simulation: which share of one pass' test clips was train in passes before, as the thesis
drew its splits anew from a reshuffled stream at each pass.
"""

import gzip
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.lines import options
from pipeline import progress
from pipeline.errors import UserError
from pipeline.evaluation.baselines import SIMPLE
from pipeline.evaluation.metrics.image import psnr, ssim
from pipeline.evaluation.metrics.thesis_metrics import thesis_psnr, thesis_ssim

MNIST = Path(os.environ.get("NAKAWARI_DATA", "../shared/data")) / "mnist"
DIGITS = "t10k-images-idx3-ubyte.gz"
SIDE, DIGIT, STEP = 64, 28, 3.6  # pixels; step a frame: a tenth of the way a digit has
STREAMS = {"moving_mnist": 10_000, "kimetsu_no_yaiba": 35_267}  # clips of the thesis' sets
BUFFER = 5_000  # clips of which tf.data's shuffle picks the next one
PASSES = (1, 10, 50)
MEASURES = {
    "thesis psnr given": (thesis_psnr, None, "dB"),
    "thesis psnr inner": (thesis_psnr, -1, "dB"),
    "thesis ssim given": (thesis_ssim, None, "ssim"),
    "thesis ssim inner": (thesis_ssim, -1, "ssim"),
    "our psnr inner": (psnr, -1, "dB"),
    "our ssim inner": (ssim, -1, "ssim"),
}


def read_digits(folder: Path) -> np.ndarray:
    """uint8 `N 28 28`, MNIST's test digits."""
    path = folder / DIGITS
    if not path.exists():
        raise UserError(
            f"{path} is missing, expected MNIST's test images; name their folder with --mnist, or "
            "set NAKAWARI_DATA to the folder that holds mnist/"
        )
    content = gzip.decompress(path.read_bytes())
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, DIGIT, DIGIT)


def moving_mnist(
    digits: np.ndarray, n_clips: int, n_frames: int, seed: int
) -> Iterator[torch.Tensor]:
    """Clips uint8 `n 64 64 3` of two digits each, as Srivastava et al. (2015) made them.

    Each goes straight on at STEP pixels a frame, and bounces off the borders; the brighter shows.
    """
    random = np.random.default_rng(seed)
    for _ in range(n_clips):
        canvas = np.zeros((n_frames, SIDE, SIDE), np.uint8)
        for digit in digits[random.integers(len(digits), size=2)]:
            for frame, (top, left) in zip(canvas, _path(n_frames, random), strict=True):
                place = frame[top : top + DIGIT, left : left + DIGIT]
                np.maximum(place, digit, out=place)
        yield torch.from_numpy(canvas)[..., None].repeat(1, 1, 1, 3)


def _path(n_frames: int, random: np.random.Generator) -> np.ndarray:
    """A digit's upper left corner in whole pixels, `n 2`: a straight line, folded at borders."""
    room = SIDE - DIGIT
    angle = random.uniform(0, 2 * math.pi)
    straight = random.uniform(0, room, 2) + np.outer(
        np.arange(n_frames), STEP * np.array([math.sin(angle), math.cos(angle)])
    )
    return np.rint(room - np.abs(straight % (2 * room) - room)).astype(int)


def candidates(clip: torch.Tensor) -> dict[str, torch.Tensor]:
    """Frames 1..n-1 of uint8 `n H W 3` as each would deliver them: uint8 `n-1 H W 3`."""
    inner = {name: way(clip) for name, way in SIMPLE.items()}
    last = {"black": torch.zeros_like(clip[:1]), "hold_first": clip[:1]}
    return {name: torch.cat([x, last.get(name, clip[-1:])]) for name, x in inner.items()}


def scores(clips: list[torch.Tensor]) -> dict[str, dict[str, float]]:
    """By candidate and measure: the mean of each clip, then of all."""
    found: dict[str, dict[str, list[float]]] = {}
    for clip in progress.bar(clips, what=f"clips of {len(clips[0])} frames", unit="clip"):
        for name, drawn in candidates(clip).items():
            row = found.setdefault(name, {measure: [] for measure in MEASURES})
            for way in (thesis_psnr, thesis_ssim, psnr, ssim):
                values = way(drawn, clip[1:])
                for measure, (its_way, end, _) in MEASURES.items():
                    if its_way is way:
                        row[measure].append(float(values[:end].mean()))
    return {
        name: {measure: float(np.mean(values)) for measure, values in row.items()}
        for name, row in found.items()
    }


def shuffled(n: int, buffer: int, random: np.random.Generator) -> np.ndarray:
    """Numbers 0..n-1 in the order of a shuffle that holds `buffer` of them at a time."""
    held = list(range(min(buffer, n)))
    order = []
    for new, chance in enumerate(random.random(n), len(held)):
        place = int(chance * len(held))
        order.append(held[place])
        if new < n:
            held[place] = new
        else:
            held[place] = held[-1]
            held.pop()
    return np.array(order)


def seen_before(n: int, passes: int, random: np.random.Generator) -> list[float]:
    """Share of a pass' test clips (the last tenth) that were train (the first 80 %) in one of the
    1, 2, ..., `passes` passes before."""
    test = shuffled(n, BUFFER, random)[int(n * 0.9) :]
    seen = np.zeros(n, bool)
    shares = []
    for _ in range(passes):
        seen[shuffled(n, BUFFER, random)[: int(n * 0.8)]] = True
        shares.append(float(seen[test].mean()))
    return shares


def main() -> None:
    parser = options(mnist=MNIST, clips=500)
    given = parser.parse_args()
    torch.set_num_threads(1)  # small pictures gain nothing from more
    digits = read_digits(given.mnist)
    lines = []
    for n_frames in (10, 20):
        found = scores(list(moving_mnist(digits, given.clips, n_frames, seed=0)))
        lines += _show(found, n_frames, given.clips)
    lines += _show_splits()
    for line in lines:
        print(json.dumps(line))


def _show(found: dict[str, dict[str, float]], n_frames: int, n: int) -> list[dict]:
    table = Table(title=f"{n} clips of {n_frames} frames", title_justify="left")
    for column in ("candidate", *MEASURES):
        table.add_column(column)
    lines = []
    for name, row in found.items():
        table.add_row(name, *(f"{value:.4g}" for value in row.values()))
        for measure, value in row.items():
            label = f"thesis_metrics/{n_frames}/{name}/{measure.replace(' ', '_')}"
            line = {"name": label, "value": value, "unit": MEASURES[measure][2], "n": n}
            if not math.isfinite(value):
                line |= {"value": None, "reason": "infinite: the last frame is the given one"}
            lines.append(line)
    Console(width=100).print(table)
    return lines


def _show_splits() -> list[dict]:
    title = "% of a pass' test clips that were train in one of so many passes before"
    table = Table("clips", *map(str, PASSES), title=title, title_justify="left")
    lines = []
    for name, n in STREAMS.items():
        shares = seen_before(n, max(PASSES), np.random.default_rng(0))
        table.add_row(name, *(f"{100 * shares[passes - 1]:.0f}" for passes in PASSES))
        lines += [
            {
                "name": f"thesis_metrics/seen/{name}/{p}",
                "value": shares[p - 1],
                "unit": "share",
                "n": n,
            }
            for p in PASSES
        ]
    Console(width=100).print(table)
    return lines


if __name__ == "__main__":
    main()
