"""Generation: with a cache as without one, any length, samplers, what was not trained."""

import pytest
import torch
from tiny_settings import GRID, decoding_with

from pipeline.errors import UserError
from pipeline.models.gpt import sampling
from pipeline.models.gpt.model import Conditioning, FrameGpt, GptConfig
from pipeline.models.gpt.sampling import confident, filter_logits, generate, sample, unmask

LENGTHS = torch.tensor([6, 9, 4])
CHANNELS = 3
SEQUENCES = pytest.mark.parametrize("sequence", ["full_clip", "sliding_window"])
MODES = pytest.mark.parametrize("mode", ["parallel", "maskgit"])


@pytest.fixture
def make(tiny):
    """Tiny models with weights large enough that the greedy choice is no near tie."""

    def build(changes: dict | None = None, channels: int = 0) -> FrameGpt:
        torch.manual_seed(0)
        model = FrameGpt(GptConfig.from_params(tiny(changes), GRID, channels)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(6)
        return model

    return build


def ends(lengths: torch.Tensor = LENGTHS, channels: int = 0) -> tuple[torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 16, (len(lengths), 2, 32), generator=generator)
    shape = (len(lengths), int(lengths.max()), 32, channels)
    features = torch.randn(shape, generator=generator) if channels else None
    return ids[:, 0], Conditioning(ids[:, 1], lengths, features)


@MODES
@pytest.mark.parametrize("kind", ["custom", "plain"])
@pytest.mark.parametrize("before", [1, 2, 8, "all"])
def test_a_cache_gives_what_the_whole_sequence_gives(make, monkeypatch, mode, kind, before):
    changes = {"train.mode": mode, "transformer.transformer_type": kind}
    model = make(changes | {"train.n_frames_before": before}, CHANNELS)
    first, cond = ends(channels=CHANNELS)
    partials = []

    def recorded(partial, logits, step, *rest):
        partials.append((partial, logits))
        return unmask(partial, logits, step, *rest)

    monkeypatch.setattr(sampling, "unmask", recorded)
    frames = torch.stack([first, *generate(model, first, cond, decoding_with(mode, steps=2))], 1)
    assert frames.shape == (3, 8, 32)
    with torch.no_grad():
        if mode == "parallel":
            logits = model(frames[:, :-1], cond)
            assert torch.equal(logits.argmax(-1), frames[:, 1:])
            return
        for step in (0, 1):
            partial = torch.stack([p for p, _ in partials[step::2]], 1)
            cached = torch.stack([logits for _, logits in partials[step::2]], 1)
            logits = model.complete(frames[:, :-1], cond, partial)[1]
            assert torch.allclose(logits, cached, atol=1e-3)


@MODES
@pytest.mark.parametrize("kind", ["custom", "plain"])
@pytest.mark.parametrize("n", [3, 4, 100])
def test_any_length_is_generated_and_the_cache_does_not_grow_with_it(make, mode, kind, n):
    """Trained on up to 12 frames."""
    model = make({"train.mode": mode, "transformer.transformer_type": kind}, CHANNELS)
    first, cond = ends(torch.tensor([n]), CHANNELS)
    caches, new_cache = [], model.gpt.new_cache
    model.gpt.new_cache = lambda: caches.append(new_cache()) or caches[-1]
    frames = list(generate(model, first, cond, decoding_with(mode, steps=2)))
    assert len(frames) == n - 2 and all(ids.shape == (1, 32) for ids in frames)
    assert max(ids.max() for ids in frames) < 16
    keys = caches[0][0][0] if kind == "plain" else caches[0].layers[0].keys
    assert keys.shape[2] == 32 * min(n - 1, 2 + model.config.window), "last, first, two frames"


@pytest.mark.parametrize("before", [1, 2, 8])
def test_a_sliding_window_sees_the_frames_of_the_table(make, before):
    changes = {"train.sequence": "sliding_window", "train.n_frames_before": before}
    model = make(changes, CHANNELS)
    first, cond = ends(channels=CHANNELS)
    frames = torch.stack([first, *generate(model, first, cond)], 1)
    with torch.no_grad():
        for i in range(7):
            start = max(0, i - before + 1)
            logits = model(frames[:, start : i + 1], cond, start)[:, 0]
            assert torch.equal(frames[:, i + 1], logits.argmax(-1))


@SEQUENCES
def test_a_clip_is_generated_alike_alone_and_beside_longer_ones(make, sequence):
    model = make({"train.sequence": sequence}, CHANNELS)
    first, cond = ends(channels=CHANNELS)
    together = torch.stack(list(generate(model, first, cond)), 1)
    for k, n in enumerate(LENGTHS.tolist()):
        row = slice(k, k + 1)
        one = Conditioning(cond.last[row], cond.n_frames[row], cond.features[row, :n])
        alone = torch.stack(list(generate(model, first[row], one)), 1)
        assert torch.equal(alone, together[row, : n - 2])


def test_two_frames_are_refused(make):
    with pytest.raises(AssertionError):
        next(generate(make(), *ends(torch.tensor([3, 2, 3]))))


@MODES
def test_a_seed_is_a_clip(make, mode):
    model = make({"train.mode": mode})
    decoding = decoding_with(mode, steps=3, temperature=1.0)

    def clip(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.stack(list(generate(model, *ends(), decoding, generator)))

    assert torch.equal(clip(1), clip(1)) and not torch.equal(clip(1), clip(2))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 32, 50])
