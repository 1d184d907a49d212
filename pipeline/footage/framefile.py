"""One Arrow IPC file a video: frame numbers, small pictures, and the terms measured on the way.

Uncompressed, so that readers map it into memory. Written under a temporary name and renamed: a
file with its final name is complete.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline import schema
from pipeline.errors import UserError, naming
from pipeline.footage.terms import TERMS

READABLE = ("ok", "truncated")  # states in videos.parquet of a video that has a frame file
SUFFIX, PARTIAL = ".arrow", ".arrow.partial"


def frame_schema(height: int, width: int) -> pa.Schema:
    """Columns of a frame file; height and width also stand in its metadata."""
    fields = [("frame", pa.int32()), ("image", pa.binary(height * width * 3))]
    fields += [(name, pa.float32()) for name in TERMS]
    return pa.schema(fields, metadata={"height": str(height), "width": str(width)})


class FrameWriter:
    """Appends batches; `n_frames` counts what was written."""

    def __init__(self, writer: pa.RecordBatchFileWriter, columns: pa.Schema):
        self._writer, self._schema, self.n_frames = writer, columns, 0

    def append(self, images: np.ndarray, terms: dict[str, np.ndarray]) -> None:
        """uint8 `B H W 3` and float32 `B` for each of TERMS."""
        count = len(images)
        numbers = np.arange(self.n_frames, self.n_frames + count, dtype=np.int32)
        data = pa.py_buffer(np.ascontiguousarray(images))
        pictures = pa.FixedSizeBinaryArray.from_buffers(
            self._schema.field("image").type, count, [None, data]
        )
        columns = [pa.array(numbers), pictures, *(pa.array(terms[name]) for name in TERMS)]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self.n_frames += count


@contextlib.contextmanager
def write_frames(path: Path, height: int, width: int) -> Iterator[FrameWriter]:
    """Opens a frame file for writing; it gets its name at the end if a frame was written.

    A full disk is an OSError that names the file (Arrow's own does not), and leaves nothing.
    """
    partial = path.with_name(path.name.removesuffix(SUFFIX) + PARTIAL)
    columns = frame_schema(height, width)
    try:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, columns) as writer:
            frames = FrameWriter(writer, columns)
            yield frames
        if frames.n_frames:
            partial.replace(path)
    except OSError as error:
        raise naming(error, path) from None
    finally:
        partial.unlink(missing_ok=True)


def read_videos(folder: Path) -> pd.DataFrame:
    """The rows of `videos.parquet` that have a frame file."""
    table = schema.read_table(folder / "videos.parquet", schema.VIDEOS)
    return table[table["status"].isin(READABLE)].reset_index(drop=True)


def open_frames(folder: Path, video_id: str) -> "FrameFile":
    return FrameFile(folder / f"{video_id}{SUFFIX}")


class FrameFile:
    """A frame file mapped into memory: `footage[i]` is frame i, uint8 `H W 3` (a view)."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise UserError(f"{path} is missing; `dvc repro ingest` makes it")
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{path} is damaged ({error}); delete it and run `dvc repro ingest`"
            ) from None
        self._table = reader.read_all()  # maps, copies nothing
        about = self._table.schema.metadata
        shape = int(about[b"height"]), int(about[b"width"]), 3
        chunks = self._table.column("image").chunks
        self._batches = [_pictures(chunk, shape) for chunk in chunks]
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)])

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, frame: int) -> np.ndarray:
        batch = int(np.searchsorted(self._starts, frame, side="right")) - 1
        return self._batches[batch][frame - self._starts[batch]]

    def term(self, name: str) -> np.ndarray:
        """One of TERMS for all frames, float32 `T`."""
        return self._table.column(name).to_numpy()


def _pictures(chunk: pa.FixedSizeBinaryArray, shape: tuple[int, int, int]) -> np.ndarray:
    size = shape[0] * shape[1] * shape[2]
    data = np.frombuffer(chunk.buffers()[1], np.uint8)
    return data[chunk.offset * size :][: len(chunk) * size].reshape(len(chunk), *shape)
