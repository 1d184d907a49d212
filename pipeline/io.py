"""Files that travel between stages: JSON, pictures, and tables with their columns and types.

All are written under a temporary name and renamed (`atomic`). JSON also goes into git: numbers
have six digits, keys are sorted, NaN is refused. Columns and names of tables are a contract: other
programs read these files.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.errors import UserError, naming


def project_root() -> Path:
    """The real repository, also inside a temporary or queued experiment; else the current folder.

    DVC sets DVC_ROOT in stages. What outlives an experiment's copy (tracking store, saved states,
    seconds) lies below it.
    """
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


ROW_GROUP, ROWS_READ = 2048, 128  # of tables that are written and read in parts
TEMPORARY = ".nakawari-"  # begins the name of what is being written


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A new file in `path`'s folder, to be written; it takes `path`'s place if the block succeeds.

    Each has a name of its own: two processes may write the same file together, and the last wins.
    An OSError that names no file (a full disk) or the new one (a read-only disk) names `path`.
    """
    try:
        with temporary(path.parent) as partial:
            yield partial
            partial.replace(path)
    except OSError as error:
        raise naming(error, path) from None


@contextmanager
def temporary(folder: Path, make: Callable[[Path], object] = Path.touch) -> Iterator[Path]:
    """A new file in `folder` (make = Path.mkdir: a folder), removed where it is still there.

    So are parents made for it that stay empty. It is locked: what is not belongs to a process that
    was killed (`remove_stale`). Its short name does not depend on that of the result.
    """
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = None
    try:
        while lock is None:
            partial = folder / f"{TEMPORARY}{secrets.token_hex(8)}.partial"
            make(partial)
            with suppress(FileNotFoundError):  # taken for stale before it was locked
                lock = locked(partial, wait=True)
        yield partial
    finally:
        _remove(partial)
        if lock is not None:
            os.close(lock)
        for parent in missing:
            with suppress(OSError):  # not empty
                parent.rmdir()


def remove_stale(folder: Path) -> None:
    """Removes what killed processes left in `folder` while they wrote."""
    for path in folder.glob(f"{TEMPORARY}*.partial"):
        with suppress(OSError):  # in use, or gone
            lock = locked(path)
            _remove(path)
            os.close(lock)


