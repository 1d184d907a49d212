"""What makes params.yaml tiny: networks that tests train in seconds."""

from pathlib import Path

from pipeline.commands import presets
from pipeline.config import Decoding, Params, parse, read_yaml

PARAMS = read_yaml(Path(__file__).parents[1] / "params.yaml")

GRID = (4, 8)  # tokens of a frame, in either context
TINY = {
    "base": {"threads": 1},
    "ingest": {"height": 16, "width": 32},  # 4x8 tokens of 4x4 pixels
    "clip_chunk": {"min_frames": 5, "max_frames": 12},
    "flow": {"method": "dis"},
    "vqgan": {
        "patch_size": 4,
        "channels": 8,
        "vqvae": {"num_embeddings": 16, "embedding_dim": 6},
        "autoencoder": {"z_channels": 8, "channels": 8, "patch_size": 2},
        "discriminator": {"num_layers": 1, "filters": 4, "norm": "instance"},
        "loss": {
            "discriminator": {"iter_start": 0, "weight": 0.1},
            "perceptual_weight": 0.1,
            "perceptual_loss": "none",
            "perceptual_subset": 0,
            "mse_weight": 0.0,
            "edge_weight": 0.0,
        },
        "trainer": {"batch_size": 4, "n_epochs": 2, "augmentation": "none", "gen_lr": 2e-3},
    },
    "transformer": {"n_layer": 2, "n_head": 2, "n_embd": 16},
    "train": {
        "batch_size": 2,
        "n_epochs": 2,
        "warmup_epoch_percentage": 0.1,
        "lr_max": 1e-2,
        "stop_ground_truth_after_epoch": 1,
        "token_noise": 0.0,
    },
    "evaluate": {
        "decoding": {"steps": 3},
        "baselines": ["black", "hold_first", "hold_nearest", "cross_fade", "untrained",
                      "without_codes", "round_trip"],
        "lpips_network": "none",
        "fid_network": "none",
        "video_metrics": [],
    },
    "tracking": {"enabled": False},
    "engine": {"workers": 1, "checkpoint_interval": 0.0},
}  # fmt: skip


def small_params(overlay: dict, changes: dict | None = None) -> Params:
    """params.yaml with an overlay, and with dotted keys changed."""
    content = presets.merged(PARAMS, overlay)
    for dotted, value in (changes or {}).items():
        *sections, key = dotted.split(".")
        place = content
        for section in sections:
            place = place[section]
        place[key] = value
    return parse(content)


def decoding_with(mode: str = "auto", **changes: float) -> Decoding:
    """Greedy decoding with changes."""
    greedy = Decoding(mode=mode, steps=8, temperature=0.0, top_k=0, top_p=1.0, min_confidence=0.0)
    return greedy.model_copy(update=changes)
