"""Moving MNIST (Srivastava, Mansimov, Salakhutdinov, 2015): handwritten digits that bounce about.

In: a folder with MNIST's idx files, from which sequences are drawn as the authors did, or with
their `mnist_test_seq.npy`. Out: sequences of grey pictures, uint8 `T H W` in [0, 255], of a split.

Each digit starts at a random place of a unit square, in a random direction, goes 0.1 a frame and
bounces at the walls; where digits overlap, the brighter pixel is seen. Training sequences hold
training digits only, test sequences test digits. Sequence k depends on seed, split and k alone:
more sequences, frames or digits change nothing of those there were.

Of `mnist_test_seq.npy` the first `train_sequences` are the train split, the next `test_sequences`
the test split, each with its first `n_frames` frames; `digits` and the seed mean nothing for it.
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import config
from pipeline.errors import UserError

SPLITS = ("train", "test")
STEMS = {"train": "train-images", "test": "t10k-images"}
ENDINGS = ("-idx3-ubyte", ".idx3-ubyte", "-idx3-ubyte.gz", ".idx3-ubyte.gz")
STORED = "mnist_test_seq.npy"
MAGIC = 0x803  # of idx files: unsigned bytes, three dimensions
HEADER = struct.Struct(">4I")  # magic, pictures, rows, columns
DIGIT, CANVAS = 28, 64  # pixels a side
STEP = 0.1  # of the square in which a digit's corner moves, a frame


class Part(NamedTuple):
    """The sequences of one split."""

    split: str  # of SPLITS
    file: Path
    sha256: str  # of the file's content, unpacked
    count: int
    height: int
    width: int
    sequence: Callable[[int], np.ndarray]  # number in [0, count) to uint8 `T H W`


def open_parts(folder: Path, rules: config.MovingMnist, seed: int) -> list[Part]:
    """The train and the test split. Raises a UserError for files that are missing or damaged."""
    files = locate(folder)
    if files["train"].name == STORED:
        return _stored_parts(files["train"], rules)
    return [_drawn_part(split, files[split], rules, seed) for split in SPLITS]


def locate(folder: Path) -> dict[str, Path]:
    """The file of each split, by its name; no file is opened. Raises a UserError."""
    name, remedy = f"source.path = {folder}", _remedy()
    if not folder.is_dir():
        kind = "a file, expected a folder" if folder.exists() else "no such folder"
        raise UserError(f"{name}: {kind}; {remedy}")
    found = {split: _first_file(folder, stem) for split, stem in STEMS.items()}
    stored = folder / STORED
    if stored.is_file():
        if any(found.values()):
            raise UserError(
                f"{name}: both {STORED} and idx files in it, expected one of the two; move one away"
            )
        return dict.fromkeys(SPLITS, stored)
    missing = [f"{STEMS[split]}{ENDINGS[0]}" for split in SPLITS if found[split] is None]
    if missing:
        raise UserError(f"{name}: no {' and no '.join(missing)} in it (nor .gz of it); {remedy}")
    return found


def read_idx(path: Path) -> tuple[np.ndarray, str]:
    """Digits of an idx file, packed by gzip or not: uint8 `n 28 28`, and the content's SHA-256."""
    content = _unpacked(path)
    if len(content) < HEADER.size:
        raise _damaged(path, f"{len(content)} bytes", f"a header of {HEADER.size}")
    magic, count, rows, columns = HEADER.unpack_from(content)
    if magic != MAGIC:
        raise _damaged(path, f"magic number {magic}", f"{MAGIC} (idx, bytes, three dimensions)")
    if not count:
        raise _damaged(path, "0 pictures", "at least 1")
    if (rows, columns) != (DIGIT, DIGIT):
        raise _damaged(path, f"pictures of {rows}x{columns}", f"{DIGIT}x{DIGIT}")
    size = HEADER.size + count * rows * columns
    if len(content) != size:
        raise _damaged(path, f"{len(content)} bytes", f"{size} for its {count} pictures")
    digits = np.frombuffer(content, np.uint8, offset=HEADER.size)
    return digits.reshape(count, rows, columns), hashlib.sha256(content).hexdigest()


