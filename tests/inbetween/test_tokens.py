"""Clips to codes: every frame's own, in order, whatever the batch."""

import pytest
import torch
from pipeline.easing import EVEN, Easing, load_easing
from pipeline.inbetween.tokens import encode_clip, precompute
from pipeline.motion import moved_clip

from pipeline import schema
from pipeline.frames import to_float
from pipeline.params import TokenPrecompute
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


def test_tables_hold_every_clip(tokenizer, write_shards, tmp_path, monkeypatch):
    write_shards(tmp_path / "shards")
    pace = Easing(1.5, 0.2)
    monkeypatch.setattr("pipeline.inbetween.tokens.fit", lambda clips: (pace, 0.25))
    rules = TokenPrecompute(batch_size=4, easing=True)
    summary = precompute(tokenizer, tmp_path / "shards", tmp_path, rules, CPU, "float32")
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
            exponent = pace.exponent(first, last)
            moved = moved_clip(first, last, len(clip.frames), exponent=exponent)
            moved = encode_clip(tokenizer, moved, 2, CPU, "float32")
            assert found.moved.tolist() == moved.flatten().tolist()
            used |= set(found.tokens.tolist())
            frames += len(codes)
    assert summary["frames"] == frames and load_easing(tmp_path) == pace
    assert summary["easing"] == {"pace": 1.5, "by_change": 0.2, "train_psnr_gain": 0.25}
    assert summary["codebook_usage"] == pytest.approx(len(used) / 16)


def test_the_pace_is_that_of_the_train_split_or_even(tokenizer, write_shards, tmp_path):
    write_shards(tmp_path / "shards")
    seen = []

    def fit(clips):
        seen.extend(clips)
        return Easing(2.0), 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.inbetween.tokens.fit", fit)
        for easing, wanted in ((True, Easing(2.0)), (False, EVEN)):
            rules = TokenPrecompute(batch_size=4, easing=easing)
            precompute(tokenizer, tmp_path / "shards", tmp_path, rules, CPU, "float32")
            assert load_easing(tmp_path) == wanted
    train = ClipSet(tmp_path / "shards", "train")
    assert len(seen) == len(train), "once each, and never when it is off"
    assert all(torch.equal(a, train[k].frames) for k, a in enumerate(seen))
