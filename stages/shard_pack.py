"""Stage `shard_pack`: frames, index and clips to a few large shards."""

from pathlib import Path

from pipeline import config, errors, io, tracking
from pipeline.data import executor
from pipeline.data.shard_writer import pack

OUT = Path("data/shards")


def main() -> None:
    settings = config.load()
    with tracking.stage("shard_pack", settings) as run:
        index = io.read_table(Path("data/frame_index/frame_index.parquet"), io.FRAME_INDEX)
        clips = io.read_table(Path("data/clips/clips.parquet"), io.CLIPS)
        size = (settings.ingest.height, settings.ingest.width)
        with executor.open_pool(settings.engine) as pool:
            summary = pack(Path("data/frames"), index, clips, OUT, size, pool)
        run.finish(summary, OUT)


if __name__ == "__main__":
    errors.run_main(main)
