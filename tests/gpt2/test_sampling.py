"""Drawing frame by frame: equal to the uncached model, the likeliest at 0, repeatable by seed."""

import pytest
import torch

from pipeline.gpt2.model import FrameGpt, GptConfig
from pipeline.gpt2.sampling import at_temperature, draw, likeliest

LENGTHS = torch.tensor([7, 4, 9])


@pytest.fixture
def make(tiny):
    def model(layout: str, merge: int = 1, before: int = 2, copying: bool = True) -> FrameGpt:
        changes = {
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
@pytest.mark.parametrize("before", [1, 2, 8])
def test_drawing_with_a_cache_equals_the_whole_clip_at_once(make, before, merge, copying):
    gpt = make("clip", merge, before, copying)
    first, last = ends()
    drawn = list(draw(gpt, first, last, LENGTHS))
    assert len(drawn) == 7
    inputs = torch.stack([first, *(d.codes for d in drawn[:-1])], 1)  # B T N
    with torch.no_grad():
        logits = gpt(inputs, last, LENGTHS)
    assert torch.allclose(torch.stack([d.logits for d in drawn], 1), logits, atol=1e-4)
    assert torch.equal(torch.stack([d.codes for d in drawn], 1), logits.argmax(-1))


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


def test_temperature_0_takes_the_likeliest():
    assert at_temperature(0.0, torch.Generator()) is likeliest
    logits = torch.tensor([[[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]])
    assert likeliest(logits).tolist() == [[1, 0]]


def test_a_low_temperature_is_nearly_sure_and_a_high_one_draws_all():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 4000, 4)
    cold = at_temperature(0.05, torch.Generator().manual_seed(0))(logits)
    assert (cold == 3).all()
    warm = at_temperature(1.0, torch.Generator().manual_seed(0))(logits)
    shares = torch.bincount(warm.flatten()) / 4000
    assert torch.allclose(shares, logits[0, 0].softmax(0), atol=0.03)


def test_a_seed_is_a_clip(make):
    gpt = make("clip")
    first, last = ends()

    def codes(seed: int) -> torch.Tensor:
        pick = at_temperature(1.0, torch.Generator().manual_seed(seed))
        return torch.stack([d.codes for d in draw(gpt, first, last, LENGTHS, pick)])

    assert torch.equal(codes(1), codes(1)) and not torch.equal(codes(1), codes(2))
