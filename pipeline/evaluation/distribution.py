"""Numbers of whole sets: FVD and KVD of clips, and all that is measured of the tokenizer.

A distance of sets says little by itself: beside each stand the number of samples behind it and its
floor, the distance of one half of the true samples from the other half. FVD and KVD compare one
half of the drawn clips with the other half of the true ones, because a clip against its own truth
falls below that floor whatever it draws. Where there are too few samples for a distance to rank
what is known to rank (benchmarks.ruler measures it), it stands under `unranked`.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline import progress
from pipeline.data.datasets import ClipSet
from pipeline.errors import UserError
from pipeline.evaluation.metrics.distances import frechet, halved, polynomial_mmd
from pipeline.evaluation.metrics.extractors import FeatureStore, ImageFeatures, VideoFeatures
from pipeline.evaluation.metrics.image import psnr, ssim
from pipeline.evaluation.metrics.perceptual import Perceptual
from pipeline.evaluation.warnings import Notes
from pipeline.inference.inbetweener import InBetweener
from pipeline.models.pretrained.i3d import LEAST_FRAMES

VIDEO_MEASURES = {"fvd": frechet, "kvd": polynomial_mmd}
TRUTH = "truth"
WARN_CLIPS = 256  # FVD of fewer clips carries a warning
# Fewest samples at which the distances rank truth, cross-fade and frozen frame (clips), or truth
# and two blurs (pictures), measured on cartoons by benchmarks.ruler (docs/results/ruler.md).
RANKS_FROM = {"fvd": 96, "kvd": 48, "fid": 32}
FEWEST = 8  # samples, below which no distance is formed
FRAMES_PER_CLIP = 4  # by which the tokenizer is measured, evenly spread over the inner frames


@dataclass(frozen=True)
class Extractor:
    """A feature network, and where its features of true frames are kept for the next time."""

    network: ImageFeatures | VideoFeatures
    store: FeatureStore

    def __call__(self, frames: torch.Tensor) -> np.ndarray:
        return self.network(frames)

    def of_truth(self, frames: torch.Tensor) -> np.ndarray:
        return self.store.get_or_make(self.network.tag, frames, self.network)


@dataclass
class VideoSets:
    """Collects I3D features of the inner frames, clip by clip, and compares the sets at the end."""

    features: Extractor
    wanted: tuple[str, ...]
    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)
    short: int = 0

    def add(self, clip_id: str, truth: torch.Tensor, candidates: dict[str, torch.Tensor]) -> None:
        """Clips uint8 `n H W 3` with their given ends; the truth's features are kept on disk."""
        inner = truth[1:-1]
        if len(inner) < LEAST_FRAMES:
            self.short += 1
            return
        self._append(TRUTH, clip_id, self.features.of_truth(inner))
        for name in self.wanted:
            self._append(name, clip_id, self.features(candidates[name][1:-1]))

    def _append(self, name: str, clip_id: str, row: np.ndarray) -> None:
        if not np.isfinite(row).all():
            raise UserError(
                f"clip {clip_id}: the video network's features of {name} are no finite numbers, "
                "expected 400 of them; its weights or the frames are damaged"
            )
        self.rows.setdefault(name, []).append(row)

    def numbers(self, halvings: int, seed: int, notes: Notes) -> dict[str, dict]:
        """FVD and KVD by candidate, each with floor, deviations and n; reasons go to `notes`."""
        n = len(self.rows.get(TRUTH, ()))
        if self.short:
            notes.warn(
                f"FVD and KVD leave out {self.short} clips with fewer than {LEAST_FRAMES} inner "
                "frames, which I3D cannot take"
            )
        if n < FEWEST:
            reason = f"{n} clips of at least {LEAST_FRAMES} inner frames, at least {FEWEST} needed"
            for measure in VIDEO_MEASURES:
                notes.leave_out(measure, reason)
            return {}
        if n < WARN_CLIPS:
            notes.warn(f"FVD of {n} clips, fewer than {WARN_CLIPS}: read it beside its floor only")
        truth = np.stack(self.rows[TRUTH])
        found = {}
        for name in self.wanted:
            drawn = np.stack(self.rows[name])
            found[name] = {}
            for measure, function in VIDEO_MEASURES.items():
                half = halved(drawn, truth, function, halvings, seed)
                found[name] |= {
                    measure: half.value,
                    f"{measure}_deviation": half.deviation,
                    f"{measure}_floor": half.floor,
                    f"{measure}_floor_deviation": half.floor_deviation,
                    f"{measure}_n": n,
                }
        return found


