"""Shards: a few large Arrow files that the loaders map into memory.

`images-<split>-NNNNN.arrow` has a row a picture, `clips-<split>-NNNNN.arrow` a row a clip. Pixels
are stored as they are (uint8 `H W 3`), so that a row is read without a copy. `index.json` lists
every shard with rows, bytes and sha256.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa

from pipeline import progress, schema
from pipeline.errors import naming
from pipeline.footage.framefile import open_frames
from pipeline.records import write_json

ROWS_A_BATCH = {"images": 256, "clips": 8}


def image_schema(height: int, width: int) -> pa.Schema:
    pixels = pa.binary(height * width * 3)
    fields = [("video_id", pa.string()), ("frame", pa.int32()), ("image", pixels)]
    return pa.schema(fields, {"height": str(height), "width": str(width)})


def clip_schema(height: int, width: int) -> pa.Schema:
    fields = [("clip_id", pa.string()), ("n_frames", pa.int32()), ("images", pa.large_binary())]
    return pa.schema(fields, {"height": str(height), "width": str(width)})


def pack(
    frames: Path, index: pd.DataFrame, clips: pd.DataFrame, out: Path, size: tuple, shard_mb: float
) -> dict:
    """Writes all shards of all splits below `out`; gives counts of images, clips and bytes."""
    height, width = size
    out.mkdir(parents=True, exist_ok=True)
    accepted = clips[clips.split != ""].sort_values("clip_id")
    images = _images_with_split(index, accepted)
    counts: dict[str, int] = {}
    shards = []
    with progress.bar(what="packing", unit="row", total=len(images) + len(accepted)) as bar:
        for split in schema.SPLITS:
            for kind, rows, make, fields in (
                ("images", images[images.split == split], _image_rows, image_schema),
                ("clips", accepted[accepted.split == split], _clip_rows, clip_schema),
            ):
                name, columns = f"{kind}-{split}", fields(height, width)
                with ShardWriter(out, name, columns, shard_mb) as writer:
                    for row in make(rows, frames):
                        writer.add(row)
                        bar.update()
                    shards += writer.close()
                counts[f"{kind}_{split}"] = len(rows)
    write_json(out / "index.json", {"height": height, "width": width, "shards": shards})
    return counts | {"shards": len(shards), "megabytes": sum(s["bytes"] for s in shards) / 1e6}


def _images_with_split(index: pd.DataFrame, accepted: pd.DataFrame) -> pd.DataFrame:
    """Pictures take the split of their scene, so that no scene teaches one network and tests it."""
    split = accepted.drop_duplicates("scene_id").set_index("scene_id").split
    images = index[index.use_image].copy()
    images["split"] = images.scene_id.map(split)
    return images.dropna(subset="split").sort_values(["video_id", "frame"])


def _image_rows(rows: pd.DataFrame, frames: Path) -> Iterator[dict]:
    for video_id, its_rows in rows.groupby("video_id"):
        footage = open_frames(frames, video_id)
        for row in its_rows.itertuples():
            image = footage[row.frame].tobytes()
            yield {"video_id": video_id, "frame": row.frame, "image": image}


def _clip_rows(rows: pd.DataFrame, frames: Path) -> Iterator[dict]:
    for video_id, its_rows in rows.groupby("video_id"):
        footage = open_frames(frames, video_id)
        for row in its_rows.itertuples():
            images = b"".join(footage[frame].tobytes() for frame in row.frames)
            yield {"clip_id": row.clip_id, "n_frames": row.n_frames, "images": images}


class ShardWriter:
    """Appends rows and begins a new shard at `shard_mb`.

    A shard gets its final name when it is complete. After an error, a full disk for instance, the
    unfinished one is removed.
    """

    def __init__(self, folder: Path, name: str, fields: pa.Schema, shard_mb: float) -> None:
        self.folder, self.name, self.fields = folder, name, fields
        self.limit = shard_mb * 1e6
        self.rows_a_batch = ROWS_A_BATCH[name.split("-")[0]]
        self.done: list[dict] = []
        self._rows: list[dict] = []
        self._waiting = self._written = self._count = 0
        self._file = self._writer = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            self._abandon()

    def add(self, row: dict) -> None:
        pixels = row.get("image", row.get("images"))
        if self._count and self._written + self._waiting + len(pixels) > self.limit:
            self._finish()
        self._rows.append(row)
        self._waiting += len(pixels)
        self._count += 1
        if len(self._rows) >= self.rows_a_batch:
            self._flush()

    def close(self) -> list[dict]:
        """Completes the last shard; gives name, rows, bytes and sha256 of each."""
        if self._count:
            self._finish()
        return self.done

    @property
    def _partial(self) -> Path:
        return self.folder / f"{self.name}-{len(self.done):05d}.arrow.partial"

    def _flush(self) -> None:
        with self._complete_or_gone():
            if self._writer is None:
                self._file = pa.OSFile(str(self._partial), "wb")
                self._writer = pa.ipc.new_file(self._file, self.fields)
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, self.fields))
        self._written += self._waiting
        self._rows, self._waiting = [], 0

    def _finish(self) -> None:
        if self._rows:
            self._flush()
        path = self._partial.with_suffix("")
        with self._complete_or_gone():
            self._writer.close()
            self._file.close()
            self._partial.replace(path)
        record = {"file": path.name, "rows": self._count, "bytes": path.stat().st_size}
        self.done.append(record | {"sha256": file_sha256(path)})
        self._file = self._writer = None
        self._written = self._count = 0

    @contextlib.contextmanager
    def _complete_or_gone(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._abandon()
            if isinstance(error, OSError):
                raise naming(error, self._partial.with_suffix("")) from None
            raise

    def _abandon(self) -> None:
        """Removes the unfinished shard; closing it may fail once more on a full disk."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._partial.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