def locked(path: Path, wait: bool = False) -> int:
    """An open, locked handle; the system unlocks it with the end of the process, also a killed one.

    FileNotFoundError where the file is gone, BlockingIOError where another process holds it.
    """
    import fcntl

    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        path.stat()
    except FileNotFoundError:
        os.close(handle)
        raise
    except OSError:
        if not wait:  # in use; or a file system without locks, where all count as in use
            os.close(handle)
            raise
    return handle


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Writes atomically; numbers keep six significant digits, so that a diff shows real changes."""
    text = json.dumps(rounded(content, path), indent=2, sort_keys=True) + "\n"
    with atomic(path) as partial:
        partial.write_text(text, "utf-8")


def read_json(path: Path) -> dict:
    require_file(path)
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # also of bytes that are no UTF-8
        raise UserError(
            f"{path} is no readable JSON ({error}); `dvc repro` makes it again"
        ) from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path} holds {kind}, expected keys; `dvc repro` makes it again")
    return content


def read_csv(path: Path) -> pd.DataFrame:
    """A table of numbers as pandas wrote it: in whole lines."""
    require_file(path)
    try:
        if not path.read_bytes().endswith(b"\n"):
            raise ValueError("its last line is cut off")
        return pd.read_csv(path)
    except ValueError as error:  # also pandas' own, and of bytes that are no UTF-8
        raise UserError(
            f"{path} is no readable table ({' '.join(str(error).split())}); `dvc repro` makes it "
            "again"
        ) from None


def write_csv(table: pd.DataFrame, path: Path, float_format: str | None = None) -> None:
    """Without the index, and with the same line ends everywhere."""
    with atomic(path) as partial:
        table.to_csv(partial, index=False, float_format=float_format, lineterminator="\n")


def write_png(image: Image.Image, path: Path, colours: int = 128) -> None:
    """A palette of so many colours keeps an image small enough for git; cartoons need few."""
    small = image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with atomic(path) as partial:
        small.save(partial, "png", optimize=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: Path) -> None:
    """UserError where there is no file; OSError, with its name, where it must not be read."""
    if not path.is_file():
        link = "a link to no file" if path.is_symlink() else "missing"
        fault = "a folder, expected a file" if path.is_dir() else link
        raise UserError(f"{path} is {fault}; `dvc repro` makes it")
    path.open("rb").close()


def flatten(content: dict, prefix: str = "") -> dict[str, float | int | str | bool | None]:
    """{"a": {"b": 1}} to {"a.b": 1}; lists stay as they are."""
    flat = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def rounded(value, path: Path):
    """Content as `write_json` writes it; `path` is only named where a number is none."""
    if isinstance(value, dict):
        return {str(key): rounded(item, path) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, path) for item in value]
    if isinstance(value, float):
        assert math.isfinite(value), f"{value} in {path}"
        return float(f"{value:.6g}")
    return value


SPLITS = ("train", "val", "test")

VIDEOS = pa.schema(
    [
        ("video_id", pa.string()),  # from the relative path: stable when other videos come or go
        ("path", pa.string()),  # relative to source.path, with forward slashes
        ("sha256", pa.string()),
        ("codec", pa.string()),
        ("fps", pa.string()),  # a fraction, "24000/1001"
        ("n_frames", pa.int32()),
        ("height", pa.int32()),  # of the source, in pixels
        ("width", pa.int32()),
        ("duration", pa.float64()),  # seconds from the first frame to the end of the last
        ("status", pa.string()),  # "ok", "truncated", "damaged", "undecodable", "duplicate of ..."
        ("reason", pa.string()),  # empty where status is "ok"
        ("notes", pa.string()),  # what was converted or looks wrong: "HDR (PQ): ...; interlaced..."
    ]
)

SCENES = pa.schema(
    [
        ("scene_id", pa.string()),  # "<video_id>-<start, six digits>"
        ("video_id", pa.string()),
        ("start", pa.int32()),  # half-open range [start, end) of frame numbers
        ("end", pa.int32()),
        ("cut_score", pa.float64()),  # detector's score at `start`; 0 for a video's first scene
    ]
)

FRAME_INDEX = pa.schema(
    [
        ("video_id", pa.string()),
        ("frame", pa.int32()),
        ("scene_id", pa.string()),
        ("hold", pa.int32()),  # frames that this drawing is shown, on its first frame; else 0
        ("use_image", pa.bool_()),
        ("use_clip", pa.bool_()),
        ("reason", pa.string()),  # why the frame is in neither set, or "held drawing"
    ]
)

CLIPS = pa.schema(
    [
        ("clip_id", pa.string()),  # "<scene_id>-<part, two digits>"
        ("scene_id", pa.string()),
        ("video_id", pa.string()),
        ("frames", pa.list_(pa.int32())),
        ("n_frames", pa.int32()),
        ("motion", pa.float64()),  # mean absolute change from frame to frame, grey levels
        ("split", pa.string()),  # "train", "val", "test", or "" where rejected
        ("reason", pa.string()),  # why the scene or clip was rejected, else ""
    ]
)

TOKENS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("flipped", pa.bool_()),  # variants of a clip in train: mirrored,
        ("reversed", pa.bool_()),  # played backwards
        ("n_frames", pa.int32()),
        ("tokens", pa.list_(pa.uint16())),  # n_frames * N, frame by frame, row by row
        ("features", pa.large_binary()),  # float16 n_frames * N * C, empty without context
    ]
)


def write_table(
    rows: pa.Table | pd.DataFrame | dict | list[dict], schema: pa.Schema, path: Path
) -> None:
    """Writes parquet atomically: no half-written table is ever left."""
    if isinstance(rows, pa.Table):
        table = rows
    elif isinstance(rows, pd.DataFrame):
        table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
    elif isinstance(rows, dict):
        table = pa.Table.from_pydict(rows, schema=schema)
    else:
        table = pa.Table.from_pylist(rows, schema=schema)
    with atomic(path) as partial:
        pq.write_table(table.replace_schema_metadata(None), partial, compression="zstd")


@contextmanager
def table_writer(schema: pa.Schema, path: Path) -> Iterator[Callable[[dict], None]]:
    """The same row by row, for what is larger than memory: gives a function that adds one."""
    rows: list[dict] = []
    with (
        atomic(path) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        def add(row: dict) -> None:
            rows.append(row)
            if len(rows) == ROW_GROUP:
                flush()

        yield add
        if rows:
            flush()


def read_rows(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """Rows of a table one after the other, as `DataFrame.itertuples` names their columns."""
    with _checked(path, schema) as file:
        for batch in file.iter_batches(ROWS_READ):
            yield from _validated(pa.Table.from_batches([batch]), schema).itertuples()


def read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """Reads a table and checks its columns against the contract."""
    with _checked(path, schema) as file:
        return _validated(file.read(), schema)


def _validated(table: pa.Table, schema: pa.Schema) -> pd.DataFrame:
    table = table.cast(schema)
    table.validate(full=True)  # text that is no UTF-8 would be met hours later
    return table.to_pandas()


@contextmanager
def _checked(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetFile]:
    require_file(path)
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if names != schema.names:
                raise UserError(
                    f"{path} has the columns {names}, expected {schema.names}; "
                    "run `dvc repro` to make it again"
                )
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:  # also of text that is no UTF-8
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} is no readable table ({reason}); `dvc repro` makes it again"
        ) from None
