"""The finished tokenizer on disk: model.safetensors and a config.json that rebuilds it.

Codes mean something to the tokenizer alone that made them. So what is made of its codes carries its
fingerprint: the tokens, and the transformer that is trained on them.
"""

import hashlib
from pathlib import Path

import torch

from pipeline import params
from pipeline.errors import UserError
from pipeline.models.vqgan.model import Tokenizer
from pipeline.records import read_json, write_json
from pipeline.trained.weights import load_weights, save_weights


def save_tokenizer(tokenizer: Tokenizer, settings: params.Params, folder: Path) -> None:
    """model.safetensors and a config.json that rebuilds the network and fits pictures for it."""
    save_weights(tokenizer, folder / "model.safetensors")
    size = settings.ingest.frame_size
    config = {"vqgan": settings.vqgan.model_dump(), "ingest": size.model_dump()}
    write_json(folder / "config.json", config)


def load_tokenizer(folder: Path, device: torch.device) -> tuple[Tokenizer, params.FrameSize]:
    """The trained tokenizer in evaluation mode, and how its pictures were fitted."""
    config = read_json(folder / "config.json")
    ingest = params.FrameSize.model_validate(config["ingest"])
    tokenizer = Tokenizer(params.Vqgan.model_validate(config["vqgan"]), ingest.height, ingest.width)
    load_weights(tokenizer, folder / "model.safetensors")
    tokenizer = tokenizer.to(device, memory_format=torch.channels_last)
    return tokenizer.eval().requires_grad_(False), ingest


def fingerprint(folder: Path) -> str:
    """SHA-256 of the tokenizer's weights."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sign_tokens(tokens: Path, tokenizer: Path) -> None:
    """Writes into the folder of tokens whose they are."""
    write_json(tokens / "tokenizer.json", {"sha256": fingerprint(tokenizer)})


def require_own_tokens(tokens: Path, tokenizer: Path) -> None:
    """UserError where tokens were made by another tokenizer, or do not say by which."""
    signature = tokens / "tokenizer.json"
    if not signature.is_file() or read_json(signature)["sha256"] != fingerprint(tokenizer):
        raise UserError(
            f"{tokens} holds the tokens of another tokenizer than {tokenizer}; run "
            "`dvc repro token_precompute`"
        )
