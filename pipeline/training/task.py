"""The loss contract: every network is trained by the same loop through these few names."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from pipeline import io
from pipeline.training.distributed import SINGLE_PROCESS, DistributedContext

Schedule = Callable[[float], float]  # share of the training that is done -> learning rate


class Loss(NamedTuple):
    """One backward pass: the sum that is differentiated and the named parts that are logged."""

    optimizer: str  # name of the optimizer that steps
    total: torch.Tensor  # scalar
    parts: dict[str, torch.Tensor]  # scalars, detached when logged
    is_last: bool = True  # False: more passes follow; their totals and parts add up


@dataclass
class OptimizerSpec:
    """An optimizer with the parameters that it steps."""

    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    clip_norm: float
    schedule: Schedule | None = None


def warmup_cosine(start: float, peak: float, warmup: float) -> Schedule:
    """From `start` up to `peak` during the first `warmup` share, then by a cosine down to `start`.

    Source: thesis, appendix C.2 (lr_start, lr_max, warmup_epoch_percentage).
    """

    def learning_rate(done: float) -> float:
        if done < warmup:
            return start + (peak - start) * done / warmup
        left = (done - warmup) / max(1e-9, 1.0 - warmup)
        return start + (peak - start) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, left)))

    return learning_rate


class Task:
    """A network with its data and losses: what `trainer.train` asks for.

    In several processes each has a task of its own, built alike from the same seed. `generator` is
    then in the same state in all, for what all do alike; dropout draws from PyTorch's own numbers,
    which differ. `losses` may change buffers.
    """

    module: nn.Module  # everything whose state is saved
    optimizers: dict[str, OptimizerSpec]
    generator: torch.Generator  # for random numbers inside the losses
    processes: DistributedContext = SINGLE_PROCESS
    unit = "images"  # what count_targets counts
    device = torch.device("cpu")
    precision = "float32"

    def size(self, split: str) -> int:
        """Examples of `train` or `val`."""
        raise NotImplementedError

    def names(self, rows: Sequence[int]) -> list[str]:
        """How people call these examples of `train`, for messages."""
        return [f"row {row}" for row in rows]

    def count_targets(self, rows: Sequence[int]) -> int:
        """The number of targets that the loss of this batch of `train` is the mean over.

        Batches of a step, also those of other processes, weigh by it.
        """
        return len(rows)

    def losses(self, rows: Sequence[int], epoch: int, step: int) -> Iterator[Loss]:
        """The losses of a batch; each is differentiated before the next is asked for.

        All optimizers step together when every loss of the step is known to be finite.
        """
        raise NotImplementedError

    def validate(self, batches: Sequence[Sequence[int]]) -> dict[str, float]:
        """Numbers of the val split, without gradient, the module in evaluation mode."""
        raise NotImplementedError


def weighted_means(rows: Sequence[tuple[dict[str, float], int]]) -> dict[str, float]:
    """Means over batches of numbers that are means over their targets, each with its count."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for values, count in rows:
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value * count
            counts[name] = counts.get(name, 0) + count
    return {name: sums[name] / counts[name] for name in sums}


@dataclass
class History:
    """Two curves: a row every few steps, and a row an epoch on the val split."""

    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)

    def save(self, folder: Path, task: Task) -> dict[str, float | dict]:
        """history.csv and validation.csv, six digits; and summary.json, which is returned.

        A loss that had not begun is left empty.
        """
        for name, rows in (("history", self.steps), ("validation", self.epochs)):
            path = folder / f"{name}.csv"
            io.write_csv(pd.DataFrame(rows), path, "%.6g")
        summary = self.summary(task)
        io.write_json(folder / "summary.json", summary)
        return summary

    def summary(self, task: Task) -> dict[str, float | dict]:
        """Where both curves end."""
        parameters = sum(p.numel() for spec in task.optimizers.values() for p in spec.parameters)
        summary = {"steps": int(self.steps[-1]["step"]), "parameters": parameters}
        summary |= {"examples": task.size("train")}
        ends = {"train": self.steps[-1], "val": self.epochs[-1]}
        for split, row in ends.items():
            summary[split] = {k: v for k, v in row.items() if k not in ("step", "epoch")}
        return summary
