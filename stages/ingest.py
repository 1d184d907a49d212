"""Stage `ingest`: every video, or sequence, of `source.path` to small frames and their terms."""

from pathlib import Path

from pipeline import config, errors, io, tracking
from pipeline.commands import check
from pipeline.data import executor
from pipeline.data.ingest import ingest
from pipeline.data.moving_mnist import ingest_sequences

OUT = Path("data/frames")


def main() -> None:
    settings = config.load()
    check.require_weights(settings)
    with tracking.stage("ingest", settings) as run:
        source = Path(settings.source.path)
        if settings.source.kind == "moving_mnist":
            summary = ingest_sequences(source, OUT, settings)
        else:
            with executor.open_pool(settings.engine) as pool:
                summary = ingest(source, OUT, settings.ingest, pool)
        io.write_json(OUT / "summary.json", summary)
        run.finish(summary)


if __name__ == "__main__":
    errors.run_main(main)
