"""The finished transformer on disk: model.safetensors and a config.json that rebuilds it."""

from pathlib import Path

import torch

from pipeline.gpt2.model import FrameGpt, GptConfig
from pipeline.records import read_json, write_json
from pipeline.trained.weights import load_weights, save_weights


def save_gpt(model: FrameGpt, folder: Path) -> None:
    save_weights(model, folder / "model.safetensors")
    write_json(folder / "config.json", model.config.to_dict())


def load_gpt(folder: Path, device: torch.device) -> FrameGpt:
    """The trained transformer in evaluation mode."""
    model = FrameGpt(GptConfig.from_dict(read_json(folder / "config.json")))
    load_weights(model, folder / "model.safetensors")
    return model.to(device).eval().requires_grad_(False)
