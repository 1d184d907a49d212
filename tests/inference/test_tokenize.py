"""Clips to token ids: what the table holds is what the tokenizer says of each frame."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from keyframe_settings import (
    CPU,
    HEIGHT,
    WIDTH,
    clip_flow,
    in_betweener,
    randomize,
    settings,
    tokenizer,
)

from pipeline import frames, io
from pipeline.data.datasets import ClipSet
from pipeline.inference.tokenize import _saved_parts, precompute
from pipeline.models.checkpoints import LoadedTokenizer
from pipeline.models.flow import Easing, FlowEstimator, make_context
from pipeline.models.vqgan.model import Tokenizer
from pipeline.resume import Resume

EASING = Easing(0.5, 0.2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, write_shards):
    folder = tmp_path_factory.mktemp("clips")
    write_shards(folder, HEIGHT, WIDTH)
    return folder


def table(model, shards, out, batch_size=4, parts=None, interval=60.0) -> tuple[dict, dict]:
    """(clip, flipped, reversed) -> row of train and val, and the summary."""
    loaded = LoadedTokenizer(model, settings().ingest.frame_size, "dis", EASING, "abc")
    parts = parts or out.with_name(f"{out.name}-parts")
    summary = precompute(loaded, shards, out, CPU, "float32", parts, batch_size, interval)
    rows = {}
    for split in ("train", "val"):
        for row in pq.read_table(out / f"{split}.parquet").to_pylist():
            rows[row["clip_id"], row["flipped"], row["reversed"]] = row
    return rows, summary


def ids_of(row: dict) -> np.ndarray:
    return np.array(row["tokens"]).reshape(row["n_frames"], -1)


def features_of(row: dict, channels: int) -> np.ndarray:
    flat = np.frombuffer(row["features"], np.float16)
    return flat.reshape(row["n_frames"], -1, channels)


@pytest.mark.parametrize("encoder", ["linear", "network"])
def test_rows_hold_every_frame_in_four_variants(shards, tmp_path, encoder):
    """A network says something of no difference too, but ends are given: code 0, as generated."""
    model = tokenizer({"vqgan.keyframes.encoder": encoder})
    randomize(model, 0.2)
    rows, summary = table(model, shards, tmp_path)
    train, val = ClipSet(shards, "train"), ClipSet(shards, "val")
    names = [train.clip_id(k) for k in range(len(train))]
    wanted = {(name, f, r) for name in names for f in (False, True) for r in (False, True)}
    assert rows.keys() == wanted | {(val.clip_id(k), False, False) for k in range(len(val))}
    assert summary["frames"] == 4 * sum(train.lengths) + sum(val.lengths)
    assert summary["clips_train"] == len(train) and summary["clips_val"] == len(val)
    for row in rows.values():
        ids = ids_of(row)
        assert ids.shape[1] == model.tokens_per_frame and ids[1:-1].any()
        assert not ids[0].any() and not ids[-1].any()


def test_ids_and_features_are_those_of_each_frame(shards, tmp_path):
    model = tokenizer()
    randomize(model)
    rows, _ = table(model, shards, tmp_path)
    drawing = in_betweener(model=model)
    drawing.easing = EASING
    for number in range(2):
        name, clip = ClipSet(shards, "train")[number]
        for reverse in (False, True):
            shown = clip.flip(0) if reverse else clip  # the reversed clip's own encoding
            n = len(shown)
            row = rows[name, False, reverse]
            ends = [frames.to_float(shown[k][None]) for k in (0, -1)]
            exponent = torch.tensor(EASING.exponent(shown[0], shown[-1]))
            for i in range(1, n - 1):
                time = torch.full((1, 1, 1, 1), i / (n - 1))
                context = make_context(*ends, clip_flow(shown), time, exponent)
                image = frames.to_float(shown[i][None])
                wanted = model.encode(image, context)[0].numpy()
                assert np.array_equal(ids_of(row)[i], wanted)
            with torch.no_grad():
                told = drawing._features(shown[:1], shown[-1:], [n])[0].numpy()
            stored = features_of(row, model.context_channels)
            assert np.allclose(stored, told, atol=2e-3, rtol=2e-3), "as generation computes them"


def test_mirrored_variants_are_those_of_the_mirrored_clip(shards, tmp_path):
    """Up to the flow, which is mirrored with the clip instead of found anew."""
    rows, _ = table(tokenizer(), shards, tmp_path)
    plain = [ids_of(row) for (_, flipped, _), row in rows.items() if not flipped]
    mirrored = [ids_of(row) for (_, flipped, _), row in rows.items() if flipped]
    nothing = [np.mean(np.concatenate(ids) == 0) for ids in (plain, mirrored)]
    assert abs(nothing[0] - nothing[1]) < 0.2


def test_the_size_of_batches_changes_nothing(shards, tmp_path):
    model = tokenizer()
    one, _ = table(model, shards, tmp_path / "one", batch_size=1)
    many, _ = table(model, shards, tmp_path / "many", batch_size=64)
    assert all(one[key]["tokens"] == many[key]["tokens"] for key in one)


def test_without_context_clips_come_as_they_are(shards, tmp_path):
    config = settings({"vqgan.context": "none", "vqgan.autoencoder.channels": 16})
    torch.manual_seed(0)
    model = Tokenizer(config.vqgan, HEIGHT, WIDTH).eval()
    rows, _ = table(model, shards, tmp_path)
    assert not any(flipped or reverse for _, flipped, reverse in rows)
    name, clip = ClipSet(shards, "train")[0]
    wanted = model.encode(frames.to_float(clip)).numpy()
    assert np.array_equal(ids_of(rows[name, False, False]), wanted)
    assert all(row["features"] == b"" for row in rows.values())


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_run_continues_and_ends_with_the_same_bytes(
    shards, tmp_path, monkeypatch, damaged
):
    """Killed twice; after a damaged part, which is made again, others follow."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    model, resume = tokenizer(), Resume("token_precompute", {}, [])
    randomize(model)
    _, summary = table(model, shards, tmp_path / "whole")
    estimate, seen = FlowEstimator.__call__, []

    def dies(self, *ends):
        seen.append(1)
        if len(seen) in (4, 6):
            raise SystemExit("killed")
        return estimate(self, *ends)

    monkeypatch.setattr(FlowEstimator, "__call__", dies)
    for _ in range(2):
        with pytest.raises(SystemExit), resume.parts() as parts:
            table(model, shards, tmp_path / "out", parts=parts, interval=0.0)
        if damaged and len(seen) == 4:
            second = sorted(parts.rglob("*.parquet"))[1]
            second.write_bytes(second.read_bytes()[:-9])
    with resume.parts() as parts:
        again = table(model, shards, tmp_path / "out", parts=parts, interval=1e9)[1]
    assert again == summary
    for split in ("train", "val"):
        content = [(tmp_path / name / f"{split}.parquet").read_bytes() for name in ("whole", "out")]
        assert content[0] == content[1]
    resume.clear()
    assert not (tmp_path / ".resume/token_precompute").exists()


def test_parts_behind_a_damaged_one_count_where_they_begin_at_its_end(tmp_path):
    row = {"clip_id": "a", "flipped": False, "reversed": False}
    row |= {"n_frames": 1, "tokens": [1], "features": b""}
    for name, n_rows in (("000000-000010", 10), ("000010-000013", 3), ("000020-000030", 10)):
        io.write_table([row] * n_rows, io.TOKENS, tmp_path / f"{name}.parquet")
    assert [path.stem for path in _saved_parts(tmp_path, 1)[0]] == [
        "000000-000010",
        "000010-000013",
    ]
    assert _saved_parts(tmp_path, 1)[1] == 13
