"""Stage `ingest`: every video, or sequence, of `source.path` to small frames and their terms."""

from pathlib import Path

from pipeline import check, errors, params, tracking
from pipeline.footage.ingest import ingest
from pipeline.footage.sequences import ingest_sequences

OUT = Path("data/frames")


def main() -> None:
    settings = params.load()
    check.require_weights(settings)
    with tracking.stage("ingest", settings) as run:
        source = Path(settings.source.path)
        if settings.source.kind == "moving_mnist":
            summary = ingest_sequences(source, OUT, settings)
        else:
            summary = ingest(source, OUT, settings.ingest, settings.engine.workers)
        run.finish(summary, OUT)


if __name__ == "__main__":
    errors.run_main(main)
