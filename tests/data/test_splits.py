"""Splits: stable, evenly spread, and empty ones said."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from pipeline.data.splits import check_splits, position, split_key, split_of
from pipeline.errors import UserError


def test_the_hash_is_fixed_for_ever():
    """A change here would move clips of every existing data set between its splits."""
    assert position("episode-01-12345678-0") == pytest.approx(0.21145148723, abs=1e-10)
    assert split_of("episode-01-12345678-0", 0.8, 0.1) == "train"


def test_shares_are_near_80_10_10():
    keys = [
        split_key(f"video-{video}", start, "scene") for video in range(100) for start in range(100)
    ]
    counts = Counter(split_of(key, 0.8, 0.1) for key in keys)
    assert counts["train"] == pytest.approx(8000, abs=120)
    assert counts["val"] == pytest.approx(1000, abs=90)
    assert counts["test"] == pytest.approx(1000, abs=90)


def test_keys_hold_together_what_they_should():
    assert split_key("a", 0, "video") == split_key("a", 99, "video")
    assert split_key("a", 0, "scene") != split_key("a", 99, "scene")
    assert split_key("a-1", 1, "scene") != split_key("a", 11, "scene")


@pytest.mark.parametrize("split_by", ["scene", "video"])
def test_an_empty_split_names_counts_and_remedy(settings, split_by):
    rules = settings.clip_chunk.model_copy(update={"split_by": split_by})
    check_splits({"train": 8, "val": 1, "test": 1, "": 3}, rules)
    with pytest.raises(UserError) as caught:
        check_splits({"train": 8, "val": 1, "": 3}, rules)
    message = str(caught.value)
    assert "8 train, 1 val, 0 test, 3 rejected" in message
    assert f"clip_chunk.split_by = {split_by}" in message and "add footage" in message


VIDEOS = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=20, unique=True)


@limits(max_examples=60, deadline=None)
@given(VIDEOS, VIDEOS, st.floats(0.05, 0.9), st.floats(0.01, 0.05))
def test_adding_videos_moves_nothing(few, more, train, val):
    def assign(names):
        keys = [split_key(name, start, "scene") for name in names for start in (0, 48)]
        return {key: split_of(key, train, val) for key in keys}

    before, after = assign(few), assign(few + more)
    assert all(after[key] == split for key, split in before.items())


@limits(max_examples=100, deadline=None)
@given(st.text(max_size=20), st.floats(0.05, 0.85), st.floats(0.01, 0.1))
def test_what_the_source_keeps_apart_stays_apart(key, train, val):
    assert split_of(key, train, val, "test") == "test"
    assert split_of(key, train, val, "train") in ("train", "val")


def test_a_source_of_training_data_is_shared_in_the_same_ratio():
    counts = Counter(split_of(f"digits-{at}", 0.8, 0.1, "train") for at in range(9000))
    assert counts["train"] == pytest.approx(8000, abs=120) and not counts["test"]
