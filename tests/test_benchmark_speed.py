"""The benchmark of speed on tiny networks: every row is there, finite and positive; no times."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from keyframe_settings import SMALL
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import speed
from pipeline import config
from pipeline.commands import presets

TINY = {"flow": {"method": "dis"}, "vqgan": {"autoencoder": {"z_channels": 8, "channels": 8}}}
RATES = {  # name -> unit
    "peak": "GFLOP/s",
    "tokenizer/keyframes/frames": "frames/s",
    "tokenizer/keyframes/operations": "GFLOP/s",
    "tokenizer/keyframes/share_of_peak": "%",
    "tokenizer/whole_frames/frames": "frames/s",
    "tokenizer/whole_frames/operations": "GFLOP/s",
    "tokenizer/whole_frames/share_of_peak": "%",
    "transformer/frames": "frames/s",
    "transformer/clips": "clips/s",
    "transformer/operations": "GFLOP/s",
    "transformer/share_of_peak": "%",
    "generate/flow_alone": "frames/s",
    "generate/1_clip": "frames/s",
    "generate/2_clips": "frames/s",
    "generate/maskgit_8_steps": "frames/s",
    "generate/48p": "frames/s",
}


def test_every_row_is_there_in_both_precisions(monkeypatch, capsys):
    monkeypatch.setattr(speed, "FRAMES", 6)
    monkeypatch.setattr(speed, "LARGE", (48, 96))
    monkeypatch.setattr(speed, "PRODUCTS", {"cpu": ((16, 16, 16), (32, 16, 16))})
    content = presets.merged(presets.merged(config.read_yaml(), SMALL), TINY)
    rows = speed.measure(content, list(speed.PRECISIONS), rounds=1, many=2)
    lines = speed.show(rows, list(speed.PRECISIONS), "Speed")
    told = {one["name"]: one for one in lines if one["unit"] != "MB"}
    assert {name: one["unit"] for name, one in told.items()} == {
        f"speed/{name}/{precision}": unit
        for name, unit in RATES.items()
        for precision in speed.PRECISIONS
    }
    for one in lines:
        assert math.isfinite(one["value"]) and one["value"] >= 0
        assert one["value"] > 0 or one["unit"] == "MB"
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(text) for text in printed if text.startswith("{")] == lines


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_counted(dtype):
    q, k, v = torch.randn(3, 2, 4, 64, 16, dtype=dtype).requires_grad_().unbind()  # B H S D
    mask = torch.ones(64, 64, dtype=torch.bool).tril()
    with FlopCounterMode(display=False, custom_mapping=speed.CPU_ATTENTION) as counter:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    product = 2 * (2 * 4) * 64 * 64 * 16
    assert counter.get_total_flops() == 2 * product
    with FlopCounterMode(display=False, custom_mapping=speed.CPU_ATTENTION) as counter:
        out.sum().backward()
    assert counter.get_total_flops() in (4 * product, 5 * product)  # 5: scores are computed again
