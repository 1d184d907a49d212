"""FrameGpt: what its logits depend on, where codes go on a merged grid, and how it starts."""

import math

import pytest
import torch
import torch.nn.functional as F

from pipeline.gpt2.model import GPT2_POSITIONS, HOLD_AT_START, FrameGpt, GptConfig

CODES, N, FRAMES = 16, 8, 6


def make(seed: int = 0, **changes) -> FrameGpt:
    fields = {
        "layout": "clip",
        "n_frames_before": 2,
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 16,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "remaining_frames_method": "own_embeddings",
        "copying": False,
        "merge": 1,
        "num_embeddings": CODES,
        "grid": (2, 4),
        "max_frames": 12,
    }
    torch.manual_seed(seed)
    return FrameGpt(GptConfig(**fields | changes)).eval()


def clip(seed: int = 0, frames: int = FRAMES, n: int = N) -> tuple[torch.Tensor, ...]:
    """Frames 0..frames-1 `1 T N`, a last frame `1 N`, and the length of the clip."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, CODES, (1, frames + 1, n), generator=generator)
    return codes[:, :-1], codes[:, -1], torch.tensor([frames + 2])


def changed(model: FrameGpt, frames, last, n_frames, other_frames, other_last=None) -> list[bool]:
    """For each predicted frame, whether its logits differ between the two inputs."""
    with torch.no_grad():
        here = model(frames, last, n_frames)
        there = model(other_frames, last if other_last is None else other_last, n_frames)
    return [bool((here[:, i] - there[:, i]).abs().max() > 1e-6) for i in range(here.shape[1])]


def other_at(frames: torch.Tensor, i: int) -> torch.Tensor:
    other = frames.clone()
    other[:, i] = (other[:, i] + 1) % CODES
    return other


@pytest.mark.parametrize("copying", [False, True])
@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("before", [1, 2, 8])
def test_one_layer_sees_the_window_the_first_frame_and_no_later_one(before, merge, copying):
    model = make(n_frames_before=before, merge=merge, copying=copying)
    frames, last, n = clip()
    for i in range(FRAMES):
        seen_by = [i == 0 or i <= at < i + before for at in range(FRAMES)]
        assert changed(model, frames, last, n, other_at(frames, i)) == seen_by


@pytest.mark.parametrize("before", [1, 2, 8])
def test_no_layer_looks_ahead(before):
    model = make(n_frames_before=before, n_layer=3)
    frames, last, n = clip()
    for i in range(FRAMES):
        assert not any(changed(model, frames, last, n, other_at(frames, i))[:i])


def test_every_frame_sees_the_last_one_and_the_number_of_frames_that_remain():
    model = make()
    frames, last, n = clip()
    assert all(changed(model, frames, last, n, frames, (last + 1) % CODES))
    with torch.no_grad():
        here, there = model(frames, last, n), model(frames, last, n + 1)
        assert (here - there).abs().amax((0, 2, 3)).gt(1e-6).all()
        model.remaining = None
        assert torch.equal(model(frames, last, n), model(frames, last, n + 1))


def test_a_frame_that_is_as_far_from_the_end_is_marked_alike():
    """A window's logits depend on what remains, not on where it stands in the clip."""
    model = make(layout="windowed")
    frames, last, _ = clip(frames=2)
    with torch.no_grad():
        early = model(frames, last, torch.tensor([9]), start=0)
        late = model(frames, last, torch.tensor([12]), start=3)
        other = model(frames, last, torch.tensor([12]), start=0)
    assert torch.equal(early, late) and not torch.allclose(early, other)


def test_a_clip_longer_than_any_trained_counts_from_the_largest_number():
    model = make(layout="windowed", max_frames=5)
    frames, last, _ = clip(frames=2)
    long, longer = (model(frames, last, torch.tensor([n])) for n in (30, 31))
    assert torch.equal(long, longer)
    assert not torch.equal(long, model(frames, last, torch.tensor([5])))


