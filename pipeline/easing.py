"""At which pace a clip goes from its first frame to its last, learnt from footage.

Animators space drawings unevenly: what is held stays near one end, changes in the middle, and stays
near the other ("slow in and slow out"; Thomas and Johnston, The Illusion of Life, 1981). At time t
of a clip, from 0 to 1, the share t^k / (t^k + (1-t)^k) of the way is done: k = 1 is an even pace, a
large k holds each given frame until the middle. Little changes come at once and large ones take
their time, in each film otherwise, so k depends on how different both given frames are, and the two
numbers that say how are fitted to the clips of the train split.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.motion import find_flow, frames_between
from pipeline.records import read_json, write_json

FILE = "easing.json"  # in the folder of tokens
LARGEST = 16.0  # exponent; more looks the same, held until the middle
TRIED = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0, LARGEST)  # exponents whose pictures are compared
USUAL_CHANGE = 10.0  # grey levels
MOST_CLIPS = 128  # that are looked at; two numbers need no more
FEWEST_CLIPS = 8  # with fewer the pace stays even
NEAR_ENOUGH = 1.0  # squared grey levels: what is still shall not outweigh what moves


@dataclass(frozen=True)
class Easing:
    """The exponent is exp(pace - by_change * log(change / 10)), within [1, 16].

    change: mean absolute difference of both given frames, in grey levels.
    """

    pace: float = 0.0
    by_change: float = 0.0

    @classmethod
    def fixed(cls, exponent: float) -> "Easing":
        """The same for all clips."""
        return cls(float(np.log(exponent)))

    def exponent(self, first: torch.Tensor, last: torch.Tensor) -> float:
        """For the clip with these ends, uint8 `H W 3`."""
        return float(self._exponents(np.array([_change(first, last)]))[0])

    def _exponents(self, changes: np.ndarray) -> np.ndarray:
        relative = np.log((changes + 0.5) / USUAL_CHANGE)
        return np.exp(self.pace - self.by_change * relative).clip(1.0, LARGEST)


EVEN = Easing()


def fit(clips: Sequence[torch.Tensor]) -> tuple[Easing, float]:
    """The pace that draws clips uint8 `n H W 3` best, and what it wins over an even one in dB."""
    if len(clips) < FEWEST_CLIPS:
        return EVEN, 0.0
    changes = np.array([_change(clip[0], clip[-1]) for clip in clips])
    psnr = np.array([_psnr_by_exponent(clip) for clip in clips])  # C K

    def reached(easing: Easing) -> float:
        logs = np.log(easing._exponents(changes))
        of_clips = zip(logs, psnr, strict=True)
        return float(np.mean([np.interp(x, np.log(TRIED), row) for x, row in of_clips]))

    grid = [Easing(a / 10, b / 10) for a in range(41) for b in range(31)]  # EVEN comes first
    best = max(grid, key=reached)
    return best, reached(best) - reached(EVEN)


def _change(first: torch.Tensor, last: torch.Tensor) -> float:
    return float((first.float() - last.float()).abs().mean())


def _psnr_by_exponent(clip: torch.Tensor) -> list[float]:
    """Mean PSNR of the inner frames, moved at each pace of TRIED."""
    flow = find_flow(clip[0].cpu().numpy(), clip[-1].cpu().numpy())
    found = []
    for exponent in TRIED:
        drawn = frames_between(clip[0], clip[-1], len(clip), flow, exponent)
        error = (drawn.float() - clip[1:-1].float()).square().flatten(1).mean(1)
        found.append(float((10 * torch.log10(255**2 / error.clamp_min(NEAR_ENOUGH))).mean()))
    return found


def save_easing(easing: Easing, folder: Path) -> None:
    write_json(folder / FILE, asdict(easing))


def load_easing(folder: Path) -> Easing:
    """As the stage `token_precompute` left it beside the tokens."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{path} does not exist; run `dvc repro token_precompute`")
    return Easing(**read_json(path))
