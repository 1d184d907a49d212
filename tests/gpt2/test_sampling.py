"""Drawing frame by frame: equal to the uncached model, the likeliest at 0, repeatable by seed."""

import pytest
import torch

from pipeline.errors import UserError
from pipeline.gpt2 import sampling
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.model import FrameGpt
from pipeline.gpt2.sampling import Decoding, Picker, draw, filtered

LENGTHS = torch.tensor([7, 4, 9])


@pytest.fixture
def make(tiny):
    def model(
        layout: str,
        merge: int = 1,
        before: int | str = 2,
        copying: bool = True,
        mode: str = "seed",
        key_dropout: float = 0.0,
        kind: str = "custom",
        moved_keys: bool = False,
    ) -> FrameGpt:
        changes = {
            "transformer.moved_keys": moved_keys,
            "train.mode": mode,
            "train.key_dropout": key_dropout,
            "transformer.transformer_type": kind,
            "train.layout": layout,
            "train.n_frames_before": before,
            "transformer.merge": merge,
            "transformer.copying": copying,
        }
        torch.manual_seed(0)
        gpt = FrameGpt(GptConfig.from_params(tiny(changes))).eval()
        with torch.no_grad():  # clear preferences, so that no two codes are nearly alike
            for parameter in gpt.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return gpt

    return model


def ends(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 16, (2, 3, 32), generator=generator))


@pytest.mark.parametrize("copying", [False, True])
@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("before", [1, 2, 8, "all"])
@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_drawing_with_a_cache_equals_the_whole_clip_at_once(make, kind, before, merge, copying):
    gpt = make("clip", merge, before, copying, kind=kind)
    first, last = ends()
    drawn = list(draw(gpt, first, last, LENGTHS))
    assert len(drawn) == 7
    inputs = torch.stack([first, *(d.codes for d in drawn[:-1])], 1)  # B T N
    with torch.no_grad():
        logits = gpt(inputs, last, LENGTHS)
    assert torch.allclose(torch.stack([d.logits for d in drawn], 1), logits, atol=1e-4)
    assert torch.equal(torch.stack([d.codes for d in drawn], 1), logits.argmax(-1))


@pytest.mark.parametrize(
    ("layout", "mode"),
    [("windowed", "seed"), ("clip", "seed"), ("clip", "maskgit"), ("clip", "autoregressive")],
)
def test_moved_frames_are_told_while_drawing_as_in_training(make, layout, mode):
    gpt = make(layout, mode=mode, moved_keys=True)
    first, last = ends()
    moved = torch.randint(0, 16, (3, 9, 32), generator=torch.Generator().manual_seed(5))
    drawn = list(draw(gpt, first, last, LENGTHS, Decoding(mode, steps=1), moved=moved))
    codes = torch.stack([d.codes for d in drawn], 1)
    inputs = torch.cat([first[:, None], codes[:, :-1]], 1)
    with torch.no_grad():
        if layout == "windowed":
            wanted = gpt(inputs[:, 5:7], last, LENGTHS, start=5, moved=moved)[:, 0]
            assert torch.allclose(drawn[6].logits, wanted, atol=1e-4)
            return
        if mode == "seed":
            logits = gpt(inputs, last, LENGTHS, moved=moved)
        else:
            parts = codes if mode == "autoregressive" else torch.full_like(codes, 16)
            causal = mode == "autoregressive"
            _, logits = gpt.complete(inputs, last, LENGTHS, parts, causal, moved=moved)
    assert torch.allclose(torch.stack([d.logits for d in drawn], 1), logits, atol=1e-4)


@pytest.mark.parametrize("kind", ["custom", "plain"])
@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("before", [1, 2, "all"])
def test_autoregressive_drawing_with_a_cache_equals_the_whole_clip_at_once(
    make, before, merge, kind
):
    gpt = make("clip", merge, before, mode="autoregressive", kind=kind)
    first, last = ends()
    drawn = list(draw(gpt, first, last, LENGTHS))
    codes = torch.stack([d.codes for d in drawn], 1)  # B T N
    inputs = torch.cat([first[:, None], codes[:, :-1]], 1)
    with torch.no_grad():
        _, logits = gpt.complete(inputs, last, LENGTHS, codes, causal=True)
    assert torch.allclose(torch.stack([d.logits for d in drawn], 1), logits, atol=1e-4)
    assert torch.equal(codes, logits.argmax(-1))


