"""Stage `scene_split`: camera cuts from the stored terms."""

from pathlib import Path

from pipeline import config, errors, io, tracking
from pipeline.commands import check
from pipeline.data.scenes import split_scenes

FRAMES, OUT = Path("data/frames"), Path("data/scenes")


def main() -> None:
    settings = config.load()
    check.require_weights(settings)
    with tracking.stage("scene_split", settings) as run:
        summary = split_scenes(FRAMES, OUT, settings.scene_split)
        io.write_json(OUT / "summary.json", summary)
        run.finish(summary)


if __name__ == "__main__":
    errors.run_main(main)
