"""Shards from a folder of videos, as the stages make them, for benchmarks that train."""

import os
from pathlib import Path
from unittest import mock

from pipeline import config, io
from pipeline.data.clips import chunk_clips
from pipeline.data.executor import LocalPool
from pipeline.data.holds import index_frames
from pipeline.data.ingest import ingest
from pipeline.data.scenes import split_scenes
from pipeline.data.shard_writer import pack


def shards(videos: Path, work: Path, settings: config.Params) -> Path:
    """The folder of shards under `work`; made once, and taken as it is where it is there."""
    frames, scenes, index, clips, out = (
        work / name for name in ("frames", "scenes", "frame_index", "clips", "shards")
    )
    if (out / "index.json").is_file():
        return out
    pool, size = LocalPool(settings.engine.workers), settings.ingest
    with mock.patch.dict(os.environ, {"DVC_ROOT": str(work)}):
        ingest(videos, frames, size, pool)
        split_scenes(frames, scenes, settings.scene_split)
        index_frames(frames, scenes, index, settings.frame_subsample)
        chunk_clips(frames, scenes, index, clips, settings.clip_chunk)
        rows = io.read_table(index / "frame_index.parquet", io.FRAME_INDEX)
        chosen = io.read_table(clips / "clips.parquet", io.CLIPS)
        shape = (size.height, size.width)
        pack(frames, rows, chosen, out, shape, settings.shard_pack.shard_mb, pool)
    return out
