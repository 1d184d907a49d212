"""Finished models on disk: model.safetensors and a config.json that rebuilds the network.

Weights do not tell all that they were trained with: those of a tokenizer fit frames of any size. So
config.json holds the hash of the weights, each value once more (`trained`), and a hash of itself:
what was edited by hand, or belongs to another run, is named instead of drawn with.

Token ids mean something only to the tokenizer that made them. So what is made of them carries its
fingerprint: the tokens, and the transformer that is trained on them (`gpt.checkpoint`, apart from
this file, so that an edit of the transformer trains no tokenizer again).
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline import config
from pipeline.errors import UserError
from pipeline.io import flatten, read_json, require_file, rounded, write_json
from pipeline.models.flow import EVEN, Easing
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.models.vqgan.model import Tokenizer

REMEDY = "run `dvc repro`, or copy the folder of a finished run again"


class LoadedTokenizer(NamedTuple):
    """A trained tokenizer, how its images were fitted, and by what keyframes are warped for it."""

    tokenizer: Tokenizer | KeyframeTokenizer
    ingest: config.FrameSize
    flow_method: str
    easing: Easing
    sha256: str  # of its weights


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
    write_config(config, folder)


def load_tokenizer(folder: Path, device: torch.device) -> LoadedTokenizer:
    """In evaluation mode, on `device`."""
    content = read_config(folder)
    try:
        vqgan = config.Vqgan.model_validate(content["vqgan"])
        ingest = config.FrameSize.model_validate(content["ingest"])
        method, easing = content["flow"]["method"], Easing(**content["flow"]["easing"])
    except (KeyError, TypeError, ValidationError) as error:
        raise other_version(folder, "tokenizer", error) from None
    if vqgan.context == "keyframes":
        tokenizer = KeyframeTokenizer(vqgan, ingest.height, ingest.width, method)
    else:
        tokenizer = Tokenizer(vqgan, ingest.height, ingest.width)
    load_weights(tokenizer, folder / "model.safetensors", content["weights"])
    if vqgan.context == "none":
        tokenizer = tokenizer.to(memory_format=torch.channels_last)
    tokenizer = tokenizer.to(device).eval().requires_grad_(False)
    return LoadedTokenizer(tokenizer, ingest, method, easing, content["weights"])


def write_config(content: dict, folder: Path) -> None:
    """config.json of the weights in `folder`, from which `read_config` sees every change."""
    path = folder / "config.json"
    content = rounded(content | {"weights": _sha256(folder / "model.safetensors")}, path)
    content["trained"] = flatten(content)
    write_json(path, content | {"sha256": _signature(content)})


def read_config(folder: Path) -> dict:
    """The content of config.json; UserError names a value that is not as it was written."""
    path = folder / "config.json"
    content = read_json(path)
    signature, trained = content.pop("sha256", None), content.get("trained")
    if signature is None or not isinstance(trained, dict):
        raise UserError(f"{path} was written by an older version, without hashes; {REMEDY}")
    values = flatten({key: value for key, value in content.items() if key != "trained"})
    for key in sorted(values.keys() | trained.keys()):
        value, expected = (_shown(source, key) for source in (values, trained))
        if value != expected:
            raise UserError(f"{path}: {key} is {value}, expected {expected} as trained; {REMEDY}")
    if signature != _signature(content):
        raise UserError(f"{path} was changed after the training (by its hash); {REMEDY}")
    return content


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


def _shown(values: dict, key: str) -> str:
    return json.dumps(values[key])[:80] if key in values else "absent"


def _signature(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def load_weights(module: nn.Module, path: Path, sha256: str) -> None:
    """Fills `module`; tensors that are missing, extra, misshapen or no numbers are named.

    Shapes are compared before anything is read. sha256: the hash of the file that was written.
    """
    require_file(path)
    expected = _named(module)
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        faults = [f"missing {name}" for name in sorted(expected.keys() - shapes.keys())]
        faults += [f"unexpected {name}" for name in sorted(shapes.keys() - expected.keys())]
        faults += [
            f"{name} is {shapes[name]}, expected {list(expected[name].shape)}"
            for name in sorted(expected.keys() & shapes.keys())
            if shapes[name] != list(expected[name].shape)
        ]
        tensors = {} if faults else load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is no readable safetensors file ({error}); {REMEDY}") from None
    for name, tensor in tensors.items():
        if tensor.dtype != expected[name].dtype:
            faults.append(f"{name} is {tensor.dtype}, expected {expected[name].dtype}")
        elif not tensor.isfinite().all():
            faults.append(f"{name} holds NaN or infinity")
    if not faults and _sha256(path) != sha256:
        faults = ["its hash is another one"]
    if faults:
        raise UserError(f"{path} does not fit its config.json: {'; '.join(faults[:5])}; {REMEDY}")
    module.load_state_dict(tensors, strict=False)


def _named(module: nn.Module) -> dict[str, torch.Tensor]:
    """State without second names of one tensor (tied weights), which safetensors refuses."""
    named, ids = {}, set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in ids:
            ids.add(id(tensor))
            named[name] = tensor
    return named
