"""Training of the transformer: what counts in the loss, whose frames it reads, that it learns."""

import math
from shutil import which

import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.gpt2.sampling import Decoding, draw
from pipeline.gpt2.sequence import pad
from pipeline.training import transformer
from pipeline.training.clips import corrupted, partly_drawn
from pipeline.training.contract import Loss

CPU = torch.device("cpu")
LAYOUTS = pytest.mark.parametrize("layout", ["clip", "windowed"])


def total(losses: list[Loss]) -> float:
    return sum(loss.total.item() for loss in losses)


@LAYOUTS
def test_loss_by_hand(transformer_task, layout):
    """Mean cross entropy of the inner frames, each foretold from the true ones before it."""
    task = transformer_task({"train.layout": layout})
    task.module.eval()
    frames, n, last, _ = task.tokens["train"].batch([0], torch.device("cpu"))  # six frames
    by_hand = []
    for i in range(4):
        start = max(0, i - 1) if layout == "windowed" else 0
        logits = task.module(frames[:, start : i + 1], last, n, start)[0, -1]
        by_hand.append(F.cross_entropy(logits, frames[0, i + 1]).item())
    found = list(task.losses([0], 0, 0))
    assert total(found) == pytest.approx(sum(by_hand) / 4, rel=1e-5)
    assert [loss.steps for loss in found] == [False] * (len(found) - 1) + [True]


@LAYOUTS
def test_padding_counts_in_no_loss(transformer_task, layout):
    task = transformer_task({"train.layout": layout, "transformer.copying": True})
    task.module.eval()
    rows = [0, 1, 2]  # 6, 8 and 5 frames
    before = total(list(task.losses(rows, 0, 0))), task.validate([[0, 1]])

    def otherwise(clips):
        padded, lengths, last = pad(clips)
        for clip, n in zip(padded, lengths, strict=True):
            clip[n:] = 13
        return padded, lengths, last

    for tokens in task.tokens.values():
        tokens.together = otherwise
    frames, _, _, _ = task.tokens["train"].batch(rows, torch.device("cpu"))
    assert (frames[2, 5:] == 13).all()
    assert (total(list(task.losses(rows, 0, 0))), task.validate([[0, 1]])) == before


def test_all_targets_of_a_batch_weigh_the_same(transformer_task):
    task = transformer_task()
    task.module.eval()
    alone = [total(list(task.losses([row], 0, 0))) for row in (1, 2)]  # 6 and 3 inner frames
    together = total(list(task.losses([1, 2], 0, 0)))
    assert together == pytest.approx((6 * alone[0] + 3 * alone[1]) / 9, rel=1e-5)


@LAYOUTS
def test_the_given_last_frame_is_never_a_target(transformer_task, layout):
    """In a padded batch too: targets that count are the inner frames, each once."""
    task = transformer_task({"train.layout": layout})
    clips = task.tokens["train"].batch([0, 2], CPU)  # six frames and five
    counted = [[], []]
    for one in task._passes(clips.frames[:, :-2], clips.frames):
        found, _ = task._found(one, clips, "seed", None, task.generator)
        first = one.start + one.inputs.shape[1] - one.targets.shape[1] + 1
        for k in range(one.targets.shape[1]):
            for row, n in enumerate((6, 5)):
                if 1 <= first + k <= n - 2:
                    counted[row].append(first + k)
                    assert torch.equal(one.targets[row, k], clips.frames[row, first + k])
        inside = sum(1 <= first + k <= n - 2 for k in range(one.targets.shape[1]) for n in (6, 5))
        assert found["seed"].count == 32 * inside
    assert counted == [[1, 2, 3, 4], [1, 2, 3]]


@LAYOUTS
def test_gathering_equals_a_larger_batch(transformer_task, run, layout, tmp_path, write_tokens):
    clips = [torch.randint(0, 16, (6, 32)) for _ in range(4)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips[:1]})
    gradients = []
    for batch, gathered in ((4, 1), (2, 2)):
        task = transformer_task({"train.layout": layout}, folder=folder)
        players = task.players["gpt"]
        players.clip_norm = 1e9
        players.optimizer.register_step_pre_hook(
            lambda *_, players=players: gradients.append(
                torch.cat([p.grad.flatten() for p in players.parameters if p.grad is not None])
            )
        )
        run(task, batch_size=batch, accumulation_size=gathered, n_epochs=1)
    one, two = gradients
    assert one.norm() > 0.01 and torch.allclose(one, two, atol=1e-6)


