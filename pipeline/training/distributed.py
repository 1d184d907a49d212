"""Several processes that train one model, on accelerate: how they start, meet and speak.

P processes with a batch of b train as one with a batch of P*b. Each has all the weights and its
own rows; right before the optimizers step, gradients are averaged in flat vectors. That is not
DistributedDataParallel, which wraps one module with one backward pass a step: our tasks call parts
of theirs, and have two players and several passes. The price is that nothing travels while the
backward pass still computes: some milliseconds a step for 100 MB of gradients between GPUs of one
machine, more between machines.

`base.processes` > 1 is enough: the stage then starts itself so often, through the launcher of
torchrun. Started by torchrun or `accelerate launch`, it takes its place among the others. All
processes must see the same files.
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from pipeline import runtime
from pipeline.config import Base
from pipeline.errors import UserError

PORTION = 2**23  # numbers that travel at once, 32 MB
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where a process tells its launcher why it ended

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Processes:
    """What one process knows of all, and how it speaks with them. All must call alike, in order.

    Alone, every method gives back what it was given.
    """

    count: int
    index: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and logs."""
        return self.index == 0

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the processes of floats of one shape, without gradient."""
        if self.count == 1:
            return values
        from accelerate.utils import reduce

        return reduce(values.detach(), "mean")

    def most(self, *numbers: int) -> list[int]:
        """The largest of each number: whether any says yes, what is the longest."""
        if self.count == 1:
            return list(numbers)
        from accelerate.utils import reduce

        return reduce(torch.tensor(numbers, device=self.device), "max").tolist()

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """`N ...` of each to the `PN ...` of all, in process order; without gradient."""
        if self.count == 1:
            return rows
        from accelerate.utils import gather

        return gather(rows.detach())

    def collect(self, thing: Thing) -> list[Thing]:
        """Something small of each, in process order."""
        if self.count == 1:
            return [thing]
        from accelerate.utils import gather_object

        return gather_object([thing])

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The gradient that one process with all the rows would have, for losses that are means."""
        if self.count > 1:
            _exchange([p.grad for p in parameters if p.grad is not None], self.mean)

    def align(self, module: nn.Module) -> None:
        """The first one's weights and buffers to all, in case last digits differ."""
        if self.count > 1:
            from accelerate.utils import broadcast

            _exchange([value.detach() for value in module.state_dict().values()], broadcast)


ALONE = Processes(1, 0, torch.device("cpu"))


@torch.no_grad()
def _exchange(tensors: list[torch.Tensor], travel: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Sends tensors as few flat vectors and puts what comes back in their place."""
    for portion in _portions(tensors):
        flat = travel(torch.cat([tensor.flatten() for tensor in portion]))
        pieces = flat.split([tensor.numel() for tensor in portion])
        for tensor, piece in zip(portion, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))


def _portions(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Neighbours of one type, about `PORTION` numbers together."""
    portion: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if portion and (size >= PORTION or tensor.dtype != portion[0].dtype):
            yield portion
            portion, size = [], 0
        portion.append(tensor)
        size += tensor.numel()
    if portion:
        yield portion


def rank() -> int:
    """Number of this process among all, 0 for the only one."""
    return int(os.environ.get("RANK", 0))


@contextmanager
def joined(base: Base) -> Iterator[Processes]:
    """Prepares PyTorch and waits for the other processes; parts from them at the end.

    A UserError is printed once: by the first process, or by the launcher where others had it.
    """
    try:
        yield _meet(base)
    except UserError as error:
        if ERROR_FILE not in os.environ:
            raise
        _record(error)
        if rank():
            sys.exit(1)
        raise
    except KeyboardInterrupt:
        if rank():
            sys.exit(1)
        raise
    except RuntimeError as error:
        if base.processes == 1 or "by peer" not in str(error):
            raise
        if rank():
            sys.exit(1)
        raise UserError("another process of this training ended; its message says why") from None
    else:
        if base.processes > 1:
            torch.distributed.destroy_process_group()


def _meet(base: Base) -> Processes:
    _check_count(base)
    device = runtime.prepare(base)
    if base.processes == 1:
        return Processes(1, 0, device)
    _check_gpus(base, device)
    _end_with_launcher()
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    torch.set_num_threads(base.threads)  # accelerate chooses its own number
    return Processes(state.num_processes, state.process_index, state.device)


def _check_count(base: Base) -> None:
    """Their number decides over results: it is a parameter, and the launcher must know it too."""
    started = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    if started != base.processes:
        raise UserError(
            f"{started} processes were started (WORLD_SIZE), base.processes = {base.processes}: "
            f"expected the same number; set base.processes={started}, or start the stage without "
            "a launcher"
        )


def _check_gpus(base: Base, device: torch.device) -> None:
    if device.type == "cpu":
        return
    if device.index is not None:
        raise UserError(
            f"base.device = {base.device!r} is one GPU, base.processes = {base.processes} want one "
            "each; set base.device to cuda"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", base.processes))
    if here > torch.cuda.device_count():
        raise UserError(
            f"base.processes = {base.processes}, {here} of them on this machine, but PyTorch sees "
            f"{torch.cuda.device_count()} GPUs; lower base.processes, or set base.device to cpu"
        )


def _end_with_launcher() -> None:
    """A launcher that was killed outright leaves nobody who trains on (Linux)."""
    set_parent_death_signal = 1  # names of prctl(2)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _record(error: UserError) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

    ErrorHandler().record_exception(error)


def started(module: str, base: Base) -> bool:
    """Runs `python -m module` in `base.processes` processes; True when they have done the work.

    False where this process is to do it: because it is to be the only one, or one of those.
    """
    if base.processes == 1 or "RANK" in os.environ:
        return False
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ["OMP_NUM_THREADS"] = str(base.threads)
    logging.disable(logging.ERROR)  # the launcher's own words about processes that ended
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=base.processes,
        run_id=module,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except SignalException as stopped:
        # Ctrl-C was passed on, and the first process has said that it was interrupted
        sys.exit(1 if stopped.sigval == signal.SIGINT else 128 + stopped.sigval)
    except ChildFailedError as failed:
        _tell(failed.failures, base.processes)
    return True


def _tell(failures: dict, count: int) -> None:
    """Ends this process like the first that failed, with its message where none was printed."""
    recorded = {
        index: failure.error_file_data["message"]["message"].partition(": ")[2]
        for index, failure in failures.items()
        if Path(failure.error_file).is_file()
    }
    if 0 in recorded:  # it has said so itself
        sys.exit(failures[0].exitcode)
    if recorded:
        index, message = min(recorded.items())
        raise UserError(f"process {index} of {count}: {message}")
    index, failure = min(failures.items(), key=lambda item: _innocence(item[1]))
    code = failure.exitcode
    how = f"exit code {code}" if code > 0 else f"signal {failure.signal_name()}"
    raise UserError(
        f"process {index} of {count} ended with {how}; its message, if any, is above. What was "
        "saved is kept: run the same command again to continue"
    )


def _innocence(failure) -> tuple[bool, bool, int]:
    """Orders failed processes, the cause first: the launcher stops the others by SIGTERM, or they
    end because one no longer answers."""
    code = failure.exitcode
    return code == -signal.SIGTERM, code > 0, failure.timestamp
