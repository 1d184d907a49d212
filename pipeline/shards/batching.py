"""Batches without end: shuffled, prefetched by threads, and resumable at any batch.

The order is a function of seed and epoch, and a batch of its rows, so any number of workers gives
the same bytes. Copying out of the mapped shards releases Python's lock; threads are enough.

    loader = ImageLoader(ImageSet(folder, "train"), batch_size=64, seed=1, workers=2)
    for batch in loader: ...
    loader.load_state_dict(state)   # of `state_dict()`: goes on with the batch after it
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import torch

from pipeline.shards.augmentation import augment
from pipeline.shards.loaders import ClipSet, ImageSet
from pipeline.shards.order import shuffled

AHEAD = 2  # batches a worker prepares before they are asked for
BUCKET_BATCHES = 16  # batches of clips among which lengths are sorted


class ImageBatch(NamedTuple):
    rows: list[int]
    images: torch.Tensor  # uint8 B H W 3


class ClipBatch(NamedTuple):
    rows: list[int]
    frames: torch.Tensor  # uint8 B T H W 3
    mask: torch.Tensor  # bool B T, False where a shorter clip was padded


class Loader:
    """What both loaders share: order, place, prefetching. An incomplete last batch is left out,
    unless it is the only one."""

    def __init__(self, count: int, batch_size: int, seed: int, workers: int) -> None:
        self.count, self.batch_size, self.seed, self.workers = count, batch_size, seed, workers
        self.epoch = self.batch = 0  # the next to be given

    def __len__(self) -> int:
        """Batches an epoch."""
        return max(1, self.count // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]

    def epoch_rows(self, epoch: int) -> list[list[int]]:
        """The rows of every batch of an epoch."""
        order = shuffled(self.count, self.seed, epoch)
        return [order[i * self.batch_size :][: self.batch_size] for i in range(len(self))]

    def load(self, rows: list[int], epoch: int) -> NamedTuple:
        raise NotImplementedError

    def __iter__(self) -> Iterator:
        """Batches from the present place on, epoch after epoch."""
        one_by_one = itertools.starmap(self.load, self._wanted())
        for batch in self._prefetched() if self.workers else one_by_one:
            self._step()
            yield batch

    def _prefetched(self) -> Iterator[NamedTuple]:
        wanted, coming = self._wanted(), deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                while True:
                    while len(coming) < AHEAD * self.workers:
                        coming.append(pool.submit(self.load, *next(wanted)))
                    yield coming.popleft().result()
            finally:
                for future in coming:
                    future.cancel()

    def _wanted(self) -> Iterator[tuple[list[int], int]]:
        epoch, first = self.epoch, self.batch
        while True:
            for rows in self.epoch_rows(epoch)[first:]:
                yield rows, epoch
            epoch, first = epoch + 1, 0

    def _step(self) -> None:
        self.batch += 1
        if self.batch == len(self):
            self.epoch, self.batch = self.epoch + 1, 0


class ImageLoader(Loader):
    """Pictures, augmented as the thesis does where `augmented`."""

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        seed: int,
        *,
        augmented: bool = False,
        workers: int = 0,
    ) -> None:
        super().__init__(len(images), batch_size, seed, workers)
        self.images, self.augmented = images, augmented

    def load(self, rows: list[int], epoch: int) -> ImageBatch:
        images = self.images.batch(rows)
        if self.augmented:
            images = torch.from_numpy(augment(images.numpy(), rows, self.seed, epoch))
        return ImageBatch(rows, images)


class ClipLoader(Loader):
    """Clips by one of the thesis' batch methods, `truncate` to the shortest or `pad` with a mask.

    `bucketed`: within BUCKET_BATCHES batches clips of like length come together, so that little
    is cut off or padded; which batch comes when stays random.
    """

    def __init__(
        self,
        clips: ClipSet,
        batch_size: int,
        seed: int,
        *,
        how: Literal["truncate", "pad"] = "pad",
        bucketed: bool = True,
        workers: int = 0,
    ) -> None:
        super().__init__(len(clips), batch_size, seed, workers)
        self.clips, self.how, self.bucketed = clips, how, bucketed

    def epoch_rows(self, epoch: int) -> list[list[int]]:
        batches = super().epoch_rows(epoch)
        if not self.bucketed:
            return batches
        mixed = []
        for first in range(0, len(batches), BUCKET_BATCHES):
            rows = [row for batch in batches[first:][:BUCKET_BATCHES] for row in batch]
            rows.sort(key=lambda row: self.clips.lengths[row])  # stable: ties stay shuffled
            mixed += [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        return [mixed[i] for i in shuffled(len(mixed), self.seed, epoch)]

    def load(self, rows: list[int], epoch: int) -> ClipBatch:
        clips = [self.clips[row].frames.numpy() for row in rows]
        return ClipBatch(rows, *(truncate if self.how == "truncate" else pad)(clips))


def truncate(clips: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 `T H W 3` each to `B T H W 3` of the shortest length, and a mask of ones `B T`."""
    shortest = min(map(len, clips))
    frames = torch.from_numpy(np.stack([clip[:shortest] for clip in clips]))
    return frames, torch.ones(frames.shape[:2], dtype=torch.bool)


def pad(clips: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 `T H W 3` each to `B T H W 3` of the longest length, zeros behind, and the mask."""
    longest = max(map(len, clips))
    frames = np.zeros((len(clips), longest, *clips[0].shape[1:]), np.uint8)
    mask = np.zeros((len(clips), longest), bool)
    for place, shown, clip in zip(frames, mask, clips, strict=True):
        place[: len(clip)], shown[: len(clip)] = clip, True
    return torch.from_numpy(frames), torch.from_numpy(mask)
