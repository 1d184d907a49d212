"""Stage `evaluate`: in-betweens of the test clips, their numbers, pictures and page."""

from pathlib import Path

from pipeline import config, errors, io, runtime, tracking
from pipeline.evaluation.run import evaluate, parameters
from pipeline.inference.inbetweener import InBetweener
from pipeline.resume import Resume

SHARDS, CLIPS = Path("data/shards"), Path("data/clips/clips.parquet")
VQGAN, GPT2, OUT = Path("models/vqgan"), Path("models/gpt2"), Path("evaluation")
MODEL = ("config.json", "model.safetensors")
HISTORIES = {
    "Training of the tokenizer": VQGAN / "history.csv",
    "Training of the transformer": GPT2 / "history.csv",
}


def main() -> None:
    settings = config.load()
    with tracking.stage("evaluate", settings) as run:
        device = runtime.prepare(settings.base)
        model = InBetweener.load(VQGAN, GPT2, device, settings.base.precision)
        clips = io.read_table(CLIPS, io.CLIPS)
        inputs = [SHARDS / "index.json", CLIPS]
        inputs += [folder / name for folder in (VQGAN, GPT2) for name in MODEL]
        resume = Resume("evaluate", parameters(settings), inputs)
        summary = evaluate(model, SHARDS, clips, settings, OUT, HISTORIES, resume)
        io.write_json(OUT / "summary.json", summary)
        run.finish(summary)
        resume.clear()


if __name__ == "__main__":
    errors.run_main(main)
