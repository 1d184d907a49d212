"""Sequences: what remains, what is seen (thesis, Table 6), what counts as a target, truncation."""

import pytest
import torch

from pipeline.models.gpt.sequence import clip_mask, is_target, remaining, truncated_frames

CPU = torch.device("cpu")

# Blocks that blocks 0..5 see, by M: 0 is the last frame, 1 the first, b is frame b-1.
BLOCKS = {
    1: [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 4], [0, 1, 5]],
    2: [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 3, 4], [0, 1, 4, 5]],
    8: [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]],
}


@pytest.mark.parametrize("n", [3, 4, 15, 25])
def test_remaining_frames_count_down_to_one(n):
    assert [remaining(n, i) for i in range(1, n - 1)] == list(range(n - 2, 0, -1))


def test_remaining_takes_tensors():
    n, i = torch.tensor([[3], [5]]), torch.tensor([[1, 2, 3]])
    assert remaining(n, i).tolist() == [[1, 0, -1], [3, 2, 1]]


def test_targets_are_the_frames_between_the_ends():
    i = torch.arange(7)
    assert is_target(torch.tensor(5), i).tolist() == [False, True, True, True] + [False] * 3
    assert is_target(torch.tensor(3), i).nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("n_frames_before", BLOCKS)
def test_blocks_see_the_given_frames_their_window_and_themselves(n_frames_before):
    mask = clip_mask(6, 0, 1, n_frames_before, CPU)
    assert [row.nonzero().flatten().tolist() for row in mask] == BLOCKS[n_frames_before]


@pytest.mark.parametrize("n_frames_before", BLOCKS)
def test_query_blocks_see_what_their_predicting_block_sees_and_themselves(n_frames_before):
    mask = clip_mask(6, 5, 1, n_frames_before, CPU)
    assert torch.equal(mask[:6, :6], clip_mask(6, 0, 1, n_frames_before, CPU))
    assert not mask[:6, 6:].any(), "no frame sees a query"
    for query in range(5):
        seen = mask[6 + query].nonzero().flatten().tolist()
        assert seen == [*BLOCKS[n_frames_before][query + 1], 6 + query]


def test_all_positions_of_a_block_see_alike():
    blocks, mask = clip_mask(4, 3, 1, 1, CPU), clip_mask(4, 3, 5, 1, CPU)
    assert torch.equal(mask, blocks.repeat_interleave(5, 0).repeat_interleave(5, 1))


def test_truncation_keeps_both_ends_and_random_inner_frames():
    generator = torch.Generator().manual_seed(0)
    inner = set()
    for _ in range(100):
        short, long = truncated_frames([5, 8], 8, generator)
        assert short.tolist() == [0, 1, 2, 3, 4]
        first, *between, last = long.tolist()
        assert (first, last) == (0, 7)
        assert len(set(between)) == 3 and between == sorted(between)
        inner.add(tuple(between))
    assert len(inner) > 15, "of 20 ways to keep three of six"
    assert {frame for frames in inner for frame in frames} == {1, 2, 3, 4, 5, 6}


def test_truncation_advances_the_generator_alike_for_all_lengths():
    states = []
    for lengths in ([5, 8], [7, 3]):
        generator = torch.Generator().manual_seed(0)
        truncated_frames(lengths, 8, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)
