"""Stage `evaluate`: in-betweens of the test clips, their numbers, and pictures."""

from pathlib import Path

from pipeline import errors, params, schema, torch_setup, tracking
from pipeline.evaluation import evaluate
from pipeline.inbetween.drawing import InBetweener

OUT = Path("evaluation")


def main() -> None:
    settings = params.load()
    with tracking.stage("evaluate", settings) as run:
        device = torch_setup.prepare(settings.base)
        precision = settings.base.precision
        model = InBetweener.load(Path("models/vqgan"), Path("models/gpt2"), device, precision)
        clips = schema.read_table(Path("data/clips/clips.parquet"), schema.CLIPS)
        motion = clips.set_index("clip_id").motion
        content = evaluate(model, Path("data/shards"), motion, settings.evaluate, OUT)
        run.finish(content, OUT)


if __name__ == "__main__":
    errors.run_main(main)
