"""The benchmark of the transformer on tiny networks: every row runs and is compared; no times."""

import pytest
from tiny_settings import TINY

from benchmarks import gpt2_step
from pipeline.presets import merged


@pytest.mark.parametrize("group", gpt2_step.ROWS)
def test_every_row_runs_and_is_compared_with_the_first(monkeypatch, group):
    monkeypatch.setattr(gpt2_step, "BASE", merged(TINY, gpt2_step.BASE))
    monkeypatch.setattr(gpt2_step, "FRAMES", 6)
    lines = gpt2_step.measure(group, batch=2, rounds=1, threads=1, device="cpu")
    assert [one["name"] for one in lines] == [
        f"gpt2_step/{group}/{name}" for name in gpt2_step.ROWS[group]
    ]
    first, *others = lines
    assert "ratio" not in first and first["value"] > 0
    for one in others:
        assert one["against"] == first["name"].rpartition("/")[2]
        assert one["ratio"] == pytest.approx(one["value"] / first["value"], rel=0.01)
