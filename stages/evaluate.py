"""Stage `evaluate`: in-betweens of the test clips, their numbers, pictures and page."""

from pathlib import Path

from pipeline import config, errors, io, runtime, tracking
from pipeline.evaluation.run import evaluate
from pipeline.inference.inbetweener import InBetweener

OUT = Path("evaluation")
HISTORIES = {
    "Training of the tokenizer": Path("models/vqgan/history.csv"),
    "Training of the transformer": Path("models/gpt2/history.csv"),
}


def main() -> None:
    settings = config.load()
    with tracking.stage("evaluate", settings) as run:
        device = runtime.prepare(settings.base)
        precision = settings.base.precision
        model = InBetweener.load(Path("models/vqgan"), Path("models/gpt2"), device, precision)
        clips = io.read_table(Path("data/clips/clips.parquet"), io.CLIPS)
        summary = evaluate(model, Path("data/shards"), clips, settings, OUT, HISTORIES)
        io.write_json(OUT / "summary.json", summary)
        run.finish(summary)


if __name__ == "__main__":
    errors.run_main(main)
