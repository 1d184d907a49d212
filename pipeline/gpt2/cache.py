"""Keys and values of a clip that is being drawn: only what a later frame may still see.

Memory does not grow with the clip's length: kept are the last frame, the first one and the window
of `n_frames_before` frames, beside what is drawn of the present frame.
"""

from typing import Literal

import torch

Pair = tuple[torch.Tensor, torch.Tensor]  # keys and values B H S D


class WindowCache:
    """What transformers' GPT-2 asks of a cache, `update`, in three ways.

    `keep` is set before each pass: `frame`, the pass is over a whole frame, which later ones see;
    `position`, over the next positions of a drawing, seen by its later ones until the next frame
    is kept; `nothing`, over a whole drawing that is looked at once.
    """

    def __init__(self, layers: int, window: int) -> None:
        self.keep: Literal["frame", "position", "nothing"] = "frame"
        self.window = window
        self.frames: list[list[Pair]] = [[] for _ in range(layers)]
        self.seen: list[Pair | None] = [None] * layers  # frames and own positions in one piece

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> Pair:
        """New keys and values `B H s D` of a layer; gives all that their queries may see."""
        if self.keep == "frame":
            frames = self.frames[layer]
            frames.append((keys, values))
            if len(frames) > 2 + self.window:  # last and first stay
                del frames[2]
            seen = self.seen[layer] = _joined(frames)
            return seen
        seen = _joined([self.seen[layer], (keys, values)])
        if self.keep == "position":
            self.seen[layer] = seen
        return seen

    @property
    def bytes(self) -> int:
        """Of all keys and values that it holds."""
        pairs = [pair for layer in self.frames for pair in layer]
        return sum(x.nbytes for pair in [*pairs, *filter(None, self.seen)] for x in pair)


def _joined(pairs: list[Pair]) -> Pair:
    keys, values = zip(*pairs, strict=True)
    return torch.cat(keys, 2), torch.cat(values, 2)
