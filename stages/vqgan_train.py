"""Stage `vqgan_train`: image or clip shards to a trained tokenizer."""

from pathlib import Path

from pipeline import config, errors, io, tracking
from pipeline.commands import check
from pipeline.models.checkpoints import save_tokenizer
from pipeline.models.flow import EVEN
from pipeline.training import distributed
from pipeline.training.checkpoint import Resume
from pipeline.training.trainer import TrainConfig, train
from pipeline.training.vqgan import TASKS

SHARDS, OUT = Path("data/shards"), Path("models/vqgan")


def main() -> None:
    settings = config.load()
    check.require_weights(settings)
    is_main = distributed.rank() == 0
    with (
        tracking.stage("vqgan_train", settings, is_main) as run,
        distributed.connected(settings.base) as processes,
    ):
        task = TASKS[settings.vqgan.context](settings, SHARDS, processes.device, processes)
        trainer, engine = settings.vqgan.trainer, settings.engine
        train_config = TrainConfig(
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
        history = train(task, train_config, "tokenizer", resume, run.log)
        if is_main:
            save_tokenizer(task.tokenizer, settings, OUT, getattr(task, "easing", EVEN))
            history.save(OUT)
            summary = history.summary(task)
            io.write_json(OUT / "summary.json", summary)
            run.finish(summary)
    if is_main:  # a kill while MLflow is waited for loses nothing
        resume.clear()


if __name__ == "__main__":
    errors.run_main(main)
