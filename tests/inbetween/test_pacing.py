"""The pace of footage is found again in clips that keep it, and nothing is read into others."""

import pytest
import torch

from pipeline.easing import EVEN, Easing
from pipeline.inbetween.pacing import fit
from pipeline.motion import moved_clip


def ends(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A soft bright spot that goes a few pixels to the right, uint8 `32 64 3`; more by `seed`."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")

    def spot(column: float) -> torch.Tensor:
        bright = 220 * (-((x - column).square() + (y - 16).square()) / 40).exp()
        return (20 + bright)[..., None].expand(-1, -1, 3).byte().contiguous()

    return spot(16), spot(18 + seed)


def clips_at(easing: Easing, count: int = 10) -> list[torch.Tensor]:
    return [
        moved_clip(first, last, 12, exponent=easing.exponent(first, last))
        for first, last in map(ends, range(count))
    ]


@pytest.mark.parametrize("true", [EVEN, Easing(0.7), Easing(1.1), Easing(1.0, 0.5)])
def test_the_pace_of_clips_is_found_again(true):
    found, gain = fit(clips_at(true))
    for first, last in map(ends, range(10)):
        wanted = true.exponent(first, last)
        assert found.exponent(first, last) == pytest.approx(wanted, rel=0.25)
    assert gain == 0 if true == EVEN else gain > 1


def test_few_clips_keep_an_even_pace():
    assert fit(clips_at(Easing(1.0), count=7)) == (EVEN, 0.0)
    assert fit([]) == (EVEN, 0.0)


def test_still_clips_tell_nothing():
    still = ends(0)[0].expand(5, -1, -1, -1)
    assert fit([still] * 9) == (EVEN, 0.0)


def test_next_to_no_gain_is_none(monkeypatch):
    """The digits of a mean shall not choose."""
    monkeypatch.setattr(
        "pipeline.inbetween.pacing._psnr_by_exponent", lambda clip: [30, 30, 30, 30, 30, 30, 30.009]
    )
    assert fit(clips_at(EVEN)) == (EVEN, 0.0)
