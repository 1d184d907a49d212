"""Shards: what is packed comes back, in order, in several files, and never half a file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.data.datasets import ClipSet, ImageSet, batches
from pipeline.data.detector_features import TERMS
from pipeline.data.digits import DIGITS_FILE
from pipeline.data.executor import LocalPool
from pipeline.data.frame_file import write_frames
from pipeline.data.shard_writer import clip_schema, image_schema, open_shard, pack
from pipeline.errors import UserError
from pipeline.io import SPLITS

HEIGHT, WIDTH = 4, 6
BYTES = HEIGHT * WIDTH * 3
# scene: video, frames, split ("" where its clip was rejected)
SCENES = {
    "a-000000": ("a", range(0, 8), "train"),
    "a-000008": ("a", range(8, 14), "val"),
    "b-000000": ("b", range(0, 5), "test"),
    "b-000005": ("b", range(5, 9), ""),
    "b-000009": ("b", range(9, 20), "train"),
}


@pytest.fixture
def footage(tmp_path) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    films = {}
    for name in "ab":
        films[name] = random.integers(0, 256, (20, HEIGHT, WIDTH, 3), np.uint8)
        terms = {term: np.zeros(20, np.float32) for term in TERMS}
        terms |= {"small": np.zeros((20, 32, 32), np.uint8)}
        with write_frames(tmp_path / f"{name}.arrow", HEIGHT, WIDTH) as out:
            out.append(films[name], terms)
    return films


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    index = [
        {"video_id": video, "frame": frame, "scene_id": scene, "use_image": frame % 2 == 0}
        for scene, (video, numbers, _) in SCENES.items()
        for frame in numbers
    ]
    clips = []
    for scene, (video, numbers, split) in SCENES.items():
        for part in range(2):  # the second shows every other frame
            shown = list(numbers)[:: part + 1]
            clips.append(
                {"clip_id": f"{scene}-{part:02d}", "scene_id": scene, "video_id": video,
                 "frames": shown, "n_frames": len(shown), "split": split}
            )  # fmt: skip
    mixed = pd.DataFrame(clips).sample(frac=1, random_state=0)
    return pd.DataFrame(index), mixed


def packed(tmp_path, name: str = "shards", shard_mb: float = 1.0, workers: int = 1) -> dict:
    pool, size = LocalPool(workers), (HEIGHT, WIDTH)
    return pack(tmp_path, *tables(), tmp_path / name, size, pool, shard_mb)


@pytest.mark.parametrize("shard_mb", [1.0, 4 * BYTES / 1e6, 1e-6])
def test_everything_comes_back_in_order(tmp_path, footage, shard_mb):
    counts = packed(tmp_path, shard_mb=shard_mb)
    for split in SPLITS:
        scenes = [(video, rows) for video, rows, its in SCENES.values() if its == split]
        truth = [footage[video][i] for video, rows in scenes for i in rows if i % 2 == 0]
        images = ImageSet(tmp_path / "shards", split)
        assert len(images) == counts[f"images_{split}"] == len(truth)
        backwards = range(len(images) - 1, -1, -1)
        assert np.array_equal(images.batch(backwards).numpy(), np.stack(truth[::-1]))
        clips = ClipSet(tmp_path / "shards", split)
        assert len(clips) == counts[f"clips_{split}"] == 2 * len(scenes)
        for k, (video, rows) in enumerate(scenes):
            for part in range(2):
                clip = clips[2 * k + part]
                assert np.array_equal(clip.frames.numpy(), footage[video][list(rows)[:: part + 1]])
                assert clip.clip_id == f"{video}-{rows[0]:06d}-{part:02d}"
                assert clips.lengths[2 * k + part] == len(clip.frames)


def test_a_new_shard_begins_at_the_limit(tmp_path, footage):
    packed(tmp_path, "one")
    assert len(list((tmp_path / "one").glob("images-train-*"))) == 1
    packed(tmp_path, "four", shard_mb=4 * BYTES / 1e6)
    names = sorted(path.name for path in (tmp_path / "four").glob("images-train-*"))
    assert names == [f"images-train-{k:05d}.arrow" for k in range(3)]  # 9 pictures: 4, 4, 1
    index = json.loads((tmp_path / "four/index.json").read_text())
    for shard in index["shards"]:
        path = tmp_path / "four" / shard["file"]
        assert shard["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert shard["bytes"] == path.stat().st_size
    rows = [shard["rows"] for shard in index["shards"] if shard["file"] in names]
    assert rows == [4, 4, 1]
    assert len(index["shards"]) == len(list((tmp_path / "four").glob("*.arrow")))


def test_the_same_bytes_whatever_the_number_of_workers(tmp_path, footage):
    for name, workers in (("one", 1), ("two", 3)):
        packed(tmp_path, name, shard_mb=0.0005, workers=workers)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_lay_there_before_goes(tmp_path, footage):
    packed(tmp_path, "clean")
    packed(tmp_path, shard_mb=0.0005)
    (tmp_path / "shards/.nakawari-0123.partial").write_bytes(b"of a killed run")
    packed(tmp_path)
    names = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("shards", "clean")]
    assert names[0] == names[1]


def test_digits_to_draw_from_go_with_the_shards(tmp_path, footage):
    (tmp_path / DIGITS_FILE).write_bytes(b"digits")
    packed(tmp_path)
    assert (tmp_path / "shards" / DIGITS_FILE).read_bytes() == b"digits"
    index = json.loads((tmp_path / "shards" / "index.json").read_text())
    assert DIGITS_FILE in [shard["file"] for shard in index["shards"]]
    (tmp_path / DIGITS_FILE).unlink()
    packed(tmp_path)
    assert not (tmp_path / "shards" / DIGITS_FILE).exists()


def test_a_failing_worker_leaves_nothing_half_written(tmp_path, footage):
    (tmp_path / "b.arrow").unlink()
    with pytest.raises(UserError, match=r"b\.arrow"):
        packed(tmp_path, shard_mb=0.0005, workers=2)
    left = [path.name for path in (tmp_path / "shards").iterdir()]
    assert not [name for name in left if name.endswith(".partial") or name == "index.json"]


def test_pictures_of_a_rejected_scene_are_in_no_split(tmp_path, footage):
    counts = packed(tmp_path)
    used = sum(counts[f"images_{split}"] for split in SPLITS)
    accepted = [rows for _, rows, split in SCENES.values() if split]
    assert used == sum(i % 2 == 0 for rows in accepted for i in rows)


def write_pictures(folder, count: int) -> Path:
    path = folder / "images-train-00000.arrow"
    with open_shard(path, image_schema(HEIGHT, WIDTH)) as add:
        for i in range(count):
            add({"video_id": "a", "frame": i, "image": bytes([i % 256]) * BYTES})
    return path


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_shard_is_named(tmp_path, kept):
    path = write_pictures(tmp_path, 30)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(UserError, match=r"images-train-00000\.arrow.*dvc repro shard_pack"):
        ImageSet(tmp_path, "train")


def write_shard(folder, name: str, height: int, row: dict) -> None:
    """One shard of one row; `name` such as images-test, or clips-test."""
    make = image_schema if name.startswith("images") else clip_schema
    with open_shard(folder / f"{name}-00000.arrow", make(height, WIDTH)) as add:
        add(row)


def test_shards_of_different_sizes_are_named(tmp_path):
    for k, height in enumerate((HEIGHT, HEIGHT + 2)):
        image = bytes(height * WIDTH * 3)
        folder = tmp_path / str(k)
        folder.mkdir()
        write_shard(folder, "images-test", height, {"video_id": "a", "frame": k, "image": image})
        (folder / "images-test-00000.arrow").rename(tmp_path / f"images-test-{k:05d}.arrow")
    with pytest.raises(UserError, match=r"images-test-00001.arrow holds frames of 6x6, .* of 4x6"):
        ImageSet(tmp_path, "test")


@pytest.mark.parametrize("content", [b"", bytes(BYTES + 1)])
def test_a_clip_of_broken_frames_is_named(tmp_path, content):
    row = {"clip_id": "the-clip", "n_frames": 2, "images": content}
    write_shard(tmp_path, "clips-test", HEIGHT, row)
    with pytest.raises(UserError, match=r"clip the-clip holds .* expected whole frames of 4x6x3"):
        ClipSet(tmp_path, "test")[0]


def test_an_empty_split_says_what_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"no clips-val shard.*split_by"):
        ClipSet(tmp_path, "val")


def test_a_batch_is_a_copy(tmp_path):
    write_pictures(tmp_path, 3)
    images = ImageSet(tmp_path, "train")
    images.batch([0, 1]).fill_(9)
    assert torch.equal(images.batch([0, 1])[:, 0, 0, 0], torch.tensor([0, 1], dtype=torch.uint8))


@pytest.mark.parametrize(("rows", "size", "wanted"), [
    (5, 2, [[0, 1], [2, 3], [4]]), (4, 2, [[0, 1], [2, 3]]), (1, 9, [[0]]), (0, 3, []),
])  # fmt: skip
def test_batches_walk_all_rows_once(rows, size, wanted):
    assert list(batches(rows, size)) == wanted


DAMAGES = {
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "missing": lambda path: path.unlink(),
    "unknown": lambda path: path.with_name("images-train-00009.arrow").write_bytes(b"x"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_shards_that_are_not_those_of_the_index_are_named(tmp_path, footage, damage):
    packed(tmp_path, shard_mb=4 * BYTES / 1e6)
    damage(tmp_path / "shards/images-train-00001.arrow")
    with pytest.raises(UserError, match=r"index\.json lists them; delete the folder and run"):
        ImageSet(tmp_path / "shards", "train")
    assert len(ClipSet(tmp_path / "shards", "train")) == 4, "the other kind is whole"


@pytest.mark.parametrize("row", [9, -1])
def test_a_row_outside_is_no_picture(tmp_path, footage, row):
    packed(tmp_path)
    with pytest.raises(IndexError, match=f"{row} of 9 pictures"):
        ImageSet(tmp_path / "shards", "train").batch([row])


def test_pictures_of_another_size_than_the_shard_says_are_named(tmp_path):
    path = tmp_path / "images-train-00000.arrow"
    fields = image_schema(HEIGHT, WIDTH).with_metadata({"height": "2", "width": "2"})
    with open_shard(path, fields) as add:
        add({"video_id": "a", "frame": 0, "image": bytes(BYTES)})
    with pytest.raises(UserError, match=r"fixed_size_binary\[72\], expected .*12\] for 2x2x3"):
        ImageSet(tmp_path, "train")
