"""Diagnostics of one clip: what no mean over its frames tells. No scores: read them together.

Clips are uint8 `n H W 3` with both given ends, as they are delivered; the steps that count are
those between inner frames 1..n-2, so n-3 of them. All values but `repeated` (a share) are means in
grey levels. What a clip is too short for is None. The truth has a level of its own everywhere.

    motion         mean absolute change from inner frame to inner frame
    flicker        what comes and goes at once: how far an inner frame leaves the range of its two
                   neighbours. By pixel and channel the smaller of two opposite steps, else 0:
                   nothing for a fade and for drawings held two frames or longer. A thin line that
                   passes counts, in the truth as well
    flicker_still  mean absolute change where the truth stands still in the same step
    repeated       share of inner steps that repeat the drawing: no 8x8 block changes by more than
                   the hold threshold in the mean
    step_last      the last step, from the last inner to the last given frame
"""

from dataclasses import dataclass
from itertools import combinations, pairwise

import cv2
import numpy as np
import torch

from pipeline.data.detector_features import block_change

STILL = 2  # grey levels: a channel that changes no more has not moved, it was coded anew
MARGIN = 1  # pixels around what moves that do not count as still, for coding smears over them


@dataclass(frozen=True)
class TrueLevels:
    """What all methods of a clip are diagnosed beside, computed once."""

    still: np.ndarray  # 255 where the truth stands still, else 0: uint8 `n-3 H W`
    numbers: dict[str, float | None]

    @classmethod
    def of(cls, truth: torch.Tensor, hold_threshold: float) -> "TrueLevels":
        inner = _inner(truth)
        steps = _absdiff(inner[1:], inner[:-1])
        still = np.empty(steps.shape[:3], np.uint8)
        square = np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)
        for mask, step in zip(still, steps, strict=True):
            mask[:] = cv2.erode(cv2.inRange(step, (0, 0, 0), (STILL, STILL, STILL)), square)
        last = truth[-1].cpu().numpy()
        return cls(still, _diagnose(inner, last, still, hold_threshold))


def diagnose(
    clip: torch.Tensor, truth: torch.Tensor, hold_threshold: float, true: TrueLevels | None = None
) -> dict[str, float | None]:
    """All diagnostics of a clip, each beside the same of its truth (`motion_true`, ...)."""
    check_clips(clip, truth)
    true = true or TrueLevels.of(truth, hold_threshold)
    last = truth[-1].cpu().numpy()
    levels = _diagnose(_inner(clip), last, true.still, hold_threshold)
    return levels | {f"{name}_true": value for name, value in true.numbers.items()}


def diversity(samples: list[torch.Tensor]) -> float | None:
    """Mean absolute difference of the inner frames over all pairs of samples of one clip."""
    check_clips(*samples)
    if len(samples) < 2:
        return None
    pairs = combinations(map(_inner, samples), 2)
    return float(np.mean([_absdiff(a, b).mean() for a, b in pairs]))


def check_clips(*clips: torch.Tensor) -> None:
    """All are uint8 `n H W 3` of one shape, with an inner frame."""
    for clip in clips:
        assert clip.dtype == torch.uint8 and clip.ndim == 4, (clip.dtype, clip.shape)
        assert len(clip) >= 3 and clip.shape[-1] == 3, clip.shape
        assert clip.shape == clips[0].shape, (clip.shape, clips[0].shape)


def _diagnose(
    inner: np.ndarray, last: np.ndarray, still: np.ndarray, hold_threshold: float
) -> dict[str, float | None]:
    """inner: uint8 `n-2 H W 3`; last: the given frame `H W 3`; still: of `TrueLevels`."""
    steps = _absdiff(inner[1:], inner[:-1])  # n-3 H W 3
    flicker = flicker_still = None
    if len(steps) > 1:
        rise = np.maximum(inner[1:], inner[:-1]) - inner[:-1]  # n-3 H W 3
        fall = steps - rise  # 0 where the rise is not
        back = np.minimum(rise[:-1], fall[1:]) + np.minimum(fall[:-1], rise[1:])  # n-4 H W 3
        flicker = float(back.mean())
    if still.any():
        count, height, width, _ = steps.shape
        rows, mask = steps.reshape(count * height, width, 3), still.reshape(count * height, width)
        flicker_still = float(np.mean(cv2.mean(rows, mask)[:3]))
    repeats = [block_change(now, then) <= hold_threshold for then, now in pairwise(inner)]
    return {
        "motion": float(steps.mean()) if len(steps) else None,
        "flicker": flicker,
        "flicker_still": flicker_still,
        "repeated": float(np.mean(repeats)) if repeats else None,
        "step_last": float(cv2.absdiff(inner[-1], last).mean()),
    }


def _inner(clip: torch.Tensor) -> np.ndarray:
    """uint8 `n-2 H W 3`: what lies between the given frames."""
    check_clips(clip)
    return clip[1:-1].contiguous().cpu().numpy()


def _absdiff(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(a, b) - np.minimum(a, b)
