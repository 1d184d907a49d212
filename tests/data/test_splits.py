"""Splits: stable, evenly spread, none empty where three scenes are there, and else said."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from pipeline.data.splits import (
    Keyed,
    check_splits,
    fill_empty_splits,
    position,
    split_key,
    split_of,
)
from pipeline.errors import UserError

NAMES = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=20, unique=True)
SOURCES = st.sampled_from(["", "train", "test"])


@pytest.fixture(scope="session")
def rules(settings):
    return settings.clip_chunk.model_copy(update={"train_share": 0.8, "val_share": 0.1})


def test_the_hash_is_fixed_for_ever(rules):
    """A change here would move clips of every existing data set between its splits."""
    assert position("episode-01-12345678-0") == pytest.approx(0.21145148723, abs=1e-10)
    assert split_of(Keyed("episode-01-12345678-0"), rules) == "train"


@pytest.mark.parametrize(("source", "train"), [("", 8000), ("train", 8889)])
def test_shares_are_those_asked_for(rules, source, train):
    """What a source keeps for training is shared in the same ratio, and none of it is tested."""
    keys = [split_key(f"video-{v}", start, "scene") for v in range(100) for start in range(100)]
    counts = Counter(split_of(Keyed(key, source), rules) for key in keys)
    assert counts["train"] == pytest.approx(train, abs=120)
    assert counts["test"] == pytest.approx(0 if source else 1000, abs=90 * (not source))


def test_keys_hold_together_what_they_should():
    assert split_key("a", 0, "video") == split_key("a", 99, "video")
    assert split_key("a", 0, "scene") != split_key("a", 99, "scene")
    assert split_key("a-1", 1, "scene") != split_key("a", 11, "scene")


@pytest.mark.parametrize(("split_by", "remedy"), [("scene", "min_frames"), ("video", "split_by")])
def test_an_empty_split_names_counts_and_remedy(rules, split_by, remedy):
    rules = rules.model_copy(update={"split_by": split_by})
    check_splits({"train": 8, "val": 1, "test": 1, "": 3}, rules)
    with pytest.raises(UserError) as caught:
        check_splits({"train": 8, "val": 1, "": 3}, rules)
    message = str(caught.value)
    assert "no clip for test: 8 train, 1 val, 0 test, 3 rejected" in message
    assert f"at least three different {split_by}s" in message and remedy in message


def filled(keys, rules, used=lambda splits: set(splits)):
    """The splits by hash, and those that nothing is left empty in."""
    by_hash = {keyed: split_of(keyed, rules) for keyed in keys}
    return by_hash, fill_empty_splits(by_hash, rules, used)


@limits(max_examples=100, deadline=None)
@given(names=NAMES, train=st.floats(0.05, 0.9), val=st.floats(0.01, 0.05))
def test_three_always_fill_three_splits_and_enough_are_never_moved(names, rules, train, val):
    rules = rules.model_copy(update={"train_share": train, "val_share": val})
    by_hash, splits = filled([Keyed(name) for name in names], rules)
    assert set(splits) == set(by_hash)
    moved = [keyed for keyed in splits if splits[keyed] != by_hash[keyed]]
    if len(set(by_hash.values())) == 3:
        assert not moved
    elif len(names) >= 3:
        assert len(set(splits.values())) == 3 and len(moved) <= 2
    backwards = [Keyed(name) for name in reversed(names)]
    assert filled(backwards, rules)[1] == splits, "the order means nothing"


@pytest.mark.parametrize("at", ["train", "val", "test"])
def test_the_nearest_move_and_only_as_many_as_are_needed(rules, at):
    names = [Keyed(f"scene-{number}") for number in range(400)]
    there = sorted(
        (keyed for keyed in names if split_of(keyed, rules) == at), key=lambda k: position(k.key)
    )[:6]
    splits = filled(there, rules)[1]
    expected = {
        "train": ["train"] * 4 + ["val", "test"],
        "val": ["train", *["val"] * 4, "test"],
        "test": ["train", "val", *["test"] * 4],
    }
    assert [splits[keyed] for keyed in there] == expected[at]


@limits(max_examples=100, deadline=None)
@given(sources=st.dictionaries(st.text(max_size=12), SOURCES, max_size=20))
def test_what_the_source_keeps_apart_stays_apart(rules, sources):
    _, splits = filled([Keyed(*item) for item in sources.items()], rules)
    for keyed, split in splits.items():
        assert keyed.source != "test" or split == "test"
        assert keyed.source != "train" or split != "test"


def test_a_move_that_would_empty_another_split_is_not_made(rules):
    """`twin` and `other` are alike, and of two alike that in train loses its clips."""
    names = sorted((Keyed(f"scene-{n}") for n in range(99)), key=lambda k: position(k.key))
    other, twin, third = (k for k in names[:3])

    def used(splits):
        alike = splits[twin] != splits[other]
        return set(splits) - {k for k in (twin, other) if alike and splits[k] == "train"}

    assert filled([other, twin, third], rules, used)[1][third] == "test"
    counts = Counter(filled([other, twin], rules, used)[1].values())
    assert counts == {"train": 2}, "there is nothing to fill another split with"
