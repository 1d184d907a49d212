"""The loss contract: every network is trained by the same loop through these few names."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from pipeline.training.distributed import ALONE, Processes


class Loss(NamedTuple):
    """One backward pass: the sum that is differentiated and the named parts that are logged."""

    player: str  # which player steps
    total: torch.Tensor  # scalar
    parts: dict[str, torch.Tensor]  # scalars, detached when logged
    steps: bool = True  # False: gradients only gather, the player's step comes with a later loss


@dataclass
class Player:
    """Parameters that step together."""

    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    clip_norm: float
    rate: Callable[[float], float] | None = None  # share of training done -> learning rate


class Task:
    """A network with its data and losses: what `training.loop` asks for.

    In several processes each has a task of its own, built alike from the same seed. `generator` is
    then at the same place in all, for what all do alike; dropout draws from PyTorch's own numbers,
    which differ. Weights change in `stepped` alone; before the step `losses` may change buffers.
    """

    module: nn.Module  # everything whose state is saved
    players: dict[str, Player]
    generator: torch.Generator  # for random numbers inside the losses
    processes: Processes = ALONE

    def size(self, split: str) -> int:
        """Examples of `train` or `val`."""
        raise NotImplementedError

    def names(self, rows: Sequence[int]) -> list[str]:
        """How people call these examples of `train`, for messages."""
        return [f"row {row}" for row in rows]

    def losses(self, rows: Sequence[int], epoch: int, step: int) -> Iterator[Loss]:
        """The losses of a batch; each is differentiated before the next is asked for.

        All players step together when every loss of the step is known to be finite. A loss is the
        mean over its batch, so that the mean over the processes is that of the whole batch.
        """
        raise NotImplementedError

    def stepped(self, player: str) -> None:
        """After a step of this player's optimizer, for weights that follow others."""

    def validate(self, batches: Sequence[Sequence[int]]) -> dict[str, float]:
        """Numbers of the val split, without gradient, the module in evaluation mode."""
        raise NotImplementedError

    def validated(self, found: dict[str, float], step: int) -> None:
        """After validation: `found` is the same in all processes."""


def weighted_means(found: Sequence[tuple[dict[str, float], int]]) -> dict[str, float]:
    """Means over batches of numbers that are means over their rows, each with its count."""
    pairs: dict[str, list[tuple[float, int]]] = {}
    for values, count in found:
        for name, value in values.items():
            pairs.setdefault(name, []).append((value, count))
    return {
        name: sum(value * count for value, count in those) / sum(count for _, count in those)
        for name, those in pairs.items()
    }


@dataclass
class History:
    """Two curves: a row every few steps, and a row an epoch on the val split."""

    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """history.csv and validation.csv, numbers with six digits."""
        for name, rows in (("history", self.steps), ("validation", self.epochs)):
            table = pd.DataFrame(rows).fillna(0.0)  # a loss that had not begun is zero
            path = folder / f"{name}.csv"
            table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")

    def summary(self, task: Task) -> dict[str, float | dict]:
        """Where both curves end."""
        parameters = sum(p.numel() for player in task.players.values() for p in player.parameters)
        ends = {"train": self.steps[-1], "val": self.epochs[-1]}
        rows = {
            split: {k: v for k, v in end.items() if k not in ("step", "epoch")}
            for split, end in ends.items()
        }
        counts = {"steps": int(ends["train"]["step"]), "parameters": parameters}
        return counts | {"examples": task.size("train")} | rows
