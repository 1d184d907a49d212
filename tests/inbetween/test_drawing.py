"""Drawing pictures: the given ones stay theirs to the byte, and what stands still stays sharp."""

import pytest
import torch
from pipeline.easing import EVEN, Easing
from pipeline.gpt2.sampling import Decoding, Drawn
from pipeline.inbetween import drawing
from pipeline.inbetween.drawing import InBetweener, Style
from pipeline.inbetween.tokens import encode_clip, moved
from pipeline.motion import moved_clip

from pipeline.errors import UserError

CPU = torch.device("cpu")
SURE = 1e4  # a logit that leaves no doubt
STYLES = [
    Style(decode=decode, detail=detail)
    for decode in ("expected", "argmax")
    for detail in ("keys", "none")
]


@pytest.fixture(scope="module", params=["clip", "windowed"])
def model(request, tiny, untrained) -> InBetweener:
    return untrained(tiny({"train.layout": request.param, "transformer.copying": True}))


@pytest.fixture(scope="module")
def ends(moving) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last pictures `3 H W 3` of three clips, with noise that no tokenizer keeps."""
    noise = torch.randint(-9, 10, (2, 3, 16, 32, 3), generator=torch.Generator().manual_seed(0))
    clips = torch.stack([moving(2, seed) for seed in range(3)], 1)  # 2 B H W 3
    return tuple((clips + noise).clamp(0, 255).byte())


@pytest.fixture
def certain(monkeypatch):
    """Makes the transformer certain of codes, a function of first and last: `certain(chosen)`."""

    def replace(chosen) -> None:
        def draw(gpt, first, last, n_frames, decoding, generator, moved):
            codes = chosen(first, last)
            logits = SURE * torch.nn.functional.one_hot(codes, gpt.config.num_embeddings).float()
            for _ in range(int(n_frames.max()) - 2):
                yield Drawn(codes, logits)

        monkeypatch.setattr(drawing, "draw", draw)

    return replace


@pytest.mark.parametrize("style", STYLES)
def test_given_pictures_are_the_ends_byte_for_byte(model, ends, style):
    clips = model.draw(*ends, [5, 3, 8], style)
    assert [tuple(clip.shape) for clip in clips] == [(n, 16, 32, 3) for n in (5, 3, 8)]
    for k, clip in enumerate(clips):
        assert clip.dtype == torch.uint8
        assert torch.equal(clip[0], ends[0][k]) and torch.equal(clip[-1], ends[1][k])


@pytest.mark.parametrize("style", STYLES)
def test_clips_of_different_length_are_drawn_as_one_by_one(model, ends, style):
    lengths = [5, 3, 8]
    together = model.draw(*ends, lengths, style)
    for k, n in enumerate(lengths):
        (alone,) = model.draw(ends[0][k : k + 1], ends[1][k : k + 1], [n], style)
        assert (alone.int() - together[k].int()).abs().max() <= 1  # the last digit of a float


@pytest.mark.parametrize("decode", ["expected", "argmax"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_frame_that_stays_is_the_given_one_exactly(model, ends, certain, which, decode):
    first, last = ends[0], 255 - ends[0]
    codes = [model.round_trip(end)[1] for end in (first, last)]
    certain(lambda *given: given[which])
    assert (codes[0] != codes[1]).float().mean() > 0.9
    for clip, given in zip(
        model.draw(first, last, [4] * 3, Style(decode=decode, detail="keys")),
        (first, last)[which],
        strict=True,
    ):
        same = (clip[1] == given).all(-1)
        assert same.float().mean() > 0.8  # all but where both ends happen to share a code
        assert torch.equal(clip[1], clip[2])


@pytest.mark.parametrize("size", [(16, 32), (40, 88), (64, 128), (10, 20)])
def test_a_still_stays_exactly_at_any_size(model, moving, ends, certain, size):
    """Both ends alike and the codes kept: the clip is the picture, at model size or large."""
    certain(lambda first, last: first)
    still = ends[0][:1]
    large = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    if size == (16, 32):
        (clip,) = model.draw(still, still, [5], Style(decode="expected", detail="keys"))
        large = still
    else:
        (clip,) = model.draw(
            still, still, [5], Style(decode="expected", detail="keys"), large=(large, large)
        )
    assert torch.equal(clip, large.expand(5, *size, 3))


@pytest.mark.parametrize("size", [(32, 64), (64, 128)])
def test_what_moves_as_foreseen_shows_the_moved_pixels(tiny, untrained, monkeypatch, size):
    """A model that is sure of the moved frames' codes draws the moved pictures, at any size."""
    changes = {"transformer.moved_keys": True, "ingest.height": 32, "ingest.width": 64}
    model = untrained(tiny(changes))
    model.easing = Easing.fixed(2.0)
    ends = [torch.zeros(1, 32, 64, 3, dtype=torch.uint8) for _ in range(2)]
    for end, left in zip(ends, (16, 28), strict=True):
        end[:, 8:24, left : left + 16] = 220
        end[:, 12:20, left + 4 : left + 12] = 90

    def draw(gpt, first, last, n_frames, decoding, generator, moved):
        for i in range(1, int(n_frames.max()) - 1):
            codes = moved[:, i]
            yield Drawn(codes, SURE * torch.nn.functional.one_hot(codes, 16).float())

    monkeypatch.setattr(drawing, "draw", draw)
    scale = size[0] // 32
    large = tuple(end.repeat_interleave(scale, 1).repeat_interleave(scale, 2) for end in ends)
    (clip,) = model.draw(*ends, [7], Style(decode="argmax"), large=large)
    assert torch.equal(clip[0], large[0][0]) and torch.equal(clip[-1], large[1][0])
    shrunk = clip[:, ::scale, ::scale].int()
    eased, even = (
        (shrunk - moved_clip(ends[0][0], ends[1][0], 7, exponent=k).int()).abs() for k in (2.0, 1.0)
    )
    assert eased.float().mean() < 0.3 * even.float().mean()
    assert scale > 1 or eased.max() <= 1


