"""Stage `frame_subsample`: held drawings, and which frames feed images and clips."""

from pathlib import Path

from pipeline import config, errors, io, tracking
from pipeline.data.holds import index_frames

FRAMES, SCENES, OUT = Path("data/frames"), Path("data/scenes"), Path("data/frame_index")


def main() -> None:
    settings = config.load()
    with tracking.stage("frame_subsample", settings) as run:
        summary = index_frames(FRAMES, SCENES, OUT, settings.frame_subsample)
        io.write_json(OUT / "summary.json", summary)
        run.finish(summary)


if __name__ == "__main__":
    errors.run_main(main)