def test_maskgit_fills_every_token_whatever_the_number_of_steps(make, steps, temperature):
    model = make({"train.mode": "maskgit"})
    decoding = decoding_with("maskgit", steps=steps, temperature=temperature)
    for ids in generate(model, *ends(torch.tensor([5, 4])), decoding):
        assert ids.shape == (2, 32) and ids.max() < 16


def test_maskgit_begins_with_the_most_confident_tokens():
    """By hand: in step 1 of 2 it keeps 32 - int(32 cos(pi/4)) = 10 tokens, in step 2 the rest."""
    decoding, generator = decoding_with("maskgit", steps=2), torch.Generator()
    masked, logits = torch.full((3, 32), 16), torch.randn(3, 32, 16)
    partial = unmask(masked, logits, 1, decoding, generator)
    confident = logits.softmax(-1).amax(-1).topk(10).indices
    expected = masked.scatter(1, confident, logits.argmax(-1).gather(1, confident))
    assert torch.equal(partial, expected)
    other = torch.randn(3, 32, 16)
    ids = unmask(partial, other, 2, decoding, generator)
    assert torch.equal(ids, torch.where(partial == 16, other.argmax(-1), partial))


def sampled(logits: torch.Tensor, **rules) -> torch.Tensor:
    return sample(logits, decoding_with(**rules), torch.Generator().manual_seed(0))


def test_temperature_0_is_greedy():
    logits = torch.tensor([[[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]])
    assert sampled(logits).tolist() == [[1, 0]]


def test_a_low_temperature_is_nearly_greedy_and_a_high_one_samples_all():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 4000, 4)
    assert (sampled(logits, temperature=0.05) == 3).all()
    shares = torch.bincount(sampled(logits, temperature=1.0).flatten()) / 4000
    assert torch.allclose(shares, logits[0, 0].softmax(0), atol=0.03)


@pytest.mark.parametrize("top_k", [1, 3, 50, 0])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.95, 1.0])
def test_filters_are_those_of_transformers(top_k, top_p):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * torch.randn(7, 40, generator=torch.Generator().manual_seed(0))
    expected = logits
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    assert torch.equal(filter_logits(logits, top_k, top_p), expected)


def test_only_ids_that_a_rule_leaves_are_sampled():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 2000, 4)
    assert set(sampled(logits, temperature=2.0, top_k=2).flatten().tolist()) == {2, 3}
    # probabilities 0.64, 0.24, 0.09, 0.03 at temperature 1
    assert set(sampled(logits, temperature=1.0, top_p=0.7).flatten().tolist()) == {2, 3}
    assert set(sampled(logits, temperature=1.0, top_p=0.6).flatten().tolist()) == {3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ids_stay_on_the_device_of_the_logits(temperature):
    """As on a GPU: its tensors are only looked like, nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(2, 3, 16, device="cuda")
        assert sampled(logits, temperature=temperature).device.type == "cuda"


@SEQUENCES
def test_a_mode_that_was_not_trained_is_refused(make, sequence):
    model = make({"train.sequence": sequence})
    with pytest.raises(UserError, match=r"mode maskgit: .* train it with -S train.mode=maskgit"):
        next(generate(model, *ends(), decoding_with("maskgit")))


def test_a_maskgit_model_generates_in_parallel_too(make):
    model = make({"train.mode": "maskgit"})
    auto = torch.stack(list(generate(model, *ends())))
    maskgit = torch.stack(list(generate(model, *ends(), decoding_with("maskgit"))))
    parallel = torch.stack(list(generate(model, *ends(), decoding_with("parallel"))))
    assert torch.equal(auto, maskgit) and not torch.equal(auto, parallel)


def test_unlikely_greedy_tokens_become_the_null_code(make):
    """What the model reads stays its own choice: only what it yields has null codes."""
    model = make(channels=CHANNELS)
    first, cond = ends(channels=CHANNELS)
    every = torch.stack(list(generate(model, first, cond)))
    counts = []
    for least in (0.0, 0.3, 0.9, 1.0):
        told = torch.stack(list(generate(model, first, cond, decoding_with(min_confidence=least))))
        null = told == model.config.num_embeddings
        assert torch.equal(told[~null], every[~null])
        counts.append(int(null.sum()))
    assert counts[0] == 0 and counts == sorted(counts) and counts[-1] > 0


def test_confidence_is_the_probability_of_the_chosen_token():
    logits = torch.tensor([[[0.0, 2.0, 0.0], [0.0, 0.1, 0.0]]])
    ids = logits.argmax(-1)
    assert confident(ids, logits, decoding_with(min_confidence=0.7)).tolist() == [[1, 3]]
    assert torch.equal(
        confident(ids, logits, decoding_with(min_confidence=0.7, temperature=1.0)), ids
    )
