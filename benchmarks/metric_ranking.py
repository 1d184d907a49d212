"""Does each measure rank what is known to rank? Measured on true clips, before it judges a model.

    python -m benchmarks.metric_ranking --videos FOLDER [--threads 2]

Pictures: truth, a light and a strong blur, by PSNR, SSIM, LPIPS, line chamfer and the Fréchet
distance. Clips: truth (half against half), cross-fade, frozen frame, by FVD and KVD, as `evaluate`
computes them. For the distances of sets the table gives, by number of samples, in what share of
random subsets the order came out right; `RANKS_FROM` of pipeline/evaluation/distribution.py is the
fewest from which on that was at least SURE. Prints a table, then a JSON line a row.
"""

import json
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.lines import options
from pipeline import config, io, progress, runtime
from pipeline.data.clips import chunk_clips
from pipeline.data.executor import LocalPool
from pipeline.data.frame_file import open_frames
from pipeline.data.holds import index_frames
from pipeline.data.ingest import ingest
from pipeline.data.scenes import split_scenes
from pipeline.evaluation.baselines import cross_fade, hold_first
from pipeline.evaluation.metrics.distances import frechet, polynomial_mmd, split_half
from pipeline.evaluation.metrics.extractors import VideoFeatures, image_network
from pipeline.evaluation.metrics.image import LpipsMetric, psnr, ssim
from pipeline.evaluation.metrics.line_chamfer import Outlines, chamfer
from pipeline.models.pretrained.i3d import LEAST_FRAMES

BLURS = {"light_blur": 0.7, "strong_blur": 2.0}  # deviation of the Gaussian, pixels at 64x128
SURE = 1.0  # share of subsets that must come out right
SUBSETS, N_SPLITS = 40, 10
SAMPLES = (8, 16, 32, 48, 64, 96, 128, 192, 256)


def true_clips(videos: Path, work: Path) -> list[torch.Tensor]:
    """Clips uint8 `n H W 3` of a folder of videos, cut as the pipeline cuts them."""
    settings = config.load()
    ingest(videos, work / "frames", settings.ingest, LocalPool(settings.engine.workers))
    split_scenes(work / "frames", work / "scenes", settings.scene_split)
    index_frames(work / "frames", work / "scenes", work / "index", settings.frame_subsample)
    chunk_clips(
        work / "frames", work / "scenes", work / "index", work / "clips", settings.clip_chunk
    )
    table = io.read_table(work / "clips" / "clips.parquet", io.CLIPS)
    clips = []
    for row in table[table.split != ""].itertuples():
        frames = open_frames(work / "frames", row.video_id)
        clips.append(torch.from_numpy(np.stack([frames[i] for i in row.frames])))
    return clips


def blurred(images: torch.Tensor, deviation: float) -> torch.Tensor:
    """uint8 `B H W 3`, each blurred by a Gaussian."""
    soft = [cv2.GaussianBlur(image, (0, 0), deviation) for image in images.numpy()]
    return torch.from_numpy(np.stack(soft))


def picture_scores(images: torch.Tensor, lpips: dict[str, LpipsMetric]) -> dict[str, dict]:
    """Mean by measure and degradation, of uint8 `B H W 3` against themselves."""
    scores: dict[str, dict] = {}
    for name, deviation in ({"truth": 0.0} | BLURS).items():
        worse = blurred(images, deviation) if deviation else images
        found = {"psnr": psnr(worse, images), "ssim": ssim(worse, images)}
        found["line_chamfer"] = chamfer(Outlines.of(worse), Outlines.of(images))
        for network, metric in lpips.items():
            values = metric.distance(metric.features(worse), metric.features(images))
            found[f"lpips_{network}"] = values
        for measure, values in found.items():
            scores.setdefault(measure, {})[name] = float(values.mean())
    return scores


def ranked(values: list[float]) -> bool:
    """Whether the values rise strictly: truth first, the worst last."""
    return all(a < b for a, b in pairwise(values))


def set_order(
    truth: np.ndarray, worse: list[np.ndarray], measure: Callable, seed: int
) -> list[float]:
    """Floor of the truth, then the distance of each degradation: halves against halves."""
    halves = [split_half(rows, truth, measure, N_SPLITS, seed) for rows in worse]
    return [halves[0].floor, *(half.value for half in halves)]


