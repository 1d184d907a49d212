"""Consecutive frames of clips, for networks that go from each frame to the next.

Clips are those of the shards. Of Moving MNIST the train split may be drawn anew in every epoch
instead (`source.moving_mnist.epoch_sequences`): no sequence is then seen twice.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.data.datasets import ClipSet
from pipeline.data.digits import CANVAS, DIGITS, DIGITS_FILE, N_FRAMES, draw

# Last number of the key of a sequence that is drawn anew. Not 0: NumPy takes the key of a stored
# sequence, which has three numbers, for the same with a 0 behind.
KEY = 3


class SequenceSet:
    """Sequences of one split by row and epoch."""

    def __init__(self, shards: Path, split: str, seed: int = 0) -> None:
        """seed: of what is drawn anew, and of where windows begin and how they run."""
        self.clips, self.seed, self.digits = ClipSet(shards, split), seed, None
        self.count = len(self.clips)
        if split == "train" and (shards / DIGITS_FILE).is_file():
            with np.load(shards / DIGITS_FILE) as content:
                self.digits, self.count = content["digits"], int(content["epoch_sequences"])
            self.clips.require_size(CANVAS, CANVAS)

    def __len__(self) -> int:
        return self.count

    @property
    def shortest(self) -> int:
        """Frames of the shortest row."""
        return min(self.clips.lengths) if self.digits is None else N_FRAMES

    def n_frames(self, row: int) -> int:
        return self.clips.lengths[row] if self.digits is None else N_FRAMES

    def name(self, row: int) -> str:
        return self.clips.clip_id(row) if self.digits is None else f"sequence {row}"

    def frames(self, row: int, epoch: int, numbers: Sequence[int]) -> np.ndarray:
        """uint8 `T H W 3`: the frames of these numbers."""
        if self.digits is None:
            return self.clips.view(row)[list(numbers)]
        grey = draw(self.digits, DIGITS, N_FRAMES, (self.seed, epoch, row, KEY), numbers)
        return np.repeat(grey[..., None], 3, axis=3)

    def windows(self, rows: Sequence[int], epoch: int, length: int) -> torch.Tensor:
        """uint8 `B T+2 H W 3`: consecutive frames of each row between its first and its last one.

        From a random frame on, as many as `length`; half of the rows play backwards.
        """
        windows = []
        for row in rows:
            random, n = np.random.default_rng((self.seed, epoch, row, 1)), self.n_frames(row)
            start = int(random.integers(n - length + 1))
            numbers = [0, *range(start, start + length), n - 1]
            windows.append(self.frames(row, epoch, numbers[:: random.choice((1, -1))]))
        return torch.from_numpy(np.stack(windows))
