"""One Arrow IPC file a video: frame numbers, small pictures, and what was measured on the way.

Uncompressed, readers map it into memory. Compressed (lz4 or zstd), it is read in batches of some
fifty frames, of which the last few are kept. Written under a temporary name and renamed: a file
with its final name is complete.
"""

import contextlib
import functools
import math
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline import io
from pipeline.data.detector_features import SMALL_SIDE, TERMS
from pipeline.errors import UserError, naming

READABLE = ("ok", "truncated", "damaged")  # `status` of a video that has a frame file
SUFFIX = ".arrow"
PACKED = "compression"  # its name in a file's metadata
KEPT_BATCHES = 4  # unpacked batches of a compressed file in memory


def frame_schema(height: int, width: int, about: dict[str, str] | None = None) -> pa.Schema:
    """Columns of a frame file; height, width and `about` stand in its metadata."""
    fields = [("frame", pa.int32()), ("image", pa.binary(height * width * 3))]
    fields += [(name, pa.float32()) for name in TERMS]
    fields += [("small", pa.binary(SMALL_SIDE**2))]
    size = {"height": str(height), "width": str(width)}
    return pa.schema(fields, metadata=(about or {}) | size)


def frame_bytes(height: int, width: int) -> int:
    """What a frame takes on disk: its number, both pictures and its terms."""
    return 4 + height * width * 3 + 4 * len(TERMS) + SMALL_SIDE**2


class FrameWriter:
    """Appends batches; `n_frames` counts what was written."""

    def __init__(self, writer: pa.RecordBatchFileWriter, columns: pa.Schema):
        self._writer, self._schema, self.n_frames = writer, columns, 0

    def append(self, images: np.ndarray, terms: dict[str, np.ndarray]) -> None:
        """uint8 `B H W 3`; `terms` holds float32 `B` for each of TERMS, and `small`."""
        count = len(images)
        numbers = np.arange(self.n_frames, self.n_frames + count, dtype=np.int32)
        columns = [pa.array(numbers), self._binary("image", images)]
        columns += [pa.array(terms[name]) for name in TERMS]
        columns += [self._binary("small", terms["small"])]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self.n_frames += count

    def _binary(self, name: str, values: np.ndarray) -> pa.FixedSizeBinaryArray:
        """An array `B ...` as the column of that name, its bytes a frame."""
        width = self._schema.field(name).type
        assert values.nbytes == len(values) * width.byte_width, (name, values.shape)
        data = pa.py_buffer(np.ascontiguousarray(values))
        return pa.FixedSizeBinaryArray.from_buffers(width, len(values), [None, data])


