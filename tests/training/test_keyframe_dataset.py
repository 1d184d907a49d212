"""Frames with their keyframes: a row is the same in any company, and its flow fits its frames."""

from pathlib import Path

import numpy as np
import pytest
import torch
from keyframe_settings import CPU, HEIGHT, WIDTH

from pipeline import frames
from pipeline.data.datasets import ClipSet
from pipeline.models.flow import Flow, FlowEstimator, warp
from pipeline.training import keyframe_dataset
from pipeline.training.keyframe_dataset import KeyframeSet, _augmented

DIS = FlowEstimator("dis")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_shards):
    path = tmp_path_factory.mktemp("clips")
    write_shards(path, HEIGHT, WIDTH)
    return path


@pytest.fixture(scope="module")
def train(folder):
    return KeyframeSet(folder, "train", DIS, spans_per_clip=3, seed=4)


def test_rows_are_the_inner_frames_alone(folder, train):
    lengths = ClipSet(folder, "train").lengths
    wanted = [(clip, frame) for clip, n in enumerate(lengths) for frame in range(1, n - 1)]
    assert train.rows == wanted and len(train) == sum(n - 2 for n in lengths)
    assert train.name(0) == "train-00 frame 1"
    test = KeyframeSet(folder, "test", DIS)
    assert [row for row in test.rows if row[0] == 3] == [(3, 1)], "three frames have one between"


def test_spans_lie_in_their_clip_and_hold_their_frame(train, monkeypatch):
    for clip, numbers in train.of_clip.items():
        n = train.clips.lengths[clip]
        whole, *shorter = [train.spans[k] for k in numbers]
        assert whole == (clip, 0, n - 1) and len(shorter) == 3
        assert all(s.clip == clip and 0 <= s.first < s.last < n for s in shorter)
        assert all(s.last - s.first + 1 >= min(n, 5) for s in shorter)
    chosen, find_flow = set(), train._flow

    def flow(number: int):
        chosen.add(number)
        return find_flow(number)

    monkeypatch.setattr(train, "_flow", flow)
    for epoch in range(4):
        batch = train.batch(range(len(train)), CPU, epoch)
        assert ((batch.context.time > 0) & (batch.context.time < 1)).all()
    assert len(chosen) > len(train.of_clip), "shorter spans are used too"


def test_without_an_epoch_rows_are_as_they_are(folder):
    val = KeyframeSet(folder, "val", DIS)
    rows = list(range(len(val)))
    images, context = val.batch(rows, CPU)
    for k, row in enumerate(rows):
        clip, frame = val.rows[row]
        view = frames.to_float(ClipSet(folder, "val")[clip].frames)
        assert torch.equal(images[k], view[frame])
        assert torch.equal(context.first[k], view[0]) and torch.equal(context.last[k], view[-1])
        assert float(context.time[k]) == pytest.approx(frame / (len(view) - 1))
    again = val.batch(rows, CPU)
    assert torch.equal(again.images, images) and torch.equal(again.context.eased, context.eased)