def draw(digits: np.ndarray, rules: config.MovingMnist, key: tuple[int, ...]) -> np.ndarray:
    """uint8 `n 28 28` to one sequence, uint8 `T 64 64`; `key` is all that chance depends on."""
    random = np.random.default_rng(key)
    canvas = np.zeros((rules.n_frames, CANVAS, CANVAS), np.uint8)
    for _ in range(rules.digits):
        which, y, x, turn = random.random(4)
        digit = digits[int(which * len(digits))]
        path = trajectory(y, x, 2 * math.pi * turn, rules.n_frames)  # T 2
        corners = (path * (CANVAS - DIGIT)).astype(int)
        for picture, (top, left) in zip(canvas, corners, strict=True):
            place = picture[top : top + DIGIT, left : left + DIGIT]
            np.maximum(place, digit, out=place)
    return canvas


def trajectory(y: float, x: float, angle: float, n_frames: int) -> np.ndarray:
    """Places in the unit square after each step, float64 `T 2` (y, x): the authors' bouncing.

    A step that would cross a wall ends on it, and that direction is turned around.
    """
    places = np.empty((n_frames, 2))
    speed_y, speed_x = STEP * math.sin(angle), STEP * math.cos(angle)
    for frame in range(n_frames):
        y, speed_y = _step(y, speed_y)
        x, speed_x = _step(x, speed_x)
        places[frame] = y, x
    return places


def _step(at: float, speed: float) -> tuple[float, float]:
    at += speed
    if 0.0 < at < 1.0:
        return at, speed
    return min(max(at, 0.0), 1.0), -speed


def _drawn_part(split: str, path: Path, rules: config.MovingMnist, seed: int) -> Part:
    digits, sha256 = read_idx(path)

    def sequence(number: int) -> np.ndarray:
        return draw(digits, rules, (seed, SPLITS.index(split), number))

    count = getattr(rules, f"{split}_sequences")
    return Part(split, path, sha256, count, CANVAS, CANVAS, sequence)


def _stored_parts(path: Path, rules: config.MovingMnist) -> list[Part]:
    """Both splits of the authors' array `T n H W`, which stays on the disk."""
    stored = _read_stored(path)
    n_frames, count, height, width = stored.shape
    wanted = rules.train_sequences + rules.test_sequences
    if wanted > count:
        raise UserError(
            f"source.moving_mnist.train_sequences + test_sequences = {wanted}: expected at most "
            f"the {count} sequences of {path}; set them lower"
        )
    if rules.n_frames > n_frames:
        raise UserError(
            f"source.moving_mnist.n_frames = {rules.n_frames}: expected at most the {n_frames} "
            f"frames of the sequences of {path}; set it lower"
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()

    def sequence(number: int, first: int) -> np.ndarray:
        return np.array(stored[: rules.n_frames, first + number])

    counts = {"train": rules.train_sequences, "test": rules.test_sequences}
    firsts = {"train": 0, "test": rules.train_sequences}
    return [
        Part(split, path, sha256, counts[split], height, width, partial(sequence, first=first))
        for split, first in firsts.items()
    ]


def _read_stored(path: Path) -> np.ndarray:
    """uint8 `T n H W`, mapped."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _damaged(path, f"not readable ({error})", "an .npy file") from None
    if not isinstance(stored, np.ndarray) or stored.dtype != np.uint8 or stored.ndim != 4:
        found = f"{getattr(stored, 'dtype', type(stored).__name__)} {np.shape(stored)}"
        raise _damaged(path, f"an array {found}", "uint8 (frames, sequences, height, width)")
    if not stored.size:
        raise _damaged(path, f"an array {stored.shape}", "no length of 0")
    return stored


def _unpacked(path: Path) -> bytes:
    """Content of a file; gzip is known by its first bytes, not by the name."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"gzip that does not unpack ({error})", "a whole file") from None


def _first_file(folder: Path, stem: str) -> Path | None:
    paths = (folder / f"{stem}{ending}" for ending in ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def _damaged(path: Path, found: str, expected: str) -> UserError:
    return UserError(f"{path}: {found}, expected {expected}; download the file again")


def _remedy() -> str:
    names = " and ".join(f"{stem}{ENDINGS[0]}" for stem in STEMS.values())
    return f"put MNIST's {names} (or .gz of them) there, or {STORED}"