@LAYOUTS
def test_true_frames_then_its_own(transformer_task, layout):
    task = transformer_task({"train.layout": layout, "train.stop_ground_truth_after_epoch": 2})
    rows = [0, 1]
    frames, n, last, _ = task.tokens["train"].batch(rows, torch.device("cpu"))
    with torch.no_grad():
        task.module.eval()
        drawn = [d.codes for d in draw(task.module, frames[:, 0], last, n)]
        task.module.train()
    own = torch.stack([frames[:, 0], *drawn[:-1]], 1)
    assert not torch.equal(own, frames[:, :-2])
    read = []
    task.module.register_forward_pre_hook(
        lambda module, inputs: read.append(inputs[0]) if torch.is_grad_enabled() else None
    )
    for epoch, wanted in ((1, frames[:, :-2]), (2, own)):
        read.clear()
        losses = list(task.losses(rows, epoch, 0))
        if layout == "clip":
            assert torch.equal(read[0], wanted) and len(read) == 1
        else:
            assert len(read) == wanted.shape[1]
            for i, window in enumerate(read):
                assert torch.equal(window, wanted[:, max(0, i - 1) : i + 1])
        assert total(losses) > 0 and task.module.training


@LAYOUTS
def test_its_own_frames_are_judged_by_the_true_ones(transformer_task, layout, monkeypatch):
    """What it reads is drawn, what it shall say is not."""
    task = transformer_task({"train.layout": layout, "train.stop_ground_truth_after_epoch": 0})
    task.module.eval()
    frames, n, last, _ = task.tokens["train"].batch([0], torch.device("cpu"))
    sevens = [transformer.sampling.Drawn(torch.full((1, 32), 7), None)] * 4
    monkeypatch.setattr(transformer.sampling, "draw", lambda *_, **__: iter(sevens))
    by_hand = []
    for i in range(4):
        window = torch.full((1, i + 1, 32), 7)
        window[:, 0] = frames[:, 0]
        start = max(0, i - 1) if layout == "windowed" else 0
        logits = task.module(window[:, start:], last, n, start)[0, -1]
        by_hand.append(F.cross_entropy(logits, frames[0, i + 1]).item())
    task.module.eval()
    assert total(list(task.losses([0], 0, 0))) == pytest.approx(sum(by_hand) / 4, rel=1e-4)


@LAYOUTS
@pytest.mark.parametrize("merge", [1, 2])
def test_a_few_held_clips_are_learnt(transformer_task, run, layout, merge, tmp_path, write_tokens):
    clips = [torch.randint(0, 16, (1, 32)).expand(5, 32) for _ in range(2)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips})
    changes = {"train.layout": layout, "transformer.merge": merge, "transformer.n_embd": 32}
    changes |= {"train.stop_ground_truth_after_epoch": 30}
    task = transformer_task(changes, folder=folder)
    history = run(task, n_epochs=40, checkpoint_interval=1e9)
    assert history.epochs[0]["accuracy"] < 0.7
    assert history.epochs[-1]["accuracy"] > 0.95
    assert history.epochs[-1]["total"] < 0.6 * history.epochs[0]["total"]


@LAYOUTS
def test_one_batch_is_learnt_by_heart(transformer_task, run, layout, tmp_path, write_tokens):
    clips = [torch.randint(0, 16, (n, 32)) for n in (5, 6)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips})
    changes = {"train.layout": layout, "transformer.n_embd": 64}
    changes |= {"train.stop_ground_truth_after_epoch": 1000}
    history = run(transformer_task(changes, folder=folder), n_epochs=100, checkpoint_interval=1e9)
    assert history.steps[0]["total"] > 2.5, "16 codes by chance: log 16 = 2.8"
    assert history.steps[-1]["total"] < 0.1 and history.epochs[-1]["accuracy"] > 0.99


def test_clips_are_named_in_messages(transformer_task):
    assert transformer_task().names([2, 0]) == ["clip train-02", "clip train-00"]


