"""Renders the embedded sample: cartoon episodes as mp4, with the truth about them as JSON."""

from pathlib import Path

from pipeline import errors, params, tracking
from pipeline.sources.cartoon import render_episodes

OUT = Path("data/sample")


def main() -> None:
    settings = params.load()
    with tracking.stage("sample_episodes", settings) as run:
        summary = render_episodes(
            settings.sample_episodes, settings.base.seed, OUT, settings.engine.workers
        )
        run.finish(summary, OUT)


if __name__ == "__main__":
    errors.run_main(main)
