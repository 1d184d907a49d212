"""Finished models on disk: model.safetensors and a config.json that rebuilds the network.

Token ids mean something only to the tokenizer that made them. So what is made of them carries its
fingerprint: the tokens, and the transformer that is trained on them (`gpt.checkpoint`, apart from
this file, so that an edit of the transformer trains no tokenizer again).
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline import config
from pipeline.errors import UserError
from pipeline.io import read_json, write_json
from pipeline.models.flow import EVEN, Easing
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.models.vqgan.model import Tokenizer


class LoadedTokenizer(NamedTuple):
    """A trained tokenizer, how its images were fitted, and by what keyframes are warped for it."""

    tokenizer: Tokenizer | KeyframeTokenizer
    ingest: config.FrameSize
    flow_method: str
    easing: Easing


def save_tokenizer(
    tokenizer: Tokenizer | KeyframeTokenizer,
    settings: config.Params,
    folder: Path,
    easing: Easing = EVEN,
) -> None:
    save_weights(tokenizer, folder / "model.safetensors")
    config = {
        "vqgan": settings.vqgan.model_dump(),
        "ingest": settings.ingest.frame_size.model_dump(),
        "flow": {"method": settings.flow.method, "easing": easing._asdict()},
    }
    write_json(folder / "config.json", config)


def load_tokenizer(folder: Path, device: torch.device) -> LoadedTokenizer:
    """In evaluation mode, on `device`."""
    path = folder / "config.json"
    content = read_json(path)
    try:
        vqgan = config.Vqgan.model_validate(content["vqgan"])
        ingest = config.FrameSize.model_validate(content["ingest"])
        method, easing = content["flow"]["method"], Easing(**content["flow"]["easing"])
    except (KeyError, TypeError, ValidationError) as error:
        raise other_version(path, error) from None
    if vqgan.context == "keyframes":
        tokenizer = KeyframeTokenizer(vqgan, ingest.height, ingest.width, method)
    else:
        tokenizer = Tokenizer(vqgan, ingest.height, ingest.width)
    load_weights(tokenizer, folder / "model.safetensors")
    if vqgan.context == "none":
        tokenizer = tokenizer.to(memory_format=torch.channels_last)
    tokenizer = tokenizer.to(device).eval().requires_grad_(False)
    return LoadedTokenizer(tokenizer, ingest, method, easing)


def other_version(path: Path, error: Exception) -> UserError:
    """Of a config.json whose keys are not those of this version."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    else:
        reason = str(error)
    return UserError(f"{path} was written by another version ({reason}); run `dvc repro`")


def fingerprint(folder: Path) -> str:
    """SHA-256 of the tokenizer's weights."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sign_tokens(tokens: Path, tokenizer: Path) -> None:
    """Writes the fingerprint of the tokenizer into the folder of its tokens."""
    write_json(tokens / "tokenizer.json", {"sha256": fingerprint(tokenizer)})


def require_own_tokens(tokens: Path, tokenizer: Path) -> None:
    """UserError where tokens were made by another tokenizer, or do not say by which."""
    signature = tokens / "tokenizer.json"
    if not signature.is_file() or read_json(signature)["sha256"] != fingerprint(tokenizer):
        raise UserError(
            f"{tokens} holds the tokens of another tokenizer than {tokenizer}; run "
            "`dvc repro token_precompute`"
        )


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
    expected = _named(module)
    faults = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    faults += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    faults += [
        f"{name} is {list(tensors[name].shape)}, expected {list(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    if faults:
        raise UserError(
            f"{path} does not fit its config.json: {'; '.join(faults[:5])}; run `dvc repro`"
        )
    module.load_state_dict(tensors, strict=False)


def _named(module: nn.Module) -> dict[str, torch.Tensor]:
    """State without second names of one tensor (tied weights), which safetensors refuses."""
    named, ids = {}, set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in ids:
            ids.add(id(tensor))
            named[name] = tensor
    return named
