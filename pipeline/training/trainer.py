"""The one training loop: epochs over shuffled rows, gradient steps, curves, saved states.

Two runs with the same settings give the same bytes, also where one of them was killed and
continued: the order of rows is a function of seed and epoch, and every random state is saved.
Several processes (distributed.py) share each step's rows; only the main one writes and logs.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pipeline import progress
from pipeline.config import Base, Train, VqganTrainer
from pipeline.errors import UserError
from pipeline.resume import Resume, SaveClock, signals_noted, stopped_by
from pipeline.training.distributed import RNG_STRIDE
from pipeline.training.task import History, Task
from pipeline.training.throughput import FlopCounter, peak_flops

VALIDATION_BATCHES = 16  # at most; a val split of any size costs about as much each epoch
MAX_POINTS = 2000  # of a training curve, about: it lies in git, in MLflow and in saved states


@dataclass(frozen=True)
class TrainConfig:
    """How long and in which portions; `batch_size` is that of one process."""

    batch_size: int
    n_epochs: int
    seed: int
    accumulation_size: int = 1
    checkpoint_interval: float = 60.0  # seconds between two saved states, at least; 0: every step
    log_interval: int = 10  # steps between two points of a training curve, at least

    @classmethod
    def from_params(
        cls, section: VqganTrainer | Train, base: Base, checkpoint_interval: float
    ) -> "TrainConfig":
        length = section.batch_size, section.n_epochs
        return cls(*length, base.seed, section.accumulation_size, checkpoint_interval)


Log = Callable[[dict[str, float], int], None]


def train(task: Task, config: TrainConfig, what: str, resume: Resume, log: Log) -> History:
    """Trains `task` to the end and returns its curves.

    The saved state stays: call `resume.clear()` once the finished model is on disk. Ctrl-C,
    SIGTERM and SIGHUP end the training after a step, whose state is saved.
    """
    trainer = Trainer(task, config, resume, log)
    trainer.restore()
    if not task.processes.is_main:
        with signals_noted() as trainer.signals:
            while trainer.step < trainer.total_steps:
                trainer.train_step()
        return trainer.history
    bar = progress.bar(what=what, unit="step", total=trainer.total_steps)
    peak = peak_flops(task.device, task.precision)
    with bar, signals_noted() as trainer.signals, trainer.flops.watching(task.module):
        bar.update(trainer.step)
        while trainer.step < trainer.total_steps:
            trainer.train_step()
            bar.update()
            if trainer.history.steps:
                loss = f"{trainer.history.steps[-1].get('total', math.nan):.4f}"
                speed = f"{trainer.targets_per_second:,.0f} {task.unit}/s"
                share = f"{trainer.flops_per_second / peak:.0%} of peak"
                bar.set_postfix_str(f"loss={loss}, {speed}, {share}", refresh=False)
    return trainer.history


class LoggedValue(NamedTuple):
    """A loss or a part of one, and the rows that it comes from."""

    name: str
    value: torch.Tensor  # scalar
    rows: list[int]


class BuffersAndRng:
    """What a step changes before the optimizers do. Cheap to keep."""

    def __init__(self, task: Task) -> None:
        saved = task.module.state_dict().keys()
        self.buffers = {
            name: buffer.detach().clone()
            for name, buffer in task.module.named_buffers()
            if name in saved
        }
        self.rng = {"cpu": torch.get_rng_state(), "generator": task.generator.get_state()}
        if task.device.type == "cuda":
            self.rng["cuda"] = torch.cuda.get_rng_state(task.device)


def set_rng(task: Task, rng: dict[str, torch.Tensor]) -> None:
    """Continues with the random numbers of a saved state."""
    torch.set_rng_state(rng["cpu"])
    task.generator.set_state(rng["generator"])
    if task.device.type == "cuda":
        torch.cuda.set_rng_state(rng["cuda"], task.device)


class Trainer:
    """Where a training run stands."""

    def __init__(self, task: Task, config: TrainConfig, resume: Resume, log: Log) -> None:
        self.task, self.config, self.resume, self.log = task, config, resume, log
        self.processes = task.processes
        n_rows, world_size = task.size("train"), self.processes.world_size
        assert n_rows, "the train split is empty"
        if n_rows < world_size:
            raise UserError(
                f"base.launcher starts {world_size} processes, but the train split has {n_rows} "
                f"examples: each process needs one; start {n_rows} or fewer"
            )
        rows = config.batch_size * config.accumulation_size * world_size
        self.rows_per_step = min(n_rows - n_rows % world_size, rows)
        self.steps_per_epoch = n_rows // self.rows_per_step  # an incomplete last step is left out
        self.total_steps = self.steps_per_epoch * config.n_epochs
        self.log_interval = max(config.log_interval, self.total_steps // MAX_POINTS)
        self.step = 0
        self.signals: list[int] = []  # that ask this process to stop
        self.history = History()
        self.accumulated: list[dict[str, torch.Tensor | float]] = []  # since the last log point
        self.order: tuple[int, list[int]] = (-1, [])  # epoch, its rows
        self.seconds = self.targets = 0.0  # since the last log point
        self.targets_per_second = self.flops_per_second = 0.0
        self.flops = FlopCounter()
        self.clock = SaveClock(config.checkpoint_interval)

    def train_step(self) -> None:
        """One step of every optimizer; logs, validates and saves where it is time."""
        started = time.monotonic()
        epoch, place = divmod(self.step, self.steps_per_epoch)
        self.task.module.train()
        before = BuffersAndRng(self.task)
        batches, weights = self.batches(epoch, place)
        losses, parts, stepping = self._backward(batches, weights, epoch)
        norms = []
        for name in stepping:
            spec = self.task.optimizers[name]
            self.processes.average_gradients(spec.parameters)
            norm = torch.nn.utils.clip_grad_norm_(spec.parameters, spec.clip_norm)
            rows = [row for batch in batches for row in batch]
            norms.append(LoggedValue(f"gradient of {name}", norm, rows))
        # Before anyone steps.
        finite = bool(_stack([v.value for v in losses + norms]).isfinite().all())
        save_due = self.processes.is_main and self.clock.due()
        failed, save, stop = self.processes.max(not finite, save_due, max(self.signals, default=0))
        if failed:
            self._fail(before, losses, norms)
        for name in stepping:
            spec = self.task.optimizers[name]
            if spec.schedule is not None:
                for group in spec.optimizer.param_groups:
                    group["lr"] = spec.schedule(self.step / self.total_steps)
            spec.optimizer.step()
            spec.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.accumulated.append(parts)
        self.seconds += time.monotonic() - started
        if self.step % self.log_interval == 0 or self.step == self.total_steps:
            self._log_step(epoch)
        if place + 1 == self.steps_per_epoch:
            self._validate(epoch)
        if save or stop:
            self._save()
        if stop:
            raise stopped_by(stop)

    def batches(self, epoch: int, place: int) -> tuple[list[list[int]], list[float]]:
        """This process' batches of a step, and how much each weighs.

        Batch k of all processes together is one of P times the size. The weights are the shares of
        targets: the mean over processes of the weighted sum over batches is the mean over all
        targets of the step, however unlike in size the batches are.
        """
        if self.order[0] != epoch:
            n_rows = self.task.size("train")
            # a function of seed and epoch alone, so that a training can go on at any step
            generator = torch.Generator().manual_seed(self.config.seed * 100_003 + epoch)
            self.order = epoch, torch.randperm(n_rows, generator=generator).tolist()
        start = place * self.rows_per_step
        rows = self.order[1][start : start + self.rows_per_step]
        world_size = self.processes.world_size
        size = self.config.batch_size * world_size
        parts: list[list[list[int]]] = []  # of each batch, those of all processes
        for i in range(0, len(rows), size):
            batch = rows[i : i + size]
            n = len(batch) // world_size
            parts.append([batch[rank * n : (rank + 1) * n] for rank in range(world_size)])
        total = sum(self.task.count_targets(part) for batch in parts for part in batch)
        own = [batch[self.processes.rank] for batch in parts]
        self.targets += total
        return own, [self.task.count_targets(part) * world_size / total for part in own]

    def _backward(
        self, batches: list[list[int]], weights: list[float], epoch: int
    ) -> tuple[list[LoggedValue], dict[str, torch.Tensor], list[str]]:
        """Accumulates gradients; returns all losses, their means, and which optimizers step."""
        losses: list[LoggedValue] = []
        means: dict[str, torch.Tensor] = {}
        stepping: list[str] = []
        main = next(iter(self.task.optimizers))
        for batch, weight in zip(batches, weights, strict=True):
            for loss in self.task.losses(batch, epoch, self.step):
                with self.flops.paused():
                    (loss.total * weight).backward()
                for part, value in ({"total": loss.total} | loss.parts).items():
                    # so that two totals do not collide
                    name = part if loss.optimizer == main else f"{loss.optimizer}.{part}"
                    value = value.detach()
                    means[name] = means.get(name, 0.0) + value * weight
                    losses.append(LoggedValue(name, value, batch))
                if loss.is_last and batch is batches[-1] and loss.optimizer not in stepping:
                    stepping.append(loss.optimizer)
        return losses, means, stepping

    def _fail(
        self, before: BuffersAndRng, losses: list[LoggedValue], norms: list[LoggedValue]
    ) -> None:
        """Stops all processes, with the examples of the first loss that is not finite.

        Averaged gradients are the same in all processes; a loss is that of the process that had it.
        """

        def describe(values: list[LoggedValue]) -> str:
            wrong = [v for v in values if not math.isfinite(float(v.value))]
            if not wrong:
                return ""
            names, examples = list(dict.fromkeys(v.name for v in wrong)), wrong[0].rows
            rest = f" and {len(examples) - 8} more" if len(examples) > 8 else ""
            return f"{', '.join(names)} ({', '.join(self.task.names(examples[:8]))}{rest})"

        reports = self.processes.all_gather_object(describe(losses))
        cause = next((report for report in reports if report), describe(norms))
        self._stop(before, f"of epoch {self.step // self.steps_per_epoch + 1}: {cause}")

    def _stop(self, before: BuffersAndRng, cause: str) -> None:
        state = self._state(before)
        if self.processes.is_main:
            self.resume.save_failed(state)
        raise UserError(
            f"not finite at step {self.step} {cause}; the last finite state is in "
            f"{self.resume.failed_path}. Lower the learning rate, or set base.precision=float32"
        )

    def _log_step(self, epoch: int) -> None:
        self._sync_accumulated()
        row: dict[str, float] = {}
        for name in dict.fromkeys(name for parts in self.accumulated for name in parts):
            values = [parts[name] for parts in self.accumulated if name in parts]
            row[name] = sum(values) / len(values)
        row["lr"] = next(iter(self.task.optimizers.values())).optimizer.param_groups[0]["lr"]
        self.accumulated = []
        self.history.steps.append({"step": self.step, "epoch": epoch + 1} | row)
        # not in the history, which is the same in each run
        self.targets_per_second = self.targets / max(self.seconds, 1e-9)
        self.flops_per_second = self.flops.total / max(self.seconds, 1e-9)
        self.seconds = self.targets = self.flops.total = 0.0
        self._log("train", row | {f"{self.task.unit}_per_second": self.targets_per_second})

    def _sync_accumulated(self) -> None:
        """Tensors become numbers, means over the processes: one wait for all."""
        places = [
            (parts, name)
            for parts in self.accumulated
            for name, value in parts.items()
            if isinstance(value, torch.Tensor)
        ]
        if places:
            means = self.processes.mean(_stack([parts[name] for parts, name in places])).tolist()
            for (parts, name), value in zip(places, means, strict=True):
                parts[name] = value

    def _validate(self, epoch: int) -> None:
        """All processes validate alike, and go on with the numbers and weights of the main one.

        A batch is one of all processes: without gradients it takes less room than one of training.
        """
        self.task.module.eval()
        size = self.config.batch_size * self.processes.world_size
        # Spread over all videos: rows lie in the order of the videos.
        count = self.task.size("val")
        rows = list(range(0, count, max(1, -(-count // (VALIDATION_BATCHES * size)))))
        with torch.no_grad():
            row = self.task.validate([rows[i : i + size] for i in range(0, len(rows), size)])
        row = self.processes.all_gather_object(row)[0]
        wrong = [f"val {name}" for name, value in row.items() if not math.isfinite(value)]
        if wrong:
            self._stop(BuffersAndRng(self.task), f"in validation: {', '.join(wrong)}")
        self.history.epochs.append({"epoch": epoch + 1, "step": self.step} | row)
        self._log("val", row)
        self.processes.broadcast(self.task.module)

    def _log(self, split: str, row: dict[str, float]) -> None:
        if self.processes.is_main:
            self.log({f"{split}.{name}": value for name, value in row.items()}, self.step)

    def _save(self) -> None:
        with self.clock.saving():
            state = self._state(BuffersAndRng(self.task))
            if self.processes.is_main:
                self.resume.save(state)

    def _state(self, moment: BuffersAndRng) -> dict:
        """Everything to go on from a moment since which no optimizer stepped."""
        self._sync_accumulated()
        optimizers = self.task.optimizers.items()
        return {
            "step": self.step,
            "module": self.task.module.state_dict() | moment.buffers,
            "optimizers": {name: spec.optimizer.state_dict() for name, spec in optimizers},
            "rng": self.processes.all_gather_object(moment.rng),  # one a process
            "accumulated": self.accumulated,
            "history": {"steps": self.history.steps, "epochs": self.history.epochs},
        }

    def restore(self) -> None:
        """Goes on where a saved state ends, in all processes alike."""
        if not self.processes.is_main:  # the main one goes on as if it were alone
            torch.manual_seed(self.config.seed + self.processes.rank * RNG_STRIDE)
        state = self.resume.load()
        if state is not None:
            if len(state["rng"]) != self.processes.world_size:
                raise UserError(
                    f"{self.resume.path} was saved by {len(state['rng'])} processes, and there are "
                    f"{self.processes.world_size}; start as many, or delete {self.resume.folder}"
                )
            self.step = state["step"]
            self.task.module.load_state_dict(state["module"])
            for name, spec in self.task.optimizers.items():
                spec.optimizer.load_state_dict(state["optimizers"][name])
            set_rng(self.task, state["rng"][self.processes.rank])
            self.accumulated = state["accumulated"]
            self.history = History(**state["history"])
        if len(set(self.processes.all_gather_object(self.step))) > 1:
            raise UserError(
                f"only some of the {self.processes.world_size} processes see the saved state "
                f"{self.resume.path}; DVC_ROOT must be a folder that all machines share"
            )
        self.processes.broadcast(self.task.module)


def _stack(numbers: list[torch.Tensor | float]) -> torch.Tensor:
    """Scalars in one tensor, on the device of the first."""
    device = numbers[0].device
    return torch.stack([n.detach().to(device, torch.float32) for n in numbers])
