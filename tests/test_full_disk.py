"""A disk that is full while a file is written: its name is said, and what was there stays."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import io
from pipeline.data.detector_features import SMALL_SIDE, TERMS
from pipeline.data.frame_file import write_frames
from pipeline.data.shard_writer import image_schema, open_shard
from pipeline.models.checkpoints import save_weights
from pipeline.resume import Resume


def shard(path: Path, size: int) -> None:
    with open_shard(path, image_schema(10, 10)) as add:
        for frame in range(size):
            add({"video_id": "a", "frame": frame, "image": bytes(300)})


def frame_file(path: Path, size: int) -> None:
    with write_frames(path, 10, 10) as out:
        terms = {term: np.zeros(size, np.float32) for term in TERMS}
        terms["small"] = np.zeros((size, SMALL_SIDE, SMALL_SIDE), np.uint8)
        out.append(np.zeros((size, 10, 10, 3), np.uint8), terms)


def state(path: Path, size: int) -> None:
    resume = Resume("a", {}, [])
    resume.path = path
    resume.save({"w": torch.rand(size)})


def table_row_by_row(path: Path, size: int) -> None:
    with io.table_writer(io.SCENES, path) as add:
        for k in range(size):
            add({"scene_id": f"{k * k:09}", "video_id": "a", "start": k, "end": k, "cut_score": k})


WRITERS = {
    "images-train-00000.arrow": shard,
    "film.arrow": frame_file,
    "state.pt": state,
    "model.safetensors": lambda path, size: save_weights(nn.Linear(size, 9), path),
    "scenes.parquet": lambda path, size: io.write_table(
        {"scene_id": [f"{k * k:09}" for k in range(size)], "video_id": ["a"] * size,
         "start": range(size), "end": range(size), "cut_score": np.random.rand(size)},
        io.SCENES, path),
    "tokens.parquet": table_row_by_row,
    "summary.json": lambda path, size: io.write_json(path, {f"key {k}": 1 for k in range(size)}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_before_stays_and_is_named(tmp_path, name):
    path, write = tmp_path / name, WRITERS[name]
    write(path, 3)
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limit[1]))  # as if the disk ended there
    try:
        with pytest.raises(OSError) as caught:
            write(path, 3000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
