"""Finished models on disk: model.safetensors and a config.json that rebuilds the network.

Weights do not tell by their shapes all that they were trained with: a tokenizer's fit frames of any
size. So the header of model.safetensors holds the content of config.json once more. A value that
was edited by hand, or belongs to another run, is named instead of drawn with.

Token ids mean something only to the tokenizer that made them. So what is made of them carries its
fingerprint: the tokens, and the transformer that is trained on them (`gpt.checkpoint`, apart from
this file, so that an edit of the transformer trains no tokenizer again).
"""

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline import config
from pipeline.errors import UserError
from pipeline.io import atomic, flatten, read_json, require_file, rounded, sha256, write_json
from pipeline.models.flow import EVEN, Easing
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.models.vqgan.model import Tokenizer
from pipeline.models.vqgan.previous import PreviousTokenizer

REMEDY = "run `dvc repro`, or copy the folder of a finished run again"


class LoadedTokenizer(NamedTuple):
    """A trained tokenizer, how its images were fitted, and by what keyframes are warped for it."""

    tokenizer: Tokenizer | KeyframeTokenizer | PreviousTokenizer
    ingest: config.FrameSize
    flow_method: str
    easing: Easing
    sha256: str  # of its weights


def save_tokenizer(
    tokenizer: Tokenizer | KeyframeTokenizer | PreviousTokenizer,
    settings: config.Params,
    folder: Path,
    easing: Easing = EVEN,
) -> None:
    config = {
        "vqgan": settings.vqgan.model_dump(),
        "ingest": settings.ingest.frame_size.model_dump(),
        "flow": {"method": settings.flow.method, "easing": easing._asdict()},
    }
    save_model(tokenizer, config, folder)


def load_tokenizer(folder: Path, device: torch.device) -> LoadedTokenizer:
    """In evaluation mode, on `device`."""
    content = read_config(folder)
    try:
        vqgan = config.Vqgan.model_validate(content["vqgan"])
        ingest = config.FrameSize.model_validate(content["ingest"])
        flow = content["flow"]
        method = config.FlowSection(method=flow["method"], easing=True).method
        easing = TypeAdapter(Easing).validate_python(flow["easing"])
    except (KeyError, TypeError, ValidationError) as error:
        raise other_version(folder, "tokenizer", error) from None
    if vqgan.context == "keyframes":
        make = partial(KeyframeTokenizer, vqgan, ingest.height, ingest.width, method)
    elif vqgan.context == "previous":
        make = partial(PreviousTokenizer, vqgan, ingest.height, ingest.width)
    else:
        make = partial(Tokenizer, vqgan, ingest.height, ingest.width)
    tokenizer = load_module(make, folder / "model.safetensors")
    if vqgan.context == "none":
        tokenizer = tokenizer.to(memory_format=torch.channels_last)
    tokenizer = tokenizer.to(device).eval().requires_grad_(False)
    weights = sha256(folder / "model.safetensors")
    return LoadedTokenizer(tokenizer, ingest, method, easing, weights)


def save_model(module: nn.Module, content: dict, folder: Path) -> None:
    """model.safetensors, and `content` as config.json and in its header."""
    path = folder / "config.json"
    content = rounded(content, path)
    save_weights(module, folder / "model.safetensors", {"config": json.dumps(content)})
    write_json(path, content)


def read_config(folder: Path) -> dict:
    """The content of config.json; UserError names a value that is not that of the weights."""
    path, weights = folder / "config.json", folder / "model.safetensors"
    content = read_json(path)
    require_file(weights)
    try:
        with safe_open(weights, "pt") as file:
            trained = flatten(json.loads((file.metadata() or {})["config"]))
    except SafetensorError as error:
        raise _unreadable(weights, error) from None
    except (KeyError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{weights} was written by an older version; {REMEDY}") from None
    values = flatten(content)
    for key in sorted(values.keys() | trained.keys()):
        value = json.dumps(values[key])[:80] if key in values else "absent"
        expected = json.dumps(trained[key])[:80] if key in trained else "absent"
        if value != expected:
            raise UserError(
                f"{path}: {key} is {value}, expected {expected}, with which the weights beside it "
                f"were trained; {REMEDY}"
            )
    return content


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error)[:200]  # it may hold the header
    return UserError(f"{path} is no readable safetensors file ({reason}); {REMEDY}")


def other_version(folder: Path, what: str, error: Exception) -> UserError:
    """Of a config.json whose keys are not those of a tokenizer or transformer of this version."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    else:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
    return UserError(
        f"{folder / 'config.json'} is not of a {what} of this version ({reason}); {REMEDY}"
    )


def sign_tokens(tokens: Path, tokenizer: LoadedTokenizer) -> None:
    """Writes the fingerprint of the tokenizer into the folder of its tokens."""
    write_json(tokens / "tokenizer.json", {"sha256": tokenizer.sha256})


def require_own_tokens(tokens: Path, tokenizer: LoadedTokenizer) -> None:
    """UserError where tokens were made by another tokenizer, or do not say by which."""
    signature = tokens / "tokenizer.json"
    if not signature.is_file() or read_json(signature).get("sha256") != tokenizer.sha256:
        raise UserError(
            f"{signature} does not name the tokenizer that is here: {tokens} holds the tokens of "
            "another one; run `dvc repro token_precompute`"
        )


def save_weights(module: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """All parameters and buffers as safetensors, written atomically."""
    state = module.state_dict()
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic(path) as partial:
        try:
            save_file(tensors, partial, metadata)
        except SafetensorError as error:  # how safetensors says that a disk is full
            if number := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
            raise


def load_module(make: Callable[[], nn.Module], path: Path) -> nn.Module:
    """The network that `make` gives, filled; tensors that do not fit or hold no numbers are named.

    A config.json may ask for any size, so shapes are compared with the file's before memory is
    taken.
    """
    require_file(path)
    try:
        with torch.device("meta"):
            faults = _misshapen(make(), path)
    except (RuntimeError, ValueError) as error:  # sizes that no tensor has
        faults = [str(error).splitlines()[0]]
    if faults:
        raise _unfit(path, faults)
    module = make()
    expected = module.state_dict()
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise _unreadable(path, error) from None
    for name, tensor in tensors.items():
        if tensor.dtype != expected[name].dtype:
            faults.append(f"{name} is {tensor.dtype}, expected {expected[name].dtype}")
        elif not tensor.isfinite().all():
            faults.append(f"{name} holds NaN or infinity")
    if faults:
        raise _unfit(path, faults)
    module.load_state_dict(tensors)
    return module


def _misshapen(module: nn.Module, path: Path) -> list[str]:
    """A sentence for each tensor that is missing, extra or misshapen."""
    expected = module.state_dict()
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _unreadable(path, error) from None
    faults = [f"missing {name}" for name in sorted(expected.keys() - shapes.keys())]
    faults += [f"unexpected {name}" for name in sorted(shapes.keys() - expected.keys())]
    for name in sorted(expected.keys() & shapes.keys()):
        if shapes[name] != list(expected[name].shape):
            faults.append(f"{name} is {shapes[name]}, expected {list(expected[name].shape)}")
    return faults


def _unfit(path: Path, faults: list[str]) -> UserError:
    return UserError(f"{path} does not fit its config.json: {'; '.join(faults[:5])}; {REMEDY}")