def test_moved_codes_are_those_of_the_training(tiny, untrained, moving):
    """The same pace, the same pictures: else the model is told something it never saw."""
    model = untrained(tiny({"transformer.moved_keys": True}))
    model.easing = Easing(1.5, 0.3)
    clips = [moving(7, 1), moving(5, 2)]
    first, last = (torch.stack([clip[k] for clip in clips]) for k in (0, -1))
    keys = [model._key(end, end) for end in (first, last)]
    found = model._moved(first, last, keys, torch.tensor([7, 5]))
    for clip, codes in zip(clips, found.codes, strict=True):
        trained = encode_clip(model.tokenizer, moved(clip, model.easing), 64, CPU, "float32")
        assert torch.equal(codes[: len(clip)], trained)
    assert not torch.equal(moved(clips[0], model.easing), moved(clips[0], EVEN))


def test_codes_of_the_moved_frames_show_those_and_others_are_shared():
    first, last, moved = (
        torch.tensor([codes]) for codes in ([1, 1, 1, 1], [1, 2, 1, 2], [1, 1, 3, 3])
    )
    assert [s.tolist() for s in drawing._shares([first, last])] == [[[0.5, 1, 0.5, 1]]] * 2
    shares = [s.tolist() for s in drawing._shares([first, last, moved])]
    assert shares == [[[0, 0, 0.5, 1]], [[0, 1, 0.5, 1]], [[1, 1, 1, 1]]]


def test_without_detail_a_still_is_its_round_trip(model, ends, certain):
    certain(lambda first, last: first)
    clips = model.draw(*ends, [3] * 3, Style(decode="argmax", detail="none"))
    drawn, _ = model.round_trip(ends[0])
    assert torch.equal(torch.stack([clip[1] for clip in clips]), drawn)
    assert not torch.equal(drawn, ends[0])


def test_detail_is_kept_only_where_the_codes_stay(model, ends, certain):
    """The left half keeps the first frame's codes, the right half shows another picture's."""
    other = model.round_trip(255 - ends[0])[1].view(-1, 4, 8)
    codes = model.round_trip(ends[0])[1].view(-1, 4, 8)
    mixed = torch.cat([codes[..., :4], other[..., 4:]], 2).flatten(1)
    certain(lambda first, last: mixed)
    kept, plain = (
        torch.stack(
            [
                c[1]
                for c in model.draw(
                    ends[0], ends[0], [3] * 3, Style(decode="argmax", detail=detail)
                )
            ]
        )
        for detail in ("keys", "none")
    )
    # Between two tokens the weight goes over by a line, so look away from the border.
    assert torch.equal(kept[:, :, :12], ends[0][:, :, :12])
    moved = (other != codes)[..., 4:].all(2).all(1)  # clips whose right half moved everywhere
    assert moved.any()
    assert torch.equal(kept[moved][:, :, 20:], plain[moved][:, :, 20:])


