"""Near-identical scenes: found again in noise and a few frames later, and nothing else."""

import cv2
import numpy as np
import pytest

from pipeline.data.near_duplicates import (
    BITS,
    find_near_duplicates,
    hash_frames,
    hash_scene,
    is_near_duplicate,
)

LIMIT = 24


def scene(seed: int, n_frames: int = 40, start: int = 0, noise: float = 0.0) -> np.ndarray:
    """uint8 `T 32 32`: a shape that moves over a random place; `noise` is in grey levels."""
    rng = np.random.default_rng(seed)
    place = cv2.resize(rng.integers(0, 256, (6, 6), np.uint8), (32, 32))
    frames = np.repeat(place[None], n_frames, axis=0)
    for frame, image in enumerate(frames):
        at = int(16 + 14 * np.sin((frame + start) / 6)), int(rng.integers(14, 16))
        cv2.circle(image, at, 5, 255, -1)
    shaken = frames + np.random.default_rng(seed + 1).normal(0, 1, frames.shape) * noise
    return np.clip(shaken, 0, 255).astype(np.uint8)


def test_the_hash_is_that_of_pyscenedetect():
    """Their hash of a picture that is 32x32 and grey already, bit by bit."""
    from scenedetect.detectors import HashDetector

    grey = scene(3, 1)[0]
    colour = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    expected = HashDetector.hash_frame(colour, 16, 2)  # 16 16
    bits = np.unpackbits(hash_frames(grey[None]).view(np.uint8))
    assert (bits.reshape(16, 16) != expected).mean() < 0.02


def test_brightness_and_contrast_change_no_bit_to_speak_of():
    small = scene(0, 5)
    darker = (small * 0.8 + 10).astype(np.uint8)
    distance = np.bitwise_count(hash_frames(small) ^ hash_frames(darker)).sum(axis=1)
    assert distance.max() <= 16 < BITS


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
def test_found_a_few_frames_later_and_noisy(shift):
    film = scene(0, 60)
    one = hash_scene("a", "train", film[10:50])
    rng = np.random.default_rng(1)
    noisy = np.clip(film + rng.normal(0, 0.5, film.shape), 0, 255).astype(np.uint8)
    other = hash_scene("b", "test", noisy[10 + shift : 50 + shift])
    assert is_near_duplicate(one, other, LIMIT) and is_near_duplicate(other, one, LIMIT)


def test_a_scene_within_another_is_found():
    film = scene(0, 80)
    part, whole = hash_scene("a", "train", film[30:60]), hash_scene("b", "test", film)
    assert is_near_duplicate(part, whole, LIMIT) and is_near_duplicate(whole, part, LIMIT)
    reasons = find_near_duplicates([part, whole], LIMIT)
    assert reasons == {"a": "nearly identical to b in test"}
    assert find_near_duplicates(
        [hash_scene("a", "train", film), hash_scene("b", "test", film[30:60])], LIMIT
    )


@pytest.mark.parametrize(("length", "later"), [(40, 5), (40, 14), (50, 18)])
def test_scenes_that_share_most_are_found(length, later):
    film = scene(0, 80)
    one = hash_scene("a", "train", film[:length])
    other = hash_scene("b", "test", film[later : later + length])
    assert is_near_duplicate(one, other, LIMIT) and is_near_duplicate(other, one, LIMIT)
    assert find_near_duplicates([one, other], LIMIT) == {"a": "nearly identical to b in test"}


def test_scenes_that_share_little_are_kept():
    film = np.concatenate([scene(0, 40), scene(5, 40)])
    one, other = hash_scene("a", "train", film[:40]), hash_scene("b", "test", film[30:70])
    assert not is_near_duplicate(one, other, LIMIT)


def test_other_places_and_a_moved_character_are_kept():
    still = scene(0, 40)
    moved = scene(0, 40, start=19)  # the same place, the shape elsewhere
    assert not is_near_duplicate(
        hash_scene("a", "train", still), hash_scene("b", "test", moved), LIMIT
    )
    many = [hash_scene(str(at), ("train", "val", "test")[at % 3], scene(at)) for at in range(60)]
    assert find_near_duplicates(many, LIMIT) == {}


def test_blank_scenes_match_nothing():
    black = np.zeros((30, 32, 32), np.uint8)
    scenes = [hash_scene("a", "train", black), hash_scene("b", "test", black)]
    assert find_near_duplicates(scenes, BITS) == {} and not is_near_duplicate(*scenes, BITS)


def test_a_blank_frame_within_does_not_hide_a_scene():
    film = scene(0, 40)
    film[:6] = 0  # opens black
    reasons = find_near_duplicates(
        [hash_scene("a", "train", film), hash_scene("b", "val", film[2:])], LIMIT
    )
    assert reasons == {"a": "nearly identical to b in val"}


def test_test_keeps_what_val_and_train_lose():
    film = scene(0, 40)
    same = [
        hash_scene("a", "train", film),
        hash_scene("b", "val", film),
        hash_scene("c", "test", film),
    ]
    reason = "nearly identical to c in test"
    assert find_near_duplicates(same, LIMIT) == {"a": reason, "b": reason}
    assert find_near_duplicates(same, -1) == {}
    twice = [hash_scene("a", "train", film), hash_scene("d", "train", film)]
    assert find_near_duplicates(twice, LIMIT) == {}, "a split may repeat itself"


def test_lookup_finds_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    scenes = []
    for at in range(90):
        film = scene(int(rng.integers(30)), 50)
        low = int(rng.integers(0, 10))
        split = ("train", "train", "val", "test")[at % 4]
        scenes.append(hash_scene(f"s{at}", split, film[low : low + int(rng.integers(25, 40))]))
    val = {a.scene_id for a in scenes if a.split == "val" for b in scenes
           if b.split == "test" and is_near_duplicate(a, b, LIMIT)}  # fmt: skip
    train = {a.scene_id for a in scenes if a.split == "train" for b in scenes
             if b.split != "train" and b.scene_id not in val
             and is_near_duplicate(a, b, LIMIT)}  # fmt: skip
    assert set(find_near_duplicates(scenes, LIMIT)) == val | train != set()
