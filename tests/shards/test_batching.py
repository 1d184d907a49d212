"""Loaders: order, resuming, workers, both batch methods, augmentation, and damaged shards."""

import itertools
import os

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.records import write_json
from pipeline.shards import checking
from pipeline.shards.augmentation import augment, random_numbers
from pipeline.shards.batching import ClipLoader, ImageLoader
from pipeline.shards.checking import INDEX, file_sha256
from pipeline.shards.loaders import ClipSet, ImageSet
from pipeline.shards.writing import ShardWriter, clip_schema, image_schema

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


@pytest.fixture
def make(folder):
    images, clips = ImageSet(folder, "train"), ClipSet(folder, "train")

    def loader(kind, batch_size=8, seed=3, **options):
        if kind == "images":
            return ImageLoader(images, batch_size, seed, augmented=True, **options)
        return ClipLoader(clips, batch_size, seed, **options)

    return loader


def take(loader, count):
    return list(itertools.islice(loader, count))


def same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.rows == other.rows
        assert all(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize("kind", ["images", "clips"])
def test_any_number_of_workers_gives_the_same_bytes(make, kind):
    alone = take(make(kind), 15)
    for workers in (1, 3):
        same(take(make(kind, workers=workers), 15), alone)


@pytest.mark.parametrize("kind", ["images", "clips"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seen", [0, 1, 5, 6, 11])
def test_a_loader_goes_on_where_it_was(make, kind, workers, seen):
    whole = take(make(kind), 15)
    first = make(kind, workers=workers)
    same(take(first, seen), whole[:seen])
    second = make(kind, workers=workers)
    second.load_state_dict(first.state_dict())
    same(take(second, 15 - seen), whole[seen:])


def test_a_loader_starts_where_it_is_told(make):
    whole = take(make("clips"), 15)
    same(take(make("clips", start=(1, 3)), 7), whole[8:])  # 5 batches an epoch
    same(take(make("clips", start=(0, 8)), 7), whole[8:])


@pytest.mark.parametrize("other", [
    {"batch_size": 4}, {"seed": 9}, {"drop_last": True}, {"bucketed": False},
])  # fmt: skip
def test_a_place_in_another_order_is_refused(make, other):
    (name,) = other
    with pytest.raises(UserError, match=f"of {name} = .*same shards and settings"):
        make("clips", **other).load_state_dict(make("clips").state_dict())


@pytest.mark.parametrize("kind", ["images", "clips"])
@pytest.mark.parametrize("batch_size", [5, 7, 64])
def test_each_row_comes_once_an_epoch_in_another_order(make, kind, batch_size):
    loader = make(kind, batch_size=batch_size)
    epochs = [[row for b in take(loader, len(loader)) for row in b.rows] for _ in range(3)]
    for rows in epochs:
        assert sorted(rows) == list(range(loader.count))
    assert epochs[0] != epochs[1] != epochs[2]
    assert take(make(kind, seed=4), 1)[0].rows != take(make(kind), 1)[0].rows


@pytest.mark.parametrize("kind", ["images", "clips"])
def test_batches_may_be_all_of_one_size(make, kind):
    loader = make(kind, batch_size=7, drop_last=True)
    sizes = [len(batch.rows) for batch in take(loader, 2 * len(loader))]
    assert sizes == 2 * (loader.count // 7) * [7]


def test_pictures_are_those_of_their_rows(folder):
    loader = ImageLoader(ImageSet(folder, "train"), 8, seed=0, workers=2)
    for batch in take(loader, 6):
        assert np.array_equal(batch.images.numpy(), PICTURES[batch.rows])


def test_padding_is_masked_and_truncation_is_to_the_shortest(make):
    for padded, cut in zip(
        take(make("clips"), 5), take(make("clips", how="truncate"), 5), strict=True
    ):
        lengths = [LENGTHS[row] for row in padded.rows]
        assert padded.frames.shape[1] == max(lengths) and cut.frames.shape[1] == min(lengths)
        assert padded.mask.sum(1).tolist() == lengths and cut.mask.all()
        for row, frames, shown in zip(padded.rows, padded.frames, padded.mask, strict=True):
            assert (frames[shown] == row + 1).all() and (frames[~shown] == 0).all()
        assert torch.equal(cut.frames, padded.frames[:, : min(lengths)])


def test_buckets_pad_less(make):
    def padding(loader):
        return sum(int((~batch.mask).sum()) for batch in take(loader, len(loader)))

    assert padding(make("clips")) < padding(make("clips", bucketed=False)) / 2


def test_a_set_smaller_than_a_batch_is_one_batch(make):
    loader = make("images", batch_size=64)
    assert len(loader) == 1 and len(take(loader, 2)[1].rows) == 50


def test_augmentation_flips_half_and_shows_most_of_the_picture():
    columns = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.broadcast_to(columns[None, :, None], (32, 64, 3))
    seen = augment(np.repeat(image[None], 400, 0), range(400), seed=1, epoch=2)
    assert seen.shape == (400, 32, 64, 3) and seen.dtype == np.uint8
    flipped = seen[:, 0, 0, 0] > seen[:, 0, -1, 0]
    assert 0.4 < flipped.mean() < 0.6
    spread = np.abs(seen[:, 0, -1, 0].astype(int) - seen[:, 0, 0, 0])
    assert spread.min() > 255 * 0.85 and spread.max() < 235  # 8/9 of the width, none stretched
    assert len(np.unique(seen[~flipped, 0, 0, 0])) >= 9  # every place of the crop


def test_shift_flip_moves_pixels_and_changes_none():
    rows, columns = np.mgrid[:32, :64].astype(np.uint8)
    image = np.stack([rows, columns, rows], -1)  # every pixel says where it was
    seen = augment(np.repeat(image[None], 400, 0), range(400), 1, 2, "shift_flip").astype(int)
    assert seen.shape == (400, 32, 64, 3)
    assert (np.abs(np.diff(seen[..., 0], axis=1)) == 1).all()
    assert (np.abs(np.diff(seen[..., 1], axis=2)) == 1).all()
    middle = seen[:, 16, 32]
    assert set(middle[:, 0]) == set(range(14, 19))  # shifts of two rows, of four columns
    flipped = seen[:, 0, 31, 1] > seen[:, 0, 32, 1]
    assert 0.4 < flipped.mean() < 0.6
    assert set(middle[~flipped, 1]) == set(range(28, 37))


def test_random_numbers_are_even_and_of_their_row_alone():
    whole = random_numbers(range(20_000), seed=5, epoch=7)
    rows = [19_999, 0, 123]
    assert np.array_equal(random_numbers(rows, 5, 7), whole[rows])
    assert len(np.unique(whole)) == whole.size
    for draw in whole.T:
        counts = np.bincount((draw % np.uint64(9)).astype(int), minlength=9)
        assert abs(counts - 20_000 / 9).max() < 200  # 4.5 standard deviations
        assert abs((draw >> np.uint64(63)).mean() - 0.5) < 0.016
    shares = whole / 2.0**64
    assert abs(np.corrcoef(shares.T) - np.eye(3)).max() < 0.032
    assert abs(np.corrcoef(shares[1:, 0], shares[:-1, 0])[0, 1]) < 0.032


def test_augmentation_depends_on_seed_epoch_and_row_alone():
    rows = list(range(50))
    whole = augment(PICTURES, rows, seed=1, epoch=0)
    assert np.array_equal(augment(PICTURES[20:30], rows[20:30], 1, 0), whole[20:30])
    for seed, epoch in ((2, 0), (1, 1)):
        assert not np.array_equal(augment(PICTURES, rows, seed, epoch), whole)


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
        checking, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path)
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
