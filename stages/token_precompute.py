"""Stage `token_precompute`: every frame of every clip to codebook indices."""

from pathlib import Path

from pipeline import errors, params, torch_setup, tracking
from pipeline.inbetween.tokens import precompute
from pipeline.models.checkpoints import load_tokenizer, sign_tokens

VQGAN, OUT = Path("models/vqgan"), Path("data/tokens")


def main() -> None:
    settings = params.load()
    with tracking.stage("token_precompute", settings) as run:
        device = torch_setup.prepare(settings.base)
        tokenizer, _ = load_tokenizer(VQGAN, device)
        rules, precision = settings.token_precompute, settings.base.precision
        summary = precompute(tokenizer, Path("data/shards"), OUT, rules, device, precision)
        sign_tokens(OUT, VQGAN)
        run.finish(summary, OUT)


if __name__ == "__main__":
    errors.run_main(main)
