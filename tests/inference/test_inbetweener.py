"""Clips from keyframes: before training they are the eased warp, whatever their size and length."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from keyframe_settings import (
    CPU,
    HEIGHT,
    WIDTH,
    in_betweener,
    randomize,
    settings,
    square_clip,
    tokenizer,
)
from tiny_settings import decoding_with

from pipeline.errors import UserError
from pipeline.inference.inbetweener import InBetweener, NotFinite
from pipeline.models.gpt.model import FrameGpt, GptConfig
from pipeline.models.vqgan.model import Tokenizer

TESTS = Path(__file__).parents[1]


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, height, width, 3), generator=generator).byte()


def trained_like(changes: dict | None = None) -> InBetweener:
    """Networks with random weights that choose all codes, and correct what they start from."""
    model = in_betweener(changes)
    randomize(model.tokenizer)
    torch.nn.init.normal_(model.gpt.table, std=0.2, generator=torch.Generator().manual_seed(2))
    torch.nn.init.zeros_(model.gpt.output_bias)
    return model


@pytest.fixture(scope="module")
def start() -> InBetweener:
    return in_betweener()


@pytest.fixture(scope="module")
def random() -> InBetweener:
    return trained_like()


CLIPS = [square_clip(9, speed) for speed in (1, 2, 4)]
FIRST, LAST = (torch.stack([clip[k] for clip in CLIPS]) for k in (0, -1))


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("n", [3, 4, 15, 21, 25, 100])
def test_before_training_clips_are_the_eased_warp(start, n):
    """To the byte, also of pictures without any motion to find, where halves are rounded."""
    first, last = torch.cat([FIRST[1:], noise(0)]), torch.cat([LAST[1:], noise(1)])
    wanted = start.untrained(first, last, [n] * 3)
    assert equal(start.generate(first, last, [n] * 3), wanted)
    assert equal(start.without_codes(first, last, [n] * 3), wanted)
    assert all(clip.shape == (n, HEIGHT, WIDTH, 3) for clip in wanted)


@pytest.mark.parametrize("mode", ["parallel", "maskgit"])
def test_ends_are_the_given_pictures_and_a_batch_is_its_clips(mode):
    model = trained_like({"train.mode": mode})
    lengths = [5, 12, 3]
    together = model.generate(FIRST, LAST, lengths)
    for k, (clip, n) in enumerate(zip(together, lengths, strict=True)):
        assert torch.equal(clip[0], FIRST[k]) and torch.equal(clip[-1], LAST[k])
        (alone,) = model.generate(FIRST[k : k + 1], LAST[k : k + 1], [n])
        assert torch.equal(alone, clip)
    assert not equal(together, model.untrained(FIRST, LAST, lengths))


def test_the_same_seed_samples_the_same_clip(random):
    hot = decoding_with(temperature=1.0)

    def sampled(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return random.generate(FIRST, LAST, [6, 5, 4], hot, generator)

    assert equal(sampled(1), sampled(1)) and not equal(sampled(1), sampled(2))


def test_equal_ends_stay_what_they_are(start):
    (clip,) = start.generate(FIRST[:1], FIRST[:1], [7])
    assert torch.equal(clip, FIRST[:1].expand(7, -1, -1, -1))
    large = noise(3, 77, 150)
    (clip,) = start.generate(FIRST[:1], FIRST[:1], [5], large=(large, large))
    assert torch.equal(clip, large.expand(5, -1, -1, -1))


def test_a_hard_cut_lies_between_both_pictures(start, random):
    first, last = noise(0) // 4, 160 + noise(1) // 4
    (clip,) = start.generate(first, last, [9])
    assert clip.min() >= first.min() and clip.max() <= last.max()
    means = clip.float().mean((1, 2, 3))
    assert (means.diff() > -1).all()
    assert random.generate(first, last, [9])[0].shape == clip.shape


@pytest.mark.parametrize("size", [(17, 31), (96, 128)])
def test_other_sizes_of_the_output(start, random, size):
    large = noise(4, *size), noise(5, *size)
    for model in (start, random):
        (clip,) = model.generate(FIRST[:1], LAST[:1], [5], large=large)
        assert clip.shape == (5, *size, 3)
        assert torch.equal(clip[:1], large[0]) and torch.equal(clip[-1:], large[1])


LARGE = """
import resource, sys
import torch
torch.set_num_threads(1)
from keyframe_settings import clip_flow, in_betweener, square_clip
from tiny_settings import decoding_with
clip, model = square_clip(9), in_betweener({"flow.method": "mixed"})
flow = clip_flow(clip)._replace(anchors=torch.zeros(1, 3, 5, *clip.shape[1:3]))
model.flow = lambda first, last: flow
ends = [torch.full((1, 2160, 3840, 3), grey, dtype=torch.uint8) for grey in (20, 200)]
(out,) = model.generate(clip[:1], clip[-1:], [4], large=tuple(ends))
assert out.shape == (4, 2160, 3840, 3) and 20 < out[1].float().mean() < 200
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def test_4k_stays_within_3_gb():
    """With RIFE's warps, without its weights; some 10 s of one core."""
    environment = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LARGE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3.0


