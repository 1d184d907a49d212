"""Moving MNIST (Srivastava, Mansimov, Salakhutdinov, 2015): handwritten digits that bounce about.

In: a folder with MNIST's idx files, from which sequences are drawn as the authors did, or with
their `mnist_test_seq.npy`. Out, as `ingest.py` has it for videos: frame files of SEQUENCES_A_FILE
sequences each, one behind the other, and `videos.parquet`. A file's metadata says how many frames
a scene has and which split it belongs to, so no cut is looked for and no test digit is trained on.

Training sequences hold training digits only, test sequences test digits. Sequence k depends on
split and k alone: more sequences change nothing of those there were. With `epoch_sequences` the
training digits are kept beside the frame files, for training to draw its own sequences (`digits`);
those stored here then only fit codebooks and fill tables.

Of `mnist_test_seq.npy` the first `train_sequences` are the train split, the next `test_sequences`
the test split.
"""

import gzip
import hashlib
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import config, frames, io
from pipeline.data.detector_features import FrameTerms
from pipeline.data.digits import CANVAS, DIGIT, DIGITS, DIGITS_FILE, N_FRAMES, draw
from pipeline.data.frame_file import SUFFIX, write_frames
from pipeline.data.ingest import summary
from pipeline.errors import UserError
from pipeline.progress import bar

SPLITS = ("train", "test")
STEMS = {"train": "train-images", "test": "t10k-images"}
ENDINGS = ("-idx3-ubyte", ".idx3-ubyte", "-idx3-ubyte.gz", ".idx3-ubyte.gz")
STORED = "mnist_test_seq.npy"
MAGIC = 0x803  # of idx files: unsigned bytes, three dimensions
HEADER = struct.Struct(">4I")  # magic, pictures, rows, columns
MOST_BYTES = 2**30  # of a file, unpacked; MNIST has 47 million, EMNIST 640 million
SEED = 1  # of digits and paths
SEQUENCES_A_FILE = 500
BATCH_FRAMES = 64  # frames measured and written at once
FPS = 10  # of the written frames: only how fast they are shown, and the terms' `time`


class Part(NamedTuple):
    """The sequences of one split."""

    split: str  # of SPLITS
    file: Path
    sha256: str  # of the file's content, unpacked
    count: int
    height: int
    width: int
    sequence: Callable[[int], np.ndarray]  # number in [0, count) to uint8 `T H W`


def ingest_sequences(source: Path, out: Path, settings: config.Params) -> dict[str, int | float]:
    """Makes all sequences from the files in `source` into `out`; returns counts as `ingest` does.

    Raises a UserError, before anything in `out` is touched, for files that are missing or damaged.
    """
    parts = open_parts(source, settings.source.moving_mnist)
    out.mkdir(parents=True, exist_ok=True)
    for path in [*out.glob(f"*{SUFFIX}*"), out / "videos.parquet", out / DIGITS_FILE]:
        path.unlink(missing_ok=True)  # of an earlier run
    rows = []
    with bar(what="sequences", unit="sequence", total=sum(p.count for p in parts)) as progress:
        for part in parts:
            for first in range(0, part.count, SEQUENCES_A_FILE):
                numbers = range(first, min(first + SEQUENCES_A_FILE, part.count))
                rows.append(_write_file(part, numbers, out, settings, progress))
    if count := settings.source.moving_mnist.epoch_sequences:
        digits, _ = read_idx(parts[0].file)
        with io.atomic(out / DIGITS_FILE) as partial, partial.open("wb") as file:
            np.savez(file, digits=digits, epoch_sequences=count)
    io.write_table(rows, io.VIDEOS, out / "videos.parquet")
    return summary(rows, settings.ingest)