def measure_tokenizer(
    model: InBetweener, clips: ClipSet, tools: "ImageTools", notes: Notes
) -> tuple[dict, np.ndarray]:
    """Numbers of some frames' reconstructions; and how often each code was used, `V`."""
    scores: dict[str, list[float]] = {}
    uses = np.zeros(len(model.tokenizer.codebook), np.int64)
    with progress.bar(what="tokenizer", unit="clip", total=len(clips)) as bar:
        for number in range(len(clips)):
            clip = clips[number].frames
            drawn, ids = model.round_trip(clip)
            chosen = torch.linspace(0, len(drawn) - 1, min(FRAMES_PER_CLIP, len(drawn))).long()
            for name, values in tools.scores(drawn[chosen], clip[1:-1][chosen]).items():
                scores.setdefault(name, []).extend(values.tolist())
            uses += np.bincount(ids.flatten().numpy(), minlength=len(uses))
            bar.update()
    numbers = {name: float(np.mean(values)) for name, values in scores.items()}
    numbers |= tools.distance(notes)
    share = uses[uses > 0] / uses.sum()
    numbers["codebook_usage"] = float((uses > 0).mean())
    numbers["perplexity"] = float(np.exp(-(share * np.log(share)).sum()))
    return numbers | {"n": len(next(iter(scores.values())))}, uses


class ImageTools:
    """Measures of pictures against their reconstructions; collects features for the FID."""

    def __init__(
        self,
        perceptual: Perceptual | None,
        features: Extractor | None,
        halvings: int,
        seed: int,
    ) -> None:
        self.perceptual, self.features = perceptual, features
        self.halvings, self.seed = halvings, seed
        self.drawn: list[np.ndarray] = []
        self.true: list[np.ndarray] = []

    def scores(self, drawn: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        """uint8 `B H W 3` each."""
        found = {"psnr": psnr(drawn, truth), "ssim": ssim(drawn, truth)}
        if self.perceptual:
            see = self.perceptual.see
            found["lpips"] = self.perceptual.distance(see(drawn), see(truth))
        if self.features:
            self.drawn.append(self.features(drawn))
            self.true.append(self.features.of_truth(truth))
        return found

    @property
    def drawn_features(self) -> np.ndarray:
        return np.concatenate(self.drawn)  # n D

    @property
    def true_features(self) -> np.ndarray:
        return np.concatenate(self.true)

    def distance(self, notes: Notes) -> dict[str, float | int]:
        """`fid_<network>` of all pictures against their reconstructions, as it is usually reported.

        It has no floor: the two sets are of the same pictures. `.._half` compares different ones,
        half against half, and `.._floor` is its floor.
        """
        if self.features is None:
            return {}
        name = f"fid_{self.features.network.name}"
        drawn, true = self.drawn_features, self.true_features
        if len(true) < FEWEST:
            notes.leave_out(name, f"{len(true)} test pictures, at least {FEWEST} needed")
            return {}
        if not (np.isfinite(drawn).all() and np.isfinite(true).all()):
            raise UserError(
                f"{name}: features of the test pictures are no finite numbers; the tokenizer or "
                "the network's weights are damaged"
            )
        half = halved(drawn, true, frechet, self.halvings, self.seed)
        return {
            name: frechet(drawn, true),
            f"{name}_half": half.value,
            f"{name}_half_deviation": half.deviation,
            f"{name}_floor": half.floor,
            f"{name}_floor_deviation": half.floor_deviation,
            f"{name}_n": len(true),
        }
