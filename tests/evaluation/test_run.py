"""Evaluation: its files, the names that people rely on, the same bytes twice, and true numbers."""

import json

import imageio_ffmpeg
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline import evaluation
from pipeline.metrics.image import psnr, ssim
from pipeline.shards.loaders import ClipSet

BASELINES = {"black", "hold_first", "hold_nearest", "cross_fade", "round_trip"}


@pytest.fixture(scope="module")
def done(tiny, untrained, write_shards, tmp_path_factory):
    """Two evaluations of one model: the folder with shards/, one/ and two/, and the content."""
    folder, settings = tmp_path_factory.mktemp("evaluation"), tiny({"train.layout": "clip"})
    motion = pd.Series(write_shards(folder / "shards"))
    for name in ("one", "two"):
        content = evaluation.evaluate(
            untrained(settings), folder / "shards", motion, settings.evaluate, folder / name
        )
    return folder, content


def test_metrics_have_the_names_of_the_contract(done):
    folder, content = done
    written = json.loads((folder / "one/metrics.json").read_text())
    assert set(written) == set(content) == {
        "tokenizer", "inbetween", "inbetween_high_motion", "baselines", "baselines_high_motion",
    }  # fmt: skip
    assert set(written["tokenizer"]) == {"psnr", "ssim", "codebook_usage", "n"}
    for suffix, n in (("", 4), ("_high_motion", 2)):
        assert set(written[f"baselines{suffix}"]) == BASELINES
        assert set(written[f"inbetween{suffix}"]) == {"psnr", "ssim", "n"}
        for row in (written[f"inbetween{suffix}"], *written[f"baselines{suffix}"].values()):
            assert row["n"] == n and 0 < row["psnr"] <= 60 and -1 <= row["ssim"] <= 1
    assert 0 < written["tokenizer"]["codebook_usage"] <= 1
    assert written["tokenizer"]["n"] == 4 + 3 + 3 + 2


def test_two_runs_give_the_same_bytes(done):
    folder, _ = done
    for name in ("metrics.json", "strip.png", "clips.csv", "reconstruction.png"):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes(), name


def test_a_baseline_and_the_round_trip_by_another_way(done, tiny, untrained):
    """Mean over inner frames, then over clips; given frames are not scored."""
    folder, content = done
    model, clips = untrained(tiny({"train.layout": "clip"})), ClipSet(folder / "shards", "test")
    held, tripped, high = [], [], []
    for row in range(len(clips)):
        clip = clips[row].frames
        inner = clip[1:-1]
        held.append(psnr(clip[:1].expand_as(inner).contiguous(), inner).mean())
        tripped.append(ssim(model.round_trip(inner)[0], inner).mean())
    high = held[2:]  # motion is the clip's number
    assert content["baselines"]["hold_first"]["psnr"] == pytest.approx(float(sum(held)) / 4)
    found = content["baselines_high_motion"]["hold_first"]["psnr"]
    assert found == pytest.approx(float(sum(high)) / 2)
    assert content["baselines"]["round_trip"]["ssim"] == pytest.approx(float(sum(tripped)) / 4)


def test_a_row_a_clip_and_candidate(done):
    folder, _ = done
    table = pd.read_csv(folder / "one/clips.csv")
    assert len(table) == 4 * (1 + len(BASELINES)) and set(table.candidate) == BASELINES | {"model"}
    assert table.groupby("clip_id").n_frames.first().tolist() == [7, 5, 6, 3]


def test_pictures_and_videos_for_people(done):
    folder, _ = done
    with Image.open(folder / "one/strip.png") as strip:
        assert strip.width > 200 and strip.height > 2 * 3 * 96, "two clips of three rows"
    names = sorted(path.name for path in (folder / "one/videos").iterdir())
    assert names == [f"0{k}_{what}.mp4" for k in (1, 2) for what in ("compare", "generated")]
    # the third with most motion: clips 2 and 3, of 6 and 3 frames
    for name, n in (("01_generated", 6), ("02_generated", 3), ("01_compare", 6)):
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(folder / f"one/videos/{name}.mp4"))
        assert frames == n


def test_a_model_that_draws_the_truth_is_perfect(
    tiny, untrained, write_shards, tmp_path, monkeypatch
):
    motion = pd.Series(write_shards(tmp_path / "shards"))
    clips = ClipSet(tmp_path / "shards", "test")
    truth = iter([clips[row].frames for row in range(len(clips))])
    model = untrained(tiny())
    monkeypatch.setattr(model, "draw", lambda first, *_: [next(truth) for _ in first])
    settings = tiny({"evaluate.batch_size": 3}).evaluate
    content = evaluation.evaluate(model, tmp_path / "shards", motion, settings, tmp_path / "out")
    assert content["inbetween"]["psnr"] == 60.0
    assert content["inbetween"]["ssim"] == pytest.approx(1.0, abs=1e-5)
    assert content["inbetween"]["n"] == 4


def test_shown_clips_are_spread_over_the_third_with_most_motion(tmp_path, write_shards):
    motion = pd.Series(write_shards(tmp_path))
    clips = ClipSet(tmp_path, "train")
    assert evaluation._shown(clips, motion, 1) == {2}
    assert evaluation._shown(clips, motion, 2) == evaluation._shown(clips, motion, 9) == {2, 3}
    assert torch.is_tensor(clips[0].frames)
