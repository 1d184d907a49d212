"""The model and the baselines by the thesis' ruler, to be set beside its tables and nowhere else.

Scored are frames 1..n-1. The thesis' model drew the last frame as well, which it had been given;
ours is not asked to, so in its place stands the given last frame through the tokenizer (black
stays black), for all candidates alike. Each repetition takes other batches of the same clips.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline import progress
from pipeline.data.datasets import ClipSet, batches
from pipeline.evaluation.distribution import TRUTH, VIDEO_MEASURES, Extractor
from pipeline.evaluation.methods import Candidates, Drawn, check_length, check_size
from pipeline.evaluation.metrics.thesis_metrics import (
    BATCH,
    seed_batches,
    seed_frames,
    seed_scores,
    seed_summary,
    seed_video,
)
from pipeline.evaluation.statistics.summary import MODEL
from pipeline.evaluation.warnings import Notes

OURS = (MODEL,)  # candidates whose FVD and KVD are computed
Chosen = dict[int, list[int]]  # repetition to the frames of a clip that it looks at


@dataclass
class SeedRuler:
    """Collects one split's clips, in any order, and sums them up."""

    split: str
    chosen: dict[str, Chosen]  # by clip_id
    repetitions: int
    round_trip: Callable[[torch.Tensor], torch.Tensor]  # a given frame as the tokenizer shows it
    video: Extractor | None  # None: no FVD and KVD
    # by candidate and repetition: sums of each measure and the number of clips; rows of features
    sums: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    features: dict[tuple[str, int], list[np.ndarray]] = field(default_factory=dict)

    def add(self, drawn: Drawn) -> None:
        truth = drawn.clip.frames
        last = self.round_trip(truth[-1:])
        clips = {name: _ended(name, clip, last) for name, clip in drawn.candidates.items()}
        scores = {name: seed_scores(clip, truth) for name, clip in clips.items()}
        known: dict[tuple, np.ndarray] = {}  # repetitions often look at the same frames
        for repetition, frames in self.chosen.get(drawn.clip.clip_id, {}).items():
            for name, measures in scores.items():
                sums = self.sums.setdefault((name, repetition), {"n": 0})
                sums["n"] += 1
                for key, values in measures.items():
                    sums[key] = sums.get(key, 0.0) + float(values[frames[1:]].mean())
            if self.video:
                shown = {TRUTH: truth} | {name: clips[name] for name in OURS if name in clips}
                for name, clip in shown.items():
                    key = (name, *frames)
                    if key not in known:
                        look = self.video.of_truth if name == TRUTH else self.video
                        known[key] = look(seed_video(clip[frames]))
                    self.features.setdefault((name, repetition), []).append(known[key])

    def numbers(self, notes: Notes) -> dict[str, dict]:
        """candidate -> measure -> mean, deviation, n (clips); what is infinite is left out."""
        found: dict[str, dict] = {}
        left_out: dict[tuple[str, str], list[str]] = {}
        for name in dict.fromkeys(name for name, _ in self.sums):
            done = [r for r in range(self.repetitions) if (name, r) in self.sums]
            numbers, reasons = seed_summary([self._row(name, r) for r in done])
            clips = self.sums[name, done[0]]["n"]
            numbers = {measure: values | {"n": clips} for measure, values in numbers.items()}
            for about in reasons.items():
                left_out.setdefault(about, []).append(name)
            if numbers:
                found[name] = numbers
        for (measure, reason), names in left_out.items():
            notes.leave_out(f"seed_ruler.{self.split}.{measure} of {', '.join(names)}", reason)
        if not found:
            reason = f"{len(self.chosen)} clips fill no batch of {BATCH}, as the thesis took them"
            notes.leave_out(f"seed_ruler.{self.split}", reason)
        return found

    def _row(self, name: str, repetition: int) -> dict[str, float]:
        sums = self.sums[name, repetition]
        row = {key: total / sums["n"] for key, total in sums.items() if key != "n"}
        if (name, repetition) in self.features:
            sets = [np.stack(self.features[who, repetition]) for who in (name, TRUTH)]
            row |= {measure: way(*sets) for measure, way in VIDEO_MEASURES.items()}
        return row


def plan(clips: ClipSet, repetitions: int, seed: int) -> dict[str, Chosen]:
    """For each clip, the frames that each repetition looks at; in some it may not be at all."""
    for row, n_frames in enumerate(clips.lengths):
        check_length(clips.clip_id(row), n_frames)
    chosen: dict[str, Chosen] = {clips.clip_id(row): {} for row in range(len(clips))}
    for repetition in range(repetitions):
        random = np.random.default_rng((seed, repetition, 1))
        for batch in seed_batches(len(clips), repetition, seed):
            frames = seed_frames([clips.lengths[row] for row in batch], random)
            for row, its_frames in zip(batch, frames, strict=True):
                chosen[clips.clip_id(row)][repetition] = its_frames
    return chosen


def _ended(name: str, clip: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    end = torch.zeros_like(last) if name == "black" else last
    return torch.cat([clip[:-1], end])


def measure_split(ruler: SeedRuler, clips: ClipSet, candidates: Candidates) -> None:
    """Draws and adds all clips of a split that is not measured otherwise."""
    ingest = candidates.model.ingest
    with progress.bar(what=f"seed ruler, {ruler.split}", unit="clip", total=len(clips)) as bar:
        for rows in batches(len(clips), candidates.settings.batch_size):
            batch = [clips[row] for row in rows]
            for clip in batch:
                check_size(clip, (ingest.height, ingest.width))
            for drawn in candidates.draw(batch, samples=0):
                ruler.add(drawn)
                bar.update()
