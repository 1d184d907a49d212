"""Stage `clip_chunk`: scenes to clips of the thesis' lengths, each in one split."""

from pathlib import Path

from pipeline import config, errors, io, tracking
from pipeline.data.clips import chunk_clips

FRAMES, SCENES = Path("data/frames"), Path("data/scenes")
INDEX, OUT = Path("data/frame_index"), Path("data/clips")


def main() -> None:
    settings = config.load()
    with tracking.stage("clip_chunk", settings) as run:
        summary = chunk_clips(FRAMES, SCENES, INDEX, OUT, settings.clip_chunk)
        io.write_json(OUT / "summary.json", summary)
        run.finish(summary)


if __name__ == "__main__":
    errors.run_main(main)
