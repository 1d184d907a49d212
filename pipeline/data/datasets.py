"""Datasets: shards to uint8 tensors. A row is addressed by its number; order is the caller's."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from pipeline.errors import UserError
from pipeline.io import read_json

INDEX = "index.json"
COLUMNS = {"images": ["video_id", "frame", "image"], "clips": ["clip_id", "n_frames", "images"]}


class Clip(NamedTuple):
    clip_id: str
    frames: torch.Tensor  # uint8 T H W 3


class ShardReader:
    """All shards of one kind and split, mapped into memory as one table."""

    def __init__(self, folder: Path, kind: str, split: str) -> None:
        paths = sorted(folder.glob(f"{kind}-{split}-*.arrow"))
        if not paths:
            raise UserError(
                f"{folder} holds no {kind}-{split} shard; `dvc repro shard_pack` makes it, and an "
                "empty split means too little footage (see clip_chunk.split_by)"
            )
        if (folder / INDEX).is_file():
            listed = {
                shard["file"]: shard["bytes"]
                for shard in read_json(folder / INDEX)["shards"]
                if shard["file"].startswith(f"{kind}-{split}-")
            }
            present = {path.name: path.stat().st_size for path in paths}
            if present != listed:
                raise UserError(
                    f"{folder} holds {present} (bytes), expected {listed} as {INDEX} lists them; "
                    "delete the folder and run `dvc repro shard_pack`"
                )
        tables = [_open(path, COLUMNS[kind]) for path in paths]
        shapes = [_shape(table, path) for table, path in zip(tables, paths, strict=True)]
        for shape, path in zip(shapes, paths, strict=True):
            if shape != shapes[0]:
                raise UserError(
                    f"{path} holds frames of {shape[0]}x{shape[1]}, {paths[0]} of "
                    f"{shapes[0][0]}x{shapes[0][1]}; expected one size, run `dvc repro shard_pack`"
                )
        self.table, self.shape = pa.concat_tables(tables), shapes[0]

    def __len__(self) -> int:
        return self.table.num_rows


def batches(rows: int, size: int) -> Iterator[list[int]]:
    """0..rows-1 in order, `size` at a time: how a whole split is walked outside training."""
    for start in range(0, rows, size):
        yield list(range(start, min(rows, start + size)))


class ImageSet(ShardReader):
    """Pictures of one split."""

    def __init__(self, folder: Path, split: str) -> None:
        super().__init__(folder, "images", split)
        chunks = self.table["image"].chunks
        self._views = [_pictures(chunk, self.shape, folder) for chunk in chunks]  # no copies
        self._starts = np.cumsum([0, *map(len, self._views)])

    def name(self, row: int) -> str:
        return f"{self.table['video_id'][row]} frame {self.table['frame'][row]}"

    def batch(self, rows: Sequence[int]) -> torch.Tensor:
        """uint8 `B H W 3` of the rows in the order given."""
        wanted = np.asarray(rows, np.int64)
        if ((wanted < 0) | (wanted >= len(self))).any():
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)} pictures")
        views = np.searchsorted(self._starts, wanted, side="right") - 1
        inside = wanted - self._starts[views]
        out = np.empty((len(wanted), *self.shape), np.uint8)
        for place, view, row in zip(out, views.tolist(), inside.tolist(), strict=True):
            place[:] = self._views[view][row]
        return torch.from_numpy(out)


class ClipSet(ShardReader):
    """Clips of one split, each with its own number of frames."""

    def __init__(self, folder: Path, split: str) -> None:
        super().__init__(folder, "clips", split)
        self.lengths = self.table["n_frames"].to_pylist()

    def require_size(self, height: int, width: int) -> None:
        """UserError where these are no frames for models of that size."""
        if self.shape[:2] != (height, width):
            raise UserError(
                f"clips of {self.shape[0]}x{self.shape[1]} pixels, the models are of "
                f"{height}x{width}; run `dvc repro`, so that clips and models are made of the same "
                "frames"
            )

    def clip_id(self, row: int) -> str:
        return self.table["clip_id"][row].as_py()

    def __getitem__(self, row: int) -> Clip:
        return Clip(self.clip_id(row), torch.from_numpy(self.view(row).copy()))

    def view(self, row: int) -> np.ndarray:
        """uint8 `T H W 3` as it lies in the shard: read-only, and not a copy."""
        pixels = np.frombuffer(self.table["images"][row].as_buffer(), np.uint8)
        if not len(pixels) or len(pixels) % math.prod(self.shape):
            height, width, _ = self.shape
            raise UserError(
                f"clip {self.clip_id(row)} holds {len(pixels)} bytes, expected whole frames of "
                f"{height}x{width}x3; the shard is damaged, run `dvc repro shard_pack`"
            )
        return pixels.reshape(-1, *self.shape)


def _pictures(chunk: pa.Array, shape: tuple[int, int, int], folder: Path) -> np.ndarray:
    """uint8 `B H W 3`, a view of a record batch. A row of it costs half of a scalar's buffer."""
    size = math.prod(shape)
    if chunk.type != pa.binary(size):
        raise UserError(
            f"{folder} holds pictures as {chunk.type}, expected {pa.binary(size)} for "
            f"{shape[0]}x{shape[1]}x3; the shard is damaged, run `dvc repro shard_pack`"
        )
    pixels = np.frombuffer(chunk.buffers()[1], np.uint8)
    return pixels[chunk.offset * size :][: len(chunk) * size].reshape(-1, *shape)


def _shape(table: pa.Table, path: Path) -> tuple[int, int, int]:
    """Height, width and channels of a shard's frames, from its metadata."""
    metadata = table.schema.metadata or {}
    sides = [metadata.get(name, b"") for name in (b"height", b"width")]
    if not all(re.fullmatch(rb"[1-9]\d{0,4}", side) for side in sides):
        raise UserError(f"{path} names no size of its frames; run `dvc repro shard_pack`")
    return int(sides[0]), int(sides[1]), 3


def _open(path: Path, columns: list[str]) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)  # else a row may lie outside the file; reads no picture
        if any(column.null_count for column in table.columns):
            raise ValueError("it has rows without a value")
        if table.column_names != columns:
            raise ValueError(f"columns {table.column_names}, expected {columns}")
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a shard ({error}); delete it and run `dvc repro shard_pack`"
        ) from None
