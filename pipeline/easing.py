"""At which pace a clip goes from its first frame to its last.

At time t of a clip, from 0 to 1, the share t^k / (t^k + (1-t)^k) of the way is done: k = 1 is an
even pace, a larger k stays nearer to both given frames and changes in the middle, a very large one
holds each until there. Animators know it as "slow in and slow out" (Thomas and Johnston, The
Illusion of Life, 1981). `inbetween.pacing` learns k from footage.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.records import read_json, write_json

FILE = "easing.json"  # in the folder of tokens
LARGEST = 16.0  # exponent; more looks the same, held until the middle
USUAL_CHANGE = 10.0  # grey levels


@dataclass(frozen=True)
class Easing:
    """The exponent k is exp(pace - by_change * log((change + 0.5) / 10)), within [1, 16].

    change: mean absolute difference of both given frames, in grey levels.
    """

    pace: float = 0.0
    by_change: float = 0.0

    @classmethod
    def fixed(cls, exponent: float) -> "Easing":
        """The same for all clips."""
        return cls(math.log(exponent))

    def exponent(self, first: torch.Tensor, last: torch.Tensor) -> float:
        """For the clip with these ends, uint8 `H W 3`."""
        return self.exponent_of(change(first, last))

    def exponent_of(self, change: float) -> float:
        relative = math.log((change + 0.5) / USUAL_CHANGE)
        return min(max(math.exp(self.pace - self.by_change * relative), 1.0), LARGEST)


EVEN = Easing()


def change(first: torch.Tensor, last: torch.Tensor) -> float:
    """Of ends uint8 `H W 3`, see `Easing`."""
    return float((first.float() - last.float()).abs().mean())


def save_easing(easing: Easing, folder: Path) -> None:
    write_json(folder / FILE, asdict(easing))


def load_easing(folder: Path) -> Easing:
    """As the stage `token_precompute` left it beside the tokens."""
    path = folder / FILE
    content = read_json(path)
    try:
        return Easing(**content)
    except TypeError as error:
        raise UserError(
            f"{path} was written by another version ({error}); run `dvc repro token_precompute`"
        ) from None