@pytest.mark.parametrize("layout", ["clip", "windowed"])
@pytest.mark.parametrize("merge", [1, 2])
def test_positions_of_the_frame_before_influence_the_next(layout, merge):
    """Clip layout: all. Windowed: GPT-2's own mask lets a position see itself and earlier ones."""
    model = make(layout=layout, merge=merge, n_frames_before=1)
    frames, last, n = clip(frames=1)
    kept = {}
    embed = model.embed_codes

    def watched(codes: torch.Tensor) -> torch.Tensor:
        kept["x"] = embed(codes).detach().requires_grad_()
        return kept["x"]

    model.embed_codes = watched
    logits = model(frames, last, n)[0, 0]  # N V
    places = N // merge**2
    influence = torch.zeros(N, places)
    for token in range(N):
        (gradient,) = torch.autograd.grad(logits[token, 0], kept["x"], retain_graph=True)
        influence[token] = gradient[0, 1].abs().sum(-1)
    if layout == "clip":
        assert (influence > 0).all()
        return
    rows, columns = torch.arange(N) // 4, torch.arange(N) % 4
    place = rows // merge * (4 // merge) + columns // merge
    assert torch.equal(influence > 0, torch.arange(places)[None] <= place[:, None])


@pytest.mark.parametrize("merge", [1, 2])
def test_embedding_and_head_are_inverse_under_an_orthonormal_table(merge):
    model = make(merge=merge, n_embd=CODES * merge**2)
    with torch.no_grad():
        model.table.copy_(torch.linalg.qr(torch.randn(CODES, CODES))[0])
    codes = torch.randint(0, CODES, (2, 3, N))
    positions = model.embed_codes(codes)
    assert positions.shape == (2, 3, N // merge**2, CODES * merge**2)
    logits = model.logits(positions, [], torch.zeros(2, 3))
    assert torch.allclose(logits, F.one_hot(codes, CODES).float(), atol=1e-5)


def test_a_square_of_tokens_shares_a_position():
    """A grid of 4x4, merged by 2: the codes 0..15 row by row, squares row by row."""
    model = make(merge=2, grid=(4, 4), n_embd=16)
    with torch.no_grad():
        model.table.copy_(torch.arange(16.0)[:, None].expand(16, 4))
    positions = model.embed_codes(torch.arange(16).view(1, 1, 16))[0, 0, :, ::4]
    assert positions.tolist() == [
        [0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15],
    ]  # fmt: skip


@pytest.mark.parametrize("layout", ["clip", "windowed"])
def test_loss_at_start_is_that_of_guessing(layout):
    model = make(layout=layout, num_embeddings=64, n_embd=32)
    model.start(torch.randn(64, 6))
    frames, last, n = clip(frames=2)
    logits = model(frames, last, n).flatten(0, 2)
    loss = F.cross_entropy(logits, torch.randint(0, 64, (len(logits),)))
    assert loss.item() == pytest.approx(math.log(64), abs=0.2)


@pytest.mark.parametrize("merge", [1, 2])
def test_code_embeddings_start_with_the_codebooks_neighbourhoods(merge):
    model = make(num_embeddings=40, n_embd=64 * merge**2, merge=merge)
    centres = 5 * torch.randn(10, 6).repeat_interleave(4, 0)  # ten groups of four like codes
    model.start(centres + 0.1 * torch.randn(40, 6))
    assert model.table.std().item() == pytest.approx(0.02, rel=0.01)
    near = torch.cdist(model.table, model.table).topk(4, largest=False).indices // 4
    assert torch.equal(near, (torch.arange(40) // 4)[:, None].expand(40, 4))


@pytest.mark.parametrize("merge", [1, 2])
def test_copying_starts_in_a_window_by_holding_the_frame_before(merge):
    model = make(layout="windowed", merge=merge, copying=True, num_embeddings=500)
    frames, last, n = clip(frames=2)
    chances = model(frames, last, n).softmax(-1)
    held = chances.gather(3, frames[:, -1:, :, None])
    assert torch.allclose(held, torch.full_like(held, HOLD_AT_START), atol=0.05)


@pytest.mark.parametrize("merge", [1, 2])
def test_copying_starts_in_a_clip_by_holding_the_nearer_end(merge):
    """Whatever was drawn before; in the middle both ends are alike, and there is no other code."""
    model = make(merge=merge, copying=True, num_embeddings=500)
    frames, last, _ = clip(frames=5)  # predicts 1..5 of a clip of 7: 3 is the middle
    last = (frames[:, 0] + 1) % CODES
    chances = model(frames, last, torch.tensor([7])).softmax(-1)[0]  # T N V
    of_first = chances.gather(2, frames[:, 0].expand(5, N)[..., None])[..., 0].mean(1)
    of_last = chances.gather(2, last.expand(5, N)[..., None])[..., 0].mean(1)
    assert (of_first.diff() < 0).all() and (of_last.diff() > 0).all()
    assert torch.allclose(of_first, of_last.flip(0), atol=0.02)
    assert of_first[0] > 0.8 and (of_first + of_last > HOLD_AT_START - 0.02).all()


@pytest.mark.parametrize("merge", [1, 2])
def test_gates_add_to_the_codes_of_their_source_at_their_place(merge):
    """By hand: gates 1, 2, 4 of before, last and first; where two show one code they add up.

    With the slope 0, 6, -6 frame 2 of 4 inner ones, at a fifth before the middle, gets -6/5 and
    6/5 more.
    """
    model = make(merge=merge, copying=True)
    with torch.no_grad():
        model.gates.bias.view(-1, 3).copy_(torch.tensor([0.5, 0.5, 0.5]).expand(merge**2, 3))
        model.prior.copy_(torch.tensor([[0.5, 1.5, 3.5], [0.0, 6.0, -6.0]]))
        model.table.zero_()
    frames, last, _ = clip(frames=3)
    last[0, 0] = frames[0, 0, 0]
    wanted = torch.zeros(1, 3, N, CODES)
    for i in range(3):
        lean = 6 * (2 * (i + 1) / 5 - 1)
        for token in range(N):
            for gate, source in ((1, frames[0, i]), (2 + lean, last[0]), (4 - lean, frames[0, 0])):
                wanted[0, i, token, source[token]] += gate
    found = model(frames, last, torch.tensor([6]))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_the_window_of_8_frames_at_the_thesis_size_is_longer_than_gpt2s_table():
    sizes = {"n_frames_before": 8, "grid": (8, 16), "n_embd": 4, "n_head": 1, "copying": False}
    model = make(layout="windowed", **sizes)
    frames, last, n = clip(frames=8, n=128)
    assert model.config.positions == 9 * 128 > GPT2_POSITIONS
    with torch.no_grad():
        logits = model(frames, last, n)
        assert logits.shape == (1, 1, 128, CODES) and logits.isfinite().all()
        oldest = model(other_at(frames, 0), last, n)
    assert (oldest - logits).abs().max() > 0, "the oldest of the 8 frames is really seen"
    with pytest.raises(AssertionError):
        model(torch.cat([frames, frames[:, :1]], 1), last, n)
    whole = make(**sizes)
    frames, last, n = clip(frames=12, n=128)
    with torch.no_grad():
        assert whole(frames, last, n).shape == (1, 12, 128, CODES)
        seen = changed(whole, frames, last, n, other_at(frames, 1))
    assert seen == [1 <= at < 9 for at in range(12)]


def test_a_small_window_keeps_gpt2s_own_positions():
    assert make(layout="windowed").config.positions == GPT2_POSITIONS


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("custom", (2, 2, 16)), ("gpt2", (12, 12, 768)), ("gpt2-xl", (48, 25, 1600))],
)
def test_config_from_parameters(tiny, kind, sizes):
    changes = {"transformer.transformer_type": kind, "train.n_frames_before": 5}
    config = GptConfig.from_params(tiny(changes))
    assert (config.n_layer, config.n_head, config.n_embd) == sizes
    assert config.grid == (4, 8) and config.num_embeddings == 16 and config.n_frames_before == 5
    assert GptConfig.from_dict(config.to_dict() | {"grid": [4, 8]}) == config
