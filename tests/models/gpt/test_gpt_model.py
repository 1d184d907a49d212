"""FrameGpt: what its logits depend on, how it starts, and that both backbones agree."""

import pytest
import torch

from pipeline.errors import UserError
from pipeline.models.gpt.model import GPT2_POSITIONS, Conditioning, FrameGpt, GptConfig
from pipeline.models.gpt.sampling import GREEDY, generate

PARALLEL = GREEDY.model_copy(update={"mode": "parallel"})
CODES, N, FRAMES, CHANNELS = 16, 8, 6, 3
SEQUENCES = pytest.mark.parametrize("sequence", ["full_clip", "sliding_window"])
BACKBONES = pytest.mark.parametrize("plain", [False, True], ids=["transformers", "plain"])


def make(seed: int = 0, **changes) -> FrameGpt:
    fields = {
        "sequence": "full_clip",
        "mode": "parallel",
        "plain": False,
        "n_frames_before": 2,
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 16,
        "dropout": 0.0,
        "remaining_frames_method": "own_embeddings",
        "num_embeddings": CODES,
        "grid": (2, 4),
        "merge": 1,
        "max_frames": 12,
        "context_channels": 0,
    }
    torch.manual_seed(seed)
    return FrameGpt(GptConfig(**fields | changes)).eval()


