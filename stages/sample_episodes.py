"""Renders the embedded sample: cartoon episodes as mp4, with the truth about them as JSON."""

from pathlib import Path

from pipeline import config, errors, io, tracking
from pipeline.sample import render_episodes

OUT = Path("data/sample")
SEED = 1  # not base.seed, so that trainings with different seeds are compared on one data set


def main() -> None:
    settings = config.load()
    with tracking.stage("sample_episodes", settings) as run:
        sample = settings.sample_episodes
        summary = render_episodes(sample, SEED, OUT, settings.engine.workers)
        io.write_json(OUT / "summary.json", summary)
        run.finish(summary)


if __name__ == "__main__":
    errors.run_main(main)
