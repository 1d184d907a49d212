"""Stage `gpt2_train`: tokens to a trained transformer."""

from pathlib import Path

from pipeline import config, errors, tracking
from pipeline.commands import check
from pipeline.models.checkpoints import load_tokenizer, require_own_tokens
from pipeline.models.gpt.checkpoint import save_gpt
from pipeline.resume import Resume
from pipeline.training import distributed
from pipeline.training.gpt import GptTask
from pipeline.training.trainer import TrainConfig, train

SHARDS, TOKENS = Path("data/shards"), Path("data/tokens")
VQGAN, OUT = Path("models/vqgan"), Path("models/gpt2")


def main() -> None:
    settings = config.load()
    check.require_weights(settings)
    is_main = distributed.rank() == 0
    with (
        tracking.stage("gpt2_train", settings, is_main) as run,
        distributed.connected(settings.base) as processes,
    ):
        loaded = load_tokenizer(VQGAN, processes.device)
        require_own_tokens(TOKENS, loaded)
        task = GptTask(settings, TOKENS, loaded.tokenizer, processes.device, processes, SHARDS)
        sections = {
            "base": settings.base,
            "clip_chunk": settings.clip_chunk,
            "transformer": settings.transformer,
            "train": settings.train,
            "loss": settings.vqgan.loss,
        }
        inputs = [TOKENS / "train.parquet", TOKENS / "val.parquet", VQGAN / "model.safetensors"]
        inputs += [SHARDS / "index.json"] if task.parts else []
        resume = Resume("gpt2_train", sections, inputs)
        saving = settings.engine.checkpoint_interval
        train_config = TrainConfig.from_params(settings.train, settings.base, saving)
        history = train(task, train_config, "transformer", resume, run.log)
        if is_main:
            save_gpt(task.module, loaded.sha256, OUT)
            run.finish(history.save(OUT, task))
    if is_main:  # a kill while MLflow is waited for loses nothing
        resume.clear()


if __name__ == "__main__":
    errors.run_main(main)
