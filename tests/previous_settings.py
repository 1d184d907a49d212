"""A small tokenizer with the previous frame as context, and digits that bounce about."""

from pathlib import Path

import numpy as np
import torch
from tiny_settings import small_params

from pipeline import config, frames
from pipeline.data.digits import DIGIT, DIGITS_FILE, draw
from pipeline.models.vqgan.previous import SHIFTS, PreviousTokenizer

CPU = torch.device("cpu")
SMALL = {
    "base": {"threads": 1},
    "source": {"kind": "moving_mnist", "moving_mnist": {"epoch_sequences": 6}},
    "ingest": {"height": 64, "width": 64},
    "clip_chunk": {"min_frames": 20, "max_frames": 20},
    "vqgan": {
        "context": "previous",
        "patch_size": 16,
        "channels": 8,
        "vqvae": {"num_embeddings": SHIFTS},
        "loss": {"perceptual_loss": "none", "perceptual_subset": 0, "mse_weight": 10.0},
        "trainer": {"batch_size": 4, "n_epochs": 2, "augmentation": "none", "gen_lr": 1e-3},
    },
    "transformer": {"transformer_type": "plain", "n_layer": 2, "n_head": 2, "n_embd": 16},
    "train": {"batch_size": 2, "n_epochs": 2, "token_noise": 0.0, "lr_max": 1e-2},
}
# bars, a cross, a frame: each is found again by its shape
DIGITS = np.zeros((3, DIGIT, DIGIT), np.uint8)
DIGITS[0, 4:24, 10:14] = DIGITS[1, 12:16, 4:24] = DIGITS[1, 4:24, 12:16] = 255
DIGITS[2, 5:23, 5:23] = 255
DIGITS[2, 9:19, 9:19] = 0


def settings(changes: dict | None = None) -> config.Params:
    return small_params(SMALL, changes)


def sequence(seed: int, n_frames: int = 20, digits: int = 2) -> torch.Tensor:
    """uint8 `T 64 64 3`."""
    grey = draw(DIGITS, digits, n_frames, (seed,))
    return torch.from_numpy(np.repeat(grey[..., None], 3, axis=3))


def floats(*seeds: int) -> torch.Tensor:
    """`B 20 3 64 64`."""
    return torch.stack([frames.to_float(sequence(seed)) for seed in seeds])


def tokenizer(changes: dict | None = None, seed: int = 0) -> PreviousTokenizer:
    """Untrained, in evaluation mode."""
    torch.manual_seed(seed)
    return PreviousTokenizer(settings(changes).vqgan, 64, 64).eval()


def save_digits(shards: Path, count: int = 6) -> None:
    np.savez(shards / DIGITS_FILE, digits=DIGITS, epoch_sequences=count)
