"""The one training loop: epochs over shuffled rows, gradient steps, curves, saved states.

Two runs with the same settings give the same bytes, also where one of them was killed and
continued: the order of rows is a function of seed and epoch, and every random state is saved.
Several processes (processes.py) share each step's rows; only the first one writes and logs.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pipeline import progress
from pipeline.errors import UserError
from pipeline.training.checkpoint import Moment, Resume, saved_buffers, set_random
from pipeline.training.task import History, Loss, Task

VALIDATION_BATCHES = 16  # at most; a val split of any size costs about as much each epoch
RANDOM_STRIDE = 1_000_003  # between the seeds of two processes' dropout


@dataclass(frozen=True)
class Plan:
    """How long and in which portions; `batch_size` is that of one process."""

    batch_size: int
    n_epochs: int
    seed: int
    accumulation_size: int = 1
    checkpoint_interval: float = 60.0  # seconds
    log_interval: int = 10  # steps between two points of a training curve


Log = Callable[[dict[str, float], int], None]


def train(task: Task, plan: Plan, what: str, resume: Resume, log: Log) -> History:
    """Trains `task` to the end of the plan and gives its curves."""
    run = _Run(task, plan, resume, log)
    run.restore()
    if not task.processes.first:
        while run.step < run.total_steps:
            run.advance()
        return run.history
    with progress.bar(what=what, unit="step", total=run.total_steps) as bar:
        bar.update(run.step)
        while run.step < run.total_steps:
            run.advance()
            bar.update()
            if run.history.steps and "total" in run.history.steps[-1]:
                bar.set_postfix(loss=f"{run.history.steps[-1]['total']:.4f}", refresh=False)
    resume.clear()
    return run.history


class _Value(NamedTuple):
    """A number that must be finite, and the rows of this process that it comes from."""

    name: str
    number: torch.Tensor  # scalar
    rows: list[int]
    of_all: bool = False  # the other processes have the same


class _Run:
    """Where a training run stands."""

    def __init__(self, task: Task, plan: Plan, resume: Resume, log: Log) -> None:
        self.task, self.plan, self.resume, self.log = task, plan, resume, log
        self.processes = task.processes
        self.rows = task.size("train")
        self.per_step = self._rows_a_step()
        self.steps_an_epoch = self.rows // self.per_step  # an incomplete last step is left out
        self.total_steps = self.steps_an_epoch * plan.n_epochs
        self.step = 0
        self.history = History()
        self.gathered: list[dict[str, torch.Tensor | float]] = []  # since the last log point
        self.buffers = saved_buffers(task)
        self.saved_at = time.monotonic()

    def _rows_a_step(self) -> int:
        plan, count = self.plan, self.processes.count
        assert self.rows, "the train split is empty"
        if self.rows < count:
            raise UserError(
                f"base.processes = {count}, but the train split has {self.rows} examples: each "
                f"process needs one; set base.processes to {self.rows} or less"
            )
        whole = plan.batch_size * plan.accumulation_size * count
        return min(self.rows - self.rows % count, whole)

    def advance(self) -> None:
        """One step of every player; logs, validates and saves where it is time."""
        epoch, place = divmod(self.step, self.steps_an_epoch)
        self.task.module.train()
        before = Moment(self.task, self.buffers)
        batches = self._batches(epoch, place)
        values, parts, players = self._backward(batches, epoch)
        values += self._clipped(players, [row for batch in batches for row in batch])
        save = self._check(before, values)
        self._apply(players)
        self.step += 1
        self.gathered.append(parts)
        if self.step % self.plan.log_interval == 0 or self.step == self.total_steps:
            self._note_step(epoch)
        if place + 1 == self.steps_an_epoch:
            self._note_epoch(epoch)
        if save:
            self.save()

    def _batches(self, epoch: int, place: int) -> list[list[int]]:
        """This process' batches of a step: batch k of all together is one of P times the size."""
        # a function of seed and epoch alone, so that a training can go on at any step
        generator = torch.Generator().manual_seed(self.plan.seed * 100_003 + epoch)
        order = torch.randperm(self.rows, generator=generator).tolist()
        rows = order[place * self.per_step : (place + 1) * self.per_step]
        count, index = self.processes.count, self.processes.index
        together = self.plan.batch_size * count
        batches = [rows[i : i + together] for i in range(0, len(rows), together)]
        sizes = [len(batch) // count for batch in batches]
        return [
            batch[index * size : (index + 1) * size]
            for batch, size in zip(batches, sizes, strict=True)
        ]

    def _backward(
        self, batches: list[list[int]], epoch: int
    ) -> tuple[list[_Value], dict[str, torch.Tensor], list[str]]:
        """Gathers gradients; gives every value, their means over the batches, and who steps."""
        values: list[_Value] = []
        parts: dict[str, list[torch.Tensor]] = {}
        totals: dict[str, torch.Tensor] = {}
        players: list[str] = []
        for number, batch in enumerate(batches):
            for loss in self.task.losses(batch, epoch, self.step):
                portion = loss.total / len(batches)
                portion.backward()
                total = self._name(loss, "total")
                totals[total] = totals.get(total, 0.0) + portion.detach()
                values.append(_Value(total, loss.total.detach(), batch))
                for part, value in loss.parts.items():
                    name = self._name(loss, part)
                    parts.setdefault(name, []).append(value.detach())
                    values.append(_Value(name, value.detach(), batch))
                if loss.steps and number + 1 == len(batches):
                    players.append(loss.player)
        means = totals | {name: torch.stack(found).mean() for name, found in parts.items()}
        return values, means, list(dict.fromkeys(players))

    def _name(self, loss: Loss, part: str) -> str:
        """Parts of a second player carry its name, so that two totals do not collide."""
        first = next(iter(self.task.players))
        return part if loss.player == first else f"{loss.player}.{part}"

    def _clipped(self, players: list[str], rows: list[int]) -> list[_Value]:
        """Gradients of all processes, cut to their players' norms; gives the norms before that."""
        norms = []
        for name in players:
            player = self.task.players[name]
            self.processes.average_gradients(player.parameters)
            norm = torch.nn.utils.clip_grad_norm_(player.parameters, player.clip_norm)
            norms.append(_Value(f"gradient of {name}", norm, rows, of_all=True))
        return norms

    def _check(self, before: Moment, values: list[_Value]) -> bool:
        """Stops all processes where one has a number that is not finite, before anyone steps.

        Gives whether the first process finds it time to save. One wait for the device a step.
        """
        finite = bool(_vector([value.number for value in values]).isfinite().all())
        due = time.monotonic() - self.saved_at >= self.plan.checkpoint_interval
        failed, save = self.processes.most(not finite, due and self.processes.first)
        if failed:
            self._fail(before, values)
        return bool(save)

    def _fail(self, before: Moment, values: list[_Value]) -> None:
        """Values are in the order in which they came to be: the first wrong one is the cause."""
        numbers = _vector([value.number for value in values]).tolist()
        pairs = zip(values, numbers, strict=True)
        wrong = [value for value, number in pairs if not math.isfinite(number)]
        own = next((value for value in wrong if not value.of_all), None)
        rows = own.rows if own else [row for value in wrong[:1] for row in value.rows]
        names = list(dict.fromkeys(value.name for value in wrong))
        told = self.processes.collect((own is not None, names, self.task.names(rows)))
        # all have the averaged gradients; a loss is that of the process that had it
        index = next((i for i, (own, *_) in enumerate(told) if own), 0)
        own, names, examples = told[index]
        where = f" in process {index} of {len(told)}" if own and len(told) > 1 else ""
        epoch = self.step // self.steps_an_epoch + 1
        self._stop(before, f"of epoch {epoch}{where}: {', '.join(names)} ({_listed(examples)})")

    def _stop(self, moment: Moment, told: str) -> None:
        state = self._state(moment)
        path = self.resume.save_failed(state) if self.processes.first else None
        raise UserError(
            f"not finite at step {self.step} {told}; the state before this step is in {path}. "
            "Lower the learning rate, or set base.precision=float32"
        )

    def _apply(self, players: list[str]) -> None:
        for name in players:
            player = self.task.players[name]
            if player.rate is not None:
                for group in player.optimizer.param_groups:
                    group["lr"] = player.rate(self.step / self.total_steps)
            player.optimizer.step()
            player.optimizer.zero_grad(set_to_none=True)
            self.task.stepped(name)

    def _note_step(self, epoch: int) -> None:
        self._settle()
        names = self.gathered[-1].keys()
        row = {
            name: sum(p[name] for p in self.gathered if name in p) / len(self.gathered)
            for name in names
        }
        first = next(iter(self.task.players.values()))
        row["lr"] = first.optimizer.param_groups[0]["lr"]
        self.gathered = []
        self.history.steps.append({"step": self.step, "epoch": epoch + 1} | row)
        self._log("train", row)

    def _settle(self) -> None:
        """Tensors that were gathered become numbers, means over the processes: one wait for all."""
        waiting = [(p, n) for p in self.gathered for n in p if isinstance(p[n], torch.Tensor)]
        if waiting:
            means = self.processes.mean(_vector([p[name] for p, name in waiting])).tolist()
            for (place, name), value in zip(waiting, means, strict=True):
                place[name] = value

    def _note_epoch(self, epoch: int) -> None:
        """All processes validate alike, and go on with the numbers and weights of the first.

        A batch is one of all processes: without gradients it takes less room than one of training.
        """
        self.task.module.eval()
        size = self.plan.batch_size * self.processes.count
        # Spread over all videos: rows lie in the order of the videos.
        count = self.task.size("val")
        step = max(1, -(-count // (VALIDATION_BATCHES * size)))
        rows = list(range(0, count, step))
        with torch.no_grad():
            found = self.task.validate([rows[i : i + size] for i in range(0, len(rows), size)])
        found = self.processes.collect(found)[0]
        wrong = [f"val {name}" for name, value in found.items() if not math.isfinite(value)]
        if wrong:
            self._stop(Moment(self.task, self.buffers), f"in validation: {', '.join(wrong)}")
        self.history.epochs.append({"epoch": epoch + 1, "step": self.step} | found)
        self._log("val", found)
        self.task.validated(found, self.step)
        self.processes.align(self.task.module)

    def _log(self, split: str, row: dict[str, float]) -> None:
        if self.processes.first:
            self.log({f"{split}.{name}": value for name, value in row.items()}, self.step)

    def save(self) -> None:
        self.saved_at = time.monotonic()
        state = self._state(Moment(self.task, self.buffers))
        if self.processes.first:
            self.resume.save(state)

    def _state(self, moment: Moment) -> dict:
        """Everything to go on from a moment since which no optimizer stepped."""
        self._settle()
        players = self.task.players.items()
        return {
            "step": self.step,
            "module": self.task.module.state_dict() | moment.buffers,
            "optimizers": {name: player.optimizer.state_dict() for name, player in players},
            "random": self.processes.collect(moment.random),
            "gathered": self.gathered,
            "history": {"steps": self.history.steps, "epochs": self.history.epochs},
        }

    def restore(self) -> None:
        """Goes on where a saved state ends, in all processes alike."""
        count, index = self.processes.count, self.processes.index
        if index:  # the first one goes on as if it were alone
            torch.manual_seed(self.plan.seed + index * RANDOM_STRIDE)
        state = self.resume.load()
        if state is not None:
            self._load(state)
        steps = set(self.processes.collect(self.step))
        if len(steps) > 1:
            raise UserError(
                f"of {count} processes only some see the saved state {self.resume.path}; "
                "DVC_ROOT must be a folder that all machines share"
            )
        self.processes.align(self.task.module)

    def _load(self, state: dict) -> None:
        self.step = state["step"]
        self.task.module.load_state_dict(state["module"])
        for name, player in self.task.players.items():
            player.optimizer.load_state_dict(state["optimizers"][name])
        set_random(self.task, state["random"][self.processes.index])
        self.gathered = state["gathered"]
        self.history = History(**state["history"])


def _vector(numbers: list[torch.Tensor | float]) -> torch.Tensor:
    """Scalars in one tensor, on the device of the first."""
    device = numbers[0].device
    return torch.stack([n.detach().to(device, torch.float32) for n in numbers])


def _listed(examples: list[str]) -> str:
    more = f" and {len(examples) - 8} more" if len(examples) > 8 else ""
    return ", ".join(examples[:8]) + more
