"""Decoded videos, kept by content, parameters and code, so that no video is decoded twice.

`<DVC_ROOT>/.store/ingest/<key>.arrow` is the frame file, `<key>.json` its row without the names,
written last: an entry is complete or absent. Files are hard links of those in the stage's output
(copies where links do not work), so they cost no second place on disk until DVC copies its own.
DVC deletes an output before a stage runs; the cache is what remains. Frame files are never written
into, only replaced, so a link changes nothing elsewhere.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL
import pyarrow as pa

from pipeline import config
from pipeline.data.frame_file import SUFFIX
from pipeline.io import atomic, remove_stale, temporary
from pipeline.video import decode

LIBRARY = Path(__file__).parents[1]
CODE = (
    "data/ingest.py", "data/frame_file.py", "data/detector_features.py", "frames.py",
    "video/colours.py", "video/decode.py", "video/ffmpeg_input.py", "video/folder.py",
    "video/image_sequence.py", "video/interlace.py", "video/letterbox.py", "video/pictures.py",
    "video/probe.py",
)  # fmt: skip
LIBRARIES = (PIL.__version__, cv2.__version__, np.__version__, pa.__version__)
NAMES = ("video_id", "path", "sha256")  # of a row; those belong to the file, not to its content
SPARE = 2  # the cache may hold this many times the bytes of the present run beside it, and
KEPT_BYTES = 20 * 10**9  # so many in any case: a run of the sample must not forget a season
BLOCK_BYTES = 2**22


@dataclass(frozen=True)
class FrameCache:
    """One folder of entries, as seen with the parameters of a run."""

    folder: Path
    size: config.Ingest

    def has(self, sha256: str) -> bool:
        """Whether there is an entry of a content; `restore` tells if it is whole."""
        return bool(sha256) and self._row_file(sha256).is_file()

    def restore(self, sha256: str, frame_file: Path) -> dict | None:
        """Links an entry's frame file to that name and gives its row; None where there is none."""
        row_file = self._row_file(sha256)
        kept = row_file.with_suffix(SUFFIX)
        try:
            row = json.loads(row_file.read_text("utf-8"))
            if not sha256 or row.pop("crc32") != _crc32(kept):
                return None
            _link(kept, frame_file)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None  # absent (pruned by another run, say) or damaged: it is decoded again
        for path in (kept, row_file):
            with contextlib.suppress(OSError):
                os.utime(path)  # what was used last is pruned last
        return row

    def keep(self, row: dict, frame_file: Path) -> None:
        """Adds a finished video."""
        row_file = self._row_file(row["sha256"])
        kept = row_file.with_suffix(SUFFIX)
        _link(frame_file, kept)
        content = {key: value for key, value in row.items() if key not in NAMES}
        content["crc32"] = _crc32(kept)
        with atomic(row_file) as partial:
            partial.write_text(json.dumps(content, sort_keys=True), "utf-8")

    def prune(self, used_bytes: int) -> None:
        """Removes entries, those not used for longest first, until few enough bytes are left.

        Another run may be at work in the same cache.
        """
        limit, total = max(KEPT_BYTES, (1 + SPARE) * used_bytes), 0
        stats = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                stats.append((path, path.stat()))
        newest_first = sorted(stats, key=lambda item: -item[1].st_mtime)
        for path, stat in newest_first:
            total += stat.st_size
            if total > limit:
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        remove_stale(self.folder)

    def _row_file(self, sha256: str) -> Path:
        """The entry's JSON file; its frame file has the same name."""
        size = self.size.model_dump(exclude={"on_error"})  # what changes a frame file
        entry = {"content": sha256, "code": _code_hash(), "size": size}
        key = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{key}.json"


def _crc32(path: Path) -> int:
    """Reads 3 GB a second: a footer alone would not tell a page of zeros after a power cut."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return value


@functools.cache
def _code_hash() -> str:
    digest = hashlib.sha256(json.dumps([*decode.version(), *LIBRARIES]).encode())
    for name in CODE:
        digest.update((LIBRARY / name).read_bytes())
    return digest.hexdigest()


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name, replacing what has it; a copy across file systems."""

    def make(partial: Path) -> None:
        try:
            partial.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, partial)

    try:
        with temporary(target.parent, make) as partial:
            partial.replace(target)  # does nothing where both names are one file
    except OSError as error:  # names the source where the target's disk is full
        error.filename, error.filename2 = str(target), None
        raise
