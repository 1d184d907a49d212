"""Near-duplicate scenes of two splits: an opening or a recap must not be learned and tested.

A frame's hash has 256 bits: the 16x16 lowest frequencies of the DCT of its 32x32 grey picture, each
above their median or not (the perceptual hash of PySceneDetect's HashDetector). Two scenes are
near-duplicates if, at one shift in time, MIN_ALIKE or more of SAMPLES evenly spaced frames of the
shorter one fall into the longer one, and all of those lie within a Hamming distance of its frames:
so also a scene within another, and two that share some sixty per cent. Another speed hides a scene.
A picture of one colour has no meaningful hash and is never matched.

Scenes are looked up by the middle frame of each among all frames of the others; only the pairs
that this finds are compared in full. 4,000 scenes of 90 frames took 2.9 s on one core, so 20,000
should take some 75 s; their hashes were random, and real candidates cost more.

Which distance, and what is not found: docs/results/clips.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

SIDE, BITS = 16, 256  # hash: SIDE x SIDE frequencies
SAMPLES, MIN_ALIKE = 5, 3  # frames of the shorter scene that are looked for in the longer one
SLACK = 3  # frames at the ends of a scene that are not looked at
MIN_DEVIATION = 2.0  # grey levels; a picture with less has no structure to hash
ROWS, COLUMNS = 64, 8192  # hashes compared at once: what stays in a processor's cache


@dataclass(frozen=True)
class HashedScene:
    """Hashes of the frames of a scene that have a structure; `at` are their numbers in it."""

    scene_id: str
    split: str
    hashes: np.ndarray  # T 4, uint64
    at: np.ndarray  # T
    n_frames: int

    @property
    def samples(self) -> np.ndarray:
        """Rows of SAMPLES frames; none at the ends, which a scene cut elsewhere may lack."""
        last = len(self.at) - 1
        inset = min(SLACK, last // 2)
        return np.linspace(inset, last - inset, SAMPLES).round().astype(int)


def hash_frames(small: np.ndarray) -> np.ndarray:
    """uint8 `T 32 32` grey to uint64 `T 4`."""
    identity = np.eye(small.shape[-1], dtype=np.float32)
    basis = cv2.dct(identity, flags=cv2.DCT_ROWS).T[:SIDE]  # 16 32: one frequency a row
    waves = (basis @ small.astype(np.float32) @ basis.T).reshape(len(small), BITS)
    bits = waves > np.median(waves, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)  # T 4


def hash_scene(scene_id: str, split: str, small: np.ndarray) -> HashedScene:
    """`small` is uint8 `T 32 32`, the frames of the scene."""
    at = np.flatnonzero(small.std(axis=(1, 2)) >= MIN_DEVIATION)
    return HashedScene(scene_id, split, hash_frames(small[at]), at, len(small))


def find_near_duplicates(scenes: list[HashedScene], max_distance: int) -> dict[str, str]:
    """Scenes to drop, by id, with the reason: those of val that test has, then those of train
    that val or test has. No scene where `max_distance` (in bits) is -1."""
    reasons: dict[str, str] = {}
    if max_distance < 0:
        return reasons
    for split, kept_splits in (("val", ("test",)), ("train", ("val", "test"))):
        scenes_to_check = [scene for scene in scenes if scene.split == split]
        kept = [s for s in scenes if s.split in kept_splits and s.scene_id not in reasons]
        candidates = set(_candidates(scenes_to_check, kept, max_distance))
        candidates |= {(i, k) for k, i in _candidates(kept, scenes_to_check, max_distance)}
        for i, k in sorted(candidates):
            scene, other = scenes_to_check[i], kept[k]
            if scene.scene_id not in reasons and is_near_duplicate(scene, other, max_distance):
                reasons[scene.scene_id] = f"nearly identical to {other.scene_id} in {other.split}"
    return reasons


def is_near_duplicate(one: HashedScene, other: HashedScene, max_distance: int) -> bool:
    """Whether most of the shorter of both, blank frames left out, is in the longer one."""
    short, long = sorted((one, other), key=lambda scene: scene.n_frames)
    if not len(short.at) or not len(long.at):
        return False
    row_of = np.full(long.n_frames, -1)  # row in `hashes` of each frame, -1 where it is blank
    row_of[long.at] = np.arange(len(long.at))
    shifts = np.arange(-short.n_frames, long.n_frames + 1)
    frames = short.at[short.samples] + shifts[:, None]  # S 5: numbers in the longer scene
    inside = (frames >= 0) & (frames < long.n_frames)
    rows = np.where(inside, row_of[frames % long.n_frames], -1)
    distances = np.bitwise_count(long.hashes[rows] ^ short.hashes[short.samples]).sum(-1)  # S 5
    alike = (distances <= max_distance) & (rows >= 0)
    return bool(((alike | ~inside).all(axis=1) & (alike.sum(axis=1) >= MIN_ALIKE)).any())


def _candidates(
    scenes: list[HashedScene], others: list[HashedScene], max_distance: int
) -> Iterator[tuple[int, int]]:
    """Pairs of numbers of which the middle frame of the first is like a frame of the second."""
    ids = np.flatnonzero([len(scene.at) > 0 for scene in scenes])
    if not len(ids) or not any(len(scene.at) for scene in others):
        return
    hashed = [scenes[number] for number in ids]
    middles = np.stack([scene.hashes[scene.samples[SAMPLES // 2]] for scene in hashed])  # S 4
    frames = np.concatenate([scene.hashes for scene in others])  # T 4
    owner = np.repeat(np.arange(len(others)), [len(scene.at) for scene in others])
    for row in range(0, len(middles), ROWS):
        for column in range(0, len(frames), COLUMNS):
            block = frames[column : column + COLUMNS]
            distances = _hamming(middles[row : row + ROWS], block)
            near, frame = np.nonzero(distances <= max_distance)
            yield from zip(ids[row + near].tolist(), owner[column + frame].tolist(), strict=True)


def _hamming(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """uint64 `S 4` and `T 4` to uint16 `S T`: bits that differ."""
    total = np.zeros((len(hashes), len(others)), np.uint16)
    for word, other in zip(hashes.T, others.T.copy(), strict=True):
        total += np.bitwise_count(word[:, None] ^ other)
    return total
