"""Learning rates: up during the warm-up, down by a cosine, and where both end."""

import pytest

from pipeline.training.schedule import warmup_cosine


@pytest.mark.parametrize("warmup", [0.0, 0.15, 0.5])
def test_ends_peak_and_half_way_down(warmup):
    rate = warmup_cosine(0.1, 1.1, warmup)
    assert rate(warmup) == pytest.approx(1.1)
    assert rate((1 + warmup) / 2) == pytest.approx(0.6)
    assert rate(1.0) == pytest.approx(0.1)
    if warmup:
        assert rate(0.0) == 0.1 and rate(warmup / 4) == pytest.approx(0.35)


def test_it_only_rises_then_only_falls():
    rate = warmup_cosine(0.0, 1.0, 0.3)
    values = [rate(step / 100) for step in range(101)]
    assert values[:31] == sorted(values[:31]) and len(set(values[:31])) == 31
    assert values[30:] == sorted(values[30:], reverse=True)


def test_a_warm_up_over_all_of_the_training_ends_at_the_peak():
    rate = warmup_cosine(0.0, 1.0, 1.0)
    assert rate(0.5) == 0.5 and rate(1.0) == pytest.approx(1.0)
