"""Optical flow between two keyframes, and the keyframes warped along it to any time between.

Nothing here is learnt but two numbers of timing. In: keyframes uint8 `H W 3`, or float `B 3 H W` in
[-1, 1]. Out: `Flow`, and the `Context` of a frame between them: what tokenizer and transformer know
of it before it is drawn. Training, evaluation and generation all go through `make_context`.

Sources: DIS, Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (ECCV 2016,
arXiv:1603.03590); RIFE, Huang et al. (ECCV 2022, arXiv:2011.06294); flow at a time between from the
flow between both ends, Jiang et al., "Super SloMo" (CVPR 2018, arXiv:1712.00080), section 3.2.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline import frames
from pipeline.runtime import exact

# Small pictures are too coarse for either method: flow is found on enlarged ones.
DIS_SCALE = 4
RIFE_SCALE = 2
WINDOW = 7  # pixels a side over which photometric errors are averaged, at the model's size
CONFIDENCE_THRESHOLD = 0.5  # share of the keyframes' difference that a flow must explain
CONFIDENCE_STEEPNESS = 4
ANCHORS = 3  # times at which RIFE is asked for flows


class Flow(NamedTuple):
    """Where each pixel of a keyframe goes in the other one: `B 2 H W`, x and y in pixels.

    anchors: `B K 5 H W`, flows of RIFE from a frame between to both keyframes, at the times
    (k + 0.5) / K, or None. Each is divided by its share of the way (2 + 2 channels), so that they
    vary little with time and can be interpolated; the last is the logit of the first one's share.
    """

    forward: torch.Tensor  # from the first to the last keyframe
    backward: torch.Tensor
    anchors: torch.Tensor | None = None

    def resize(self, size: tuple[int, int]) -> "Flow":
        """For the same keyframes at another height and width.

        Anchors stay as they are, and are enlarged where they are used: 15 channels of a 4K frame
        are 0.5 GB.
        """
        forward, backward = resize_flow(self.forward, size), resize_flow(self.backward, size)
        return Flow(forward, backward, self.anchors)

    def mirror(self) -> "Flow":
        """For the keyframes flipped left to right."""
        sign = self.forward.new_tensor([-1, 1, -1, 1, 1]).view(5, 1, 1)
        anchors = None if self.anchors is None else self.anchors.flip(-1) * sign
        pair = (x.flip(-1) * sign[:2] for x in (self.forward, self.backward))
        return Flow(*pair, anchors)

    def reverse(self) -> "Flow":
        """For the clip run backwards."""
        anchors = None
        if self.anchors is not None:
            sign = self.forward.new_tensor([1, 1, 1, 1, -1]).view(5, 1, 1)
            anchors = self.anchors.flip(1)[:, :, [2, 3, 0, 1, 4]] * sign
        return Flow(self.backward, self.forward, anchors)

    def to(self, device: torch.device) -> "Flow":
        return Flow(*(None if x is None else x.to(device) for x in self))

    def pack(self) -> torch.Tensor:
        """All of it as `B 4+5K H W`."""
        parts = [self.forward, self.backward]
        if self.anchors is not None:
            parts.append(self.anchors.flatten(1, 2))
        return torch.cat(parts, 1)

    @classmethod
    def unpack(cls, packed: torch.Tensor) -> "Flow":
        anchors = packed[:, 4:].unflatten(1, (-1, 5)) if packed.shape[1] > 4 else None
        return cls(packed[:, :2], packed[:, 2:4], anchors)


class FlowEstimator:
    """`dis`, `rife`, or `mixed`: DIS between the keyframes, and RIFE's flows at times between.

    RIFE is asked for ANCHORS times, not for that of each frame: interpolated, its flows are even
    0.2 dB better on cartoons, in a fifth of the time. Method `rife` takes its flows at the times 0
    and 1 for those between the keyframes. Its weights are read when they are first needed;
    UserError where they are missing.
    """

    def __init__(self, method: str, device: torch.device | str = "cpu") -> None:
        assert method in ("dis", "rife", "mixed"), method
        self.method, self.device = method, torch.device(device)

    @cached_property
    def rife(self) -> nn.Module:
        from pipeline.models.pretrained.rife import Rife  # which imports `warp` from here

        return Rife.pretrained().to(self.device)

    @property
    def channels(self) -> int:
        """Of a packed flow."""
        return 4 if self.method == "dis" else 4 + 5 * ANCHORS

    def __call__(self, first: np.ndarray, last: np.ndarray) -> Flow:
        """Between two keyframes uint8 `H W 3`: a batch of 1, on the CPU."""
        if self.method == "dis":
            return _dis(first, last)
        times = (torch.arange(ANCHORS) + 0.5) / ANCHORS
        if self.method == "rife":
            times = torch.cat([torch.tensor([0.0, 1.0]), times])
        flow, share = self._rife(first, last, times)  # K 4 H W, K 1 H W
        pair = _dis(first, last) if self.method == "mixed" else Flow(flow[:1, 2:], flow[1:2, :2])
        flow, share, times = flow[-ANCHORS:], share[-ANCHORS:], times[-ANCHORS:, None, None, None]
        share = share.clamp(1e-4, 1 - 1e-4)
        anchors = torch.cat([flow[:, :2] / times, flow[:, 2:] / (1 - times), share.logit()], 1)
        return Flow(pair.forward, pair.backward, anchors[None])

    def pairs(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], workers: int = 1) -> list[Flow]:
        """As a call for each pair; DIS alone in several threads: OpenCV releases Python's lock."""
        cv2.setNumThreads(1)  # DIS cuts a picture into a stripe a thread, and flow depends on it
        if self.method != "dis":
            return [self(*pair) for pair in pairs]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda pair: self(*pair), pairs))

    @torch.inference_mode()
    def _rife(
        self, first: np.ndarray, last: np.ndarray, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flows `K 4 H W` to both keyframes and the share of the first `K 1 H W`."""
        height, width = first.shape[:2]
        size = (height * RIFE_SCALE, width * RIFE_SCALE)
        ends = torch.from_numpy(np.stack([first, last])).movedim(-1, 1).float().div(255)
        ends = F.interpolate(ends.to(self.device), size, mode="bicubic").clamp(0, 1)[:, None]
        with torch.autocast(self.device.type, enabled=False), exact():
            flow, share = self.rife.flows(ends[0], ends[1], times)
        flow = (F.avg_pool2d(flow, RIFE_SCALE) / RIFE_SCALE).cpu().clone()
        return flow, F.avg_pool2d(share, RIFE_SCALE).cpu().clone()


def _dis(first: np.ndarray, last: np.ndarray) -> Flow:
    height, width = first.shape[:2]
    large = (width * DIS_SCALE, height * DIS_SCALE)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, last)]
    grey = [cv2.resize(image, large, interpolation=cv2.INTER_CUBIC) for image in grey]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # DIS cuts a picture into a stripe a thread, and flow depends on it
    try:
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        forward, backward = search.calc(grey[0], grey[1], None), search.calc(grey[1], grey[0], None)
    finally:
        cv2.setNumThreads(threads)
    small = [
        cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / DIS_SCALE
        for flow in (forward, backward)
    ]
    return Flow(*(torch.from_numpy(flow).movedim(-1, 0)[None].contiguous() for flow in small))


def warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """`B C H W` (or `1 C H W`) looked up where flow `B 2 H W` points to; borders are continued."""
    b, _, height, width = flow.shape
    x = torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)
    # grid_sample's -1 and 1 are the centres of the first and the last pixel
    x = (flow[:, 0] + x) * (2 / max(1, width - 1)) - 1
    y = (flow[:, 1] + y[:, None]) * (2 / max(1, height - 1)) - 1
    grid = torch.stack([x, y], -1)  # B H W 2
    return F.grid_sample(
        image.expand(b, -1, -1, -1), grid, "bilinear", "border", align_corners=True
    )


def resize_flow(flow: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`B 2 H W` for the same pictures at another height and width."""
    height, width = flow.shape[-2:]
    if (height, width) == tuple(size):
        return flow
    scale = torch.tensor([size[1] / width, size[0] / height], device=flow.device)
    return F.interpolate(flow, size, mode="bilinear") * scale.view(1, 2, 1, 1)


class Context(NamedTuple):
    """What is known of a frame between two keyframes, before anything is drawn.

    Images are float `B 3 H W` in [-1, 1]. `eased` is where drawing starts from: both keyframes
    warped to the eased time and mixed, cross-faded where the flow is not to be trusted. With RIFE's
    flows there are two more such mixtures, at the frame's own and at the eased time.
    """

    first: torch.Tensor
    last: torch.Tensor
    warped_first: torch.Tensor
    warped_last: torch.Tensor
    eased: torch.Tensor
    time: torch.Tensor  # B 1 1 1 in [0, 1]: 0 is the first keyframe
    to_first: torch.Tensor  # B 2 H W: flow from the frame to the first keyframe, and to the last
    to_last: torch.Tensor
    confidence: torch.Tensor  # B 1 H W in [0, 1]
    rife: torch.Tensor | None = None
    rife_eased: torch.Tensor | None = None

    @property
    def images(self) -> list[torch.Tensor]:
        """Those that a frame is mixed of, `B 3 H W` each; the eased warp comes last."""
        images = [self.first, self.last, self.warped_first, self.warped_last]
        if self.rife is not None:
            images += [self.rife, self.rife_eased]
        return [*images, self.eased]


def make_context(
    first: torch.Tensor,
    last: torch.Tensor,
    flow: Flow,
    time: torch.Tensor,
    exponent: torch.Tensor,
    confidence: torch.Tensor | None = None,
) -> Context:
    """Of B frames: keyframes float `B 3 H W`, time and easing exponent `B 1 1 1`.

    confidence: as measured at another size, `B 1 h w`; by default it is measured here. It has to
    be measured at the model's size alone: its window is in pixels. All of it is float32, also
    under autocast.
    """
    with torch.autocast(first.device.type, enabled=False):
        eased_time = ease(time, exponent)
        to_first, to_last = flow_at(flow, time)
        eased_first, eased_last = flow_at(flow, eased_time)
        warped_first, warped_last = warp(first, eased_first), warp(last, eased_last)
        mixed = (1 - eased_time) * warped_first + eased_time * warped_last
        faded = (1 - eased_time) * first + eased_time * last
        if confidence is None:
            confidence = _confidence(warped_first, warped_last, first, last)
        elif confidence.shape[-2:] != first.shape[-2:]:
            confidence = F.interpolate(confidence, first.shape[-2:], mode="bilinear")
        eased = torch.lerp(faded, mixed, confidence)
        warped_first, warped_last = warp(first, to_first), warp(last, to_last)
        context = Context(
            first, last, warped_first, warped_last, eased, time, to_first, to_last, confidence
        )
        if flow.anchors is None:
            return context
        return context._replace(
            rife=_mix_by_anchors(first, last, flow.anchors, time),
            rife_eased=_mix_by_anchors(first, last, flow.anchors, eased_time),
        )


def _mix_by_anchors(
    first: torch.Tensor, last: torch.Tensor, anchors: torch.Tensor, time: torch.Tensor
) -> torch.Tensor:
    """Keyframes warped to `time`, `B 1 1 1`, by flows interpolated between the anchors, mixed."""
    b, k = len(time), anchors.shape[1]
    place = (time.flatten() * k - 0.5).clamp(0, k - 1)  # B
    low = place.floor().long().clamp(max=max(0, k - 2))
    part = (place - low).view(-1, 1, 1, 1)
    rows = torch.arange(b, device=time.device)
    anchors = anchors.expand(b, -1, -1, -1, -1)
    values = torch.lerp(anchors[rows, low], anchors[rows, (low + 1).clamp(max=k - 1)], part)
    to_first, to_last, logit = values.split((2, 2, 1), 1)
    size = tuple(first.shape[-2:])
    to_first, to_last = resize_flow(to_first, size), resize_flow(to_last, size)
    if logit.shape[-2:] != size:
        logit = F.interpolate(logit, size, mode="bilinear")
    share = logit.sigmoid()
    return share * warp(first, time * to_first) + (1 - share) * warp(last, (1 - time) * to_last)


def flow_at(flow: Flow, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Flow from the frame at `time` to the first and to the last keyframe, by linear motion."""
    to_first = time * (time * flow.backward - (1 - time) * flow.forward)
    to_last = (1 - time) * ((1 - time) * flow.forward - time * flow.backward)
    return to_first, to_last


def consistent_share(flow: Flow) -> float:
    """Share of the pixels that come back to where they were, there and back along the flow.

    Of two frames of a shot most do; across a cut hardly any (0.05 in the median of pairs of
    unrelated cartoon frames, 0.6 of clips' ends; docs/results/transformer.md).
    """
    there_and_back = flow.forward + warp(flow.backward, flow.forward)
    tolerance = 1 + 0.05 * flow.forward.norm(dim=1)  # pixels
    return float((there_and_back.norm(dim=1) < tolerance).float().mean())


def interpolate(
    first: torch.Tensor, last: torch.Tensor, n_frames: int, flow: Flow, exponent: float = 1.0
) -> torch.Tensor:
    """The whole clip by optical flow alone: keyframes uint8 `H W 3` to uint8 `n_frames H W 3`."""
    assert n_frames >= 3, n_frames
    times = (torch.arange(1, n_frames - 1) / (n_frames - 1)).view(-1, 1, 1, 1)
    ends = [frames.to_float(end[None]).expand(n_frames - 2, -1, -1, -1) for end in (first, last)]
    context = make_context(*ends, flow._replace(anchors=None), times, torch.tensor(exponent))
    return torch.cat([first[None], frames.to_uint8(context.eased), last[None]])


def _local_error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean squared difference around each pixel: `B 3 H W` twice to `B 1 H W`."""
    error = (a - b).square().mean(1, keepdim=True)
    for window in ((WINDOW, 1), (1, WINDOW)):  # separately: 7 + 7 instead of 49 sums a pixel
        padding = tuple(side // 2 for side in window)
        error = F.avg_pool2d(error, window, 1, padding, count_include_pad=False)
    return error


def _confidence(
    warped_first: torch.Tensor, warped_last: torch.Tensor, first: torch.Tensor, last: torch.Tensor
) -> torch.Tensor:
    """From 1, where warping explains all of the keyframes' difference, over 0.5 (half) to 0."""
    unexplained = _local_error(warped_first, warped_last) / _local_error(first, last).clamp_min(
        1e-9
    )
    return 1 / (1 + (unexplained / (1 - CONFIDENCE_THRESHOLD)) ** CONFIDENCE_STEEPNESS)


# Time remapping. At time t of a clip the share t^k / (t^k + (1-t)^k) of the way is done: k = 1 is
# even, a larger k stays near both keyframes and changes in the middle ("slow in and slow out",
# Thomas and Johnston, The Illusion of Life, 1981).

MAX_EXPONENT = 16.0  # more looks the same: held until the middle
TYPICAL_CHANGE = 10.0  # grey levels
FITTED_EXPONENTS = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0, MAX_EXPONENT)
FIT_CLIPS, FIT_FRAMES = 64, 6  # of the train split that are looked at; two numbers need no more
MIN_FIT_CLIPS = 8  # with fewer, timing stays even
MIN_GAIN = 0.01  # dB: for less, too
ERROR_FLOOR = 1.0  # squared grey levels, 48 dB: what is still must not outweigh what moves


class Easing(NamedTuple):
    """The exponent k is exp(pace - by_change * log((change + 0.5) / 10)), within [1, 16].

    change: mean absolute difference of the keyframes, in grey levels.
    """

    pace: float = 0.0
    by_change: float = 0.0

    @classmethod
    def fixed(cls, exponent: float) -> "Easing":
        """The same for all clips."""
        return cls(math.log(exponent))

    def exponent(self, first: torch.Tensor, last: torch.Tensor) -> float:
        """For the clip between these keyframes, uint8 `H W 3`."""
        return self.exponent_of(float((first.float() - last.float()).abs().mean()))

    def exponent_of(self, change: float) -> float:
        relative = math.log((change + 0.5) / TYPICAL_CHANGE)
        return min(max(math.exp(self.pace - self.by_change * relative), 1.0), MAX_EXPONENT)


EVEN = Easing()


def ease(time: torch.Tensor, exponent: torch.Tensor | float) -> torch.Tensor:
    """Share of the way that is done at times in [0, 1]."""
    gone = time**exponent
    return gone / (gone + (1 - time) ** exponent)


def fit_easing(clips: Sequence[torch.Tensor], flows: Sequence[Flow]) -> Easing:
    """The easing by which warped keyframes come nearest to clips uint8 `n H W 3`, by mean PSNR.

    EVEN where it wins less than MIN_GAIN dB over even timing, or the clips are too few.
    """
    if len(clips) < MIN_FIT_CLIPS:
        return EVEN
    changes, psnr = [], []
    for clip, flow in zip(clips, flows, strict=True):
        changes.append(float((clip[0].float() - clip[-1].float()).abs().mean()))
        psnr.append(_psnr_by_exponent(clip, flow))

    def mean_psnr(easing: Easing) -> float:
        logs = [math.log(easing.exponent_of(change)) for change in changes]
        known = np.log(FITTED_EXPONENTS)
        return float(np.mean([np.interp(x, known, row) for x, row in zip(logs, psnr, strict=True)]))

    grid = [Easing(a / 10, b / 10) for a, b in product(range(41), range(31))]  # EVEN comes first
    best = max(grid, key=mean_psnr)
    return best if mean_psnr(best) - mean_psnr(EVEN) >= MIN_GAIN else EVEN


def _psnr_by_exponent(clip: torch.Tensor, flow: Flow) -> list[float]:
    """Mean PSNR of some inner frames at each of FITTED_EXPONENTS."""
    n = len(clip)
    chosen = torch.linspace(1, n - 2, min(FIT_FRAMES, n - 2)).round().long()
    ends = [frames.to_float(clip[k][None]).expand(len(chosen), -1, -1, -1) for k in (0, -1)]
    time = (chosen / (n - 1)).view(-1, 1, 1, 1)
    flow = flow._replace(anchors=None)  # the eased warp has no part of them
    psnr = []
    for exponent in FITTED_EXPONENTS:
        warped = make_context(*ends, flow, time, torch.tensor(exponent)).eased
        error = (frames.to_uint8(warped).float() - clip[chosen].float()).square()
        error = error.flatten(1).mean(1).clamp_min(ERROR_FLOOR)
        psnr.append(float((10 * torch.log10(255**2 / error)).mean()))
    return psnr