def test_frames_are_drawn_some_at_a_time_or_alone(start):
    ids = start.token_ids(FIRST, LAST, [5, 12, 3])
    (clip,) = start.generate(FIRST[1:2], LAST[1:2], [12])
    drawn = list(start.draw(FIRST[1], LAST[1], 12, ids[:, 1]))
    assert torch.equal(torch.cat(drawn), clip[1:-1])
    (alone,) = start.draw(FIRST[1], LAST[1], 12, ids[:, 1], numbers=torch.tensor([10]))
    assert (alone.int() - clip[[10]].int()).abs().max() <= 1  # the last digit of a float


def test_the_thesis_form_goes_through_the_same_class():
    changes = {
        "vqgan.context": "none",
        "vqgan.autoencoder.channels": 8,
        "vqgan.autoencoder.z_channels": 8,
    }
    config = settings(changes)
    torch.manual_seed(0)
    images = Tokenizer(config.vqgan, HEIGHT, WIDTH).eval()
    gpt = FrameGpt(GptConfig.from_params(config, images.grid)).eval()
    model = InBetweener(images, gpt, config.ingest.frame_size, CPU, "float32")
    assert not model.has_context
    clips = model.generate(FIRST, LAST, [5, 6, 3])
    assert [len(clip) for clip in clips] == [5, 6, 3]
    for k, clip in enumerate(clips):
        assert torch.equal(clip[0], FIRST[k]) and torch.equal(clip[-1], LAST[k])
    large = noise(4, 50, 90), noise(5, 50, 90)
    (clip,) = model.generate(FIRST[:1], LAST[:1], [4], large=large)
    assert clip.shape == (4, 50, 90, 3) and torch.equal(clip[-1:], large[1])
    decoded, ids = model.round_trip(CLIPS[0])
    assert decoded.shape == CLIPS[0][1:-1].shape and ids.shape == (7, images.tokens_per_frame)


def test_true_codes_come_nearer_to_the_clip(start):
    decoded, ids = start.round_trip(CLIPS[2])
    (warped,) = start.untrained(FIRST[2:], LAST[2:], [9])

    def error(drawn: torch.Tensor) -> torch.Tensor:
        return (drawn.float() - CLIPS[2][1:-1]).square().mean()

    assert ids.shape == (7, 8) and error(decoded) < error(warped[1:-1])


def test_mistakes_are_named(start):
    with pytest.raises(UserError, match="at least 3"):
        start.generate(FIRST[:1], LAST[:1], [2])
    with pytest.raises(UserError, match="trained for 32x64"):
        start.generate(FIRST[:1, :16], LAST[:1], [5])
    broken = in_betweener(model=tokenizer())
    torch.nn.init.constant_(broken.tokenizer.decoder.masks.bias, torch.nan)
    with pytest.raises(NotFinite, match="frame 1 or later"):
        broken.generate(FIRST[:1], LAST[:1], [5])
