"""Shards: a few large Arrow files that the loaders map into memory.

`images-<split>-NNNNN.arrow` has a row a picture, `clips-<split>-NNNNN.arrow` a row a clip. Pixels
are stored as they are (uint8 `H W 3`), so that a row is read without a copy. `index.json` lists
every shard with rows, bytes and sha256.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from pipeline import io
from pipeline.data import executor
from pipeline.data.digits import DIGITS_FILE
from pipeline.data.frame_file import open_frames

ROWS_A_BATCH = {"images": 256, "clips": 8}


def image_schema(height: int, width: int) -> pa.Schema:
    pixels = pa.binary(height * width * 3)
    fields = [("video_id", pa.string()), ("frame", pa.int32()), ("image", pixels)]
    return pa.schema(fields, {"height": str(height), "width": str(width)})


def clip_schema(height: int, width: int) -> pa.Schema:
    fields = [("clip_id", pa.string()), ("n_frames", pa.int32()), ("images", pa.large_binary())]
    return pa.schema(fields, {"height": str(height), "width": str(width)})


@dataclass(frozen=True)
class Shard:
    """One file to be written: its rows of the index or of the clips."""

    folder: Path
    kind: str  # images, clips
    split: str
    number: int
    size: tuple[int, int]
    rows: pd.DataFrame

    @property
    def path(self) -> Path:
        return self.folder / f"{self.kind}-{self.split}-{self.number:05d}.arrow"


def pack(
    frames: Path,
    index: pd.DataFrame,
    clips: pd.DataFrame,
    out: Path,
    size: tuple[int, int],
    pool: executor.Pool,
    shard_mb: float = 192.0,
) -> dict:
    """Writes all shards of all splits below `out`; gives counts of images, clips and bytes.

    A new shard begins at `shard_mb` megabytes. The same bytes whatever the pool: what stands in a
    shard is settled before. Shards that lay in `out` go; after an error or a killed worker no
    unfinished one stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in (out / "index.json", out / DIGITS_FILE, *out.glob("*.arrow")):
        path.unlink(missing_ok=True)
    accepted = clips[clips.split != ""].sort_values("clip_id")
    # pictures take the split of their scene: none teaches one network and tests the other
    images = index[index.use_image].copy()
    images["split"] = images.scene_id.map(
        accepted.drop_duplicates("scene_id").set_index("scene_id").split
    )
    images = images.dropna(subset="split").sort_values(["video_id", "frame"])
    shards, counts = [], {}
    for split in io.SPLITS:
        for kind, table in (("images", images), ("clips", accepted)):
            rows = table[table.split == split].sort_values("video_id", kind="stable")
            counts[f"{kind}_{split}"] = len(rows)
            parts = enumerate(_parts(rows, kind, size, shard_mb * 1e6))
            shards += [Shard(out, kind, split, number, size, part) for number, part in parts]
    n_rows = sum(len(shard.rows) for shard in shards)
    jobs = [(shard, frames) for shard in shards]
    try:
        records = pool.run(write_shard, jobs, what="packing", unit="row", total=n_rows)
    finally:
        io.remove_stale(out)  # also of an earlier run
    if (frames / DIGITS_FILE).is_file():  # of Moving MNIST: training draws its own sequences
        with io.atomic(out / DIGITS_FILE) as partial:
            shutil.copyfile(frames / DIGITS_FILE, partial)
        records.append(_record(out / DIGITS_FILE, 0))
    height, width = size
    io.write_json(out / "index.json", {"height": height, "width": width, "shards": records})
    return counts | {"shards": len(records), "megabytes": sum(s["bytes"] for s in records) / 1e6}


def _parts(rows: pd.DataFrame, kind: str, size: tuple[int, int], limit: float):
    """Rows of each shard: as many as `limit` bytes of pixels hold, at least one."""
    lengths = rows.n_frames if kind == "clips" else pd.Series(1, rows.index)
    start = filled = 0
    for at, pixels in enumerate(lengths.to_numpy() * (size[0] * size[1] * 3)):
        if filled and filled + pixels > limit:
            yield rows.iloc[start:at]
            start, filled = at, 0
        filled += pixels
    if filled:
        yield rows.iloc[start:]


def write_shard(shard: Shard, frames: Path) -> dict:
    """Writes one shard; its name, rows, bytes and sha256."""
    schema = image_schema if shard.kind == "images" else clip_schema
    with open_shard(shard.path, schema(*shard.size)) as add:
        for video_id, rows in shard.rows.groupby("video_id"):
            footage = open_frames(frames, video_id)
            for row in rows.itertuples():
                if shard.kind == "images":
                    image = footage[row.frame].tobytes()
                    add({"video_id": video_id, "frame": row.frame, "image": image})
                else:
                    images = b"".join(footage[frame].tobytes() for frame in row.frames)
                    add({"clip_id": row.clip_id, "n_frames": row.n_frames, "images": images})
                executor.count(1)
    return _record(shard.path, len(shard.rows))


def _record(path: Path, rows: int) -> dict:
    size = path.stat().st_size
    return {"file": path.name, "rows": rows, "bytes": size, "sha256": io.sha256(path)}


@contextlib.contextmanager
def open_shard(path: Path, fields: pa.Schema) -> Iterator[Callable[[dict], None]]:
    """Gives a function that appends a row; the shard gets its name when it is complete."""
    rows_a_batch = ROWS_A_BATCH[path.name.split("-")[0]]
    rows: list[dict] = []
    with (
        io.atomic(path) as partial,
        pa.OSFile(str(partial), "wb") as file,
        pa.ipc.new_file(file, fields) as writer,
    ):

        def add(row: dict) -> None:
            rows.append(row)
            if len(rows) == rows_a_batch:
                flush()

        def flush() -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, fields))
            rows.clear()

        yield add
        if rows:
            flush()