def shares(
    truth: np.ndarray, worse: list[np.ndarray], measure: Callable, samples: tuple[int, ...]
) -> dict[int, float]:
    """By number of samples: the share of random subsets whose order is right."""
    random = np.random.default_rng(0)
    found = {}
    for n in (n for n in samples if n <= len(truth)):
        right = 0
        for seed in range(SUBSETS):
            rows = random.choice(len(truth), n, replace=False)
            right += ranked(set_order(truth[rows], [w[rows] for w in worse], measure, seed))
        found[n] = right / SUBSETS
    return found


def ranks_from(found: dict[int, float]) -> int | None:
    """The fewest samples from which on the order is right in SURE of the subsets."""
    fewest = None
    for n in sorted(found, reverse=True):
        if found[n] < SURE:
            break
        fewest = n
    return fewest


def clip_features(clips: list[torch.Tensor], features: VideoFeatures) -> dict[str, np.ndarray]:
    """I3D features of the inner frames: truth, cross-fade, frozen first frame."""
    rows: dict[str, list] = {"truth": [], "cross_fade": [], "frozen": []}
    long = [clip for clip in clips if len(clip) >= LEAST_FRAMES + 2]
    for clip in progress.bar(long, what="features of clips", unit="clip"):
        rows["truth"].append(features(clip[1:-1]))
        rows["cross_fade"].append(features(cross_fade(clip)))
        rows["frozen"].append(features(hold_first(clip).contiguous()))
    return {name: np.stack(values) for name, values in rows.items()}


def main() -> None:
    parser = options(videos=Path, threads=2)
    given = parser.parse_args()
    base = config.load().base.model_copy(update={"threads": given.threads})
    device = runtime.prepare(base)
    with tempfile.TemporaryDirectory() as work:
        clips = true_clips(given.videos, Path(work))
    images = torch.cat([clip[::5] for clip in clips])
    lines = _pictures(images, device) + _clips(clips, device)
    for line in lines:
        print(json.dumps(line))


def _pictures(images: torch.Tensor, device: torch.device) -> list[dict]:
    networks = {name: LpipsMetric(name, device) for name in ("alexnet", "vgg16")}
    scores = picture_scores(images[:: max(1, len(images) // 200)], networks)
    table = Table(title="Pictures: means", title_justify="left")
    for column in ("measure", "truth", *BLURS):
        table.add_column(column)
    lines = []
    for measure, values in scores.items():
        table.add_row(measure, *(f"{value:.4g}" for value in values.values()))
        lines += [
            {"name": f"metric_ranking/{measure}/{name}", "value": value, "unit": measure}
            for name, value in values.items()
        ]
    Console(width=100).print(table)
    network = image_network("vgg16", device)
    parts = {name: blurred(images, deviation) for name, deviation in BLURS.items()}
    truth = np.concatenate([network(part) for part in images.split(64)])
    worse = [np.concatenate([network(p) for p in part.split(64)]) for part in parts.values()]
    return lines + _share_lines("fid_vgg16", truth, worse, frechet)


def _clips(clips: list[torch.Tensor], device: torch.device) -> list[dict]:
    rows = clip_features(clips, VideoFeatures(device))
    worse = [rows["cross_fade"], rows["frozen"]]
    lines = []
    for name, measure in (("fvd", frechet), ("kvd", polynomial_mmd)):
        lines += _share_lines(name, rows["truth"], worse, measure)
    return lines


def _share_lines(
    name: str, truth: np.ndarray, worse: list[np.ndarray], measure: Callable
) -> list[dict]:
    found = shares(truth, worse, measure, SAMPLES)
    order = set_order(truth, worse, measure, 0)
    table = Table(title=f"{name}: share of {SUBSETS} subsets in the right order")
    for n in found:
        table.add_column(str(n))
    table.add_row(*(f"{share:.2f}" for share in found.values()))
    Console(width=100).print(table)
    shown = ", ".join(f"{value:.4g}" for value in order)
    print(f"{name} of all {len(truth)}: {shown}; ranks from {ranks_from(found)}")
    lines = [
        {"name": f"metric_ranking/{name}/share", "value": share, "unit": "share of subsets", "n": n}
        for n, share in found.items()
    ]
    return lines + [
        {"name": f"metric_ranking/{name}/order", "value": value, "unit": name, "place": place}
        for place, value in enumerate(order)
    ]


if __name__ == "__main__":
    main()