@contextlib.contextmanager
def write_frames(
    path: Path,
    height: int,
    width: int,
    about: dict[str, str] | None = None,
    compression: str = "none",
) -> Iterator[FrameWriter]:
    """Opens a frame file for writing; it gets its name at the end if a frame was written.

    `about` is what else is to be known of it, e.g. {"scene_frames": "20", "split": "train"};
    `compression` is none, lz4 or zstd.
    A full disk is an OSError that names the file (Arrow's own does not), and leaves nothing. The
    temporary name begins with that of the file, unlike `io.atomic`'s: it says what is being written
    when a process dies (`is_begun`). Two processes may write the same file: each has its own.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    packed = None if compression == "none" else compression
    columns = frame_schema(height, width, (about or {}) | ({PACKED: packed} if packed else {}))
    options = pa.ipc.IpcWriteOptions(compression=packed)
    try:
        with (
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, columns, options=options) as writer,
        ):
            frames = FrameWriter(writer, columns)
            yield frames
        if frames.n_frames:
            partial.replace(path)
    except OSError as error:
        raise naming(error, path) from None
    finally:
        partial.unlink(missing_ok=True)


def is_begun(path: Path) -> bool:
    """Whether a process writes the frame file `path`, or was killed while it did."""
    return any(path.parent.glob(f"{path.name}.*.partial"))


def read_videos(folder: Path) -> pd.DataFrame:
    """The rows of `videos.parquet` that have a frame file."""
    table = io.read_table(folder / "videos.parquet", io.VIDEOS)
    return table[table["status"].isin(READABLE)].reset_index(drop=True)


def open_frames(folder: Path, video_id: str) -> "FrameFile":
    return FrameFile(folder / f"{video_id}{SUFFIX}")


class FrameFile:
    """A frame file: `footage[i]` is frame i, uint8 `H W 3` (a view; of the file where mapped).

    `about` is what `write_frames` was told of it.
    """

    def __init__(self, path: Path):
        self._path, self._kept = path, {}
        with _whole(path):
            numbers = _open(path, "frame")
            about = {key.decode(): text.decode() for key, text in numbers.schema.metadata.items()}
            self._shape = int(about.pop("height")), int(about.pop("width")), 3
            packed = about.pop(PACKED, None)
            self.about: dict[str, str] = about
            batches = [numbers.get_batch(k) for k in range(numbers.num_record_batches)]
            self._starts = np.cumsum([0, *(len(batch) for batch in batches)])
            self._images = _open(path, "image")
            if self._images.schema.field("image").type != pa.binary(math.prod(self._shape)):
                raise ValueError("its pictures have another size than it says")
        self._recent: dict[int, np.ndarray] = {}  # batches; no functools: it would keep the file
        self._most = KEPT_BATCHES if packed else len(batches)  # what is mapped costs nothing

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, frame: int) -> np.ndarray:
        batch = int(np.searchsorted(self._starts, frame, side="right")) - 1
        if batch not in self._recent:
            if len(self._recent) == self._most:
                self._recent.pop(next(iter(self._recent)))
            self._recent[batch] = self._read_batch(batch)
        return self._recent[batch][frame - self._starts[batch]]

    def term(self, name: str) -> np.ndarray:
        """One of TERMS for all frames, float32 `T`; read once, then kept."""
        if name not in self._kept:
            self._kept[name] = self._read_all(name).to_numpy()
        return self._kept[name]

    @functools.cached_property
    def small(self) -> np.ndarray:
        """The small grey pictures of all frames: uint8 `T 32 32`; read once, then kept."""
        chunks = self._read_all("small").chunks
        return np.concatenate([_view(chunk, (SMALL_SIDE, SMALL_SIDE)) for chunk in chunks])

    def _read_all(self, name: str) -> pa.ChunkedArray:
        with _whole(self._path):
            column = _open(self._path, name).read_all().column(name)
            column.validate()  # else a short buffer is read past its end
            if len(column) != len(self) or column.null_count:
                raise ValueError(f"{name} has no value for each frame")
            return column

    def _read_batch(self, number: int) -> np.ndarray:
        """uint8 `B H W 3`."""
        with _whole(self._path):
            column = self._images.get_batch(number).column("image")
            column.validate()
            return _view(column, self._shape)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """A UserError for whatever a damaged file makes Arrow raise."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        remedy = "delete it and run `dvc repro ingest`"
        raise UserError(f"{path} is damaged ({reason}); {remedy}") from None


def _open(path: Path, column: str) -> pa.RecordBatchFileReader:
    """A reader of one column where the file is compressed, so that no other is unpacked; of all
    where it is mapped (Arrow copies what it chooses).

    A UserError where the file is missing, damaged or of another version.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; `dvc repro ingest` makes it")
    file = pa.memory_map(str(path))
    reader = pa.ipc.open_file(file)
    schema = reader.schema
    columns = dict(zip(schema.names, schema.types, strict=True))
    expected = frame_schema(1, 1)
    absent = set(expected.names) - set(columns)
    if absent:
        lacks = ", ".join(sorted(absent))
        remedy = "delete it and run `dvc repro ingest`"
        raise UserError(f"{path} was written by another version: it lacks {lacks}; {remedy}")
    for field in expected:
        if field.name != "image" and field.type != columns[field.name]:
            raise ValueError(f"{field.name} is {columns[field.name]}, expected {field.type}")
    if PACKED.encode() not in schema.metadata:
        return reader
    wanted = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(column)])
    return pa.ipc.open_file(file, options=wanted)


def _view(chunk: pa.FixedSizeBinaryArray, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    data = np.frombuffer(chunk.buffers()[1], np.uint8)
    return data[chunk.offset * size :][: len(chunk) * size].reshape(len(chunk), *shape)
