"""The trained transformer on disk, with the fingerprint of the tokenizer of its token ids."""

from functools import partial
from pathlib import Path

import torch

from pipeline.models.checkpoints import load_module, other_version, read_config, save_model
from pipeline.models.gpt.model import FrameGpt, GptConfig


def save_gpt(gpt: FrameGpt, tokenizer_sha256: str, folder: Path) -> None:
    save_model(gpt, {"gpt": gpt.config.to_dict(), "tokenizer": tokenizer_sha256}, folder)


def load_gpt(folder: Path, device: torch.device) -> tuple[FrameGpt, str]:
    """The trained transformer in evaluation mode, and its tokenizer's fingerprint."""
    content = read_config(folder)
    try:
        config, tokenizer_sha256 = GptConfig.from_dict(content["gpt"]), content["tokenizer"]
    except (KeyError, TypeError, ValueError) as error:
        raise other_version(folder, "transformer", error) from None
    gpt = load_module(partial(FrameGpt, config), folder / "model.safetensors")
    return gpt.to(device).eval().requires_grad_(False), tokenizer_sha256
