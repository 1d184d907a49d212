"""A wrong byte anywhere in a file is harmless, or said in a sentence; see benchmarks.fuzz."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import io
from pipeline.data import shard_writer
from pipeline.data.datasets import ClipSet, ImageSet
from pipeline.data.detector_features import TERMS, FrameTerms
from pipeline.data.frame_file import FrameFile, write_frames
from pipeline.errors import UserError
from pipeline.resume import Resume

PLACES = 60
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 16, 3), dtype=np.uint8)


def frames(path: Path) -> None:
    with write_frames(path, 8, 16, compression=path.stem.replace("plain", "none")) as file:
        file.append(IMAGES, FrameTerms().measure(IMAGES, IMAGES, np.arange(6) / 12))


def read_frames(path: Path) -> None:
    file = FrameFile(path)
    assert file[0].shape == (8, 16, 3)
    _ = [file.term(name).sum() for name in TERMS], file.small.sum()


def shard(path: Path) -> None:
    kind = shard_writer.clip_schema if path.name.startswith("clips") else shard_writer.image_schema
    row = {"video_id": "v", "frame": 1, "image": IMAGES[0].tobytes()}
    with shard_writer.open_shard(path, kind(8, 16)) as add:
        add(row | {"clip_id": "c", "n_frames": 6, "images": IMAGES.tobytes()})


def table(path: Path) -> None:
    row = {"scene_id": "s", "video_id": "v", "start": 0, "end": 9, "cut_score": 1}
    io.write_table([row], io.SCENES, path)


def state(path: Path) -> None:
    torch.save({"step": 3, "weights": torch.ones(9), "names": ["a"]}, path)


def read_state(path: Path) -> None:
    resume = Resume.__new__(Resume)
    resume.path, resume.previous_path = path, path.with_suffix(".previous.pt")
    if resume.load() is None:
        raise UserError("set aside, with a sentence")


KINDS = {
    "plain.arrow": (frames, read_frames),
    "zstd.arrow": (frames, read_frames),
    "images-train-0.arrow": (shard, lambda path: ImageSet(path.parent, "train").batch([0])),
    "clips-train-0.arrow": (shard, lambda path: ClipSet(path.parent, "train")[0]),
    "scenes.parquet": (table, lambda path: io.read_table(path, io.SCENES).to_csv()),
    "state.pt": (state, read_state),
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=KINDS)
def test_a_wrong_byte_is_a_sentence_or_harmless(tmp_path, name, kind):
    make, read = kind
    make(tmp_path / name)
    whole, refused = (tmp_path / name).read_bytes(), 0
    for place in np.linspace(0, len(whole) - 1, PLACES).astype(int):
        content = bytearray(whole)
        content[place] ^= 0x95
        (tmp_path / name).unlink(missing_ok=True)  # another file: the one before may be mapped
        (tmp_path / name).write_bytes(content)
        try:
            read(tmp_path / name)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000
    assert refused > 1


def test_lengths_that_lie_are_refused(tmp_path):
    """A column with less data than its rows need; Arrow reads on behind it."""
    path = tmp_path / "clips-train-0.arrow"
    shard(path)
    content, ends = path.read_bytes(), struct.pack("<qq", 0, IMAGES.nbytes)
    assert content.count(ends) == 1
    path.write_bytes(content.replace(ends, struct.pack("<qq", 0, 10**12)))
    with pytest.raises(UserError, match="cannot be read as a shard"):
        ClipSet(tmp_path, "train")


def test_a_damaged_name_of_a_column_is_a_sentence(tmp_path):
    path = tmp_path / "images-train-0.arrow"
    shard(path)
    path.write_bytes(path.read_bytes().replace(b"image\0", b"imagf\0"))
    with pytest.raises(UserError, match=r"'imagf'.*expected .*'image'.*delete it"):
        ImageSet(tmp_path, "train")