def test_tokens_of_another_tokenizer_are_refused(transformer_task, tmp_path, write_tokens):
    good = torch.zeros(5, 32, dtype=torch.int64)
    for wrong in (torch.full((5, 32), 16), torch.zeros(5, 30, dtype=torch.int64)):
        folder = write_tokens(tmp_path / "tokens", {"train": [good, wrong], "val": [good]})
        with pytest.raises(UserError, match=r"clip train-01 has 3\d tokens.*token_precompute"):
            transformer_task(folder=folder)


@LAYOUTS
def test_moved_frames_are_read_for_the_frame_that_is_predicted(transformer_task, layout):
    """In the tests' tokens they are the clip backwards: frame i of n is told frame n-1-i."""
    task = transformer_task({"train.layout": layout, "transformer.moved_keys": True})
    task.module.eval()
    clips = task.tokens["train"].batch([0], CPU)  # six frames
    assert torch.equal(clips.moved, clips.frames.flip(1))
    by_hand = []
    for i in range(4):
        start = max(0, i - 1) if layout == "windowed" else 0
        inputs = clips.frames[:, start : i + 1]
        backwards = clips.frames.flip(1)
        logits = task.module(inputs, clips.last, clips.n_frames, start, moved=backwards)[0, -1]
        by_hand.append(F.cross_entropy(logits, clips.frames[0, i + 1]).item())
    assert total(list(task.losses([0], 0, 0))) == pytest.approx(sum(by_hand) / 4, rel=1e-5)


MODES = ["maskgit", "autoregressive"]


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_of_a_mode_by_hand(transformer_task, mode, monkeypatch):
    """Half of it is that of one pass; maskgit counts the open tokens, the other all."""
    task = transformer_task({"train.mode": mode})
    task.module.eval()
    frames, n, last, _ = task.tokens["train"].batch([0, 2], CPU)  # six frames and five
    targets = frames[:, 1:-1]
    drawn, exists = targets, torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    counts = exists[..., None].expand_as(targets)
    if mode == "maskgit":
        drawn = targets.masked_fill(torch.rand(targets.shape) < 0.4, 16)
        monkeypatch.setattr(transformer, "partly_drawn", lambda *_: drawn)
        counts = counts & (drawn == 16)
    with torch.no_grad():
        causal = mode == "autoregressive"
        once, parts = task.module.complete(frames[:, :-2], last, n, drawn, causal)
    wanted = F.cross_entropy(once[exists].flatten(0, 1), targets[exists].flatten())
    drawing = F.cross_entropy(parts[counts], targets[counts])
    (loss,) = task.losses([0, 2], 0, 0)
    assert loss.total.item() == pytest.approx(((wanted + drawing) / 2).item(), rel=1e-5)
    assert loss.parts["drawn"].item() == pytest.approx(drawing.item(), rel=1e-5)


@pytest.mark.parametrize("mode", [*MODES, "all"])
@pytest.mark.parametrize("merge", [1, 2])
def test_every_mode_learns_one_batch_by_heart_and_draws_it(
    transformer_task, run, mode, merge, tmp_path, write_tokens
):
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 16, (n, 32), generator=generator) for n in (5, 6)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips})
    changes = {"train.mode": mode, "transformer.n_embd": 64, "transformer.merge": merge}
    changes |= {"train.stop_ground_truth_after_epoch": 1000}
    task = transformer_task(changes, folder=folder)
    history = run(task, n_epochs=150, checkpoint_interval=1e9)
    assert history.epochs[-1]["accuracy"] > 0.99 and history.epochs[-1]["rollout_accuracy"] > 0.99
    task.module.eval()
    frames, n, last, _ = task.tokens["val"].batch([0, 1], CPU)
    for drawn_in in task.module.config.modes:
        decoding = Decoding(drawn_in, steps=4)
        drawn = torch.stack(
            [d.codes for d in draw(task.module, frames[:, 0], last, n, decoding)], 1
        )
        right = (drawn == frames[:, 1:-1])[:, :3].float().mean()
        assert right > 0.97, f"{drawn_in}: {right}"


@pytest.mark.parametrize("mode", ["seed", *MODES])
def test_loss_at_the_start_is_that_of_guessing(transformer_task, mode):
    task = transformer_task({"train.mode": mode, "transformer.n_embd": 32})
    losses = list(task.losses([0, 1, 2], 0, 0))
    assert total(losses) == pytest.approx(math.log(16), abs=0.2)


