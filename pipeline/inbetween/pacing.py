"""The pace of footage: the one at which moved given frames come nearest to the true ones.

Nearest by mean PSNR. Ease, held drawings and sudden changes all ask for a larger exponent, little
change for a larger one than much, in each film otherwise. Two numbers say how (`easing`).
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from pipeline.easing import EVEN, LARGEST, Easing, change
from pipeline.motion import find_flow, moved_clip

TRIED = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0, LARGEST)  # exponents whose pictures are compared
PACES, BY_CHANGE = np.arange(41) / 10, np.arange(31) / 10  # what is chosen from; EVEN comes first
MOST_CLIPS = 128  # that are looked at; two numbers need no more
FEWEST_CLIPS = 8  # with fewer the pace stays even
LEAST_GAIN = 0.01  # dB: for less it stays even too
NEAR_ENOUGH = 1.0  # squared grey levels, 48 dB: what is still shall not outweigh what moves


def fit(clips: Sequence[torch.Tensor]) -> tuple[Easing, float]:
    """Of clips uint8 `n H W 3`; also what it wins over an even pace.

    That is in dB of the inner frames of these clips, each frame at most 48 dB.
    """
    if len(clips) < FEWEST_CLIPS:
        return EVEN, 0.0
    changes = [change(clip[0], clip[-1]) for clip in clips]
    psnr = [_psnr_by_exponent(clip) for clip in clips]  # C K

    def reached(easing: Easing) -> float:
        logs = np.log([easing.exponent_of(x) for x in changes])
        of_clips = zip(logs, psnr, strict=True)
        return float(np.mean([np.interp(x, np.log(TRIED), row) for x, row in of_clips]))

    grid = [Easing(float(a), float(b)) for a, b in product(PACES, BY_CHANGE)]
    best = max(grid, key=reached)
    gain = reached(best) - reached(EVEN)
    return (best, gain) if gain >= LEAST_GAIN else (EVEN, 0.0)


def _psnr_by_exponent(clip: torch.Tensor) -> list[float]:
    """Mean of the inner frames, moved at each pace of TRIED."""
    flow = find_flow(clip[0].numpy(), clip[-1].numpy())
    found = []
    for exponent in TRIED:
        drawn = moved_clip(clip[0], clip[-1], len(clip), flow, exponent)
        error = (drawn.float() - clip.float())[1:-1].square().flatten(1).mean(1)
        found.append(float((10 * torch.log10(255**2 / error.clamp_min(NEAR_ENOUGH))).mean()))
    return found
