"""The thesis' metrics on an evaluation: which frames of which clips, and what is left out."""

import numpy as np
import pytest
import torch

from pipeline.data.datasets import Clip
from pipeline.evaluation.methods import GeneratedClip
from pipeline.evaluation.metrics.thesis_metrics import thesis_scores
from pipeline.evaluation.summary import Remarks
from pipeline.evaluation.thesis_protocol import ThesisProtocol, choose_frames


class Clips:
    """As ClipSet: clips of given lengths, named by their number."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = list(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def clip_id(self, row: int) -> str:
        return f"c{row}"


def darker(images: torch.Tensor) -> torch.Tensor:
    """In the place of the tokenizer: a round trip that loses a little."""
    return (images.float() * 0.9).byte()


@pytest.fixture
def clips(moving) -> list[Clip]:
    return [Clip(f"c{k}", moving(5 + k % 3, seed=k)) for k in range(19)]


def protocol(clips: list[Clip], repetitions: int) -> ThesisProtocol:
    set_ = Clips(*(len(clip.frames) for clip in clips))
    return ThesisProtocol(
        "test", choose_frames(set_, repetitions, seed=1), repetitions, darker, None
    )


def test_full_batches_cut_to_their_shortest():
    chosen = choose_frames(Clips(*[5, 9, 7] * 7), repetitions=3, seed=1)
    for repetition in range(3):
        frames = {k: its[repetition] for k, its in chosen.items() if repetition in its}
        assert len(frames) == 16, "two full batches of 8; the rest of five is left out"
        for clip_id, its in frames.items():
            last = [5, 9, 7][int(clip_id[1:]) % 3] - 1
            assert its[0] == 0 and its[-1] == last and sorted(set(its)) == its
    assert len({tuple(sorted(k for k, its in chosen.items() if r in its)) for r in range(3)}) == 3


def test_mean_over_the_clips_of_a_repetition(clips):
    measured = protocol(clips, 2)
    for clip in clips:
        faded = torch.cat([darker(clip.frames[:-1]), clip.frames[-1:]])
        measured.add(GeneratedClip(clip, {"model": faded}, []))
    numbers = measured.numbers(Remarks())["model"]
    means = []
    for repetition in range(2):
        of_clips = [
            float(thesis_scores(darker(clip.frames)[its[1:]], clip.frames[its[1:]])["psnr"].mean())
            for clip in clips
            if (its := measured.chosen[clip.clip_id].get(repetition))
        ]
        means.append(np.mean(of_clips))
    assert numbers["psnr"]["mean"] == pytest.approx(np.mean(means), rel=1e-5)
    assert numbers["psnr"]["deviation"] == pytest.approx(np.std(means, ddof=1), rel=1e-3)
    assert set(numbers) == {"psnr", "ssim"} and numbers["ssim"]["n"] == 16


def test_black_stays_black_and_perfect_is_left_out_with_its_reason(clips):
    measured, notes = protocol(clips, 1), Remarks()
    for clip in clips:
        drawn = {"black": torch.zeros_like(clip.frames), "model": clip.frames}
        measured.add(GeneratedClip(clip, drawn, []))
    numbers = measured.numbers(notes)
    assert numbers["black"]["psnr"]["mean"] < 20 and numbers["black"]["psnr"]["deviation"] == 0
    assert "psnr" not in numbers["model"] and "ssim" in numbers["model"]
    assert "infinitely good" in notes.left_out["thesis_metrics.test.psnr of model"]


def test_too_few_clips_are_said(clips):
    measured, notes = protocol(clips[:7], 5), Remarks()
    for clip in clips[:7]:
        measured.add(GeneratedClip(clip, {"model": darker(clip.frames)}, []))
    assert measured.numbers(notes) == {}
    assert "7 clips fill no batch of 8" in notes.left_out["thesis_metrics.test"]