@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("before", [1, 2, "all"])
def test_a_maskgit_step_with_a_cache_equals_the_whole_clip_at_once(
    make, before, merge, monkeypatch
):
    """Every frame in two steps: what the second one sees, beside the frames before."""
    gpt = make("clip", merge, before, mode="maskgit")
    first, last = ends()
    steps = []
    complete = sampling.Rollout.complete

    def watched(rollout, drawn):
        steps.append((drawn.clone(), complete(rollout, drawn)))
        return steps[-1][1]

    monkeypatch.setattr(sampling.Rollout, "complete", watched)
    drawn = list(draw(gpt, first, last, LENGTHS, Decoding("maskgit", steps=2)))
    inputs = torch.stack([first, *(d.codes for d in drawn[:-1])], 1)
    for number in (0, 1):
        parts = torch.stack([part for part, _ in steps[number::2]], 1)  # B T N
        with torch.no_grad():
            _, logits = gpt.complete(inputs, last, LENGTHS, parts, causal=False)
        cached = torch.stack([found for _, found in steps[number::2]], 1)
        assert torch.allclose(cached, logits, atol=1e-4)


@pytest.mark.parametrize("mode", ["seed", "maskgit", "autoregressive"])
@pytest.mark.parametrize("n", [3, 4, 25, 120])
def test_any_length_is_drawn_and_the_cache_does_not_grow_with_it(make, mode, n):
    gpt = make("clip", mode="all", before=2)  # trained on up to 12 frames
    first, last = (end[:1] for end in ends())
    caches = []
    made = sampling.Rollout.__init__

    def watched(rollout, *arguments):
        made(rollout, *arguments)
        caches.append(rollout.cache)

    sampling.Rollout.__init__ = watched
    try:
        drawn = list(draw(gpt, first, last, torch.tensor([n]), Decoding(mode, steps=2)))
    finally:
        sampling.Rollout.__init__ = made
    assert len(drawn) == n - 2 and all(d.logits.isfinite().all() for d in drawn)
    block = 2 * 2 * 32 * 16 * 4  # keys and values, layers, positions, width, bytes
    # last, first and two frames, once alone and once in one piece; there with the drawing
    assert caches[0].bytes <= 9 * block


@pytest.mark.parametrize("before", [1, 2, 8])
def test_windowed_drawing_sees_the_frames_of_the_table(make, before):
    gpt = make("windowed", before=before)
    first, last = ends()
    drawn = list(draw(gpt, first, last, LENGTHS))
    clip = torch.stack([first, *(d.codes for d in drawn)], 1)
    with torch.no_grad():
        for i in range(7):
            start = max(0, i - before + 1)
            wanted = gpt(clip[:, start : i + 1], last, LENGTHS, start)[:, 0]
            assert torch.allclose(drawn[i].logits, wanted, atol=1e-4)
            assert torch.equal(clip[:, i + 1], wanted.argmax(-1))


@pytest.mark.parametrize("layout", ["clip", "windowed"])
def test_three_frames_have_one_between(make, layout):
    first, last = ends()
    drawn = list(draw(make(layout), first, last, torch.tensor([3, 3, 3])))
    assert len(drawn) == 1 and drawn[0].codes.shape == (3, 32)


def test_two_frames_are_refused(make):
    first, last = ends()
    with pytest.raises(AssertionError):
        next(draw(make("clip"), first, last, torch.tensor([3, 2, 3])))


@pytest.mark.parametrize("layout", ["clip", "windowed"])
def test_a_clip_is_drawn_alike_alone_and_beside_longer_ones(make, layout):
    gpt = make(layout)
    first, last = ends()
    together = torch.stack([d.codes for d in draw(gpt, first, last, LENGTHS)], 1)
    for k, n in enumerate(LENGTHS.tolist()):
        alone = list(draw(gpt, first[k : k + 1], last[k : k + 1], LENGTHS[k : k + 1]))
        assert torch.equal(torch.cat([d.codes for d in alone]), together[k, : n - 2])


def picked(logits: torch.Tensor, seed: int = 0, **rules) -> torch.Tensor:
    return Picker(Decoding(**rules), torch.Generator().manual_seed(seed)).pick(logits)


def test_temperature_0_takes_the_likeliest():
    logits = torch.tensor([[[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]])
    assert picked(logits).tolist() == [[1, 0]]


def test_a_low_temperature_is_nearly_sure_and_a_high_one_draws_all():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 4000, 4)
    assert (picked(logits, temperature=0.05) == 3).all()
    shares = torch.bincount(picked(logits, temperature=1.0).flatten()) / 4000
    assert torch.allclose(shares, logits[0, 0].softmax(0), atol=0.03)


