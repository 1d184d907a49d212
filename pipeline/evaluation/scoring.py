"""Metrics of one clip: a row a method, and each metric frame by frame.

Scored are the inner frames 1..n-2 (the given ones are true by construction). A row's psnr, ssim,
lpips and line_chamfer are means over them; its diagnostics are those of `metrics.video`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from pipeline.config import Evaluate
from pipeline.evaluation.methods import GeneratedClip
from pipeline.evaluation.metrics.image import LpipsFeatures, LpipsMetric, psnr, ssim
from pipeline.evaluation.metrics.line_chamfer import Outlines, chamfer
from pipeline.evaluation.metrics.video import TrueLevels, diagnose, diversity
from pipeline.evaluation.summary import MODEL, SCORES, motion_error


@dataclass(frozen=True)
class ClipFeatures:
    """What the metrics need of a clip's inner frames, computed once."""

    frames: torch.Tensor  # uint8 n-2 H W 3, on the device
    outlines: Outlines
    lpips: LpipsFeatures | None


class ClipScorer:
    """Scores all methods of a clip against the truth; keeps means by frame index."""

    KEPT = ("frame_sums",)  # what a killed evaluation goes on with

    def __init__(self, settings: Evaluate, hold_threshold: float, device: torch.device) -> None:
        self.hold_threshold, self.device = hold_threshold, device
        network = settings.lpips_network
        self.lpips = None if network == "none" else LpipsMetric(network, device)
        self.frame_sums: dict[tuple[str, int], dict[str, float]] = {}  # by method and frame

    def features(self, inner: torch.Tensor) -> ClipFeatures:
        lpips = self.lpips.features(inner) if self.lpips else None
        return ClipFeatures(inner.to(self.device), Outlines.of(inner), lpips)

    def scores(self, inner: torch.Tensor, truth: ClipFeatures) -> dict[str, np.ndarray]:
        """Metric to `n-2` values; `inner`: uint8 `n-2 H W 3`, a method's inner frames."""
        generated = self.features(inner)
        scores = {
            "psnr": psnr(generated.frames, truth.frames).cpu(),
            "ssim": ssim(generated.frames, truth.frames).cpu(),
            "line_chamfer": chamfer(generated.outlines, truth.outlines),
        }
        if self.lpips:
            scores["lpips"] = self.lpips.distance(generated.lpips, truth.lpips)
        return {name: scores[name].numpy() for name in SCORES if name in scores}

    def rows(self, generated: GeneratedClip, about: dict) -> list[dict]:
        """A row a method, each begun by `about`."""
        truth = generated.clip.frames
        features, levels = self.features(truth[1:-1]), TrueLevels.of(truth, self.hold_threshold)
        rows = []
        for name, clip in generated.methods.items():
            scores = self.scores(clip[1:-1], features)
            for i in range(len(truth) - 2):
                sums = self.frame_sums.setdefault((name, i + 1), {"n": 0})
                sums["n"] += 1
                for metric, values in scores.items():
                    sums[metric] = sums.get(metric, 0.0) + float(values[i])
            row = about | {"method": name, "n_frames": len(truth)}
            row |= {metric: float(values.mean()) for metric, values in scores.items()}
            row |= diagnose(clip, truth, self.hold_threshold, levels)
            row["motion_error"] = motion_error(row["motion"], row["motion_true"])
            if name == MODEL and len(generated.samples) > 1:
                row["diversity"] = diversity(generated.samples)
            rows.append(row)
        return rows

    def by_frame(self) -> pd.DataFrame:
        """Means by frame index over the clips that have this frame: method, frame, n, metrics."""
        rows = []
        for (method, frame), sums in self.frame_sums.items():
            means = {name: total / sums["n"] for name, total in sums.items() if name != "n"}
            rows.append({"method": method, "frame": frame, "n": sums["n"]} | means)
        return pd.DataFrame(rows)
