"""Stage `vqgan_train`: image shards to a trained tokenizer."""

from pathlib import Path

from pipeline import check, errors, params, tracking
from pipeline.models.checkpoints import save_tokenizer
from pipeline.training import processes
from pipeline.training.checkpoint import Resume
from pipeline.training.loop import Plan, train
from pipeline.training.tokenizer import TokenizerTask

SHARDS, OUT = Path("data/shards"), Path("models/vqgan")


def main() -> None:
    settings = params.load()
    check.require_weights(settings)
    if processes.started("stages.vqgan_train", settings.base):
        return
    first = processes.rank() == 0
    with (
        tracking.stage("vqgan_train", settings, first) as run,
        processes.joined(settings.base) as together,
    ):
        task = TokenizerTask(settings, SHARDS, together.device, together)
        trainer, engine = settings.vqgan.trainer, settings.engine
        plan = Plan(
            batch_size=trainer.batch_size,
            n_epochs=trainer.n_epochs,
            seed=settings.base.seed,
            accumulation_size=trainer.accumulation_size,
            checkpoint_interval=engine.checkpoint_interval,
        )
        size = settings.ingest.frame_size
        sections = {"base": settings.base, "ingest": size, "vqgan": settings.vqgan}
        resume = Resume("vqgan_train", sections, [SHARDS / "index.json"])
        history = train(task, plan, "tokenizer", resume, run.log)
        if first:
            save_tokenizer(task.finished, settings, OUT)
            history.save(OUT)
            run.finish(history.summary(task), OUT)


if __name__ == "__main__":
    errors.run_main(main)
