"""The finished transformer on disk: model.safetensors and a config.json that rebuilds it."""

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from pipeline.easing import Easing
from pipeline.errors import UserError
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.model import FrameGpt
from pipeline.records import read_json, write_json
from pipeline.trained.weights import load_weights, save_weights


class Trained(NamedTuple):
    """A transformer, and what it was trained on."""

    gpt: FrameGpt
    tokenizer: str  # fingerprint of the one whose codes it knows
    easing: Easing  # pace of its footage


def save_gpt(trained: Trained, folder: Path) -> None:
    save_weights(trained.gpt, folder / "model.safetensors")
    about = {"tokenizer": trained.tokenizer, "easing": asdict(trained.easing)}
    write_json(folder / "config.json", {"gpt": trained.gpt.config.to_dict(), **about})


def load_gpt(folder: Path, device: torch.device) -> Trained:
    """As it was saved, in evaluation mode."""
    path = folder / "config.json"
    content = read_json(path)
    try:
        config, tokenizer = GptConfig.from_dict(content["gpt"]), content["tokenizer"]
        easing = Easing(**content["easing"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} was written by another version ({error}); run `dvc repro gpt2_train`"
        ) from None
    model = FrameGpt(config)
    load_weights(model, folder / "model.safetensors")
    return Trained(model.to(device).eval().requires_grad_(False), tokenizer, easing)