def _write_file(part: Part, numbers: range, out: Path, settings: config.Params, progress) -> dict:
    """Writes one frame file of the sequences of these numbers; its row of `videos.parquet`."""
    size, terms = settings.ingest, FrameTerms()
    shape = size.height, size.width
    video_id = f"moving-mnist-{part.split}-{numbers.start // SEQUENCES_A_FILE:04d}"
    about = {"scene_frames": str(N_FRAMES), "split": part.split}
    with write_frames(out / f"{video_id}{SUFFIX}", *shape, about, size.compression) as file:
        for number in numbers:
            sequence = part.sequence(number)  # T H W
            for first in range(0, len(sequence), BATCH_FRAMES):
                grey = sequence[first : first + BATCH_FRAMES, :, :, None]
                pictures = np.repeat(grey, 3, axis=3)  # B H W 3
                images = np.stack([frames.fit(picture, *shape, size.fit) for picture in pictures])
                times = np.arange(file.n_frames, file.n_frames + len(images)) / FPS
                file.append(images, terms.measure(images, pictures, times))
            progress.update()
    return {
        "video_id": video_id,
        "path": part.file.name,
        "sha256": part.sha256,
        "codec": "moving_mnist",
        "fps": f"{FPS}/1",
        "n_frames": file.n_frames,
        "height": part.height,
        "width": part.width,
        "duration": file.n_frames / FPS,
        "status": "ok",
        "reason": "",
        "notes": "",
    }


def open_parts(folder: Path, rules: config.MovingMnist) -> list[Part]:
    """The train and the test split. Raises a UserError for files that are missing or damaged."""
    files = locate(folder)
    if files["train"].name == STORED:
        if rules.epoch_sequences:
            raise UserError(
                f"source.moving_mnist.epoch_sequences = {rules.epoch_sequences}: expected 0 with "
                f"{STORED}, which holds no digits to draw sequences of; or put MNIST's idx files "
                "in its place"
            )
        return _stored_parts(files["train"], rules)
    counts = {"train": rules.train_sequences, "test": rules.test_sequences}
    parts = []
    for index, split in enumerate(SPLITS):
        digits, sha256 = read_idx(files[split])

        def sequence(number: int, digits: np.ndarray = digits, index: int = index) -> np.ndarray:
            return draw(digits, DIGITS, N_FRAMES, (SEED, index, number))

        parts.append(Part(split, files[split], sha256, counts[split], CANVAS, CANVAS, sequence))
    return parts


def locate(folder: Path) -> dict[str, Path]:
    """The file of each split, by its name; no file is opened. Raises a UserError."""
    name = f"source.path = {folder}"
    idx_files = " and ".join(f"{stem}{ENDINGS[0]}" for stem in STEMS.values())
    remedy = f"put MNIST's {idx_files} (or .gz of them) there, or {STORED}"
    if not folder.is_dir():
        kind = "a file, expected a folder" if folder.exists() else "no such folder"
        raise UserError(f"{name}: {kind}; {remedy}")
    files = {}
    for split, stem in STEMS.items():
        paths = [folder / f"{stem}{ending}" for ending in ENDINGS]
        files[split] = next((path for path in paths if path.is_file()), None)
    stored = folder / STORED
    if stored.is_file():
        if any(files.values()):
            raise UserError(
                f"{name}: both {STORED} and idx files in it, expected one of the two; move one away"
            )
        return dict.fromkeys(SPLITS, stored)
    missing = [f"{STEMS[split]}{ENDINGS[0]}" for split in SPLITS if files[split] is None]
    if missing:
        raise UserError(f"{name}: no {' and no '.join(missing)} in it (nor .gz of it); {remedy}")
    return files


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
    if n_frames < N_FRAMES:
        raise _damaged(path, f"sequences of {n_frames} frames", f"at least {N_FRAMES}")
    sha256 = io.sha256(path)

    def sequence(number: int, first: int) -> np.ndarray:
        return np.array(stored[:N_FRAMES, first + number])

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
    except Exception as error:  # a broken header makes numpy raise anything
        raise _damaged(path, f"not readable ({error})", "an .npy file") from None
    if not isinstance(stored, np.ndarray) or stored.dtype != np.uint8 or stored.ndim != 4:
        kind = getattr(stored, "dtype", type(stored).__name__)
        raise _damaged(
            path, f"an array {kind} {np.shape(stored)}", "uint8 (frames, sequences, height, width)"
        )
    if not stored.size:
        raise _damaged(path, f"an array {stored.shape}", "no length of 0")
    return stored


def _unpacked(path: Path) -> bytes:
    """Content of a file; gzip is known by its first bytes, not by the name."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"gzip that does not unpack ({error})", "a whole file") from None
    if len(content) > MOST_BYTES:
        raise _damaged(path, f"more than {MOST_BYTES / 1e6:.0f} MB", "MNIST")
    return content


def _damaged(path: Path, found: str, expected: str) -> UserError:
    return UserError(f"{path}: {found}, expected {expected}; download the file again")
