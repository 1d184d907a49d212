"""Clips that are not worth learning: each filter answers True, or False with its reason.

A threshold of 0 is off: such a filter is not made. The first filter that says no gives the clip's
reason; its name counts it in the summary. The thesis' discussion asks for the removal of clips
without motion; the others keep out blank pictures, fades and flashes. They look at the model's
frames.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import cv2
import numpy as np

from pipeline import config
from pipeline.data.frame_file import FrameFile

Verdict = bool | tuple[bool, str]
FADE_FRAMES = 8  # in which a fade or a flash is looked for


@dataclass(frozen=True)
class Clip:
    """Frames of a video, by their numbers, and what several filters ask of them."""

    footage: FrameFile
    frames: np.ndarray

    @cached_property
    def motion(self) -> float:
        """Mean absolute change from frame to frame, in grey levels [0, 255]; 0 for one frame."""
        images = (self.footage[frame] for frame in self.frames)
        steps = [cv2.absdiff(now, then).mean() for then, now in pairwise(images)]
        return float(np.mean(steps)) if steps else 0.0

    @cached_property
    def luma(self) -> np.ndarray:
        """uint8 `T H W`."""
        images = (self.footage[frame] for frame in self.frames)
        return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images])


class Filter(Protocol):
    name: str

    def __call__(self, clip: Clip) -> Verdict: ...


@dataclass(frozen=True)
class Still:
    """No motion to learn: the mean change from frame to frame is below `min_motion`."""

    min_motion: float
    name = "still"

    def __call__(self, clip: Clip) -> Verdict:
        if clip.motion >= self.min_motion:
            return True
        return False, f"still: motion {clip.motion:.2f}, at least {self.min_motion:g} needed"


@dataclass(frozen=True)
class Blank:
    """Black, white or one colour: every frame's luma deviates less than `min_contrast`."""

    min_contrast: float
    name = "blank"

    def __call__(self, clip: Clip) -> Verdict:
        contrast = float(clip.luma.std(axis=(1, 2)).max())
        if contrast >= self.min_contrast:
            return True
        return False, f"blank: contrast {contrast:.2f}, at least {self.min_contrast:g} needed"


@dataclass(frozen=True)
class Flash:
    """A fade or a flash inside: mean luma changes by more than `max_change` in FADE_FRAMES.

    A fade of a second from half-bright to black changes by some 40 in so many frames.
    """

    max_change: float
    name = "flash"

    def __call__(self, clip: Clip) -> Verdict:
        levels = clip.luma.mean(axis=(1, 2))  # T
        windows = np.lib.stride_tricks.sliding_window_view(
            levels, min(FADE_FRAMES + 1, len(levels))
        )
        change = float(np.ptp(windows, axis=1).max())
        if change <= self.max_change:
            return True
        reason = f"mean luma changes by {change:.1f} in {FADE_FRAMES} frames or fewer"
        return False, f"flash: {reason}, at most {self.max_change:g} allowed"


NAMES = tuple(kind.name for kind in (Blank, Still, Flash))


def make_filters(rules: config.ClipFilters) -> list[Filter]:
    """The filters that the rules switch on, in the order in which they are asked."""
    filters: list[Filter] = []
    if rules.min_contrast > 0:
        filters.append(Blank(rules.min_contrast))
    if rules.min_motion > 0:
        filters.append(Still(rules.min_motion))
    if rules.max_luma_change > 0:
        filters.append(Flash(rules.max_luma_change))
    return filters


def rejection(clip: Clip, filters: list[Filter]) -> tuple[str, str]:
    """Name and reason of the first filter that says no; two empty strings where none does."""
    for filter_ in filters:
        verdict = filter_(clip)
        if verdict is not True:
            return filter_.name, verdict[1]
    return "", ""
