"""Numbers of one clip: a row a candidate, and each measure frame by frame.

Scored are the inner frames 1..n-2 (the given ones are true by construction). A row's psnr, ssim,
lpips and line_chamfer are means over them; its diagnostics are those of `metrics.video`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.config import Evaluate
from pipeline.evaluation.methods import Drawn
from pipeline.evaluation.metrics.image import psnr, ssim
from pipeline.evaluation.metrics.line_chamfer import Outlines, chamfer
from pipeline.evaluation.metrics.perceptual import Perceptual, Seen
from pipeline.evaluation.metrics.video import TrueLevels, diagnose, diversity
from pipeline.evaluation.statistics.summary import MODEL, SCORES, motion_error

Scores = dict[str, np.ndarray]  # measure to float n-2, a value an inner frame


@dataclass(frozen=True)
class Looked:
    """What the measures need of a clip's inner frames, computed once."""

    frames: torch.Tensor  # uint8 n-2 H W 3, on the device
    outlines: Outlines
    seen: Seen | None


class ClipScorer:
    """Scores all candidates of a clip against the truth."""

    def __init__(self, settings: Evaluate, hold_threshold: float, device: torch.device) -> None:
        self.hold_threshold, self.device = hold_threshold, device
        network = settings.lpips_network
        folder: Path | None = settings.weights_folder
        self.perceptual = None if network == "none" else Perceptual(network, folder, device)

    def look(self, inner: torch.Tensor) -> Looked:
        seen = self.perceptual.see(inner) if self.perceptual else None
        return Looked(inner.to(self.device), Outlines.of(inner), seen)

    def scores(self, drawn: torch.Tensor, truth: Looked) -> Scores:
        """`drawn`: uint8 `n-2 H W 3`, the candidate's inner frames."""
        ours = self.look(drawn)
        found = {
            "psnr": psnr(ours.frames, truth.frames).cpu(),
            "ssim": ssim(ours.frames, truth.frames).cpu(),
            "line_chamfer": chamfer(ours.outlines, truth.outlines),
        }
        if self.perceptual:
            found["lpips"] = self.perceptual.distance(ours.seen, truth.seen)
        return {name: found[name].numpy() for name in SCORES if name in found}

    def rows(self, drawn: Drawn, about: dict) -> tuple[list[dict], dict[str, Scores]]:
        """Rows of the clip, each begun by `about`; and the scores by candidate and frame."""
        truth = drawn.clip.frames
        looked, levels = self.look(truth[1:-1]), TrueLevels.of(truth, self.hold_threshold)
        rows, by_frame = [], {}
        for name, clip in drawn.candidates.items():
            by_frame[name] = scores = self.scores(clip[1:-1], looked)
            row = about | {"candidate": name, "n_frames": len(truth)}
            row |= {measure: float(values.mean()) for measure, values in scores.items()}
            row |= diagnose(clip, truth, self.hold_threshold, levels)
            row["motion_error"] = motion_error(row["motion"], row["motion_true"])
            if name == MODEL and len(drawn.samples) > 1:
                row["diversity"] = diversity(drawn.samples)
            rows.append(row)
        return rows, by_frame
