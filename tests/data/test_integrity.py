"""Damaged shards are found at opening, and a whole one is hashed once."""

import os

import numpy as np
import pytest

from pipeline.data import integrity
from pipeline.data.datasets import ClipSet, ImageSet
from pipeline.data.integrity import INDEX, file_sha256
from pipeline.data.shard_writer import ShardWriter, clip_schema, image_schema
from pipeline.errors import UserError
from pipeline.io import write_json

HEIGHT, WIDTH = 8, 16
PICTURES = np.random.default_rng(0).integers(0, 256, (50, HEIGHT, WIDTH, 3), np.uint8)
LENGTHS = [3 + (7 * k) % 11 for k in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, records = tmp_path_factory.mktemp("shards"), []
    for number, first in enumerate((0, 30)):
        path = folder / f"images-train-{number:05d}.arrow"
        with ShardWriter(path, image_schema(HEIGHT, WIDTH)) as writer:
            for frame, image in enumerate(PICTURES[first : (30, 50)[number]]):
                writer.add({"video_id": "a", "frame": frame, "image": image.tobytes()})
            records.append(writer.close())
    with ShardWriter(folder / "clips-train-00000.arrow", clip_schema(HEIGHT, WIDTH)) as writer:
        for k, n in enumerate(LENGTHS):
            images = np.full((n, HEIGHT, WIDTH, 3), k + 1, np.uint8)
            writer.add({"clip_id": f"clip-{k}", "n_frames": n, "images": images.tobytes()})
        records.append(writer.close())
    write_json(folder / INDEX, {"height": HEIGHT, "width": WIDTH, "shards": records})
    return folder


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "altered": (flip_a_bit, r"images-train-00001\.arrow was altered.*dvc repro shard_pack"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"x"), r"00001\.arrow has \d+ bytes"),
    "missing": (lambda p: p.unlink(), r"00001\.arrow is missing"),
    "stranger": (lambda p: p.with_name("images-train-00002.arrow").write_bytes(p.read_bytes()),
                 r"00002\.arrow is not listed"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_at_opening(folder, tmp_path, damage, words):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert len(ImageSet(tmp_path, "train")) == 50
    damage(tmp_path / "images-train-00001.arrow")
    with pytest.raises(UserError, match=words):
        ImageSet(tmp_path, "train")
    assert len(ClipSet(tmp_path, "train")) == 40, "the other kind is whole"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"shards": [{"file": "x"}]}'])
def test_a_damaged_index_is_named(folder, tmp_path, content):
    for path in folder.glob("*.arrow"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert len(ImageSet(tmp_path, "train")) == 50, "no index, no judgement"
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(UserError, match=r"index\.json is damaged.*dvc repro shard_pack"):
        ImageSet(tmp_path, "train")


def test_a_shard_is_hashed_once_while_it_stays_as_it_is(folder, tmp_path, monkeypatch):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    hashed = []
    monkeypatch.setattr(
        integrity, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path)
    )
    for _ in range(2):
        ImageSet(tmp_path, "train"), ClipSet(tmp_path, "train")
    assert sorted(hashed) == sorted(path.name for path in tmp_path.glob("*.arrow"))
    os.utime(tmp_path / "images-train-00001.arrow", (1, 1))
    ImageSet(tmp_path, "train")
    assert hashed[3:] == ["images-train-00001.arrow"]


@pytest.mark.parametrize("row", [50, -1])
def test_a_row_outside_is_no_picture(folder, row):
    with pytest.raises(IndexError, match=f"{row} of 50 pictures"):
        ImageSet(folder, "train").batch([row])


def test_pictures_of_another_size_than_the_shard_says_are_named(tmp_path):
    path = tmp_path / "images-train-00000.arrow"
    fields = image_schema(HEIGHT, WIDTH).with_metadata({"height": "8", "width": "8"})
    with ShardWriter(path, fields) as writer:
        writer.add({"video_id": "a", "frame": 0, "image": PICTURES[0].tobytes()})
        writer.close()
    with pytest.raises(UserError, match=r"fixed_size_binary\[384\], expected .*192\] for 8x8x3"):
        ImageSet(tmp_path, "train")
