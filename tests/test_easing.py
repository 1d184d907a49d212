"""The pace of a clip: what it is, and that it is found again in clips that keep it."""

import pytest
import torch

from pipeline.easing import EVEN, Easing, fit, load_easing, save_easing
from pipeline.errors import UserError
from pipeline.motion import frames_between, way

WIDTH = 64


def ends(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A soft bright spot that goes a few pixels to the right, uint8 `32 64 3`; more by `seed`."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(float(WIDTH)), indexing="ij")

    def spot(column: float) -> torch.Tensor:
        bright = 220 * (-((x - column).square() + (y - 16).square()) / 40).exp()
        return (20 + bright)[..., None].expand(-1, -1, 3).byte().contiguous()

    return spot(16), spot(18 + seed)


def clips_at(easing: Easing, count: int = 10) -> list[torch.Tensor]:
    found = []
    for first, last in map(ends, range(count)):
        pace = easing.exponent(first, last)
        inner = frames_between(first, last, 12, exponent=pace)
        found.append(torch.cat([first[None], inner, last[None]]))
    return found


def test_the_way_by_hand():
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    assert torch.allclose(way(t, 1.0), t), "an even pace"
    assert torch.allclose(way(t, 2.0), torch.tensor([0, 1 / 10, 0.5, 9 / 10, 1]))
    held = way(t, 16.0)
    assert held[1] < 1e-6 and held[3] > 1 - 1e-6 and held[2] == 0.5


def test_the_exponent_falls_with_the_change_within_its_limits():
    still, dark = torch.full((4, 4, 3), 90, dtype=torch.uint8), torch.zeros(4, 4, 3).byte()
    easing = Easing(pace=1.0, by_change=0.5)
    ten = still + 10
    assert easing.exponent(still, ten) == pytest.approx(2.718 * (10.5 / 10) ** -0.5, rel=1e-3)
    assert easing.exponent(still, dark) == 1.0, "never slower in the middle than at the ends"
    assert Easing(4.0).exponent(still, still) == 16.0
    assert EVEN.exponent(still, ten) == 1.0
    assert Easing.fixed(2.5).exponent(still, dark) == pytest.approx(2.5)


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


def test_it_is_kept_beside_the_tokens(tmp_path):
    save_easing(Easing(1.2, 0.3), tmp_path)
    assert load_easing(tmp_path) == Easing(1.2, 0.3)
    with pytest.raises(UserError, match=r"easing\.json does not exist; run `dvc repro token_pre"):
        load_easing(tmp_path / "elsewhere")
