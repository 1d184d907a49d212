"""Stage `vqgan_train`: image or clip shards to a trained tokenizer."""

from pathlib import Path

from pipeline import config, errors, tracking
from pipeline.commands import check
from pipeline.models.checkpoints import save_tokenizer
from pipeline.models.flow import EVEN
from pipeline.resume import Resume
from pipeline.training import distributed
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
        sections = {
            "base": settings.base,
            "ingest": settings.ingest.frame_size,
            "flow": settings.flow,
            "vqgan": settings.vqgan,
        }
        resume = Resume("vqgan_train", sections, [SHARDS / "index.json"])
        saving = settings.engine.checkpoint_interval
        train_config = TrainConfig.from_params(settings.vqgan.trainer, settings.base, saving)
        with resume.parts(processes.rank) as parts:
            arguments = (settings, SHARDS, processes.device, processes, parts)
            task = TASKS[settings.vqgan.context](*arguments)
            history = train(task, train_config, "tokenizer", resume, run.log)
            if is_main:
                save_tokenizer(task.tokenizer, settings, OUT, getattr(task, "easing", EVEN))
                run.finish(history.save(OUT, task))
            processes.all_gather_object(None)  # the others keep their parts until it is saved
    if is_main:  # a kill while MLflow is waited for loses nothing
        resume.clear()


if __name__ == "__main__":
    errors.run_main(main)
