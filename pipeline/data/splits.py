"""Which split a scene belongs to: a pure function of its name, so that adding videos moves nothing.

The name is the video id, or the video id and the scene's first frame. Its SHA-256, read as a
number in [0, 1), is compared with the shares: train has the range from 0 to `train_share`, then
come val and test.

Small sets: where a split has no clip, what lies nearest to its range moves there, out of a split
that keeps another one. So three scenes (videos, where split by video) with clips always make three
splits, and nothing moves where all three have one.

A source may know better: moving MNIST makes its test sequences of digits that its training
sequences never show. Its frame files carry `split`: "test" is the test split, and "train" is
shared among train and val alone.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pipeline import config
from pipeline.errors import UserError
from pipeline.io import SPLITS

FILLED = ("test", "train", "val")  # in this order the outermost go to test and to train


class Keyed(NamedTuple):
    """What stays together, all of a video or all of a scene, and what the source says of it."""

    key: str
    source: str = ""  # "train", "test" or "" (nothing)

    def place(self, rules: config.ClipChunk) -> float:
        """A number in [0, 1); a source's own "train" has the ranges of train and val for itself."""
        share = rules.train_share + rules.val_share if self.source == "train" else 1.0
        return position(self.key) * share


def split_key(video_id: str, start: int, split_by: str) -> str:
    return video_id if split_by == "video" else f"{video_id}-{start}"


def position(key: str) -> float:
    """A number in [0, 1) that depends on the key alone, evenly spread over many keys."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48


def split_of(keyed: Keyed, rules: config.ClipChunk) -> str:
    if keyed.source == "test":
        return "test"
    at = keyed.place(rules)
    if at < rules.train_share:
        return "train"
    return "val" if keyed.source or at < rules.train_share + rules.val_share else "test"


def fill_empty_splits(
    splits: Mapping[Keyed, str],
    rules: config.ClipChunk,
    used: Callable[[Mapping[Keyed, str]], set[Keyed]],
) -> dict[Keyed, str]:
    """The same with at least one in each split, as far as there are enough; see above.

    `used` says which of them keep a clip in given splits, as near-duplicates lose theirs. A move
    that would take the last clip of another split is not made.
    """
    splits = dict(splits)
    for empty in FILLED:
        there = used(splits)
        counts = Counter(splits[keyed] for keyed in there)
        if counts[empty]:
            continue
        free = {""} if empty == "test" else {"", "train"}  # sources that let theirs go there
        movable = [k for k in there if counts[splits[k]] > 1 and k.source in free]
        for keyed in sorted(movable, key=lambda keyed: (_distance(keyed, empty, rules), keyed)):
            moved = splits | {keyed: empty}
            if {moved[other] for other in used(moved)} >= {empty, *counts}:
                splits = moved
                break
    return splits


def _distance(keyed: Keyed, split: str, rules: config.ClipChunk) -> float:
    """How far it lies from the range of a split that it is not in."""
    val, test = rules.train_share, rules.train_share + rules.val_share
    start, end = {"train": (0.0, val), "val": (val, test), "test": (test, 1.0)}[split]
    at = keyed.place(rules)
    return max(start - at, at - end)


def check_splits(counts: Mapping[str, int], rules: config.ClipChunk) -> None:
    """Raises a UserError if a split got no clip."""
    empty = [name for name in SPLITS if not counts.get(name)]
    if not empty:
        return
    clips = ", ".join(f"{counts.get(name, 0)} {name}" for name in SPLITS)
    clips += f", {counts.get('', 0)} rejected"
    if rules.split_by == "video":
        remedy = "set clip_chunk.split_by to scene"
    else:
        remedy = "lower clip_chunk.min_frames"
    raise UserError(
        f"no clip for {' and '.join(empty)}: {clips} with clip_chunk.split_by = {rules.split_by}, "
        f"expected clips in at least three different {rules.split_by}s, one for each split; add "
        f"footage, {remedy}, or loosen clip_chunk.filters"
    )
