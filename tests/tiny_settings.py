"""What makes params.yaml tiny: networks that tests train in seconds."""

from pipeline.config import Decoding

GRID = (4, 8)  # tokens of a frame, in either context
TINY = {
    "base": {"seed": 1, "device": "cpu", "precision": "float32", "threads": 1, "compile": False},
    "ingest": {"height": 16, "width": 32, "fit": "squeeze"},  # 4x8 tokens of 4x4 pixels
    "clip_chunk": {"min_frames": 5, "max_frames": 12},
    "flow": {"method": "dis", "easing": True},
    "vqgan": {
        "context": "keyframes",
        "keyframes": {
            "patch_size": 4,
            "channels": 8,
            "encoder": "linear",
            "frames_without_codes": 0.4,
            "spans_per_clip": 1,
        },
        "vqvae": {
            "quantizer": "ema",
            "beta": 0.25,
            "num_embeddings": 16,
            "embedding_dim": 6,
        },
        "autoencoder": {
            "architecture": "fast",
            "z_channels": 8,
            "channels": 8,
            "channels_multiplier": [1, 2],
            "num_res_blocks": 1,
            "attention_resolution": [],
            "dropout": 0.0,
            "upsampling": "nearest",
            "patch_size": 2,
        },
        "discriminator": {
            "num_layers": 1,
            "filters": 4,
            "norm": "instance",
        },
        "loss": {
            "discriminator": {
                "loss": "hinge",
                "factor": 0.0,
                "iter_start": 0,
                "weight": 0.1,
            },
            "codebook_weight": 1.0,
            "perceptual_weight": 0.1,
            "perceptual_loss": "none",
            "perceptual_subset": 0,
            "mse_weight": 0.0,
            "edge_weight": 0.0,
        },
        "trainer": {
            "batch_size": 4,
            "accumulation_size": 1,
            "n_epochs": 2,
            "augmentation": "none",
            "schedule": "cosine",
            "gen_lr": 2e-3,
        },
    },
    "transformer": {
        "transformer_type": "custom",
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
        "dropout": 0.0,
        "remaining_frames_method": "own_embeddings",
        "pretrained": "",
    },
    "train": {
        "sequence": "full_clip",
        "n_frames_before": 2,
        "batch_size": 2,
        "accumulation_size": 1,
        "n_epochs": 2,
        "warmup_epoch_percentage": 0.1,
        "lr_start": 1e-5,
        "lr_max": 1e-2,
        "stop_ground_truth_after_epoch": 1,
        "mode": "parallel",
        "batch_method": "padding",
        "token_noise": 0.0,
        "perceptual_loss_weight": 0.0,
    },
    "evaluate": {
        "decoding": {
            "mode": "auto",
            "steps": 3,
            "temperature": 0.0,
        },
        "baselines": [
            "black",
            "hold_first",
            "hold_nearest",
            "cross_fade",
            "untrained",
            "without_codes",
            "round_trip",
        ],
        "lpips_network": "none",
        "fid_network": "none",
        "video_metrics": [],
        "n_samples": 2,
    },
    "tracking": {"enabled": False},
    "engine": {"kind": "local", "workers": 1, "checkpoint_interval": 0.0},
}


def decoding_with(mode: str = "auto", **changes: float) -> Decoding:
    """Greedy decoding with changes."""
    greedy = Decoding(mode=mode, steps=8, temperature=0.0, min_confidence=0.0)
    return greedy.model_copy(update=changes)
