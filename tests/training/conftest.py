"""Tasks of both networks on tiny data, and one way to run them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.resume import Resume
from pipeline.training.distributed import DistributedContext
from pipeline.training.task import History
from pipeline.training.trainer import TrainConfig, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch) -> Path:
    """Saved states go below the test's folder."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def shards(tmp_path_factory, write_shards) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder)
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, write_tokens) -> Path:
    """Random clips of 5 to 8 frames of 4x8 tokens."""
    generator = torch.Generator().manual_seed(0)

    def some(*lengths: int) -> list:
        return [torch.randint(0, 16, (n, 32), generator=generator) for n in lengths]

    clips = {"train": some(6, 8, 5, 7, 6), "val": some(6, 5)}
    return write_tokens(tmp_path_factory.mktemp("tokens"), clips)


@pytest.fixture
def vqgan_task(tiny, shards) -> Callable:
    """Of the settings' `vqgan.context`: keyframes is the default."""
    from pipeline.training.vqgan import TASKS, VqganTask

    def make(changes: dict | None = None, seed: int = 1, device: torch.device = CPU) -> VqganTask:
        torch.manual_seed(seed)
        settings = tiny(changes)
        return TASKS[settings.vqgan.context](settings, shards, device)

    return make


@pytest.fixture
def gpt_task(tiny, tokens) -> Callable:
    from pipeline.models.vqgan.model import Tokenizer
    from pipeline.training.gpt import GptTask

    def make(
        changes: dict | None = None,
        seed: int = 1,
        folder: Path = tokens,
        device: torch.device = CPU,
        rank: int = 0,
    ) -> GptTask:
        settings = tiny({"vqgan.context": "none"} | (changes or {}))
        torch.manual_seed(0)  # the tokenizer is given, whatever happens to the transformer
        tokenizer = Tokenizer(settings.vqgan, settings.ingest.height, settings.ingest.width)
        torch.manual_seed(seed)
        tokenizer = tokenizer.to(device).eval().requires_grad_(False)
        processes = DistributedContext(1 + rank, rank, device)
        return GptTask(settings, folder, tokenizer, device, processes)

    return make


@pytest.fixture
def resume(tiny) -> Callable[[], Resume]:
    """The saved states of `run`."""
    return lambda: Resume("some_stage", {"base": tiny().base}, [])


@pytest.fixture
def run(resume) -> Callable[..., History]:
    """Trains a task; `log` may raise to kill it."""

    def start(task, log=lambda values, step: None, **plan) -> History:
        fields = {"batch_size": 2, "n_epochs": 3, "seed": 1, "log_interval": 1} | plan
        fields = {"checkpoint_interval": 0.0} | fields
        history = train(task, TrainConfig(**fields), "test", resume(), log)
        resume().clear()
        return history

    return start
