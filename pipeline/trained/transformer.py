"""The finished transformer on disk: model.safetensors and a config.json that rebuilds it."""

from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.model import FrameGpt
from pipeline.records import read_json, write_json
from pipeline.trained.weights import load_weights, save_weights


def save_gpt(model: FrameGpt, folder: Path, tokenizer: str) -> None:
    """tokenizer: fingerprint of the one whose codes it was trained on."""
    save_weights(model, folder / "model.safetensors")
    write_json(folder / "config.json", {"gpt": model.config.to_dict(), "tokenizer": tokenizer})


def load_gpt(folder: Path, device: torch.device) -> tuple[FrameGpt, str]:
    """The trained transformer in evaluation mode, and its tokenizer's fingerprint."""
    path = folder / "config.json"
    content = read_json(path)
    try:
        config, tokenizer = GptConfig.from_dict(content["gpt"]), content["tokenizer"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} was written by another version ({error}); run `dvc repro gpt2_train`"
        ) from None
    model = FrameGpt(config)
    load_weights(model, folder / "model.safetensors")
    return model.to(device).eval().requires_grad_(False), tokenizer