def test_expected_and_argmax_agree_where_there_is_no_doubt(model, ends, certain):
    certain(lambda first, last: last)
    one, two = (
        model.draw(*ends, [4] * 3, Style(decode=decode, detail="keys"))
        for decode in ("expected", "argmax")
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_expected_shows_the_mean_vector(model, ends, monkeypatch):
    """Two codes of equal chance: the picture of their mean."""
    codes = torch.zeros(1, 32, dtype=torch.int64)
    logits = torch.full((1, 32, 16), -SURE)
    logits[..., :2] = 0.0
    monkeypatch.setattr(drawing, "draw", lambda *_: iter([Drawn(codes, logits)]))
    (clip,) = model.draw(ends[0][:1], ends[1][:1], [3], Style(decode="expected", detail="none"))
    mean = model.tokenizer.codebook[:2].mean(0).expand(1, 32, 6)
    wanted = drawing.frames.to_uint8(model.tokenizer.decode_vectors(mean))
    assert (clip[1:2].int() - wanted.int()).abs().max() <= 1


@pytest.mark.parametrize(("sharpness", "share"), [(1.0, 3 / 4), (2.0, 9 / 10), (3.0, 27 / 28)])
def test_sharpness_is_an_exponent_of_the_chances(model, ends, monkeypatch, sharpness, share):
    """Chances of 3 : 1, squared 9 : 1."""
    codes = torch.zeros(1, 32, dtype=torch.int64)
    logits = torch.full((1, 32, 16), -SURE)
    logits[..., :2] = torch.tensor([3.0, 1.0]).log()
    monkeypatch.setattr(drawing, "draw", lambda *_: iter([Drawn(codes, logits)]))
    style = Style(decode="expected", detail="none", sharpness=sharpness)
    (clip,) = model.draw(ends[0][:1], ends[1][:1], [3], style)
    one, two = model.tokenizer.codebook[:2]
    mixed = (share * one + (1 - share) * two).expand(1, 32, 6)
    wanted = drawing.frames.to_uint8(model.tokenizer.decode_vectors(mixed))
    assert (clip[1:2].int() - wanted.int()).abs().max() <= 1


def test_a_seed_is_a_clip(model, ends):
    def clips(seed: int) -> torch.Tensor:
        by_chance = (Decoding(temperature=1.0), torch.Generator().manual_seed(seed))
        style = Style(decode="argmax", detail="none")
        return torch.cat(model.draw(*ends, [5, 4, 6], style, *by_chance))

    assert torch.equal(clips(1), clips(1)) and not torch.equal(clips(1), clips(2))


def test_temperature_0_is_the_likeliest(model, ends):
    generator = torch.Generator().manual_seed(5)
    one = model.draw(*ends, [5] * 3, Style(), Decoding(temperature=0.0), generator)
    for a, b in zip(one, model.draw(*ends, [5] * 3, Style()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mode", ["seed", "maskgit", "autoregressive"])
def test_every_mode_draws_pictures_and_tells_how_far_it_is(tiny, untrained, ends, mode):
    model = untrained(tiny({"train.mode": "all"}))
    told = []
    decoding = Decoding(mode, steps=2)
    clips = model.draw(*ends, [5, 3, 8], Style(), decoding, advance=lambda: told.append(1))
    assert [len(clip) for clip in clips] == [5, 3, 8] and len(told) == 6


def test_frames_of_another_size_are_named(model, ends):
    small = ends[1][:, :8]
    with pytest.raises(UserError, match=r"the last frame is 8x32 pixels, .* trained for 16x32"):
        model.draw(ends[0], small, [5] * 3, Style())
    with pytest.raises(UserError, match="a clip of 2 frames: expected at least 3"):
        model.draw(*ends, [5, 2, 3], Style())


def test_networks_of_two_codebooks_are_refused(tiny, untrained):
    one, two = untrained(tiny()), untrained(tiny({"vqgan.vqvae.num_embeddings": 8}))
    with pytest.raises(UserError, match="knows 8 codes and the tokenizer has 16"):
        InBetweener(one.tokenizer, two.gpt, one.ingest, one.device, one.precision)


@pytest.mark.parametrize("style", STYLES)
def test_networks_that_give_no_numbers_are_said(tiny, untrained, ends, style):
    """Also where the likeliest code is taken: of NaN that is code 0, and its picture looks fine."""
    broken = untrained(tiny())
    with torch.no_grad():
        next(broken.gpt.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"frame 1 is NaN or infinite: .* training diverged"):
        broken.draw(*ends, [3, 4, 5], style)


def test_a_tokenizer_that_gives_no_numbers_is_said(tiny, untrained, ends):
    broken = untrained(tiny())
    with torch.no_grad():
        broken.tokenizer.decoder.out.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="the tokenizer's picture is NaN or infinite"):
        broken.round_trip(ends[0])
