"""Metrics of whole sets: FVD and KVD of clips, and all that is measured of the tokenizer.

A distance of sets says little by itself: beside each stand the number of samples behind it and its
floor, the distance of one half of the true samples from the other half. FVD and KVD compare one
half of the generated clips with the other half of the true ones, because a clip against its own
truth falls below that floor whatever it shows. Where there are too few samples for a distance to
rank what is known to rank (benchmarks.metric_ranking measures it), it stands under `unranked`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.evaluation.metrics.distances import frechet, polynomial_mmd, split_half
from pipeline.evaluation.metrics.extractors import ImageFeatures, VideoFeatures
from pipeline.evaluation.metrics.image import LpipsMetric, psnr, ssim
from pipeline.evaluation.summary import MODEL, Remarks
from pipeline.inference.inbetweener import InBetweener
from pipeline.models.pretrained.i3d import LEAST_FRAMES
from pipeline.models.vqgan.quantizers import perplexity

VIDEO_DISTANCES = {"fvd": frechet, "kvd": polynomial_mmd}
TRUTH = "truth"
WARN_CLIPS = 256  # FVD of fewer clips carries a warning
# Fewest samples at which the distances rank truth, cross-fade and frozen frame (clips), or truth
# and two blurs (images), measured on cartoons by benchmarks.metric_ranking.
RANKS_FROM = {"fvd": 96, "kvd": 48, "fid": 32}
FEWEST = 8  # samples, below which no distance is formed
N_SPLITS = 20  # random splits into halves, of which a distance is the mean
FRAMES_PER_CLIP = 4  # by which the tokenizer is measured, evenly spread over the inner frames
# Numbers beside a distance, by the end of their names
BESIDE = ("deviation", "half", "half_deviation", "floor", "floor_deviation", "n")


@dataclass
class VideoSets:
    """Collects I3D features of the inner frames, clip by clip, and compares the sets at the end."""

    network: VideoFeatures
    methods: tuple[str, ...]
    rows: dict[str, list[torch.Tensor]] = field(default_factory=dict)  # of 400 numbers
    short: int = 0

    KEPT = ("rows", "short")  # what a killed evaluation goes on with

    def add(self, clip_id: str, truth: torch.Tensor, methods: dict[str, torch.Tensor]) -> None:
        """Clips uint8 `n H W 3` with their given ends."""
        if len(truth) - 2 < LEAST_FRAMES:
            self.short += 1
            return
        for name, clip in {TRUTH: truth, **{name: methods[name] for name in self.methods}}.items():
            features = self.network(clip[1:-1])
            if not np.isfinite(features).all():
                raise UserError(
                    f"clip {clip_id}: the video network's features of {name} are no finite "
                    "numbers, expected 400 of them; its weights or the frames are damaged"
                )
            self.rows.setdefault(name, []).append(torch.from_numpy(features))

    def numbers(self, seed: int, remarks: Remarks) -> dict[str, dict]:
        """FVD and KVD by method, each with floor, deviations and n; reasons go to `remarks`."""
        n = len(self.rows.get(TRUTH, ()))
        if self.short:
            remarks.warn(
                f"FVD and KVD leave out {self.short} clips with fewer than {LEAST_FRAMES} inner "
                "frames, which I3D cannot take"
            )
        if n < FEWEST:
            reason = f"{n} clips of at least {LEAST_FRAMES} inner frames, at least {FEWEST} needed"
            for name in VIDEO_DISTANCES:
                remarks.leave_out(name, reason)
            return {}
        if n < WARN_CLIPS:
            remarks.warn(
                f"FVD of {n} clips, fewer than {WARN_CLIPS}: read it beside its floor only"
            )
        truth = torch.stack(self.rows[TRUTH]).numpy()
        numbers: dict[str, dict] = {}
        for method in self.methods:
            features = torch.stack(self.rows[method]).numpy()
            numbers[method] = {}
            for name, distance in VIDEO_DISTANCES.items():
                numbers[method] |= _halves(name, name, features, truth, distance, seed)
        return numbers


@dataclass
class TokenizerSets:
    """Collects how well the tokenizer draws some frames of each clip, and its use of the codes."""

    model: InBetweener
    lpips: LpipsMetric | None
    network: ImageFeatures | None
    scores: dict[str, list[float]] = field(default_factory=dict)
    generated: list[torch.Tensor] = field(default_factory=list)  # features, `B D`
    truth: list[torch.Tensor] = field(default_factory=list)
    uses: torch.Tensor | int = 0  # `V`

    KEPT = ("scores", "generated", "truth", "uses")

    def add(self, clip: torch.Tensor) -> None:
        """uint8 `n H W 3` with its given ends."""
        inner, ids = self.model.round_trip(clip)
        chosen = torch.linspace(0, len(inner) - 1, min(FRAMES_PER_CLIP, len(inner))).long()
        images, truth = inner[chosen], clip[1:-1][chosen]
        values = {"psnr": psnr(images, truth), "ssim": ssim(images, truth)}
        if self.lpips:
            features = self.lpips.features(images), self.lpips.features(truth)
            values["lpips"] = self.lpips.distance(*features)
        for name, of_images in values.items():
            self.scores.setdefault(name, []).extend(of_images.tolist())
        if self.network:
            self.generated.append(torch.from_numpy(self.network(images)))
            self.truth.append(torch.from_numpy(self.network(truth)))
        self.uses += torch.bincount(ids.flatten(), minlength=len(self.model.tokenizer.codebook))

    def numbers(self, seed: int, remarks: Remarks) -> tuple[dict, np.ndarray]:
        """Means over the frames, and the uses of each code, int64 `V`."""
        numbers = {name: float(np.mean(values)) for name, values in self.scores.items()}
        if self.network:
            sets = torch.cat(self.generated).numpy(), torch.cat(self.truth).numpy()
            numbers |= fid(f"fid_{self.network.name}", *sets, seed, remarks)
        uses = self.uses.numpy()
        numbers["codebook_usage"] = float((uses > 0).mean())
        numbers["perplexity"] = float(perplexity(self.uses))
        return numbers | {"n": len(self.scores["psnr"])}, uses


def fid(
    name: str, generated: np.ndarray, truth: np.ndarray, seed: int, remarks: Remarks
) -> dict[str, float | int]:
    """Fréchet distance of all images' features `n D` to their reconstructions', as is usual.

    It has no floor: the two sets are of the same images. `.._half` compares different ones,
    half against half, and `.._floor` is its floor.
    """
    if len(truth) < FEWEST:
        remarks.leave_out(name, f"{len(truth)} test images, at least {FEWEST} needed")
        return {}
    if not (np.isfinite(generated).all() and np.isfinite(truth).all()):
        raise UserError(
            f"{name}: features of the test images are no finite numbers; the tokenizer or "
            "the network's weights are damaged"
        )
    halves = _halves(name, f"{name}_half", generated, truth, frechet, seed)
    return {name: frechet(generated, truth)} | halves


def _halves(
    name: str, key: str, generated: np.ndarray, truth: np.ndarray, distance: Callable, seed: int
) -> dict[str, float | int]:
    """A distance half against half as `key`, with its deviation, its floor, and n."""
    half = split_half(generated, truth, distance, N_SPLITS, seed)
    return {
        key: half.value,
        f"{key}_deviation": half.deviation,
        f"{name}_floor": half.floor,
        f"{name}_floor_deviation": half.floor_deviation,
        f"{name}_n": len(truth),
    }


def add_video_numbers(details: dict, numbers: dict[str, dict]) -> None:
    """FVD and KVD beside the other numbers of their method (all clips only)."""
    for name, values in numbers.items():
        (details["inbetween"] if name == MODEL else details["baselines"][name]).update(values)


def move_unranked(details: dict) -> None:
    """Moves distances of too few samples under `unranked`, each at its own place there."""
    places = {("tokenizer",): details["tokenizer"], ("inbetween",): details["inbetween"]}
    places |= {("baselines", name): metrics for name, metrics in details["baselines"].items()}
    for path, metrics in places.items():
        for name in [key for key in metrics if f"{key}_floor" in metrics]:
            if metrics[f"{name}_n"] >= RANKS_FROM[name.split("_")[0]]:
                continue
            unranked = details.setdefault("unranked", {})
            for part in path:
                unranked = unranked.setdefault(part, {})
            for key in (name, *(f"{name}_{end}" for end in BESIDE)):
                if key in metrics:
                    unranked[key] = metrics.pop(key)
