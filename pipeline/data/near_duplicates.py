"""Near-identical scenes of two splits: an opening or a recap must not be learned and tested.

A frame's hash has 256 bits: the 16x16 lowest frequencies of the DCT of its 32x32 grey picture, each
above their median or not (the perceptual hash of PySceneDetect's HashDetector). Two scenes are
near-identical if, at one shift in time, LEAST or more of SAMPLES evenly spaced frames of the
shorter one fall into the longer one, and all of those lie within `bits` of its frames: so also a
scene within another, and two that share some sixty per cent. Another speed hides a scene.
A picture of one colour has no meaningful hash and is never matched.

Scenes are looked up by the middle frame of each among all frames of the others; only scenes that
meet there are compared in full. 4,000 scenes of 90 frames took 2.9 s on one core, so 20,000 should
take some 75 s; their hashes were random, and scenes that do meet cost more.

How many bits, and what is not found: docs/results/clips.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

SIDE, BITS = 16, 256  # hash: SIDE x SIDE frequencies
SAMPLES, LEAST = 5, 3  # frames of the shorter scene that are looked for in the longer one
SLACK = 3  # frames at the ends of a scene that are not looked at
MIN_DEVIATION = 2.0  # grey levels; a picture with less has no structure to hash
ROWS, COLUMNS = 64, 8192  # hashes compared at once: what stays in a processor's cache


@dataclass(frozen=True)
class Scene:
    """Hashes of the frames of a scene that have a structure; `at` are their numbers in it."""

    scene_id: str
    split: str
    hashes: np.ndarray  # T 4, uint64
    at: np.ndarray  # T
    n_frames: int


def hash_frames(small: np.ndarray) -> np.ndarray:
    """uint8 `T 32 32` grey to uint64 `T 4`."""
    identity = np.eye(small.shape[-1], dtype=np.float32)
    basis = cv2.dct(identity, flags=cv2.DCT_ROWS).T[:SIDE]  # 16 32: one frequency a row
    waves = (basis @ small.astype(np.float32) @ basis.T).reshape(len(small), BITS)
    bits = waves > np.median(waves, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)  # T 4


def hash_scene(scene_id: str, split: str, small: np.ndarray) -> Scene:
    """`small` is uint8 `T 32 32`, the frames of the scene."""
    at = np.flatnonzero(small.std(axis=(1, 2)) >= MIN_DEVIATION)
    return Scene(scene_id, split, hash_frames(small[at]), at, len(small))


def find_leaks(scenes: list[Scene], bits: int) -> dict[str, str]:
    """Scenes to drop, by id, with the reason: those of val that test has, then those of train
    that val or test has. No scene where `bits` is -1."""
    leaks: dict[str, str] = {}
    if bits < 0:
        return leaks
    for split, kept in (("val", ("test",)), ("train", ("val", "test"))):
        doubtful = [scene for scene in scenes if scene.split == split]
        against = [s for s in scenes if s.split in kept and s.scene_id not in leaks]
        leaks |= _like_any(doubtful, against, bits)
    return leaks


def near_identical(one: Scene, other: Scene, bits: int) -> bool:
    """Whether most of the shorter of both, blank frames left out, is in the longer one."""
    short, long = sorted((one, other), key=lambda scene: scene.n_frames)
    if not len(short.at) or not len(long.at):
        return False
    chosen = _chosen(short)
    shifts = np.arange(-short.n_frames, long.n_frames + 1)
    frames = short.at[chosen] + shifts[:, None]  # S 5: numbers in the longer scene
    inside = (frames >= 0) & (frames < long.n_frames)
    rows = np.where(inside, _row_of(long)[frames % long.n_frames], -1)
    distances = np.bitwise_count(long.hashes[rows] ^ short.hashes[chosen]).sum(-1)  # S 5
    alike = (distances <= bits) & (rows >= 0)
    return bool(((alike | ~inside).all(axis=1) & (alike.sum(axis=1) >= LEAST)).any())


def _row_of(scene: Scene) -> np.ndarray:
    """Row in `hashes` of each frame of a scene, -1 where it is blank."""
    rows = np.full(scene.n_frames, -1)
    rows[scene.at] = np.arange(len(scene.at))
    return rows


def _like_any(doubtful: list[Scene], against: list[Scene], bits: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for one, other in sorted(_meetings(doubtful, against, bits)):
        scene, rival = doubtful[one], against[other]
        if scene.scene_id not in found and near_identical(scene, rival, bits):
            found[scene.scene_id] = f"nearly identical to {rival.scene_id} in {rival.split}"
    return found


def _meetings(some: list[Scene], others: list[Scene], bits: int) -> set[tuple[int, int]]:
    """Pairs (some, others) of which one has a frame like the other's middle frame."""
    there = {(one, other) for one, other in _middles_in(some, others, bits)}
    return there | {(one, other) for other, one in _middles_in(others, some, bits)}


def _middles_in(some: list[Scene], others: list[Scene], bits: int) -> Iterator[tuple[int, int]]:
    """Pairs of which the middle frame of the first is like a frame of the second."""
    ids = np.flatnonzero([len(scene.at) > 0 for scene in some])
    if not len(ids) or not any(len(scene.at) for scene in others):
        return
    middles = np.stack([_middle(some[number]) for number in ids])  # S 4
    frames = np.concatenate([scene.hashes for scene in others])  # T 4
    owner = np.repeat(np.arange(len(others)), [len(scene.at) for scene in others])
    for row in range(0, len(middles), ROWS):
        for column in range(0, len(frames), COLUMNS):
            part = frames[column : column + COLUMNS]
            near, there = np.nonzero(_distances(middles[row : row + ROWS], part) <= bits)
            yield from zip(ids[row + near].tolist(), owner[column + there].tolist(), strict=True)


def _distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """uint64 `S 4` and `T 4` to uint16 `S T`: bits that differ."""
    total = np.zeros((len(some), len(others)), np.uint16)
    for word, other in zip(some.T, others.T.copy(), strict=True):
        total += np.bitwise_count(word[:, None] ^ other)
    return total


def _middle(scene: Scene) -> np.ndarray:
    """The hash that `near_identical` compares in the middle of the scene."""
    return scene.hashes[_chosen(scene)[SAMPLES // 2]]


def _chosen(scene: Scene) -> np.ndarray:
    """Rows of SAMPLES frames; none at the ends, which a scene cut elsewhere may lack."""
    last = len(scene.at) - 1
    inset = min(SLACK, last // 2)
    return np.linspace(inset, last - inset, SAMPLES).round().astype(int)
