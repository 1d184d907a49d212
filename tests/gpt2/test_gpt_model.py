"""FrameGpt: what its logits depend on, where codes go on a merged grid, and how it starts."""

import math

import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.gpt2.config import GPT2_POSITIONS, GptConfig
from pipeline.gpt2.head import HOLD_AT_START, Sources
from pipeline.gpt2.model import FrameGpt

CODES, N, FRAMES = 16, 8, 6


def make(seed: int = 0, **changes) -> FrameGpt:
    fields = {
        "layout": "clip",
        "mode": "seed",
        "plain": False,
        "key_dropout": False,
        "moved_keys": False,
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


def same_weights(model: FrameGpt, plain: FrameGpt) -> None:
    """Gives the plain GPT the weights of transformers' one, whose linear maps are transposed."""
    theirs = {
        name.removeprefix("gpt.model.") if name.startswith("gpt.model.") else name: value
        for name, value in model.state_dict().items()
    }
    mine = plain.state_dict()
    for name in mine:
        value = theirs[name.removeprefix("gpt.")]
        transposed = any(part in name for part in ("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        mine[name] = value.T if transposed else value
    plain.load_state_dict(mine)


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


@pytest.mark.parametrize("layout", ["clip", "windowed"])
def test_a_clip_longer_than_any_trained_is_told_at_a_slower_pace(layout):
    """Trained on 5 frames: of 9, frames 2, 4, 6 are marked as 1, 2, 3 of 5, others between."""
    model = make(layout=layout, max_frames=5)
    n, longest = torch.tensor([9]), torch.tensor([5])
    nothing = torch.zeros(1, 8, 1, 16)
    slow = model.mark(nothing, 8 - torch.arange(8)[None], n)[0, :, 0]
    trained = model.mark(nothing[:, :4], 4 - torch.arange(4)[None], longest)[0, :, 0]
    assert torch.allclose(slow[::2], trained, atol=1e-6)
    assert torch.allclose(slow[1], (trained[0] + trained[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("method", ["concat", "token_type_ids"])
def test_counts_of_the_thesis_methods_are_rows_of_the_table_of_codes(method):
    """And the model is told them: its logits change with the clip's length."""
    model = make(layout="windowed", remaining_frames_method=method)
    frames, last, _ = clip(frames=2)
    kept, gpt = [], model.gpt.forward
    model.gpt.forward = lambda inputs, *more: kept.append(inputs) or gpt(inputs, *more)
    short, long = (model(frames, last, torch.tensor([n])) for n in (5, 9))
    assert not torch.allclose(short, long, atol=1e-4)
    plain = model.embed_codes(torch.cat([last[:, None], frames], 1)).flatten(1, 2)
    if method == "concat":  # frame 2 is predicted: of 5 frames 2 remain, of 9 six
        assert kept[0].shape[1] == 3 * N + 1 and torch.equal(kept[0][:, 1:], plain)
        assert torch.equal(kept[0][0, 0], model.table[2]) and torch.equal(
            kept[1][0, 0], model.table[6]
        )
        return
    rows = torch.tensor([0, 3, 2]).repeat_interleave(N)
    assert torch.allclose(kept[0], plain + model.table[rows], atol=1e-6)


def test_a_window_longer_than_the_position_table_is_a_sentence():
    model = make(layout="windowed", n_frames_before=2)
    frames, last, n = clip(frames=3)
    with pytest.raises(UserError, match=r"3 previous frames: .* room for 2 \(train"):
        model(frames, last, n)


MODES = pytest.mark.parametrize("causal", [False, True], ids=["maskgit", "autoregressive"])


def influence(model, causal: bool, frame: int) -> torch.Tensor:
    """Whether the logits of each token of each drawn frame change with each token of `frame`.

    `T N N`: first index the drawn frame (0 is frame 1 of the clip), then its token, then the one
    that is changed, in the frames that are read.
    """
    frames, last, n = clip()
    drawn = clip(seed=1)[0]
    found = torch.zeros(FRAMES, N, N, dtype=torch.bool)
    with torch.no_grad():
        here = model.complete(frames, last, n, drawn, causal)[1]
        for token in range(N):
            other = frames.clone()
            other[:, frame, token] = (other[:, frame, token] + 1) % CODES
            there = model.complete(other, last, n, drawn, causal)[1]
            found[:, :, token] = (here - there)[0].abs().amax(-1) > 1e-6
    return found


@MODES
@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("plain", [False, True])
def test_any_token_of_the_frame_before_can_change_all_of_the_next(causal, merge, plain):
    model = make(mode="all", merge=merge, plain=plain, n_frames_before=1)
    found = influence(model, causal, frame=2)
    assert found[2].all(), "frame 3 is drawn after frame 2"
    assert not found[:2].any(), "nothing looks ahead"
    assert not found[3:].any(), "one layer and a window of one frame"


@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("plain", [False, True])
def test_in_order_no_token_sees_itself_or_a_later_one_of_its_frame(merge, plain):
    model = make(mode="autoregressive", merge=merge, plain=plain, n_layer=2)
    frames, last, n = clip()
    drawn = clip(seed=1)[0]
    place = model.head.back // merge**2  # of each token, in the order in which they are drawn
    with torch.no_grad():
        here = model.complete(frames, last, n, drawn, causal=True)[1]
        for token in range(N):
            other = drawn.clone()
            other[:, 3, token] = (other[:, 3, token] + 1) % CODES
            there = model.complete(frames, last, n, other, causal=True)[1]
            changed = (here - there)[0].abs().amax(-1) > 1e-6  # T N
            assert torch.equal(changed[3], place > place[token])
            assert not changed[[0, 1, 2, 4, 5]].any(), (
                "what is drawn is read by its own frame alone"
            )


def test_in_maskgit_a_known_token_can_change_every_other_one():
    model = make(mode="maskgit")
    frames, last, n = clip()
    blank = torch.full_like(frames, CODES)
    known = blank.clone()
    known[:, 2, 5] = 3
    with torch.no_grad():
        here, there = (model.complete(frames, last, n, x, causal=False)[1] for x in (blank, known))
    changed = (here - there)[0].abs().amax(-1) > 1e-6
    assert changed[2].all() and not changed[[0, 1, 3, 4, 5]].any()


@MODES
@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("before", [1, 2, 8, None])
def test_drawing_leaves_the_one_pass_as_it_is_and_equals_the_plain_gpt(causal, merge, before):
    """Two networks with equal weights: windows of keys against one dense mask."""
    model = make(mode="all", merge=merge, n_frames_before=before, n_layer=2)
    plain = make(1, mode="all", merge=merge, n_frames_before=before, n_layer=2, plain=True)
    same_weights(model, plain)
    frames, last, n = clip()
    drawn = clip(seed=1)[0].masked_fill(torch.arange(N) % 3 == 0, CODES if not causal else 0)
    with torch.no_grad():
        found = [m.complete(frames, last, n, drawn, causal) for m in (model, plain)]
        once = model(frames, last, n)
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(found[0][0], once, atol=1e-5)


MOVED = {"moved_keys": True, "copying": True}


@pytest.mark.parametrize("layout", ["clip", "windowed"])
@pytest.mark.parametrize("merge", [1, 2])
def test_moved_frames_are_told_for_their_own_frame_and_copied_first(layout, merge):
    """Before training the moved frame leads: of 500 codes it has most of the chance."""
    model = make(layout=layout, merge=merge, num_embeddings=500, **MOVED)
    frames, last, _ = clip(frames=2)
    n = torch.tensor([7])
    moved = torch.randint(100, 200, (1, 7, N))
    found = model(frames, last, n, moved=moved).softmax(-1)
    predicted = moved[:, 2:3] if layout == "windowed" else moved[:, 1:3]
    share = found.gather(3, predicted[..., None])
    assert (share > (0.3 if layout == "windowed" else 0.6)).all()
    other = moved.clone()
    other[:, 2] += 1
    changed = (model(frames, last, n, moved=other).softmax(-1) - found).abs().amax((0, 2, 3)) > 1e-6
    assert changed.tolist() == ([True] if layout == "windowed" else [False, True])


def test_moved_frames_are_hidden_with_the_last_one():
    model = make(key_dropout=True, **MOVED)
    frames, last, n = clip(frames=2)
    hide = torch.tensor([True])
    with torch.no_grad():
        one, two = (
            model(frames, last, n, hide=hide, moved=torch.full((1, 4, N), code)) for code in (1, 2)
        )
    assert torch.equal(one, two)


@pytest.mark.parametrize("layout", ["clip", "windowed"])
def test_a_hidden_last_frame_cannot_be_seen_and_not_be_copied(layout):
    model = make(layout=layout, key_dropout=True, copying=True, n_layer=2)
    frames, last, n = clip(frames=2)
    hide = torch.tensor([True])
    with torch.no_grad():
        hidden, other = (model(frames, x, n, hide=hide) for x in (last, (last + 1) % CODES))
        assert torch.equal(hidden, other)
        assert torch.equal(model(frames, last, n), model(frames, last, n, hide=~hide))


@pytest.mark.parametrize("layout", ["clip", "windowed"])
@pytest.mark.parametrize("merge", [1, 2])
def test_positions_of_the_frame_before_influence_the_next(layout, merge):
    """Clip layout: all. Windowed: GPT-2's own mask lets a position see itself and earlier ones."""
    model = make(layout=layout, merge=merge, n_frames_before=1)
    frames, last, n = clip(frames=1)
    kept = {}
    embed = model.embed_codes

    def watched(codes: torch.Tensor) -> torch.Tensor:
        kept["x"] = embed(codes).detach().requires_grad_()  # last come the frames before
        return kept["x"]

    model.embed_codes = watched
    logits = model(frames, last, n)[0, 0]  # N V
    places = N // merge**2
    influence = torch.zeros(N, places)
    for token in range(N):
        (gradient,) = torch.autograd.grad(logits[token, 0], kept["x"], retain_graph=True)
        influence[token] = gradient[0, 0].abs().sum(-1)
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
    logits = model.head(positions, model.table, Sources([], torch.zeros(2, 3), None))
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
        model.head.gates.bias.view(-1, 3).copy_(torch.tensor([0.5, 0.5, 0.5]).expand(merge**2, 3))
        model.head.prior.copy_(torch.tensor([[0.5, 1.5, 3.5], [0.0, 6.0, -6.0]]))
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
    with pytest.raises(UserError):
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
