"""Stage `token_precompute`: every frame of every clip to token ids, with its context features."""

from pathlib import Path

from pipeline import config, errors, runtime, tracking
from pipeline.inference.tokenize import precompute
from pipeline.models.checkpoints import load_tokenizer, sign_tokens

VQGAN, OUT = Path("models/vqgan"), Path("data/tokens")


def main() -> None:
    settings = config.load()
    with tracking.stage("token_precompute", settings) as run:
        device = runtime.prepare(settings.base)
        tokenizer = load_tokenizer(VQGAN, device)
        shards, precision = Path("data/shards"), settings.base.precision
        summary = precompute(tokenizer, shards, OUT, device, precision)
        sign_tokens(OUT, VQGAN)
        run.finish(summary, OUT)


if __name__ == "__main__":
    errors.run_main(main)
