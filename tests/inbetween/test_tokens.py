"""Clips to codes: every frame's own, in order, whatever the batch."""

import pytest
import torch

from pipeline import schema
from pipeline.frames import to_float
from pipeline.inbetween.tokens import encode_clip, precompute
from pipeline.motion import frames_between
from pipeline.shards.loaders import ClipSet

CPU = torch.device("cpu")


@pytest.fixture
def tokenizer(tiny, untrained):
    return untrained(tiny()).tokenizer


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_codes_of_a_clip_do_not_depend_on_the_batch(tokenizer, moving, batch_size):
    clip = moving(7)
    codes = encode_clip(tokenizer, clip, batch_size, CPU, "float32")
    assert codes.shape == (7, 32)
    for frame, its_codes in zip(clip, codes, strict=True):
        assert torch.equal(tokenizer.encode(to_float(frame[None]))[0], its_codes)


def test_tables_hold_every_clip(tokenizer, write_shards, tmp_path):
    write_shards(tmp_path / "shards")
    summary = precompute(tokenizer, tmp_path / "shards", tmp_path, 4, CPU, "float32")
    used, frames = set(), 0
    for split in schema.SPLITS:
        clips = ClipSet(tmp_path / "shards", split)
        table = schema.read_table(tmp_path / f"{split}.parquet", schema.TOKENS)
        assert summary[f"clips_{split}"] == len(table) == len(clips)
        for row, found in enumerate(table.itertuples()):
            clip = clips[row]
            codes = encode_clip(tokenizer, clip.frames, 2, CPU, "float32")
            assert found.clip_id == clip.clip_id and found.n_frames == len(clip.frames)
            assert found.tokens.dtype == "uint16"
            assert found.tokens.tolist() == codes.flatten().tolist()
            first, last = clip.frames[0], clip.frames[-1]
            moved = torch.cat([clip.frames[:1], frames_between(first, last, len(clip.frames))])
            moved = encode_clip(tokenizer, torch.cat([moved, last[None]]), 2, CPU, "float32")
            assert found.moved.tolist() == moved.flatten().tolist()
            used |= set(found.tokens.tolist())
            frames += len(codes)
    assert summary["frames"] == frames
    assert summary["codebook_usage"] == pytest.approx(len(used) / 16)
