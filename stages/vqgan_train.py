"""Stage `vqgan_train`: image shards to a trained tokenizer."""

from pathlib import Path

from pipeline import config, errors, tracking
from pipeline.commands import check
from pipeline.models.checkpoints import save_tokenizer
from pipeline.models.flow import EVEN
from pipeline.training import distributed
from pipeline.training.checkpoint import Resume
from pipeline.training.trainer import Plan, train
from pipeline.training.vqgan import ImageTask, KeyframeTask

SHARDS, OUT = Path("data/shards"), Path("models/vqgan")


def main() -> None:
    settings = config.load()
    check.require_weights(settings)
    if distributed.started("stages.vqgan_train", settings.base):
        return
    first = distributed.rank() == 0
    with (
        tracking.stage("vqgan_train", settings, first) as run,
        distributed.joined(settings.base) as together,
    ):
        kind = KeyframeTask if settings.vqgan.context == "keyframes" else ImageTask
        task = kind(settings, SHARDS, together.device, together)
        trainer, engine = settings.vqgan.trainer, settings.engine
        plan = Plan(
            batch_size=trainer.batch_size,
            n_epochs=trainer.n_epochs,
            seed=settings.base.seed,
            accumulation_size=trainer.accumulation_size,
            checkpoint_interval=engine.checkpoint_interval,
        )
        size = settings.ingest.frame_size
        sections = {
            "base": settings.base,
            "ingest": size,
            "flow": settings.flow,
            "vqgan": settings.vqgan,
        }
        resume = Resume("vqgan_train", sections, [SHARDS / "index.json"])
        history = train(task, plan, "tokenizer", resume, run.log)
        if first:
            save_tokenizer(task.finished, settings, OUT, getattr(task, "easing", EVEN))
            history.save(OUT)
            run.finish(history.summary(task), OUT)


if __name__ == "__main__":
    errors.run_main(main)