def clip(seed: int = 0, frames: int = FRAMES, channels: int = 0) -> tuple:
    """Token ids `1 T N` of the frames 0..frames-1 of a clip of frames+2, and its conditioning."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, CODES, (1, frames + 1, N), generator=generator)
    features = torch.randn(1, frames + 2, N, channels, generator=generator) if channels else None
    return ids[:, :-1], Conditioning(ids[:, -1], torch.tensor([frames + 2]), features)


def changed(before: torch.Tensor, after: torch.Tensor) -> list[bool]:
    """For each predicted frame, whether its logits `1 T N V` differ."""
    return ((before - after).abs().amax((0, 2, 3)) > 1e-6).tolist()


def changed_at(ids: torch.Tensor, i: int) -> torch.Tensor:
    other = ids.clone()
    other[:, i] = (other[:, i] + 1) % CODES
    return other


def share_weights(model: FrameGpt, plain: FrameGpt) -> None:
    """Gives the plain GPT the weights of transformers' one, whose linear maps are transposed."""
    weights = {}
    for name, value in model.state_dict().items():
        transposed = any(part in name for part in ("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        weights[name.replace("gpt.model.", "gpt.")] = value.T if transposed else value
    plain.load_state_dict(weights)


@BACKBONES
@pytest.mark.parametrize("n_frames_before", [1, 2, 8])
@torch.no_grad()
def test_one_layer_sees_the_window_and_the_first_frame(n_frames_before, plain):
    model = make(n_frames_before=n_frames_before, plain=plain)
    frames, cond = clip()
    before = model(frames, cond)
    for i in range(FRAMES):
        after = model(changed_at(frames, i), cond)
        sees_i = [i == 0 or i <= at < i + n_frames_before for at in range(FRAMES)]
        assert changed(before, after) == sees_i


@BACKBONES
@pytest.mark.parametrize("mode", ["parallel", "maskgit"])
@torch.no_grad()
def test_no_layer_looks_ahead(mode, plain):
    model = make(mode=mode, n_layer=3, plain=plain)
    frames, cond = clip()
    partial = torch.full_like(frames, CODES)
    for i in range(FRAMES):
        other = changed_at(frames, i)
        assert not any(changed(model(frames, cond), model(other, cond))[:i])
        if mode == "maskgit":
            before = model.complete(frames, cond, partial)[1]
            assert not any(changed(before, model.complete(other, cond, partial)[1])[:i])


@torch.no_grad()
def test_every_token_of_the_previous_frame_reaches_every_token_of_the_next():
    model = make(mode="maskgit", n_frames_before=1)
    frames, cond = clip()
    partial = torch.full_like(frames, CODES)
    before = model.complete(frames, cond, partial)
    for token in range(N):
        other = frames.clone()
        other[:, 2, token] = (other[:, 2, token] + 1) % CODES
        for logits, others in zip(before, model.complete(other, cond, partial), strict=True):
            assert ((logits - others)[0, 2].abs().amax(-1) > 1e-6).all()


@torch.no_grad()
def test_every_frame_sees_the_last_one_and_the_length_of_the_clip():
    model = make()
    frames, cond = clip()
    before = model(frames, cond)
    assert all(changed(before, model(frames, cond._replace(last=(cond.last + 1) % CODES))))
    longer = cond._replace(n_frames=cond.n_frames + 1)
    assert all(changed(before, model(frames, longer)))
    model.remaining = model.elapsed = None
    assert torch.equal(model(frames, cond), model(frames, longer))


@SEQUENCES
@torch.no_grad()
def test_a_frame_is_predicted_with_its_own_context_features(sequence):
    """One layer and a window of one frame: features of other frames have no way to it."""
    model = make(sequence=sequence, n_frames_before=1, context_channels=CHANNELS)
    ids, cond = clip(channels=CHANNELS)

    def predict(features: torch.Tensor) -> torch.Tensor:
        other = cond._replace(features=features)
        if sequence == "full_clip":
            return model(ids, other)
        return torch.cat([model(ids[:, i : i + 1], other, start=i) for i in range(FRAMES)], 1)

    before = predict(cond.features)
    for i in range(FRAMES + 2):
        features = cond.features.clone()
        features[:, i] += 1
        # the last frame's block is seen by all, and in a full clip the first frame's too
        seen_by_all = i == FRAMES + 1 or (i == 1 and sequence == "full_clip")
        expected = [seen_by_all or i == at + 1 for at in range(FRAMES)]
        assert changed(before, predict(features)) == expected


@torch.no_grad()
def test_a_query_gets_the_context_features_of_its_frame():
    model = make(mode="maskgit", n_frames_before=1, context_channels=CHANNELS)
    ids, cond = clip(channels=CHANNELS)
    partial = torch.full_like(ids, CODES)
    features = cond.features.clone()
    features[:, 4] += 1
    before = model.complete(ids, cond, partial)[1]
    after = model.complete(ids, cond._replace(features=features), partial)[1]
    assert changed(before, after) == [False, False, False, True, False, False]


@torch.no_grad()
def test_the_last_block_has_the_features_of_each_clips_own_last_frame():
    """In a batch of unequal lengths: frame 3 of 4, frame 5 of 6."""
    model = make(context_channels=CHANNELS)
    features = torch.randn(2, 6, N, CHANNELS)
    cond = Conditioning(torch.zeros(2, N).long(), torch.tensor([4, 6]), features)
    both = model.embed_last(cond)
    for clip_number, n in enumerate((4, 6)):
        row = slice(clip_number, clip_number + 1)
        alone = Conditioning(cond.last[row], cond.n_frames[row], features[row, :n])
        assert torch.allclose(model.embed_last(alone)[0], both[clip_number], atol=1e-6)


def test_context_is_normalised_by_the_features_it_was_fitted_to():
    model = make(context_channels=3)
    features = torch.randn(40, 7, N, 3) * torch.tensor([5.0, 0.01, 0.0]) + 2
    model.fit_context(features.half())
    normalised = (features - model.context_mean) / model.context_std
    assert torch.allclose(normalised.mean((0, 1, 2)), torch.zeros(3), atol=0.1)
    assert torch.allclose(normalised.std((0, 1, 2))[:2], torch.ones(2), atol=0.1)
    assert not normalised[..., 2].any(), "a constant channel stays finite"
    assert {"context_mean", "context_std"} <= model.state_dict().keys()


@torch.no_grad()
def test_a_known_token_of_a_query_reaches_its_own_frame_alone():
    model = make(mode="maskgit", n_layer=2)
    frames, cond = clip()
    masked = torch.full_like(frames, CODES)
    known = masked.clone()
    known[:, 2, 5] = 3
    one_pass, before = model.complete(frames, cond, masked)
    same, after = model.complete(frames, cond, known)
    moved = (before - after)[0].abs().amax(-1) > 1e-6  # T N
    assert moved[2].all() and not moved[[0, 1, 3, 4, 5]].any()
    assert torch.equal(one_pass, same)
    assert torch.allclose(one_pass, model(frames, cond), atol=1e-5), "queries change no frame"


@SEQUENCES
@pytest.mark.parametrize("n_frames_before", [1, 2, 8, None])
@torch.no_grad()
def test_the_plain_gpt_equals_transformers(sequence, n_frames_before):
    mode = "maskgit" if sequence == "full_clip" else "parallel"
    sizes = {"sequence": sequence, "mode": mode, "n_frames_before": n_frames_before, "n_layer": 2}
    model, plain = make(**sizes), make(1, **sizes, plain=True)
    share_weights(model, plain)
    full_clip = sequence == "full_clip"
    frames, cond = clip(frames=FRAMES if full_clip else min(FRAMES, model.config.window))
    assert torch.allclose(model(frames, cond), plain(frames, cond), atol=1e-5)
    if mode == "maskgit":
        partial = clip(seed=1)[0].masked_fill(torch.arange(N) % 3 == 0, CODES)
        both = zip(
            model.complete(frames, cond, partial),
            plain.complete(frames, cond, partial),
            strict=True,
        )
        assert all(torch.allclose(logits, others, atol=1e-5) for logits, others in both)


@BACKBONES
@torch.no_grad()
def test_a_sliding_window_is_causal(plain):
    model = make(sequence="sliding_window", n_frames_before=1, plain=plain)
    frames, cond = clip(frames=1)
    before = model(frames, cond)
    for token in range(N):
        other = frames.clone()
        other[:, 0, token] = (other[:, 0, token] + 1) % CODES
        reached = (before - model(other, cond))[0, 0].abs().amax(-1) > 1e-6
        assert torch.equal(reached, torch.arange(N) >= token)


@torch.no_grad()
def test_a_frame_as_far_from_the_end_is_marked_alike():
    """A window's logits depend on what remains, not on where it stands in the clip."""
    model = make(sequence="sliding_window")
    frames, cond = clip(frames=2)
    early = model(frames, cond._replace(n_frames=torch.tensor([9])), start=0)
    late = model(frames, cond._replace(n_frames=torch.tensor([12])), start=3)
    other = model(frames, cond._replace(n_frames=torch.tensor([12])), start=0)
    assert torch.equal(early, late) and not torch.allclose(early, other)


@SEQUENCES
def test_a_clip_longer_than_any_trained_is_marked_at_a_slower_pace(sequence):
    """Trained on 5 frames: of 9, frames 2, 4, 6 are marked as 1, 2, 3 of 5, others between."""
    model = make(sequence=sequence, max_frames=5)
    n, longest = torch.tensor([9]), torch.tensor([5])
    zero = torch.zeros(1, 8, 1, 16)
    slow = model._add_time(zero, 8 - torch.arange(8)[None], n)[0, :, 0]
    trained = model._add_time(zero[:, :4], 4 - torch.arange(4)[None], longest)[0, :, 0]
    assert torch.allclose(slow[::2], trained, atol=1e-6)
    assert torch.allclose(slow[1], (trained[0] + trained[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("method", ["concat", "token_type_ids"])
def test_counts_of_the_thesis_methods_are_rows_of_the_token_table(method, monkeypatch):
    model = make(sequence="sliding_window", remaining_frames_method=method)
    frames, cond = clip(frames=2)
    inputs, backbone = [], model.backbone
    monkeypatch.setattr(model, "backbone", lambda x: inputs.append(x) or backbone(x))
    short = model(frames, cond._replace(n_frames=torch.tensor([5])))
    long = model(frames, cond._replace(n_frames=torch.tensor([9])))
    assert not torch.allclose(short, long, atol=1e-4)
    embedded = model.table[torch.cat([cond.last[:, None], frames], 1)].flatten(1, 2)
    if method == "concat":  # frame 2 is predicted: of 5 frames 2 remain, of 9 six
        assert inputs[0].shape[1] == 3 * N + 1 and torch.equal(inputs[0][:, 1:], embedded)
        assert torch.equal(inputs[0][0, 0], model.table[2])
        assert torch.equal(inputs[1][0, 0], model.table[6])
    else:
        rows = torch.tensor([0, 3, 2]).repeat_interleave(N)
        assert torch.allclose(inputs[0], embedded + model.table[rows], atol=1e-6)


@torch.no_grad()
def test_eight_frames_run_past_the_positions_of_gpt2():
    model = make(sequence="sliding_window", n_frames_before=8, grid=(8, 16))
    assert model.config.positions == 9 * 128 > GPT2_POSITIONS
    frames = torch.randint(0, CODES, (1, 8, 128))
    cond = Conditioning(frames[:, 0], torch.tensor([12]))
    assert model(frames, cond, start=2).isfinite().all()


def test_a_window_longer_than_the_position_table_is_a_sentence():
    model = make(sequence="sliding_window", n_frames_before=2)
    with pytest.raises(UserError, match=r"3 previous frames: .* room for 2 \(train"):
        model(*clip(frames=3))


def test_like_codes_begin_alike():
    """The codebook is a line: embeddings keep its order of distances."""
    model = make()
    model.init_from_codebook(torch.arange(CODES)[:, None] * torch.ones(1, 5))
    table = model.table.detach()
    assert table.std().item() == pytest.approx(0.02, rel=0.01)
    distances = (table - table[:1]).norm(dim=1)
    assert torch.equal(distances.argsort(), torch.arange(CODES))


@SEQUENCES
@torch.no_grad()
def test_the_untrained_model_predicts_the_most_frequent_code_everywhere(sequence):
    model = make(sequence=sequence, context_channels=CHANNELS, mode="parallel")
    counts = torch.full((CODES,), 10)
    counts[7], counts[3] = 200, 0
    model.init_bias(counts)
    frames, cond = clip(frames=2, channels=CHANNELS)
    logits = model(frames, cond)
    assert (logits.argmax(-1) == 7).all() and logits.isfinite().all()
    probabilities = logits.softmax(-1).mean((0, 1, 2))
    assert torch.allclose(probabilities, (counts + 1.0) / (counts + 1).sum(), atol=0.05)


def test_squares_of_tokens_share_a_position_and_come_apart_again():
    model = make(merge=2, context_channels=CHANNELS, n_embd=32)
    assert model.config.positions_per_frame == N // 4
    tokens = torch.arange(N * 2.0).view(1, N, 2)
    squares = model._together(tokens)  # 1 P 8
    assert squares[0, 0].tolist() == [0, 1, 2, 3, 8, 9, 10, 11], "tokens 0, 1, 4 and 5"
    assert torch.equal(model._apart(squares), tokens)
    ids, cond = clip(channels=CHANNELS)
    before = model(ids, cond)
    assert before.shape == (1, FRAMES, N, CODES)
    assert changed(before, model(changed_at(ids, 2), cond)) == [
        False,
        False,
        True,
        True,
        *[False] * 2,
    ]


def test_a_merged_model_generates_what_one_pass_predicts():
    model = make(merge=2, mode="maskgit")
    ids, cond = clip()
    frames = torch.stack([ids[:, 0], *generate(model, ids[:, 0], cond, PARALLEL)], 1)
    assert torch.equal(model(frames[:, :-1], cond).argmax(-1), frames[:, 1:])
    steps = list(generate(model, ids[:, 0], cond))
    assert len(steps) == FRAMES and all(int(x.min()) >= 0 and int(x.max()) < CODES for x in steps)