def test_the_distance_of_the_expected_vector_by_hand(transformer_task):
    """Two codes of equal chance: half of their difference away from either."""
    task = transformer_task()
    true = task.codebook[torch.cat([clip.flatten() for clip in task.tokens["train"].clips]).long()]
    to_mean = (true - true.mean(0)).square().sum(1)
    assert task.spread.item() == pytest.approx(to_mean.mean().item(), rel=1e-4)
    task.codebook = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 8.0], [4.0, 8.0]])  # mean (2, 4)
    task.spread = torch.tensor(20.0)
    logits = torch.full((1, 1, 2, 4), -1e4)
    logits[..., :2] = 0.0  # (2, 0) expected
    targets = torch.tensor([[[1, 3]]])  # (4, 0) and (4, 8): both 20 from the mean, squared
    counts = torch.tensor([[[True, True]]])
    found = task._measured(logits, targets, counts)
    assert found.distance.item() == pytest.approx((4 + 68) / 2 / 20)
    right = task._measured(logits, targets, torch.tensor([[[True, False]]]))
    assert right.distance.item() == pytest.approx(4 / 20) and right.count == 1


def test_the_vector_loss_is_added_and_reaches_the_transformer(transformer_task):
    plain, task = transformer_task(), transformer_task({"train.vector_loss_weight": 3.0})
    (without,), (loss,) = (list(t.losses([0, 1, 2], 0, 0)) for t in (plain, task))
    distance = loss.parts["distance"]
    assert loss.total.item() == pytest.approx((without.total + 3 * distance).item(), rel=1e-5)
    distance.backward()
    unreached = [n for n, p in task.module.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


def test_the_perceptual_loss_reaches_every_part_of_the_transformer(transformer_task, monkeypatch):
    """Its gradient alone, with the cross entropy taken out: behind an argmax it would be zero."""
    changes = {"train.perceptual_loss_weight": 2.0, "train.perceptual_frames": 3}
    monkeypatch.setattr(transformer, "perceptual_loss", lambda *_: F.mse_loss)
    task = transformer_task(changes)
    seen = []
    monkeypatch.setattr(task.eye, "compare", lambda a, b: seen.append(a) or F.mse_loss(a, b))
    (loss,) = task.losses([0, 1, 2], 0, 0)
    assert len(seen[0]) == 3, "frames"
    plain = transformer_task()
    (without,) = plain.losses([0, 1, 2], 0, 0)
    eye = loss.parts["perceptual"]
    assert loss.total.item() == pytest.approx((without.total + 2 * eye).item(), rel=1e-5)
    eye.backward()
    unreached = [n for n, p in task.module.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []
    assert all(p.grad is None for p in task.eye.tokenizer.parameters())


def test_the_perceptual_loss_is_zero_where_the_model_is_sure_and_right(
    transformer_task, monkeypatch
):
    monkeypatch.setattr(transformer, "perceptual_loss", lambda *_: F.l1_loss)
    eye = transformer_task({"train.perceptual_loss_weight": 1.0}).eye
    codes = torch.randint(0, 16, (2, 32))
    sure = 1e4 * F.one_hot(codes, 16).float()
    assert eye(sure, codes).item() == pytest.approx(0.0, abs=1e-5)
    assert eye(-sure, codes).item() > 1e-3


def test_a_hidden_last_frame_as_often_as_asked(transformer_task):
    task = transformer_task({"train.key_dropout": 0.25})
    hidden = torch.stack([task._hidden(4) for _ in range(500)]).float().mean()
    assert hidden.item() == pytest.approx(0.25, abs=0.03)
    assert transformer_task()._hidden(4) is None
    list(task.losses([0, 1], 0, 0))


def test_corruption_leaves_the_first_frame_and_takes_codes_of_the_clip_or_others(
    transformer_task, tmp_path, write_tokens
):
    clips = [torch.arange(12)[:, None].expand(12, 32) for _ in range(2)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips})
    task = transformer_task({"train.corruption": 0.8}, folder=folder)
    clips = task.tokens["train"].batch([0, 1], CPU)
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(200):
        found = corrupted(clips, 0.8, generator)
        assert torch.equal(found[:, 0], clips.frames[:, 0]) and found.max() < 12
        shares.append((found != clips.frames[:, :-2])[:, 1:].float().mean((1, 2)))
    shares = torch.stack(shares)
    assert shares.max() < 0.85 and shares.min() < 0.05, "each clip has a share of its own"
    assert shares.mean().item() == pytest.approx(0.4 * 0.92, abs=0.03), "1 in 12 is hit by chance"
    read = task._read(clips, 0)
    assert not torch.equal(read, clips.frames[:, :-2]), "training reads them"


def test_corruption_does_not_change_the_targets(transformer_task):
    task = transformer_task({"train.corruption": 0.9})
    clips = task.tokens["train"].batch([0], CPU)
    (one,) = task._passes(task._read(clips, 0), clips.frames)
    assert torch.equal(one.targets, clips.frames[:, 1:-1])


def test_truncation_cuts_the_batch_to_its_shortest_clip(transformer_task):
    task = transformer_task({"train.batch_method": "truncation"})
    task.module.eval()
    clips = task.tokens["train"].batch([0, 1, 2], CPU)  # 6, 8 and 5 frames
    assert clips.frames.shape[:2] == (3, 5) and clips.n_frames.tolist() == [5, 5, 5]
    assert torch.equal(clips.last, clips.frames[:, 4])
    cut = clips.frames
    with torch.no_grad():
        logits = task.module(cut[:, :-2], cut[:, 4], torch.tensor([5, 5, 5]))
    wanted = F.cross_entropy(logits.flatten(0, 2), cut[:, 1:-1].flatten())
    assert total(list(task.losses([0, 1, 2], 0, 0))) == pytest.approx(wanted.item(), rel=1e-5)


def test_open_tokens_follow_the_cosine(transformer_task):
    targets = torch.zeros(50, 40, 32, dtype=torch.int64)
    drawn = partly_drawn(targets, 16, torch.Generator().manual_seed(0))
    open_ = (drawn == 16).float().mean(2)
    assert open_.mean().item() == pytest.approx(2 / math.pi, abs=0.02), "mean of cos(pi r / 2)"
    assert open_.min() > 0 and (open_ > 0.9).float().mean().item() == pytest.approx(0.29, abs=0.04)


def gradients(task, rows: list[int]) -> tuple[dict[str, torch.Tensor], int]:
    """Of one step, and how many numbers its passes kept for the way back at most."""
    kept = peak = 0

    def pack(tensor):
        nonlocal kept, peak
        kept += tensor.numel()
        peak = max(peak, kept)
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for loss in task.losses(rows, 0, 0):
            loss.total.backward()
            kept = 0
    return {n: p.grad for n, p in task.module.named_parameters() if p.grad is not None}, peak


@LAYOUTS
def test_checkpointed_gradients_are_the_same_and_keep_less(transformer_task, layout):
    changes = {"train.layout": layout, "transformer.n_layer": 6}
    changes |= {"transformer.resid_pdrop": 0.2, "transformer.attn_pdrop": 0.2}
    plain, whole = gradients(transformer_task(changes), [0, 1])
    changes |= {"train.gradient_checkpointing": True}
    found, less = gradients(transformer_task(changes), [0, 1])
    assert plain.keys() == found.keys()
    assert all(torch.equal(plain[name], found[name]) for name in plain)
    assert less < 0.4 * whole


@pytest.mark.skipif(not which("g++"), reason="torch.compile needs g++")
def test_a_compiled_transformer_is_the_same_at_all_lengths(transformer_task):
    torch._dynamo.reset()
    plain, task = transformer_task(), transformer_task({"base.compile": True})
    assert plain.module.state_dict().keys() == task.module.state_dict().keys()
    wanted, found, programs = [], [], set()
    for rows in ([0, 1], [2, 3, 4], [0, 2], [3, 1]):  # padded to 8, 7, 6 and 8 frames
        wanted.append(total(list(plain.losses(rows, 0, 0))))
        found.append(total(list(task.losses(rows, 0, 0))))
        programs.add(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert found == pytest.approx(wanted, rel=1e-4)
    assert len(programs) == 1, "the first batch compiled the only one, for all layers too"
