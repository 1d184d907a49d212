"""The one training loop: epochs over shuffled rows, gradient steps, curves, saved states.

Two runs with the same settings give the same bytes, also where one of them was killed and
continued: the order of rows is a function of seed and epoch, and every random state is saved.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline import progress
from pipeline.errors import UserError
from pipeline.shards.order import shuffled
from pipeline.training.checkpoint import Resume
from pipeline.training.contract import History, Loss, Task

VALIDATION_BATCHES = 16  # at most; a val split of any size costs about as much each epoch


@dataclass(frozen=True)
class Plan:
    """How long and in which portions."""

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
    with progress.bar(what=what, unit="step", total=run.total_steps) as bar:
        bar.update(run.step)
        while run.step < run.total_steps:
            parts = run.advance()
            bar.update()
            if "total" in parts:
                bar.set_postfix(loss=f"{parts['total']:.4f}", refresh=False)
    resume.clear()
    return run.history


class _Run:
    """Where a training run stands."""

    def __init__(self, task: Task, plan: Plan, resume: Resume, log: Log) -> None:
        self.task, self.plan, self.resume, self.log = task, plan, resume, log
        self.rows = task.size("train")
        per_step = min(self.rows, plan.batch_size * plan.accumulation_size)
        self.steps_an_epoch = max(1, self.rows // per_step)  # an incomplete last step is left out
        self.per_step = per_step
        self.total_steps = self.steps_an_epoch * plan.n_epochs
        self.step = 0
        self.history = History()
        self.gathered: list[dict[str, float]] = []
        self.saved_at = time.monotonic()

    def advance(self) -> dict[str, float]:
        """One step of every player; logs, validates and saves where it is time."""
        epoch, place = divmod(self.step, self.steps_an_epoch)
        self.task.module.train()
        parts = self._gradient_steps(self._rows(epoch, place), epoch)
        self.step += 1
        self.gathered.append(parts)
        if self.step % self.plan.log_interval == 0 or self.step == self.total_steps:
            self._note_step(epoch)
        if place + 1 == self.steps_an_epoch:
            self._note_epoch(epoch)
        if time.monotonic() - self.saved_at >= self.plan.checkpoint_interval:
            self.save()
        return parts

    def _rows(self, epoch: int, place: int) -> list[int]:
        order = shuffled(self.rows, self.plan.seed, epoch)
        return order[place * self.per_step : (place + 1) * self.per_step]

    def _gradient_steps(self, rows: list[int], epoch: int) -> dict[str, float]:
        batches = [
            rows[i : i + self.plan.batch_size] for i in range(0, len(rows), self.plan.batch_size)
        ]
        parts: dict[str, list[torch.Tensor]] = {}
        totals: dict[str, torch.Tensor] = {}
        for number, batch in enumerate(batches):
            for loss in self.task.losses(batch, epoch, self.step):
                portion = loss.total / len(batches)
                portion.backward()
                total = self._name(loss, "total")
                totals[total] = totals.get(total, 0.0) + portion.detach()
                for name, value in loss.parts.items():
                    parts.setdefault(self._name(loss, name), []).append(value.detach())
                if loss.steps and number + 1 == len(batches):
                    self._apply(loss)
        means = {name: float(value) for name, value in totals.items()}
        means |= {name: float(torch.stack(values).mean()) for name, values in parts.items()}
        self._check(means, rows)
        return means

    def _name(self, loss: Loss, part: str) -> str:
        """Parts of a second player carry its name, so that two totals do not collide."""
        first = next(iter(self.task.players))
        return part if loss.player == first else f"{loss.player}.{part}"

    def _apply(self, loss: Loss) -> None:
        player = self.task.players[loss.player]
        if player.rate is not None:
            for group in player.optimizer.param_groups:
                group["lr"] = player.rate(self.step / self.total_steps)
        torch.nn.utils.clip_grad_norm_(player.parameters, player.clip_norm)
        player.optimizer.step()
        player.optimizer.zero_grad(set_to_none=True)

    def _check(self, means: dict[str, float], rows: list[int]) -> None:
        wrong = [name for name, value in means.items() if not math.isfinite(value)]
        if wrong:
            raise UserError(
                f"loss {', '.join(wrong)} is not finite at step {self.step}, rows "
                f"{rows[:8]}{'...' if len(rows) > 8 else ''}; lower the learning rate, or set "
                "base.precision=float32"
            )

    def _note_step(self, epoch: int) -> None:
        names = self.gathered[-1].keys()
        row = {
            name: sum(p[name] for p in self.gathered if name in p) / len(self.gathered)
            for name in names
        }
        first = next(iter(self.task.players.values()))
        row["lr"] = first.optimizer.param_groups[0]["lr"]
        self.gathered = []
        self.history.steps.append({"step": self.step, "epoch": epoch + 1} | row)
        self.log({f"train.{name}": value for name, value in row.items()}, self.step)

    def _note_epoch(self, epoch: int) -> None:
        self.task.module.eval()
        rows = list(range(self.task.size("val")))
        size = self.plan.batch_size
        found: dict[str, list[tuple[float, int]]] = {}
        with torch.no_grad():
            for i in range(0, min(len(rows), VALIDATION_BATCHES * size), size):
                batch = rows[i : i + size]
                for name, value in self.task.validate(batch).items():
                    found.setdefault(name, []).append((value, len(batch)))
        means = {
            name: sum(v * n for v, n in pairs) / sum(n for _, n in pairs)
            for name, pairs in found.items()
        }
        self.history.epochs.append({"epoch": epoch + 1, "step": self.step} | means)
        self.log({f"val.{name}": value for name, value in means.items()}, self.step)

    def save(self) -> None:
        self.saved_at = time.monotonic()
        self.resume.save(
            {
                "step": self.step,
                "module": self.task.module.state_dict(),
                "optimizers": {
                    name: player.optimizer.state_dict()
                    for name, player in self.task.players.items()
                },
                "random": torch.get_rng_state(),
                "generator": self.task.generator.get_state(),
                "gathered": self.gathered,
                "history": {"steps": self.history.steps, "epochs": self.history.epochs},
            }
        )

    def restore(self) -> None:
        state = self.resume.load()
        if state is None:
            return
        self.step = state["step"]
        self.task.module.load_state_dict(state["module"])
        for name, player in self.task.players.items():
            player.optimizer.load_state_dict(state["optimizers"][name])
        torch.set_rng_state(state["random"])
        self.task.generator.set_state(state["generator"])
        self.gathered = state["gathered"]
        self.history = History(**state["history"])
