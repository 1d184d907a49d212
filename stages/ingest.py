"""Stage `ingest`: every video of `source.path` to small frames and detector terms."""

from pathlib import Path

from pipeline import check, errors, params, tracking
from pipeline.footage.ingest import ingest

OUT = Path("data/frames")


def main() -> None:
    settings = params.load()
    check.require_weights(settings)
    with tracking.stage("ingest", settings) as run:
        source = Path(settings.source.path)
        summary = ingest(source, OUT, settings.ingest, settings.engine.workers)
        run.finish(summary, OUT)


if __name__ == "__main__":
    errors.run_main(main)
