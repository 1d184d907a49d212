"""Trainings that must come out alike in one process and in two; run by test_distributed.py.

As a script, in each of two processes: `scenarios.py FOLDER` does every job of FOLDER/jobs.json and
writes what came of it to FOLDER/<process>.pt.
"""

import json
import math
import sys
from pathlib import Path

import torch
from torch import nn

from pipeline import config
from pipeline.config import Base
from pipeline.errors import UserError
from pipeline.models.vqgan.model import Tokenizer
from pipeline.resume import Resume
from pipeline.training.distributed import DistributedContext, connected
from pipeline.training.gpt import GptTask
from pipeline.training.task import Loss, OptimizerSpec, Task, weighted_means
from pipeline.training.trainer import TrainConfig, train
from pipeline.training.vqgan import TASKS


class Killed(Exception):
    pass


class TwoPlayers(Task):
    """A little network and its adversary, a buffer that follows the data of all, and dropout."""

    def __init__(self, processes: DistributedContext, rows: int, dropout: float = 0.0) -> None:
        torch.manual_seed(3)
        self.processes, self.rows = processes, rows
        self.network = nn.Sequential(nn.Linear(4, 9), nn.Dropout(dropout), nn.Linear(9, 4))
        self.adversary = nn.Linear(4, 1)
        self.module = nn.ModuleDict({"network": self.network, "adversary": self.adversary})
        self.module.register_buffer("average", torch.zeros(4))
        self.optimizers = {
            "network": self._spec(self.network, lambda done: 0.02 * (1 - done)),
            "adversary": self._spec(self.adversary, None),
        }
        self.generator = torch.Generator().manual_seed(1)
        self.data = torch.randn(rows, 4)
        self.broken_rows: set[int] = set()

    def _spec(self, module: nn.Module, schedule) -> OptimizerSpec:
        parameters = list(module.parameters())
        return OptimizerSpec(parameters, torch.optim.Adam(parameters, 1e-2), 0.5, schedule)

    def size(self, split: str) -> int:
        return self.rows

    def losses(self, rows, epoch, step):
        truth = self.data[list(rows)]
        drawn = self.network(truth)
        vectors = self.processes.all_gather(drawn)  # PB 4
        noise = torch.rand(4, generator=self.generator)  # the same in all processes
        self.module.average.lerp_(vectors.mean(0).detach() + 0.01 * noise, 0.1)
        total = (drawn - truth - 0.1 * self.module.average).square().mean()
        if self.broken_rows & set(rows):
            total = total * math.nan
        fooled = -(drawn @ self.adversary.weight.detach().T).mean()
        yield Loss("network", total + 0.1 * fooled, {"square": total, "fooled": fooled})
        right = (self.adversary(truth) > 0).float().mean()
        apart = (1 - self.adversary(truth)).relu() + (1 + self.adversary(drawn.detach())).relu()
        yield Loss("adversary", apart.mean(), {"right": right})

    def validate(self, batches):
        errors = [(self.network(self.data[b]) - self.data[b]).square().mean() for b in batches]
        pairs = zip(errors, batches, strict=True)
        # only the first process' numbers count
        return weighted_means(
            [({"error": float(e) + self.processes.rank}, len(b)) for e, b in pairs]
        )


def little(job: dict, processes: DistributedContext) -> Task:
    return TwoPlayers(processes, job["rows"], job.get("dropout", 0.0))


def transformer(job: dict, processes: DistributedContext) -> Task:
    torch.manual_seed(1)
    settings = config.parse(job["settings"])
    tokenizer = Tokenizer(settings.vqgan, settings.ingest.height, settings.ingest.width).eval()
    return GptTask(settings, Path(job["tokens"]), tokenizer, processes.device, processes)


def tokenizer(job: dict, processes: DistributedContext) -> Task:
    torch.manual_seed(1)
    settings = config.parse(job["settings"])
    kind = TASKS[settings.vqgan.context]
    return kind(settings, Path(job["shards"]), processes.device, processes)


def done(job: dict, processes: DistributedContext) -> dict:
    """Trains as the job says; where it is to be killed at a step, begins again after it."""
    plan = TrainConfig(n_epochs=3, seed=1, log_interval=2, **job["plan"])
    resume = Resume(job["name"], {"base": Base(**job["base"])}, [])
    if "kill_at" in job:
        try:
            train(_dying(job, processes), plan, "test", resume, lambda values, step: None)
        except Killed:
            processes.all_gather_object(None)  # the first may still be saving
    task = globals()[job["kind"]](job, processes)
    logged: list[int] = []
    history = train(task, plan, "test", resume, lambda values, step: logged.append(step))
    if processes.is_main:
        resume.clear()
    return {
        "steps": history.steps,
        "epochs": history.epochs,
        "weights": torch.cat([v.flatten().float() for v in task.module.state_dict().values()]),
        "logged": logged,
    }


def _dying(job: dict, processes: DistributedContext) -> Task:
    task = globals()[job["kind"]](job, processes)
    losses = task.losses

    def dying(rows, epoch, step):
        if step == job["kill_at"]:
            raise Killed
        return losses(rows, epoch, step)

    task.losses = dying
    return task


def speaking(processes: DistributedContext) -> dict:
    """What each method of `DistributedContext` returns."""
    rank = processes.rank
    module = nn.Linear(3, 2)
    nn.init.constant_(module.weight, float(rank))
    processes.broadcast(module)
    return {
        "mean": processes.mean(torch.tensor([1.0, rank])),
        "max": processes.max(rank, -rank, 7),
        "all_gather": processes.all_gather(torch.tensor([[rank, 0], [rank, 1]])),
        "all_gather_object": processes.all_gather_object({"rank": rank}),
        "broadcast": module.weight.detach(),
    }


def failing(processes: DistributedContext, rows: int) -> tuple[str, Task]:
    """A loss that is not a number in the second process alone."""
    task = TwoPlayers(processes, rows)
    plan = TrainConfig(batch_size=2, n_epochs=1, seed=1, checkpoint_interval=1e9)
    task.broken_rows = {3}
    resume = Resume("failing", {}, [])
    try:
        train(task, plan, "test", resume, lambda values, step: None)
    except UserError as error:
        return str(error), task
    raise AssertionError("trained on with a loss that is not finite")


def few(processes: DistributedContext) -> str:
    try:
        train(TwoPlayers(processes, 1), TrainConfig(2, 1, 1), "test", Resume("few", {}, []), print)
    except UserError as error:
        return str(error)
    raise AssertionError("trained with a process without rows")


def main(folder: Path) -> None:
    jobs = json.loads((folder / "jobs.json").read_text())
    with connected(Base(**jobs["base"])) as processes:
        found = {job["name"]: done(job, processes) for job in jobs["trainings"]}
        found["speaking"] = speaking(processes)
        found["failing"], task = failing(processes, 8)
        found["failed_step"] = float(task.module.average.norm())
        found["few"] = few(processes)
        found["threads"] = torch.get_num_threads()
        torch.save(found, folder / f"{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
