"""Weights of finished models: safetensors, complete or not there, and named faults at loading."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.errors import UserError


def save_weights(module: nn.Module, path: Path) -> None:
    """All parameters and buffers as safetensors, written atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    tensors = {name: value.detach().cpu().contiguous() for name, value in _named(module).items()}
    try:
        save_file(tensors, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_weights(module: nn.Module, path: Path) -> None:
    """Fills `module`; missing, extra and misshapen tensors are named."""
    if not path.is_file():
        raise UserError(f"{path} is missing; `dvc repro` trains the model")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"{path} is no readable safetensors file ({error}); run `dvc repro`"
        ) from None
    wanted = _named(module)
    faults = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    faults += [f"unexpected {name}" for name in sorted(tensors.keys() - wanted.keys())]
    faults += [
        f"{name} is {list(tensors[name].shape)}, expected {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    if faults:
        raise UserError(f"{path} does not fit its config.json: {'; '.join(faults[:5])}")
    module.load_state_dict(tensors, strict=False)


def _named(module: nn.Module) -> dict[str, torch.Tensor]:
    """State without second names of one tensor (tied weights), which safetensors refuses."""
    named, seen = {}, set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named[name] = tensor
    return named
