"""Batches without end: shuffled, prefetched by threads, and resumable at any batch.

The order is a function of seed and epoch, and a batch of its rows, so any number of workers gives
the same bytes. Copying out of the mapped shards releases Python's lock; threads are enough.

    loader = ImageLoader(ImageSet(folder, "train"), batch_size=64, seed=1, workers=2)
    for batch in loader: ...
    state = loader.state_dict()     # small, for a checkpoint
    loader.load_state_dict(state)   # goes on with the batch after the last that was given
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import torch

from pipeline.errors import UserError
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
    """What both loaders share: order, place, prefetching.

    `start` is the epoch and the batch to begin with. The last batch of an epoch is smaller where
    `batch_size` does not divide the rows; `drop_last` leaves it out, unless it is the only one.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        workers: int = 0,
        start: tuple[int, int] = (0, 0),
        drop_last: bool = False,
    ) -> None:
        assert count > 0 and batch_size > 0 and workers >= 0, (count, batch_size, workers)
        self.count, self.batch_size, self.seed, self.workers = count, batch_size, seed, workers
        self.drop_last = drop_last
        self.epoch, self.batch = divmod(start[0] * len(self) + start[1], len(self))  # the next

    def __len__(self) -> int:
        """Batches an epoch."""
        if self.drop_last:
            return max(1, self.count // self.batch_size)
        return -(-self.count // self.batch_size)

    def plan(self) -> dict[str, int | str | bool]:
        """What the order depends on: a place means nothing in another one."""
        names = ("count", "batch_size", "seed", "drop_last")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict:
        return {"epoch": self.epoch, "batch": self.batch} | self.plan()

    def load_state_dict(self, state: dict) -> None:
        """Goes on at a state's place, from the next `iter` on."""
        for name, value in self.plan().items():
            if state.get(name) != value:
                raise UserError(
                    f"the saved place is of {name} = {state.get(name)}, this loader has "
                    f"{value}; go on with the same shards and settings, or begin anew"
                )
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
    """Pictures, augmented as the thesis does where `augmented`. `options` are those of Loader."""

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        seed: int,
        *,
        augmented: bool = False,
        **options,
    ) -> None:
        super().__init__(len(images), batch_size, seed, **options)
        self.images, self.augmented = images, augmented

    def load(self, rows: list[int], epoch: int) -> ImageBatch:
        images = self.images.batch(rows)
        if self.augmented:
            images = torch.from_numpy(augment(images.numpy(), rows, self.seed, epoch))
        return ImageBatch(rows, images)


class ClipLoader(Loader):
    """Clips by one of the thesis' batch methods, `truncate` to the shortest or `pad` with a mask.

    `bucketed`: within BUCKET_BATCHES batches clips of like length come together, so that little
    is cut off or padded; which batch comes when stays random. `options` are those of Loader.
    """

    def __init__(
        self,
        clips: ClipSet,
        batch_size: int,
        seed: int,
        *,
        how: Literal["truncate", "pad"] = "pad",
        bucketed: bool = True,
        **options,
    ) -> None:
        self.clips, self.how, self.bucketed = clips, how, bucketed
        super().__init__(len(clips), batch_size, seed, **options)

    def plan(self) -> dict[str, int | str | bool]:
        return super().plan() | {"bucketed": self.bucketed}

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
        clips = [self.clips.view(row) for row in rows]
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
