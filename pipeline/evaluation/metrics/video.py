"""Diagnostics of one clip: what no mean over its frames tells. No scores: read them together.

Clips are uint8 `n H W 3` with both given ends, as they are delivered; the steps that count are
those between inner frames 1..n-2, so n-3 of them. All values but `repeated` (a share) are means in
grey levels. What a clip is too short for is None. The truth has a level of its own everywhere.
"""

from dataclasses import dataclass
from itertools import combinations, pairwise

import cv2
import numpy as np
import torch

from pipeline.data.detector_features import block_change

STILL = 2  # grey levels: a channel that changes no more has not moved, it was coded anew
MARGIN = 1  # pixels around what moves that do not count as still, for coding smears over them


def motion(clip: torch.Tensor) -> float | None:
    """Mean absolute change from inner frame to inner frame."""
    return _motion(_steps(_inner(clip)))


def flicker(clip: torch.Tensor) -> float | None:
    """What comes and goes at once: how far an inner frame leaves the range of its two neighbours.

    By pixel and channel the smaller of two opposite steps, else 0: nothing for a fade and for
    drawings held two frames or longer. A thin line that passes counts, in the truth as well.
    """
    return _flicker(_inner(clip))


def flicker_still(clip: torch.Tensor, truth: torch.Tensor) -> float | None:
    """Mean absolute change of the clip where the truth stands still in the same step."""
    check_clips(clip, truth)
    still = _still(_steps(_inner(truth)))
    return _mean_where(_steps(_inner(clip)), still)


def control_point(clip: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """The last step, from the last inner to the last given frame: as drawn, and as it should be."""
    check_clips(clip, truth)
    last = truth[-1].cpu().numpy()
    drawn, true = (cv2.absdiff(frames[-1], last).mean() for frames in map(_inner, (clip, truth)))
    return float(drawn), float(true)


def repeated(clip: torch.Tensor, threshold: float) -> float | None:
    """Share of inner steps that repeat the drawing: no 8x8 block changes by more in the mean."""
    return _repeated(_inner(clip), threshold)


def diversity(samples: list[torch.Tensor]) -> float | None:
    """Mean absolute difference of the inner frames over all pairs of samples of one clip."""
    check_clips(*samples)
    if len(samples) < 2:
        return None
    pairs = combinations(map(_inner, samples), 2)
    return float(np.mean([_absdiff(one, other).mean() for one, other in pairs]))


@dataclass(frozen=True)
class TrueLevels:
    """What all candidates of a clip are diagnosed beside, computed once."""

    still: np.ndarray  # where the truth stands still
    numbers: dict[str, float | None]

    @classmethod
    def of(cls, truth: torch.Tensor, hold_threshold: float) -> "TrueLevels":
        inner = _inner(truth)
        still = _still(_steps(inner))
        return cls(still, _diagnose(inner, still, hold_threshold))


def diagnose(
    clip: torch.Tensor, truth: torch.Tensor, hold_threshold: float, true: TrueLevels | None = None
) -> dict[str, float | None]:
    """All but `diversity` of a clip, each beside the same of its truth (`motion_true`, ...)."""
    check_clips(clip, truth)
    true = true or TrueLevels.of(truth, hold_threshold)
    step_last, step_last_true = control_point(clip, truth)
    drawn = _diagnose(_inner(clip), true.still, hold_threshold) | {"step_last": step_last}
    beside = true.numbers | {"step_last": step_last_true}
    return drawn | {f"{name}_true": value for name, value in beside.items()}


def check_clips(*clips: torch.Tensor) -> None:
    """ValueError unless all are uint8 `n H W 3` of one shape, with an inner frame."""
    for clip in clips:
        if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[-1] != 3:
            raise ValueError(
                f"expected a clip uint8 `n H W 3`, got {clip.dtype} {tuple(clip.shape)}"
            )
        if len(clip) < 3:
            raise ValueError(
                f"expected a clip of at least 3 frames (both given ends and one between), "
                f"got {len(clip)}"
            )
        if clip.shape != clips[0].shape:
            raise ValueError(
                f"expected clips of one shape `n H W 3`, got {tuple(clips[0].shape)} and "
                f"{tuple(clip.shape)}"
            )


def _diagnose(
    inner: np.ndarray, still: np.ndarray, hold_threshold: float
) -> dict[str, float | None]:
    steps = _steps(inner)
    return {
        "motion": _motion(steps),
        "flicker": _flicker(inner),
        "flicker_still": _mean_where(steps, still),
        "repeated": _repeated(inner, hold_threshold),
    }


def _inner(clip: torch.Tensor) -> np.ndarray:
    """uint8 `n-2 H W 3`: what lies between the given frames."""
    check_clips(clip)
    return clip[1:-1].contiguous().cpu().numpy()


def _steps(inner: np.ndarray) -> np.ndarray:
    """Absolute change from each frame to the next: uint8, one fewer than frames."""
    return _absdiff(inner[1:], inner[:-1])


def _motion(steps: np.ndarray) -> float | None:
    return float(steps.mean()) if len(steps) else None


def _flicker(inner: np.ndarray) -> float | None:
    if len(inner) < 3:
        return None
    rise = _over(inner[1:], inner[:-1])  # n-3 H W 3; the fall is 0 where the rise is not
    fall = _over(inner[:-1], inner[1:])
    back = np.minimum(rise[:-1], fall[1:]) + np.minimum(fall[:-1], rise[1:])  # n-4 H W 3
    return float(back.mean())


def _repeated(inner: np.ndarray, threshold: float) -> float | None:
    repeats = [block_change(now, then) <= threshold for then, now in pairwise(inner)]
    return float(np.mean(repeats)) if repeats else None


def _still(steps: np.ndarray) -> np.ndarray:
    """255 where nothing moves, nor anything within MARGIN pixels, else 0: uint8 `n-3 H W`."""
    calm = np.empty(steps.shape[:3], np.uint8)
    square = np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)
    for marks, step in zip(calm, steps, strict=True):
        marks[:] = cv2.erode(cv2.inRange(step, (0, 0, 0), (STILL, STILL, STILL)), square)
    return calm


def _mean_where(steps: np.ndarray, marks: np.ndarray) -> float | None:
    """Mean change over the marked pixels `n-3 H W` of all steps together; None without any."""
    if not marks.any():
        return None
    count, height, width, _ = steps.shape
    rows = steps.reshape(count * height, width, 3)
    return float(np.mean(cv2.mean(rows, marks.reshape(count * height, width))[:3]))


def _absdiff(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(a, b) - np.minimum(a, b)


def _over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a - b` where a is more, else 0; uint8."""
    return np.maximum(a, b) - b
