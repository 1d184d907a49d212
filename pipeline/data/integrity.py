"""Whether shards are what `index.json` says: their number, their bytes and their SHA-256.

Hashing reads a shard once (some 0.6 s a GB, into the page cache, where training wants it anyhow);
a file that was found right is not hashed again by the same process while it stays as it is.
"""

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import UserError
from pipeline.io import read_json

INDEX = "index.json"
REMEDY = "delete the folder and run `dvc repro shard_pack`"
THREADS = 2  # hashlib lets go of Python's lock


def check_shards(folder: Path, paths: Sequence[Path]) -> None:
    """Raises a UserError that names a shard that is missing, truncated, altered or a stranger.

    `paths` are all shards of one kind and split. A folder without index.json is not judged.
    """
    if not (folder / INDEX).is_file():
        return
    listed = _listed(folder / INDEX)
    kind = paths[0].name.rsplit("-", 1)[0]
    for name in listed:
        if name.startswith(f"{kind}-") and folder / name not in paths:
            raise UserError(f"{folder / name} is missing, {INDEX} lists it; {REMEDY}")
    for path in paths:
        if path.name not in listed:
            raise UserError(f"{path} is not listed in {INDEX}, expected none but those; {REMEDY}")
        found, expected = path.stat().st_size, listed[path.name][0]
        if found != expected:
            raise UserError(f"{path} has {found} bytes, {INDEX} says {expected}; {REMEDY}")
    with ThreadPoolExecutor(THREADS) as pool:
        for path, digest in zip(paths, pool.map(_digest, paths), strict=True):
            expected = listed[path.name][1]
            if digest != expected:
                raise UserError(
                    f"{path} was altered: its SHA-256 begins with {digest[:12]}, {INDEX} says "
                    f"{expected[:12]}; {REMEDY}"
                )


def _listed(index: Path) -> dict[str, tuple[int, str]]:
    """Bytes and SHA-256 of each file."""
    try:
        shards = read_json(index)["shards"]
        return {shard["file"]: (shard["bytes"], shard["sha256"]) for shard in shards}
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{index} is damaged, expected file, bytes and sha256 of each shard; {REMEDY}"
        ) from None


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str:
    about = path.stat()
    return _remembered(path.resolve(), about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _remembered(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)
