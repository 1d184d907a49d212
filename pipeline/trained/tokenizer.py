"""The finished tokenizer on disk: model.safetensors and a config.json that rebuilds it."""

from pathlib import Path

import torch

from pipeline import params
from pipeline.records import read_json, write_json
from pipeline.trained.weights import load_weights, save_weights
from pipeline.vqgan.model import Tokenizer


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
