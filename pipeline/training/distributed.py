"""Several processes that train one model, on torch.distributed.

P processes with a batch of b train as one with a batch of P*b, but for batch norm, which sees its
own rows. Each has all the weights and its own rows; right before the optimizers step, gradients are
averaged in flat vectors. That is not DistributedDataParallel, which wraps one module with one
backward pass a step: our tasks call parts of theirs, and have two optimizers and several passes.
The price is that nothing travels while the backward pass still computes: some milliseconds a step
for 100 MB of gradients between GPUs of one machine, more between machines.

`base.launcher` is what DVC starts the training stages with: `python` for one process, or
`torchrun --nproc-per-node=4` for four. All processes must see the same files.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from pipeline import runtime
from pipeline.config import Base
from pipeline.errors import UserError

CHUNK = 2**23  # numbers that travel at once, 32 MB
RNG_STRIDE = 1_000_003  # between the seeds of two processes
# Of a process that no longer answers, but whose connection nobody closed. Saving a state, for which
# the others wait, takes less; so must the differences between machines in finding optical flow.
TIMEOUT = timedelta(minutes=30)
CONNECTION_LOST = re.compile(r"gloo|connection (closed|reset|refused)|timed out", re.IGNORECASE)

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class DistributedContext:
    """This process among all, and what they exchange. All must call alike, in the same order.

    In a single process every method returns what it was given.
    """

    world_size: int
    rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the processes of floats of one shape, without gradient."""
        if self.world_size == 1:
            return values
        values = values.detach().clone()
        dist.all_reduce(values)
        return values / self.world_size

    def max(self, *numbers: int) -> list[int]:
        """The largest of each number over the processes."""
        if self.world_size == 1:
            return list(numbers)
        values = torch.tensor(numbers, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()

    def all_gather(self, rows: torch.Tensor) -> torch.Tensor:
        """`N ...` of each to the `PN ...` of all, in the order of ranks; without gradient."""
        if self.world_size == 1:
            return rows
        rows = rows.detach().contiguous()
        parts = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    def all_gather_object(self, thing: Thing) -> list[Thing]:
        """A small picklable object of each, in the order of ranks."""
        things = [thing] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(things, thing)
        return things

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        if self.world_size > 1:
            _exchange([p.grad for p in parameters if p.grad is not None], self.mean)

    def broadcast(self, module: nn.Module) -> None:
        """The main process' weights and buffers to all, in case last digits differ."""

        def from_main(values: torch.Tensor) -> torch.Tensor:
            dist.broadcast(values, src=0)
            return values

        if self.world_size > 1:
            _exchange([value.detach() for value in module.state_dict().values()], from_main)


SINGLE_PROCESS = DistributedContext(1, 0, torch.device("cpu"))


@torch.no_grad()
def _exchange(
    tensors: list[torch.Tensor], operation: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Applies `operation` to the tensors as few flat vectors, in place."""
    chunks: list[list[torch.Tensor]] = []
    size = 0
    for tensor in tensors:
        if not chunks or size >= CHUNK or tensor.dtype != chunks[-1][0].dtype:
            chunks.append([])
            size = 0
        chunks[-1].append(tensor)
        size += tensor.numel()
    for chunk in chunks:
        flat = operation(torch.cat([tensor.flatten() for tensor in chunk]))
        parts = flat.split([tensor.numel() for tensor in chunk])
        for tensor, part in zip(chunk, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def rank() -> int:
    """Number of this process among all, 0 for a single one; known before they are connected."""
    return int(os.environ.get("RANK", 0))


@contextmanager
def connected(base: Base) -> Iterator[DistributedContext]:
    """Prepares PyTorch and connects the processes that torchrun started."""
    launched = "RANK" in os.environ
    if launched != base.launcher.startswith("torchrun"):
        how = "by torchrun" if launched else "without torchrun"
        raise UserError(
            f"this stage was started {how}, but base.launcher = {base.launcher!r}: expected the "
            f"same; start it as `{base.launcher} -m stages.<name>`, or change base.launcher"
        )
    device = runtime.prepare(base)
    if not launched:
        yield DistributedContext(1, 0, device)
        return
    if device.type == "cuda":
        local_rank, wanted = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if device.index is not None or wanted > torch.cuda.device_count():
            raise UserError(
                f"base.launcher = {base.launcher!r} starts {wanted} processes on this machine, but "
                f"base.device = {base.device!r} gives {torch.cuda.device_count()} GPUs: expected "
                "one for each; start fewer processes, or set base.device to cuda or cpu"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        yield DistributedContext(dist.get_world_size(), dist.get_rank(), device)
    except RuntimeError as error:  # of gloo no class of its own
        if not (isinstance(error, dist.DistError) or CONNECTION_LOST.search(str(error))):
            raise
        # "[file.cc:1] what. advice": only what
        what = re.sub(r"^\[.*?\] ", "", str(error).partition("\n")[0]).partition(". ")[0]
        raise UserError(
            f"process {rank()} of {os.environ['WORLD_SIZE']} lost another one ({what}), expected "
            "all until the end; start the same command again on all machines to continue from the "
            "last saved state"
        ) from None
    dist.destroy_process_group()
