"""The loss contract: every network is trained by the same loop through these few names."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import pandas as pd
import torch
from torch import nn


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


class Task(Protocol):
    """A network with its data and losses."""

    module: nn.Module  # everything whose state is saved
    players: dict[str, Player]
    generator: torch.Generator  # for random numbers inside the losses

    def size(self, split: str) -> int: ...

    def losses(self, rows: Sequence[int], epoch: int, step: int) -> Iterator[Loss]: ...

    def validate(self, rows: Sequence[int]) -> dict[str, float]: ...


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
