"""In-between frames with their keyframes, for the training of the tokenizer with context.

A row is an inner frame of a clip. Its keyframes are the clip's ends, or, in training, those of a
shorter span of the clip around it: any two frames of a scene are keyframes of what lies between.
What happens to a row is a function of (seed, epoch, row): mirrored, run backwards, moved by some
pixels, another span. Flow is found once for each span and kept as float16 (65 kB at 64x128, 311 kB
with that of RIFE), mapped from a file, with which a training that was killed goes on.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline import frames, progress
from pipeline.data.datasets import ClipSet
from pipeline.models.flow import Context, Easing, Flow, FlowEstimator, make_context
from pipeline.training.mapped import MappedArray

MIN_SPAN = 5  # frames, keyframes included
SPAN_SHARE = 0.5  # how often a training row takes one of the spans around it at random
MAX_SHIFT = 8  # pixels by which a training frame is moved, at most
FLOW_CHUNK = 64  # spans between two updates of the progress bar


class FrameBatch(NamedTuple):
    images: torch.Tensor  # B 3 H W, the true frames
    context: Context


class Span(NamedTuple):
    """Frames first, ..., last of a clip, of which both ends are keyframes."""

    clip: int
    first: int
    last: int


class KeyframeSet:
    """The inner frames of one split."""

    def __init__(
        self,
        shards: Path,
        split: str,
        estimator: FlowEstimator,
        spans_per_clip: int = 0,
        seed: int = 0,
        workers: int = 1,
        saved: Path | None = None,
    ) -> None:
        """spans_per_clip: shorter spans of each clip beside the whole one, 0 for evaluation.

        saved: a folder of the same run; flow that is there is not computed again.
        """
        self.clips, self.seed = ClipSet(shards, split), seed
        self.easing = Easing()  # set by the training, once it is fitted
        rng = np.random.default_rng((seed, 7))
        self.spans: list[Span] = []
        self.rows: list[tuple[int, int]] = []  # clip, frame
        self.of_clip: dict[int, list[int]] = {}  # its spans, the whole clip first
        for clip, n in enumerate(self.clips.lengths):
            if n < 3:
                continue
            spans = [Span(clip, 0, n - 1)]
            for _ in range(spans_per_clip):
                size = int(rng.integers(min(n, max(MIN_SPAN, n // 2)), n + 1))
                start = int(rng.integers(0, n - size + 1))
                spans.append(Span(clip, start, start + size - 1))
            self.of_clip[clip] = list(range(len(self.spans), len(self.spans) + len(spans)))
            self.spans += spans
            self.rows += [(clip, frame) for frame in range(1, n - 1)]
        flows = MappedArray(saved and saved / f"flow_{split}.float16")
        self.flows = self._flows(estimator, workers, split, flows)
        self.changes: list[float] = []  # mean absolute difference of the keyframes, grey levels
        for span in self.spans:
            view = self.clips.view(span.clip)
            difference = view[span.first].astype(np.int16) - view[span.last]
            self.changes.append(float(np.abs(difference).mean()))

    def _flows(
        self, estimator: FlowEstimator, workers: int, split: str, flows: MappedArray
    ) -> torch.Tensor:
        """float16 `S 4+5K H W`, of all spans."""
        total = len(self.spans)
        shape = (estimator.channels, *self.clips.view(0).shape[1:3]) if total else ()
        known = flows.whole_rows(2 * math.prod(shape))
        with progress.bar(what=f"optical flow, {split}", unit="span", total=total) as bar:
            bar.update(known)
            for start in range(known, total, FLOW_CHUNK):
                spans = self.spans[start : start + FLOW_CHUNK]
                views = [self.clips.view(span.clip) for span in spans]
                pairs = [
                    (view[span.first].copy(), view[span.last].copy())
                    for view, span in zip(views, spans, strict=True)
                ]
                packed = [flow.pack().half() for flow in estimator.pairs(pairs, workers)]
                flows.append(torch.cat(packed).numpy())
                bar.update(len(spans))
        return flows.tensor(np.float16, -1, *shape)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        clip, frame = self.rows[row]
        return f"{self.clips.clip_id(clip)} frame {frame}"

    def whole_clips(self, most: int) -> tuple[list[torch.Tensor], list[Flow]]:
        """At most so many clips uint8 `n H W 3`, spread over all, with the flows of their ends."""
        numbers = [spans[0] for spans in self.of_clip.values()]
        numbers = numbers[:: max(1, -(-len(numbers) // most))]
        clips = [self.clips[self.spans[k].clip].frames for k in numbers]
        return clips, [self._flow(k) for k in numbers]

    def batch(
        self,
        rows: Sequence[int],
        device: torch.device,
        epoch: int | None = None,
        shift: bool = False,
        flip: bool = True,
    ) -> FrameBatch:
        """Frames and contexts of `rows`; as they are where `epoch` is None, else of other spans.

        flip: mirrored and run backwards at random, too; shift: moved by some pixels, too.
        """
        images, flows, times, exponents = [], [], [], []
        for row in rows:
            clip, frame = self.rows[row]
            rng = None if epoch is None else np.random.default_rng((self.seed, epoch, row))
            number = self.of_clip[clip][0]
            if rng is not None and rng.random() < SPAN_SHARE:
                # one of the spans in which it is an inner frame; the whole clip is
                numbers = self.of_clip[clip]
                around = [k for k in numbers if self.spans[k].first < frame < self.spans[k].last]
                number = around[int(rng.integers(len(around)))]
            span = self.spans[number]
            view = self.clips.view(clip)
            ends = [view[span.first], view[frame], view[span.last]]
            image = torch.from_numpy(np.stack(ends))  # 3 H W 3
            flow = self._flow(number)
            time = (frame - span.first) / (span.last - span.first)
            if rng is not None and flip:
                image, flow, time = _augmented(image, flow, time, rng, shift)
            images.append(image)
            flows.append(flow.pack())
            times.append(time)
            exponents.append(self.easing.exponent_of(self.changes[number]))
        first, frame, last = frames.to_float(torch.stack(images, 1).to(device))  # 3 B 3 H W
        flow = Flow.unpack(torch.cat(flows).to(device))
        time = torch.tensor(times, dtype=torch.float32, device=device).view(-1, 1, 1, 1)
        exponent = torch.tensor(exponents, dtype=torch.float32, device=device).view(-1, 1, 1, 1)
        return FrameBatch(frame, make_context(first, last, flow, time, exponent))

    def _flow(self, number: int) -> Flow:
        return Flow.unpack(self.flows[number : number + 1].float())


def _augmented(
    images: torch.Tensor, flow: Flow, time: float, rng: np.random.Generator, shift: bool
) -> tuple[torch.Tensor, Flow, float]:
    """First keyframe, frame and last keyframe `3 H W 3`, flow between the keyframes, and time."""
    if rng.random() < 0.5:
        images, flow, time = images.flip(0), flow.reverse(), 1 - time
    if rng.random() < 0.5:
        images, flow = images.flip(2), flow.mirror()
    if shift:
        down, right = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, 2).tolist()
        # rows and columns outside are those of the border
        rows = (torch.arange(images.shape[1]) + down).clamp(0, images.shape[1] - 1)
        columns = (torch.arange(images.shape[2]) + right).clamp(0, images.shape[2] - 1)
        images = images[:, rows][:, :, columns]
        flow = Flow.unpack(flow.pack()[:, :, rows][..., columns])
    return images, flow, time
