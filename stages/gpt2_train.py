"""Stage `gpt2_train`: tokens to a trained transformer."""

from pathlib import Path

from pipeline import config, errors, tracking
from pipeline.commands import check
from pipeline.models.checkpoints import fingerprint, load_tokenizer, require_own_tokens
from pipeline.models.gpt.checkpoint import save_gpt
from pipeline.training import distributed
from pipeline.training.checkpoint import Resume
from pipeline.training.gpt import GptTask
from pipeline.training.trainer import Plan, train

TOKENS, VQGAN, OUT = Path("data/tokens"), Path("models/vqgan"), Path("models/gpt2")


def main() -> None:
    settings = config.load()
    check.require_weights(settings)
    if distributed.started("stages.gpt2_train", settings.base):
        return
    first = distributed.rank() == 0
    with (
        tracking.stage("gpt2_train", settings, first) as run,
        distributed.joined(settings.base) as together,
    ):
        require_own_tokens(TOKENS, VQGAN)
        tokenizer = load_tokenizer(VQGAN, together.device).tokenizer
        task = GptTask(settings, TOKENS, tokenizer, together.device, together)
        rules, engine = settings.train, settings.engine
        plan = Plan(
            batch_size=rules.batch_size,
            n_epochs=rules.n_epochs,
            seed=settings.base.seed,
            accumulation_size=rules.accumulation_size,
            checkpoint_interval=engine.checkpoint_interval,
        )
        sections = {
            "base": settings.base,
            "clip_chunk": settings.clip_chunk,
            "transformer": settings.transformer,
            "train": rules,
            "loss": settings.vqgan.loss,
        }
        inputs = [TOKENS / "train.parquet", TOKENS / "val.parquet", VQGAN / "config.json"]
        resume = Resume("gpt2_train", sections, inputs)
        history = train(task, plan, "transformer", resume, run.log)
        if first:
            save_gpt(task.module, fingerprint(VQGAN), OUT)
            history.save(OUT)
            run.finish(history.summary(task), OUT)


if __name__ == "__main__":
    errors.run_main(main)
