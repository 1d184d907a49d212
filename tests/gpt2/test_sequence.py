"""Sequences: what remains, what is seen (thesis, Table 6), what counts as a target, padding."""

import pytest
import torch

from pipeline.gpt2.sequence import (
    is_target,
    pad,
    remaining,
    truncate,
    visible_blocks,
    window,
)

# Frames seen beside the given ones when frame i+1 is predicted, i = 0..4, by M.
WINDOWS = {
    1: [[0], [1], [2], [3], [4]],
    2: [[0], [0, 1], [1, 2], [2, 3], [3, 4]],
    8: [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]],
}
# Blocks that blocks 0..5 see: 0 is the last frame, 1 the first, b is frame b-1.
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


@pytest.mark.parametrize("before", WINDOWS)
def test_the_table_of_the_thesis(before):
    assert [list(window(i, before)) for i in range(5)] == WINDOWS[before]
    assert list(window(30, before)) == list(range(31 - before, 31))


@pytest.mark.parametrize("before", BLOCKS)
def test_blocks_see_the_given_frames_their_window_and_themselves(before):
    assert [visible_blocks(block, before) for block in range(6)] == BLOCKS[before]


def test_targets_are_the_frames_between_the_ends():
    i = torch.arange(7)
    assert is_target(torch.tensor(5), i).tolist() == [False, True, True, True] + [False] * 3
    assert is_target(torch.tensor(3), i).nonzero().flatten().tolist() == [1]


def test_padding_keeps_clips_lengths_and_their_own_last_frame():
    clips = [torch.full((3, 2), 5), torch.full((5, 2), 7)]
    clips[0][-1] = 6
    padded, lengths, last = pad(clips)
    assert padded.shape == (2, 5, 2) and lengths.tolist() == [3, 5]
    assert torch.equal(padded[0, :3], clips[0]) and torch.equal(padded[1], clips[1])
    assert not padded[0, 3:].any() and last.tolist() == [[6, 6], [7, 7]]


def test_truncation_cuts_every_clip_where_the_shortest_ends():
    clips = [torch.arange(4)[:, None], 10 + torch.arange(6)[:, None]]
    frames, lengths, last = truncate(clips)
    assert frames[..., 0].tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert lengths.tolist() == [4, 4] and last.tolist() == [[3], [13]]
