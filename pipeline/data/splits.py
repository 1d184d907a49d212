"""Which split a scene belongs to: a pure function of its name, so that adding videos moves nothing.

The name is the video id, or the video id and the scene's first frame. Its SHA-256, read as a
number in [0, 1), is compared with the shares.

A source may know better: moving MNIST makes its test sequences of digits that its training
sequences never show. Its frame files carry `split`: "test" is the test split, and "train" is
shared among train and val alone.
"""

import hashlib
from collections.abc import Mapping

from pipeline import config
from pipeline.errors import UserError
from pipeline.io import SPLITS


def split_key(video_id: str, start: int, split_by: str) -> str:
    """What stays together: all of a video, or all of a scene."""
    return video_id if split_by == "video" else f"{video_id}-{start}"


def position(key: str) -> float:
    """A number in [0, 1) that depends on the key alone, evenly spread over many keys."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48


def split_of(key: str, train_share: float, val_share: float, source: str = "") -> str:
    """`train`, `val` or `test`; `source` is what the source says: "train", "test" or "" (nothing).

    Among the source's own "train", the shares of train and val keep their ratio.
    """
    if source == "test":
        return "test"
    at = position(key)
    if source == "train":
        at *= train_share + val_share
    if at < train_share:
        return "train"
    return "val" if source == "train" or at < train_share + val_share else "test"


def check_splits(counts: Mapping[str, int], rules: config.ClipChunk) -> None:
    """Raises a UserError if a split got no clip."""
    empty = [name for name in SPLITS if not counts.get(name)]
    if not empty:
        return
    clips = ", ".join(f"{counts.get(name, 0)} {name}" for name in SPLITS)
    clips += f", {counts.get('', 0)} rejected"
    other = "scene" if rules.split_by == "video" else "video"
    raise UserError(
        f"no clip for {' and '.join(empty)}: {clips} with clip_chunk.split_by = {rules.split_by}, "
        f"train_share = {rules.train_share:g}, val_share = {rules.val_share:g}, expected at least "
        f"one of each; add footage, set clip_chunk.split_by to {other}, change the shares, "
        "or loosen clip_chunk.filters"
    )
