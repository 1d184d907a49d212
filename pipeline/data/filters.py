"""Clips that are not worth learning, each with the reason.

A threshold of 0 is off. The first rule that refuses gives the clip's reason; its name counts it in
the summary. The thesis' discussion asks for the removal of clips without motion; the others keep
out blank pictures, fades and flashes. They look at the model's frames.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np

from pipeline import config
from pipeline.data.frame_file import FrameFile

NAMES = ("blank", "still", "flash")
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

    @cached_property
    def contrast(self) -> float:
        """Deviation of the luma of the frame that has most of it, in grey levels."""
        return float(self.luma.std(axis=(1, 2)).max())

    @cached_property
    def luma_change(self) -> float:
        """Largest change of the mean luma within FADE_FRAMES, in grey levels.

        A fade of a second from half-bright to black changes by some 40 in so many frames.
        """
        levels = self.luma.mean(axis=(1, 2))  # T
        windows = np.lib.stride_tricks.sliding_window_view(
            levels, min(FADE_FRAMES + 1, len(levels))
        )
        return float(np.ptp(windows, axis=1).max())


def rejection(clip: Clip, rules: config.ClipFilters) -> tuple[str, str]:
    """Which of NAMES refuses the clip, and the reason; two empty strings where none does."""
    least = rules.min_contrast
    if least > 0 and clip.contrast < least:
        return "blank", f"blank: contrast {clip.contrast:.2f}, at least {least:g} needed"
    least = rules.min_motion
    if least > 0 and clip.motion < least:
        return "still", f"still: motion {clip.motion:.2f}, at least {least:g} needed"
    most = rules.max_luma_change
    if most > 0 and clip.luma_change > most:
        change = f"mean luma changes by {clip.luma_change:.1f} in {FADE_FRAMES} frames or fewer"
        return "flash", f"flash: {change}, at most {most:g} allowed"
    return "", ""
