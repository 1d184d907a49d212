"""One place that prepares PyTorch: threads, device, precision, and a repair for torchvision."""

import ctypes
import functools
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import torch

from pipeline.config import Base
from pipeline.errors import UserError


def prepare(base: Base) -> torch.device:
    """Sets threads and deterministic kernels; gives the device that `base.device` names."""
    _keep_memory()
    torch.set_num_threads(base.threads)
    torch.manual_seed(base.seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # 7 % of a training step
    return find_device(base.device)


def _keep_memory() -> None:
    """Lets glibc keep freed memory: 1.3 times the training speed on two cores.

    By default each large tensor is mapped anew and unmapped when freed, and a training step spends
    a quarter of its time in page faults. Elsewhere than on Linux nothing is changed.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of mallopt(3)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(mmap_threshold, 2**30)
            libc.mallopt(trim_threshold, 2**31 - 1)


def find_device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"base.device = {name!r}, but PyTorch sees {torch.cuda.device_count()} GPUs; "
            "use cpu, or install a CUDA build of torch (README)"
        )
    return device


def free_memory() -> int:
    """Bytes that this process can still take: of the machine, or of a container's limit (Linux)."""
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for matrix products where `base.precision` is bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def exact() -> AbstractContextManager:
    """Convolutions of a GPU in float32 (by default their products have 10 bits), the same way."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


@functools.cache
def repair_torchvision() -> None:
    """Lets torchvision be imported beside a CPU build of torch that its operators do not fit.

    Importing transformers or clean-fid imports torchvision. Its wheel's compiled operators may
    not load, and then the import fails because two of them are unknown. Declaring their schemas
    cures it. Where torchvision works, or is absent, nothing is declared.
    """
    try:
        import torchvision
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        repair_torchvision.library = library  # a library that is collected takes its schemas along
        import torchvision  # noqa: F401
