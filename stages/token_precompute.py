"""Stage `token_precompute`: every frame of every clip to token ids, with its context features."""

from pathlib import Path

from pipeline import config, errors, io, runtime, tracking
from pipeline.inference.tokenize import precompute
from pipeline.models.checkpoints import load_tokenizer, sign_tokens
from pipeline.resume import Resume

SHARDS, VQGAN, OUT = Path("data/shards"), Path("models/vqgan"), Path("data/tokens")


def main() -> None:
    settings = config.load()
    with tracking.stage("token_precompute", settings) as run:
        device = runtime.prepare(settings.base)
        tokenizer = load_tokenizer(VQGAN, device)
        inputs = [SHARDS / "index.json", VQGAN / "config.json", VQGAN / "model.safetensors"]
        resume = Resume("token_precompute", {"base": settings.base}, inputs)
        interval = settings.engine.checkpoint_interval
        with resume.parts() as parts:
            arguments = (tokenizer, SHARDS, OUT, device, settings.base.precision, parts)
            summary = precompute(*arguments, interval=interval)
            sign_tokens(OUT, tokenizer)
            io.write_json(OUT / "summary.json", summary)
            run.finish(summary)
        resume.clear()


if __name__ == "__main__":
    errors.run_main(main)
