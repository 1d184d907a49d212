"""The model and the baselines by the thesis' metrics, for reading beside its tables only.

Scored are frames 1..n-1. The thesis' model generated the last frame as well, which it had been
given; ours is not asked to, so in its place stands the given last frame through the tokenizer
(black stays black), for all methods alike. Each repetition takes other batches of the same clips.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.data.datasets import ClipSet
from pipeline.evaluation.distribution import TRUTH, VIDEO_DISTANCES
from pipeline.evaluation.methods import GeneratedClip
from pipeline.evaluation.metrics.extractors import VideoFeatures
from pipeline.evaluation.metrics.thesis_metrics import (
    BATCH_SIZE,
    summarize_repetitions,
    thesis_batches,
    thesis_scores,
    thesis_video_input,
    truncated_frames,
)
from pipeline.evaluation.summary import MODEL, Remarks


@dataclass
class ThesisProtocol:
    """Collects one split's clips, in any order, and sums them up."""

    split: str
    chosen: dict[str, dict[int, list[int]]]  # by clip_id and repetition: the frames that count
    repetitions: int
    round_trip: Callable[[torch.Tensor], torch.Tensor]  # a given frame through the tokenizer
    video: VideoFeatures | None  # None: no FVD and KVD
    # by method and repetition: sums of each metric and the number of clips; rows of features
    sums: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    features: dict[tuple[str, int], list[torch.Tensor]] = field(default_factory=dict)

    KEPT = ("sums", "features")  # what a killed evaluation goes on with

    def add(self, generated: GeneratedClip) -> None:
        truth = generated.clip.frames
        last = self.round_trip(truth[-1:])
        clips = {
            name: torch.cat([clip[:-1], torch.zeros_like(last) if name == "black" else last])
            for name, clip in generated.methods.items()
        }
        scores = {name: thesis_scores(clip, truth) for name, clip in clips.items()}
        known: dict[tuple, torch.Tensor] = {}  # repetitions often take the same frames
        for repetition, frames in self.chosen.get(generated.clip.clip_id, {}).items():
            for name, metrics in scores.items():
                sums = self.sums.setdefault((name, repetition), {"n": 0})
                sums["n"] += 1
                for metric, values in metrics.items():
                    sums[metric] = sums.get(metric, 0.0) + float(values[frames[1:]].mean())
            if self.video:
                for name, clip in {TRUTH: truth, MODEL: clips[MODEL]}.items():
                    key = (name, *frames)
                    if key not in known:
                        features = self.video(thesis_video_input(clip[frames]))
                        known[key] = torch.from_numpy(features)
                    self.features.setdefault((name, repetition), []).append(known[key])

    def numbers(self, remarks: Remarks) -> dict[str, dict]:
        """method -> metric -> mean, deviation, n (clips); what is infinite is left out."""
        results: dict[str, dict] = {}
        left_out: dict[tuple[str, str], list[str]] = {}
        for name in dict.fromkeys(name for name, _ in self.sums):
            done = [r for r in range(self.repetitions) if (name, r) in self.sums]
            numbers, reasons = summarize_repetitions([self._metrics(name, r) for r in done])
            clips = self.sums[name, done[0]]["n"]
            for metric_and_reason in reasons.items():
                left_out.setdefault(metric_and_reason, []).append(name)
            if numbers:
                results[name] = {metric: row | {"n": clips} for metric, row in numbers.items()}
        for (metric, reason), names in left_out.items():
            key = f"thesis_metrics.{self.split}.{metric} of {', '.join(names)}"
            remarks.leave_out(key, reason)
        if not results:
            remarks.leave_out(
                f"thesis_metrics.{self.split}",
                f"{len(self.chosen)} clips fill no batch of {BATCH_SIZE}, as the thesis took them",
            )
        return results

    def _metrics(self, name: str, repetition: int) -> dict[str, float]:
        sums = self.sums[name, repetition]
        metrics = {key: total / sums["n"] for key, total in sums.items() if key != "n"}
        if (name, repetition) in self.features:
            sets = [torch.stack(self.features[method, repetition]) for method in (name, TRUTH)]
            sets = [features.numpy() for features in sets]
            metrics |= {key: distance(*sets) for key, distance in VIDEO_DISTANCES.items()}
        return metrics


def choose_frames(clips: ClipSet, repetitions: int, seed: int) -> dict[str, dict[int, list[int]]]:
    """For each clip, the frames that count in each repetition; in some it may not be at all."""
    chosen: dict[str, dict[int, list[int]]] = {clips.clip_id(row): {} for row in range(len(clips))}
    for repetition in range(repetitions):
        rng = np.random.default_rng((seed, repetition, 1))
        for batch in thesis_batches(len(clips), repetition, seed):
            frames = truncated_frames([clips.lengths[row] for row in batch], rng)
            for row, its_frames in zip(batch, frames, strict=True):
                chosen[clips.clip_id(row)][repetition] = its_frames
    return chosen
