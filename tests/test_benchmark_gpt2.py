"""The benchmarks of the transformer on tiny networks: counts, comparisons and rows; no times."""

import json

import pytest
import torch
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.model import FrameGpt
from pipeline.gpt2.trunk import checkpoint_activations
from tiny_settings import TINY
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import generate, gpt2_counts, gpt2_row, gpt2_step
from pipeline.presets import merged

THESIS, OURS = (merged(TINY, over) for over in (gpt2_counts.THESIS, gpt2_counts.OURS))


def counted_by_torch(config: GptConfig, checkpointing: bool = False) -> int:
    """Of a clip, forward and backward, without a loss."""
    model = FrameGpt(config).train()
    if checkpointing:
        checkpoint_activations(model.gpt)
    codes = torch.randint(config.num_embeddings, (1, gpt2_row.FRAMES, config.tokens_per_frame))
    ends, more = (codes[:, -1], torch.tensor([gpt2_row.FRAMES])), {"moved": codes}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for frames in gpt2_counts.passes(config):
            if len(config.modes) > 1:
                found = model.complete(codes[:, :frames], *ends, codes[:, 1:-1], False, **more)
                (found[0].sum() + found[1].sum()).backward()
            else:
                model(codes[:, :frames], *ends, **more).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("mode", ["seed", "maskgit"])
@pytest.mark.parametrize("over", [THESIS, OURS], ids=["thesis", "ours"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_that_torch_counts(mode, over, checkpointing):
    over = merged(over, {"train": {"layout": "clip", "mode": mode}})
    config = GptConfig.from_params(gpt2_row.settings_of(over))
    wanted = gpt2_counts.flops(config, checkpointing)
    assert counted_by_torch(config, checkpointing) == pytest.approx(wanted, rel=1e-6)


def test_windowed_operations_too_but_for_the_keys_that_a_mask_hides(monkeypatch):
    over = merged(OURS, {"train": {"layout": "windowed", "n_frames_before": 3}})
    config = GptConfig.from_params(gpt2_row.settings_of(over))
    seen, size = gpt2_counts.flops(config), config.positions_per_frame
    monkeypatch.setattr(gpt2_counts, "seen", lambda _, frames: ((1 + frames) * size) ** 2)
    whole = gpt2_counts.flops(config)
    assert counted_by_torch(config) == pytest.approx(whole, rel=1e-6) and seen < whole


@pytest.mark.parametrize("layout", ["clip/merge=1/before=8", "windowed/merge=1/before=8"])
def test_what_a_step_keeps_is_as_counted(layout, monkeypatch):
    sizes = merged(TINY, {"transformer": {"n_embd": 64}})
    monkeypatch.setattr(
        gpt2_row, "settings_of", lambda over, plain=gpt2_row.settings_of: plain(merged(sizes, over))
    )
    monkeypatch.setattr(gpt2_counts, "LAYOUTS", {layout: gpt2_counts.LAYOUTS[layout]})
    for row in gpt2_counts.calibrations(clips=2):
        assert row["kept"] == pytest.approx(1, abs=0.15) and row["peak"] == pytest.approx(
            1, abs=0.3
        )


def test_a_batch_fits_and_one_more_does_not():
    config = GptConfig.from_params(gpt2_row.settings_of(THESIS))
    memory = gpt2_counts.Memory(config, 10**6, "cuda")
    room = memory.fixed + 5.5 * memory.clip(True)
    assert memory.batch(room, True) == 5 and memory.batch(room, True, margin=2.0) == 2
    assert memory.batch(room, False) < 5 and memory.batch(10.0**6, True) == 0


def test_rows_step_in_processes_of_their_own(capsys):
    rows = [
        gpt2_step.Row("windowed", merged(THESIS, {"train": {"layout": "windowed"}})),
        gpt2_step.Row("clip", THESIS, accumulation=2),
    ]
    gpt2_step.measure(rows, {"threads": 1, "device": "cpu"}, batch=1, rounds=1)
    for row, seconds in zip(rows, (3.0, 2.0), strict=True):
        assert row.precision == "float32" and row.mb > 100 and row.peak > 1e8
        row.seconds = [seconds, 9.0]
    lines = [gpt2_step.told("x", row, rows[0], 1, 1e9) for row in rows]
    gpt2_step.show(lines, gpt2_step.COLUMNS, "title")
    clip = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert clip["name"] == "gpt2_step/x/clip" and clip["clips"] == 2
    assert (clip["value"], clip["ratio"], clip["against"]) == (18.0, 3.0, "windowed")
    assert "ratio" not in lines[0]


def test_every_mode_draws_the_same_without_a_cache(monkeypatch):
    monkeypatch.setattr(generate, "FRAMES", 8)
    lines = generate.cache(OURS, rounds=1)
    assert [one["name"] for one in lines][:2] == [
        "generate/cache/seed/batch=1",
        "generate/cache/seed/batch=16",
    ]
    for one in lines:
        assert one["against"] == "uncached" and one["same_codes"] > 0.99
        assert one["ratio"] == pytest.approx(one["value"] / one["uncached"], rel=0.01)


def test_the_cache_of_a_long_clip_is_that_of_a_short_one(monkeypatch):
    monkeypatch.setattr(generate, "LENGTHS", (8, 16))
    lines = generate.lengths(OURS, rounds=1)
    for short, long in (lines[:2], lines[2:]):
        assert short["cache_mb"] == long["cache_mb"] > 0 and long["against"] == "8"