@pytest.mark.parametrize("top_k", [1, 3, 50, 0])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.95, 1.0])
def test_filters_are_those_of_transformers(top_k, top_p):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * torch.randn(7, 40, generator=torch.Generator().manual_seed(0))
    wanted = logits
    if top_k:
        wanted = TopKLogitsWarper(top_k)(None, wanted)
    if top_p < 1:
        wanted = TopPLogitsWarper(top_p)(None, wanted)
    assert torch.equal(filtered(logits, top_k, top_p), wanted)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_codes_stay_on_the_device_of_the_logits(temperature):
    """As on a GPU: its tensors are only looked like, nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(2, 3, 16, device="cuda")
        assert picked(logits, temperature=temperature).device.type == "cuda"


def test_only_codes_that_a_rule_leaves_are_drawn():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 2000, 4)
    assert set(picked(logits, temperature=2.0, top_k=2).flatten().tolist()) == {2, 3}
    # chances 0.64, 0.24, 0.09, 0.03 at temperature 1
    assert set(picked(logits, temperature=1.0, top_p=0.7).flatten().tolist()) == {2, 3}
    assert set(picked(logits, temperature=1.0, top_p=0.6).flatten().tolist()) == {3}


@pytest.mark.parametrize("mode", ["seed", "maskgit", "autoregressive"])
def test_a_seed_is_a_clip(make, mode):
    gpt = make("clip", mode="all")
    first, last = ends()
    decoding = Decoding(mode, steps=3, temperature=1.0)

    def codes(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        drawn = draw(gpt, first, last, LENGTHS, decoding, generator)
        return torch.stack([d.codes for d in drawn])

    assert torch.equal(codes(1), codes(1)) and not torch.equal(codes(1), codes(2))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 32, 50])
def test_maskgit_draws_every_token_whatever_the_number_of_steps(make, steps, temperature):
    gpt = make("clip", mode="maskgit")
    decoding = Decoding("maskgit", steps=steps, temperature=temperature)
    for drawn in draw(gpt, *ends(), LENGTHS, decoding):
        assert drawn.codes.max() < 16 and drawn.logits.shape == (3, 32, 16)
        if temperature == 0:
            assert torch.equal(drawn.logits.argmax(-1), drawn.codes)


def test_maskgit_begins_with_the_tokens_of_which_it_is_surest(make, monkeypatch):
    """By hand: in step 1 of 2 it keeps 32 - int(32 cos(pi/4)) = 10 tokens, in step 2 the rest."""
    gpt = make("clip", mode="maskgit")
    seen = []
    complete = sampling.Rollout.complete

    def watched(rollout, drawn):
        logits = complete(rollout, drawn)
        seen.append((drawn.clone(), logits))
        return logits

    monkeypatch.setattr(sampling.Rollout, "complete", watched)
    drawn = next(draw(gpt, *ends(), LENGTHS, Decoding("maskgit", steps=2)))
    (nothing, at_first), (part, then) = seen
    assert (nothing == 16).all()
    surest = at_first.softmax(-1).amax(-1).topk(10).indices
    wanted = nothing.scatter(1, surest, at_first.argmax(-1).gather(1, surest))
    assert torch.equal(part, wanted)
    assert torch.equal(drawn.codes, torch.where(part == 16, then.argmax(-1), part))


def test_guidance_follows_the_last_frame_more(make):
    """At 1 it is what it was; at 0 the last frame is not known; above 1 it goes the other way."""
    gpt = make("clip", key_dropout=0.1)
    first, last = ends()

    def logits(guidance: float, end: torch.Tensor = last) -> torch.Tensor:
        return next(draw(gpt, first, end, LENGTHS, Decoding(guidance=guidance))).logits

    told, untold, strong = logits(1.0), logits(0.0), logits(2.0)
    assert torch.allclose(strong, told + (told - untold), atol=1e-4)
    assert torch.allclose(untold, logits(0.0, (last + 1) % 16), atol=1e-5)
    assert not torch.allclose(told, logits(1.0, (last + 1) % 16), atol=1e-2)


@pytest.mark.parametrize(
    ("layout", "changes", "decoding", "words"),
    [
        ("clip", {}, Decoding("maskgit"), "mode maskgit: .* train it with -S train.mode=maskgit"),
        ("windowed", {}, Decoding("autoregressive"), "mode autoregressive: .*draws in seed"),
        ("clip", {"mode": "maskgit"}, Decoding("autoregressive"), "draws in seed, maskgit"),
        ("clip", {}, Decoding(guidance=1.5), "guidance 1.5: .* -S train.key_dropout=0.1"),
    ],
)
def test_what_was_not_trained_is_refused(make, layout, changes, decoding, words):
    with pytest.raises(UserError, match=words):
        next(draw(make(layout, **changes), *ends(), LENGTHS, decoding))
