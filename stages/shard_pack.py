"""Stage `shard_pack`: frames, index and clips to a few large shards."""

from pathlib import Path

from pipeline import engine, errors, params, schema, tracking
from pipeline.shards.writing import pack

OUT = Path("data/shards")


def main() -> None:
    settings = params.load()
    with tracking.stage("shard_pack", settings) as run:
        index = schema.read_table(Path("data/frame_index/frame_index.parquet"), schema.FRAME_INDEX)
        clips = schema.read_table(Path("data/clips/clips.parquet"), schema.CLIPS)
        size = (settings.ingest.height, settings.ingest.width)
        workers, address = settings.engine.workers, settings.engine.address
        place = engine.Place(settings.engine.kind, workers, address)
        shard_mb = settings.shard_pack.shard_mb
        summary = pack(Path("data/frames"), index, clips, OUT, size, shard_mb, place)
        run.finish(summary, OUT)


if __name__ == "__main__":
    errors.run_main(main)