def test_the_easing_looks_at_few_clips_spread_over_all(train):
    clips, flows = train.whole_clips(len(train.of_clip))
    assert len(clips) == len(flows) == len(train.of_clip)
    fewer, their_flows = train.whole_clips(2)
    step = -(-len(clips) // 2)
    assert len(fewer) == len(their_flows) == len(clips[::step]) <= 2
    assert all(map(torch.equal, fewer, clips[::step]))
    pairs = zip(their_flows, flows[::step], strict=True)
    assert all(torch.equal(flow.pack(), same.pack()) for flow, same in pairs)


def test_flow_lies_in_a_file_that_nobody_finds_later(folder, tmp_path):
    flows = KeyframeSet(folder, "train", DIS, workers=1).flows
    assert flows.dtype == torch.float16 and flows.shape[1:] == (4, HEIGHT, WIDTH)
    maps = Path("/proc/self/maps").read_text()
    assert f"{tmp_path}/.store/" in maps, "mapped: memory that the system takes back"
    assert list((tmp_path / ".store").iterdir()) == []


def test_flow_of_a_killed_run_is_not_computed_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(keyframe_dataset, "FLOW_CHUNK", 2)
    wanted, saved = KeyframeSet(folder, "train", DIS, 3).flows, tmp_path / "run"
    computed, compute = 0, FlowEstimator.pairs

    def pairs(self, some, workers=1):
        nonlocal computed
        if computed == 4:
            raise KeyboardInterrupt
        computed += len(some)
        return compute(self, some, workers)

    monkeypatch.setattr(FlowEstimator, "pairs", pairs)
    with pytest.raises(KeyboardInterrupt):
        KeyframeSet(folder, "train", DIS, 3, saved=saved)
    with (saved / "flow_train.float16").open("ab") as file:
        file.write(b"half a row")
    computed = 5
    for _ in range(2):
        assert torch.equal(KeyframeSet(folder, "train", DIS, 3, saved=saved).flows, wanted)
        assert computed == 1 + len(wanted), "the others, once"


def test_without_augmentation_rows_are_of_several_spans_and_not_moved(folder, train):
    rows, times = list(range(len(train))), []
    for epoch in range(4):
        batch = train.batch(rows, CPU, epoch, flip=False)
        assert torch.equal(batch.images, train.batch(rows, CPU).images)
        times.append(batch.context.time)
    assert not all(torch.equal(times[0], other) for other in times), "other keyframes"


@pytest.mark.parametrize("shift", [False, True])
def test_a_row_is_the_same_in_any_company(train, shift):
    rows = [5, 0, 11, 3]
    together = train.batch(rows, CPU, 2, shift)
    for k, row in enumerate(rows):
        alone = train.batch([row], CPU, 2, shift)
        assert torch.equal(alone.images[0], together.images[k])
        for one, both in zip(alone.context, together.context, strict=True):
            assert both is None or torch.allclose(one[0], both[k], atol=1e-5)


def test_another_epoch_or_seed_shows_a_row_otherwise(folder, train):
    rows = list(range(len(train)))
    images = train.batch(rows, CPU, 0, True).images
    assert not torch.equal(images, train.batch(rows, CPU, 1, True).images)
    other = KeyframeSet(folder, "train", DIS, spans_per_clip=3, seed=5)
    assert not torch.equal(images, other.batch(rows, CPU, 0, True).images)
    same = KeyframeSet(folder, "train", DIS, spans_per_clip=3, seed=4)
    assert torch.equal(images, same.batch(rows, CPU, 0, True).images)


def warp_error(images: torch.Tensor, flow: Flow) -> float:
    """How far keyframes `3 H W 3` are from each other along their flow, both ways."""
    first, _, last = frames.to_float(images)[:, None]
    forth = (warp(last, flow.forward) - first).abs().mean()
    return float(forth + (warp(first, flow.backward) - last).abs().mean())


def test_augmentation_moves_flow_and_time_with_the_frames(train):
    number = train.of_clip[0][0]
    view = train.clips.view(0)
    images = torch.from_numpy(view[[0, 2, 6]].copy())
    flow = train._flow(number)
    plain = warp_error(images, flow)
    kinds = set()
    for seed in range(12):
        changed, moved, time = _augmented(images, flow, 2 / 6, np.random.default_rng(seed), False)
        backwards = time != 2 / 6
        assert time == pytest.approx(4 / 6 if backwards else 2 / 6)
        restored = changed.flip(0) if backwards else changed
        mirrored = not torch.equal(restored, images)
        assert torch.equal(restored.flip(2) if mirrored else restored, images)
        assert warp_error(changed, moved) == pytest.approx(plain, abs=2e-3)
        kinds.add((backwards, mirrored))
    assert len(kinds) == 4, "each alone, both, and neither"
    shifted, moved, _ = _augmented(images, flow, 2 / 6, np.random.default_rng(0), True)
    assert warp_error(shifted, moved) < 2 * plain + 0.02


def test_kept_flow_is_precise(train):
    """float16: small against a pixel, for flow of some pixels."""
    for number, span in enumerate(train.spans):
        view = train.clips.view(span.clip)
        exact = DIS(view[span.first].copy(), view[span.last].copy())
        error = (exact.pack() - train._flow(number).pack()).abs()
        assert error.shape[1] == 4 and error.max() < 0.02
