"""Evaluation: its files, the names that people rely on, the same bytes twice, and true numbers."""

import imageio_ffmpeg
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.data.datasets import ClipSet
from pipeline.errors import UserError
from pipeline.evaluation import methods, run
from pipeline.evaluation.metrics.image import psnr, ssim
from pipeline.evaluation.report import figures
from pipeline.evaluation.run import Evaluation, choose_examples, evaluate
from pipeline.io import read_json
from pipeline.resume import Resume

BASELINES = {"black", "hold_first", "hold_nearest", "cross_fade", "round_trip"}
BASELINES |= {"untrained", "without_codes"}


def clip_table(motion: dict[str, float]) -> pd.DataFrame:
    """Rows as of clips.parquet; the clips belong to two videos in turn."""
    rows = [
        {"clip_id": clip_id, "video_id": f"video-{k % 2}", "motion": value}
        for k, (clip_id, value) in enumerate(motion.items())
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def done(tiny, untrained, write_shards, tmp_path_factory):
    """Two evaluations of one model: the folder with shards/, one/ and two/, and details.json."""
    folder, settings = tmp_path_factory.mktemp("evaluation"), tiny()
    clips = clip_table(write_shards(folder / "shards"))
    history = folder / "history.csv"
    history.write_text("step,total\n1,2.0\n2,1.5\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "BATCH_SIZE", 2)
        for name in ("one", "two"):
            model, out = untrained(settings), folder / name
            summary = evaluate(model, folder / "shards", clips, settings, out, {"A": history})
    assert summary["counts"] == {"clips": 4, "clips_high_motion": 2, "videos": 2}
    assert summary["beats"] == {"cross_fade": 0}
    return folder, read_json(folder / "one/details.json")


def test_details_hold_all_numbers(done):
    _, details = done
    groups = {f"{name}{suffix}" for suffix in ("", "_high_motion")
              for name in ("inbetween", "baselines", "truth")}  # fmt: skip
    numbers = {"tokenizer", "paired_high_motion", "beats", "thesis_metrics"}
    words = {"verdict", "explanations", "left_out", "warnings", "networks"}
    assert set(details) == groups | numbers | words
    assert set(details["tokenizer"]) == {"psnr", "ssim", "codebook_usage", "perplexity", "n"}
    for suffix, n in (("", 4), ("_high_motion", 2)):
        assert set(details[f"baselines{suffix}"]) == BASELINES
        for row in (details[f"inbetween{suffix}"], *details[f"baselines{suffix}"].values()):
            assert row["n"] == n and 0 < row["psnr"] <= 60 and -1 <= row["ssim"] <= 1
            assert 0 <= row["line_chamfer"] <= 10
    assert details["inbetween"]["diversity"] >= 0
    assert 0 < details["tokenizer"]["codebook_usage"] <= 1
    assert 1 <= details["tokenizer"]["perplexity"] <= 16
    assert details["tokenizer"]["n"] == 4 + 3 + 3 + 2
    assert "4 clips fill no batch of 8" in details["left_out"]["thesis_metrics.test"]
    assert details["verdict"].startswith(
        "No verdict: the 2 test clips with most motion come from 2"
    )


def test_two_runs_give_the_same_bytes(done):
    folder, _ = done
    files = [path.relative_to(folder / "one") for path in (folder / "one").rglob("*.*")]
    assert len(files) > 15
    for name in files:
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes(), name


@pytest.mark.parametrize("clip", [3, 4, 6])
def test_a_killed_run_continues_and_ends_with_the_same_bytes(
    done, tiny, untrained, monkeypatch, tmp_path, clip
):
    """At one of four clips of test in batches of two, or of train, of the thesis' metrics."""
    folder, _ = done
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(run, "BATCH_SIZE", 2)
    changes = {"evaluate.thesis_metrics": "full"} if clip > 4 else {}
    settings, motion = tiny(changes), {f"test-{k:02d}": float(k) for k in range(4)}
    monkeypatch.setattr(run, "VideoFeatures", lambda device: None)
    generate, shown = methods.Methods.generate, []

    def dying(self, batch, n_samples):
        for generated in generate(self, batch, n_samples):
            shown.append(generated.clip.clip_id)
            if len(shown) == clip:
                raise SystemExit("killed")
            yield generated

    monkeypatch.setattr(methods.Methods, "generate", dying)

    def again(name: str, resume: Resume | None) -> None:
        shards, clips = folder / "shards", clip_table(motion)
        out = tmp_path / name
        evaluate(untrained(settings), shards, clips, settings, out, {}, resume)

    resume = Resume("evaluate", {}, [])
    with pytest.raises(SystemExit):
        again("out", resume)
    assert not (tmp_path / "out").exists()
    before = len(shown)
    again("out", resume)
    assert len(shown) - before == {3: 2, 4: 2, 6: 4}[clip], "whole batches that were done are not"
    again("whole", None)
    for path in [path for path in (tmp_path / "whole").rglob("*.*") if path.is_file()]:
        name = path.relative_to(tmp_path / "whole")
        assert (tmp_path / "out" / name).read_bytes() == path.read_bytes(), name


def test_a_baseline_and_the_round_trip_by_another_way(done, tiny, untrained):
    """Mean over inner frames, then over clips; given frames are not scored."""
    folder, content = done
    model, clips = untrained(tiny()), ClipSet(folder / "shards", "test")
    held, tripped, high = [], [], []
    for row in range(len(clips)):
        clip = clips[row].frames
        inner = clip[1:-1]
        held.append(psnr(clip[:1].expand_as(inner).contiguous(), inner).mean())
        tripped.append(ssim(model.round_trip(clip)[0], inner).mean())
    high = held[2:]  # motion is the clip's number
    assert content["baselines"]["hold_first"]["psnr"] == pytest.approx(
        float(sum(held)) / 4, rel=1e-5
    )
    found = content["baselines_high_motion"]["hold_first"]["psnr"]
    assert found == pytest.approx(float(sum(high)) / 2, rel=1e-5)
    assert content["baselines"]["round_trip"]["ssim"] == pytest.approx(
        float(sum(tripped)) / 4, rel=1e-5
    )


def test_a_held_frame_moves_nothing_and_repeats_everything(done):
    _, content = done
    held = content["baselines"]["hold_first"]
    assert held["motion_ratio"] == 0 and held["repeated"] == 1 and held["flicker"] == 0
    assert content["baselines"]["round_trip"]["motion_ratio"] > 0


def test_tables_have_a_row_a_thing(done):
    folder, content = done
    clips = pd.read_csv(folder / "one/clips.csv")
    assert len(clips) == 4 * (1 + len(BASELINES))
    assert set(clips.method) == BASELINES | {"model"}
    assert clips.groupby("clip_id").n_frames.first().tolist() == [7, 5, 6, 3]
    assert set(clips.video_id) == {"video-0", "video-1"}
    groups = pd.read_csv(folder / "one/groups.csv").set_index(["group", "method"])
    assert groups.loc[("all", "model"), "psnr"] == pytest.approx(
        content["inbetween"]["psnr"], abs=1e-4
    )
    paired = pd.read_csv(folder / "one/paired.csv")
    assert set(paired.baseline) == BASELINES and set(paired.group) == {"all", "high"}
    codes = pd.read_csv(folder / "one/codebook.csv")
    assert len(codes) == 16 and codes.share.sum() == pytest.approx(1, abs=1e-3)


def test_numbers_by_frame_count_the_clips_that_have_it(done):
    folder, _ = done
    table = pd.read_csv(folder / "one/by_frame.csv").set_index(["method", "frame"])
    assert table.loc["model"].n.tolist() == [4, 3, 3, 2, 1]  # clips of 7, 5, 6 and 3 frames
    clips = pd.read_csv(folder / "one/clips.csv")
    later = table.loc["black"]
    total = (later.psnr * later.n).sum()
    of_rows = clips[clips.method == "black"]
    assert total == pytest.approx((of_rows.psnr * (of_rows.n_frames - 2)).sum(), abs=1e-2)


def test_figures_and_page(done):
    folder, _ = done
    with Image.open(folder / "one/strip.png") as strip:
        assert strip.width > 200 and strip.height > 2 * 4 * 96, "two clips of four rows"
    names = {path.name for path in (folder / "one/videos").iterdir()}
    assert names == {f"0{k}_{what}" for k in (1, 2) for what in
                     ("compare.mp4", "generated.mp4", "strip.png")}  # fmt: skip
    # the third with most motion: clips 2 and 3, of 6 and 3 frames
    for name, n in (("01_generated", 6), ("02_generated", 3), ("01_compare", 6 + figures.PAUSE)):
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(folder / f"one/videos/{name}.mp4"))
        assert frames == n
    page = (folder / "one/report.html").read_text()
    for words in ("Third with most motion", "n_frames_before", "hold nearest", "No verdict"):
        assert words in page


def test_a_model_that_draws_the_truth_is_perfect(
    tiny, untrained, write_shards, tmp_path, monkeypatch
):
    clips = clip_table(write_shards(tmp_path / "shards"))
    test = ClipSet(tmp_path / "shards", "test")
    truth = iter([test[row].frames for row in range(len(test))])
    model = untrained(tiny())
    monkeypatch.setattr(model, "generate", lambda first, *_: [next(truth) for _ in first])
    monkeypatch.setattr(run, "BATCH_SIZE", 3)
    changes = {"evaluate.n_samples": 0, "evaluate.baselines": ["black"]}
    settings = tiny(changes | {"evaluate.thesis_metrics": "none"})
    evaluate(model, tmp_path / "shards", clips, settings, tmp_path / "out")
    content = read_json(tmp_path / "out/details.json")
    found = content["inbetween"]
    assert found["psnr"] == 60.0 and found["line_chamfer"] == 0.0 and found["n"] == 4
    assert found["ssim"] == pytest.approx(1.0, abs=1e-5)
    assert found["motion_ratio"] == found["control_point_ratio"] == pytest.approx(1.0)
    assert found["motion_error"] == 0.0
    assert "diversity" not in found and "thesis_metrics" not in content


def test_without_context_there_is_nothing_to_draw_without_codes(
    tiny, untrained, write_shards, tmp_path
):
    clips = clip_table(write_shards(tmp_path / "shards"))
    settings = tiny({"vqgan.context": "none", "evaluate.n_samples": 0})
    evaluate(untrained(settings), tmp_path / "shards", clips, settings, tmp_path / "out")
    content = read_json(tmp_path / "out/details.json")
    assert set(content["baselines"]) == BASELINES - {"untrained", "without_codes"}


def test_a_model_that_draws_no_numbers_is_named(tiny, untrained, write_shards, tmp_path):
    clips = clip_table(write_shards(tmp_path / "shards"))
    model = untrained(tiny())
    with torch.no_grad():
        model.tokenizer.quantizer.codebook.fill_(float("nan"))
    with pytest.raises(UserError, match=r"test-00, test-01.*: frame 1 or later is NaN .* diverged"):
        evaluate(model, tmp_path / "shards", clips, tiny(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_size_is_named(tiny, untrained, write_shards, tmp_path):
    clips = clip_table(write_shards(tmp_path / "shards", 32, 64))
    with pytest.raises(UserError, match="clips of 32x64 pixels, the models are of 16x32"):
        evaluate(untrained(tiny()), tmp_path / "shards", clips, tiny(), tmp_path / "out")


def test_a_clip_that_the_table_does_not_know_is_named(tiny, untrained, write_shards, tmp_path):
    clips = clip_table(write_shards(tmp_path / "shards"))
    known = clips[clips.clip_id != "test-02"]
    with pytest.raises(UserError, match="clip test-02 stands in the shards and not in clips"):
        Evaluation(untrained(tiny()), tmp_path / "shards", known, tiny(), tmp_path / "out")


def test_shown_clips_are_spread_over_the_third_with_most_motion():
    about = pd.DataFrame({"group": ["low", "high", "high", "high"]}, index=list("abcd"))
    assert choose_examples(about, 1) == {"b"}
    assert choose_examples(about, 2) == {"b", "c"} and choose_examples(about, 9) == {"b", "c", "d"}
