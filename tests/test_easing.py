"""The pace of a clip: what it is, and how it is kept."""

import pytest
import torch

from pipeline.easing import EVEN, Easing, load_easing, save_easing
from pipeline.errors import UserError


def test_the_exponent_falls_with_the_change_within_its_limits():
    still, dark = torch.full((4, 4, 3), 90, dtype=torch.uint8), torch.zeros(4, 4, 3).byte()
    easing = Easing(pace=1.0, by_change=0.5)
    ten = still + 10
    assert easing.exponent(still, ten) == pytest.approx(2.718 * (10.5 / 10) ** -0.5, rel=1e-3)
    assert easing.exponent(still, dark) == 1.0, "never slower in the middle than at the ends"
    assert Easing(4.0).exponent(still, still) == 16.0
    assert EVEN.exponent(still, ten) == 1.0
    assert Easing.fixed(2.5).exponent(still, dark) == pytest.approx(2.5)


def test_it_is_kept_beside_the_tokens(tmp_path):
    save_easing(Easing(1.2, 0.3), tmp_path)
    assert load_easing(tmp_path) == Easing(1.2, 0.3)


def test_a_missing_and_a_foreign_file_are_named(tmp_path):
    with pytest.raises(UserError, match=r"easing\.json is missing; `dvc repro`"):
        load_easing(tmp_path)
    (tmp_path / "easing.json").write_text('{"speed": 1.0}')
    with pytest.raises(UserError, match=r"easing\.json was written by another version .*speed"):
        load_easing(tmp_path)
