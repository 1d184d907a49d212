"""Training of the transformer: what counts in the loss, whose frames it reads, that it learns."""

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_settings import decoding_with
from torch import nn

from pipeline import io
from pipeline.errors import UserError
from pipeline.models.gpt.sampling import generate
from pipeline.training import gpt, token_dataset
from pipeline.training.task import Loss
from pipeline.training.token_dataset import TokenBatch, add_token_noise, mask_tokens

CPU = torch.device("cpu")
PERCEPTUAL = {"vqgan.loss.perceptual_loss": "vgg16", "train.perceptual_loss_weight": 2.0}
SEQUENCES = pytest.mark.parametrize("sequence", ["full_clip", "sliding_window"])


def total(losses: list[Loss]) -> float:
    return sum(loss.total.item() for loss in losses)


def batch_of(task, rows: list[int], split: str = "train") -> TokenBatch:
    return task.tokens[split].batch(rows, CPU, torch.Generator())


def loss_by_hand(task, frames: torch.Tensor, batch: TokenBatch) -> float:
    """Mean cross entropy of the inner frames of one clip, each predicted from `frames`, `1 T N`."""
    losses = []
    for i in range(int(batch.n_frames) - 2):
        start = 0 if task.module.config.full_clip else max(0, i - 1)
        logits = task.module(frames[:, start : i + 1], batch.cond, start)[0, -1]
        losses.append(F.cross_entropy(logits, batch.ids[0, i + 1]).item())
    return sum(losses) / len(losses)


@pytest.fixture
def context_tokens(tmp_path, write_tokens):
    """Clips of 6, 8 and 5 frames with three context channels."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 16, (n, 32), generator=generator) for n in (6, 8, 5)]
    return write_tokens(tmp_path / "tokens", {"train": clips, "val": clips[:2]}, channels=3)


@SEQUENCES
def test_loss_by_hand(gpt_task, sequence):
    task = gpt_task({"train.sequence": sequence})
    task.module.eval()
    batch = batch_of(task, [0])
    losses = list(task.losses([0], 0, 0))
    assert total(losses) == pytest.approx(loss_by_hand(task, batch.ids, batch), rel=1e-5)
    assert [loss.is_last for loss in losses] == [False] * (len(losses) - 1) + [True]


@SEQUENCES
def test_loss_by_hand_with_context(gpt_task, sequence, context_tokens):
    task = gpt_task({"train.sequence": sequence}, folder=context_tokens)
    task.module.eval()
    batch = batch_of(task, [0])
    assert batch.features.shape == (1, 6, 32, 3) and batch.features.dtype == torch.float32
    assert torch.equal(batch.features[..., 1], batch.ids + 1.0), "as the fixture writes them"
    by_hand = loss_by_hand(task, batch.ids, batch)
    assert total(list(task.losses([0], 0, 0))) == pytest.approx(by_hand, rel=1e-5)
    batch = batch._replace(features=batch.features + 1)
    assert loss_by_hand(task, batch.ids, batch) != pytest.approx(by_hand, rel=1e-5)


@SEQUENCES
@pytest.mark.parametrize("context", [False, True])
def test_padding_counts_in_no_loss(gpt_task, sequence, context, context_tokens, tokens):
    changes = {"train.sequence": sequence, "train.stop_ground_truth_after_epoch": 1}
    task = gpt_task(changes, folder=context_tokens if context else tokens)
    task.module.eval()
    rows = [0, 1, 2]  # 6, 8 and 5 frames

    def measure() -> tuple:
        losses = [total(list(task.losses(rows, epoch, 0))) for epoch in (0, 1)]
        return *losses, task.validate([[0, 1]])

    before = measure()
    for split in ("train", "val"):
        dataset, plain = task.tokens[split], task.tokens[split].batch

        def otherwise(*arguments, plain=plain):
            batch = plain(*arguments)
            for clip, n in enumerate(batch.n_frames):
                batch.ids[clip, n:] = 13
                if batch.features is not None:
                    batch.features[clip, n:] = 5.0
            return batch

        dataset.batch = otherwise
    assert (batch_of(task, rows).ids[2, 5:] == 13).all()
    assert measure() == before


@SEQUENCES
def test_all_targets_of_a_batch_weigh_the_same(gpt_task, sequence):
    task = gpt_task({"train.sequence": sequence})
    task.module.eval()
    alone = [total(list(task.losses([row], 0, 0))) for row in (1, 2)]  # 6 and 3 inner frames
    losses = list(task.losses([1, 2], 0, 0))
    assert total(losses) == pytest.approx((6 * alone[0] + 3 * alone[1]) / 9, rel=1e-5)
    logged = sum(loss.parts["cross_entropy"].item() for loss in losses)
    assert logged == pytest.approx(total(losses), rel=1e-5), "the loop logs the sum over passes"


@SEQUENCES
def test_the_given_last_frame_is_never_a_target(gpt_task, sequence):
    """In a padded batch too: targets that count are the inner frames, each once."""
    task = gpt_task({"train.sequence": sequence})
    batch = batch_of(task, [0, 2])  # six frames and five
    targets = [[], []]
    for one in task._passes(batch.ids[:, :-2], batch.ids):
        for k in range(one.targets.shape[1]):
            for row, n in enumerate((6, 5)):
                frame = one.first_target + k
                if 1 <= frame <= n - 2:
                    targets[row].append(frame)
                    assert torch.equal(one.targets[row, k], batch.ids[row, frame])
    assert targets == [[1, 2, 3, 4], [1, 2, 3]]


@SEQUENCES
def test_accumulation_equals_a_larger_batch(gpt_task, run, sequence, tmp_path, write_tokens):
    """Also where clips differ in length: all targets weigh the same."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 16, (n, 32), generator=generator) for n in (5, 8, 5, 8)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips[:1]})
    gradients, totals = [], []
    for batch_size, accumulation_size in ((4, 1), (2, 2)):
        task = gpt_task({"train.sequence": sequence}, folder=folder)
        spec = task.optimizers["gpt"]
        spec.clip_norm = 1e9
        spec.optimizer.register_step_pre_hook(
            lambda *_, spec=spec: gradients.append(
                torch.cat([p.grad.flatten() for p in spec.parameters if p.grad is not None])
            )
        )
        (row,) = run(
            task, batch_size=batch_size, accumulation_size=accumulation_size, n_epochs=1
        ).steps
        totals.append((row["total"], row["cross_entropy"], row["accuracy"]))
    one, two = gradients
    assert one.norm() > 0.01 and torch.allclose(one, two, atol=1e-6)
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


@SEQUENCES
def test_it_reads_true_frames_and_later_its_own_predictions(gpt_task, sequence):
    task = gpt_task({"train.sequence": sequence, "train.stop_ground_truth_after_epoch": 2})
    batch = batch_of(task, [0, 1])
    task.module.eval()
    generated = list(generate(task.module, batch.ids[:, 0], batch.cond))
    task.module.train()
    own = torch.stack([batch.ids[:, 0], *generated[:-1]], 1)
    assert not torch.equal(own, batch.ids[:, :-2])
    inputs = []
    task.module.register_forward_pre_hook(
        lambda module, args: inputs.append(args[0]) if torch.is_grad_enabled() else None
    )
    for epoch, expected in ((1, batch.ids[:, :-2]), (2, own)):
        inputs.clear()
        losses = list(task.losses([0, 1], epoch, 0))
        if sequence == "full_clip":
            assert torch.equal(inputs[0], expected) and len(inputs) == 1
        else:
            assert len(inputs) == expected.shape[1]
            for i, window in enumerate(inputs):
                assert torch.equal(window, expected[:, max(0, i - 1) : i + 1])
        assert total(losses) > 0 and task.module.training


@SEQUENCES
def test_own_predictions_are_compared_with_the_true_frames(gpt_task, sequence, monkeypatch):
    task = gpt_task({"train.sequence": sequence, "train.stop_ground_truth_after_epoch": 0})
    task.module.eval()
    batch = batch_of(task, [0])
    sevens = [torch.full((1, 32), 7)] * 4
    monkeypatch.setattr(gpt.sampling, "generate", lambda *_, **__: iter(sevens))
    inputs = torch.stack([batch.ids[:, 0], *sevens[:-1]], 1)
    by_hand = loss_by_hand(task, inputs, batch)
    task.module.eval()
    assert total(list(task.losses([0], 0, 0))) == pytest.approx(by_hand, rel=1e-4)


@SEQUENCES
def test_train_and_val_total_are_the_same_quantity(gpt_task, sequence, monkeypatch, tmp_path):
    """On the same clips with the same weights, in every mode and with the perceptual loss."""
    monkeypatch.setattr(gpt, "perceptual_loss", lambda *_: F.mse_loss)
    modes = ["parallel", "maskgit"] if sequence == "full_clip" else ["parallel"]
    for mode in modes:
        changes = {"train.sequence": sequence, "train.mode": mode}
        changes |= PERCEPTUAL
        task = gpt_task(changes)
        task.module.eval()
        task.tokens["val"] = task.tokens["train"]
        task.generator.manual_seed(0)  # as validation
        losses = list(task.losses([0, 1], 0, 0))
        with torch.no_grad():
            values = task.validate([[0, 1]])
        assert values["total"] == pytest.approx(total(losses), rel=1e-5)
        for name in losses[0].parts:
            logged = sum(loss.parts[name].item() for loss in losses)
            assert values[name] == pytest.approx(logged, rel=1e-5), name


@SEQUENCES
def test_validation_by_hand(gpt_task, sequence):
    task = gpt_task({"train.sequence": sequence})
    task.module.eval()
    with torch.no_grad():
        values = task.validate([[0], [1]])
        by_hand, correct = [], []
        for row in (0, 1):  # 4 and 3 inner frames
            batch = batch_of(task, [row], "val")
            by_hand.append(loss_by_hand(task, batch.ids, batch))
            generated = torch.stack(list(generate(task.module, batch.ids[:, 0], batch.cond)), 1)
            correct.append((generated == batch.ids[:, 1:-1]).float().mean().item())
    assert values["total"] == pytest.approx((4 * by_hand[0] + 3 * by_hand[1]) / 7, rel=1e-5)
    rollout = (4 * correct[0] + 3 * correct[1]) / 7
    assert values["rollout_accuracy"] == pytest.approx(rollout, rel=1e-5)


@SEQUENCES
def test_held_clips_are_learnt(gpt_task, run, sequence, tmp_path, write_tokens):
    clips = [torch.randint(0, 16, (1, 32)).expand(5, 32) for _ in range(2)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips})
    changes = {"train.sequence": sequence, "transformer.n_embd": 32}
    changes |= {"train.stop_ground_truth_after_epoch": 30}
    history = run(gpt_task(changes, folder=folder), n_epochs=40, checkpoint_interval=1e9)
    assert history.epochs[0]["accuracy"] < 0.7
    assert history.epochs[-1]["accuracy"] > 0.95
    assert history.epochs[-1]["total"] < 0.6 * history.epochs[0]["total"]


@pytest.mark.parametrize(
    ("sequence", "mode"),
    [("full_clip", "parallel"), ("full_clip", "maskgit"), ("sliding_window", "parallel")],
)
def test_one_batch_is_learnt_by_heart_and_generated(
    gpt_task, run, sequence, mode, tmp_path, write_tokens
):
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 16, (n, 32), generator=generator) for n in (5, 6)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips})
    changes = {"train.sequence": sequence, "train.mode": mode, "transformer.n_embd": 64}
    changes |= {"train.stop_ground_truth_after_epoch": 1000}
    task = gpt_task(changes, folder=folder)
    history = run(task, n_epochs=150, checkpoint_interval=1e9)
    assert history.steps[0]["total"] > 2.5, "16 ids by chance: log 16 = 2.8"
    assert history.epochs[-1]["accuracy"] > 0.99 and history.epochs[-1]["rollout_accuracy"] > 0.99
    task.module.eval()
    batch = batch_of(task, [0, 1], "val")
    for generated_in in {"parallel", mode}:
        decoding = decoding_with(generated_in, steps=4)
        frames = generate(task.module, batch.ids[:, 0], batch.cond, decoding)
        correct = (torch.stack(list(frames), 1) == batch.ids[:, 1:-1])[:, :3].float().mean()
        assert correct > 0.97, f"{generated_in}: {correct}"


def test_frames_that_only_the_context_tells_are_learnt(gpt_task, run, tmp_path, write_tokens):
    """Val clips are others than train's: their ids can be read off the features alone."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 16, (6, 32), generator=generator) for _ in range(6)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips[:4], "val": clips[4:]}, channels=3)
    changes = {"transformer.n_embd": 64, "train.stop_ground_truth_after_epoch": 1000}
    history = run(gpt_task(changes, folder=folder), n_epochs=150, checkpoint_interval=1e9)
    assert history.epochs[-1]["rollout_accuracy"] > 0.5, "1 in 16 by chance"


def test_the_loss_of_maskgit_by_hand(gpt_task, monkeypatch):
    """Half is that of one pass, half that of the masked tokens, each of which counts as much.

    Also in batches that are accumulated, one with many masked tokens and one with few.
    """
    task = gpt_task({"train.mode": "maskgit"})
    task.module.eval()
    batch = batch_of(task, [0, 2])  # six frames and five
    targets = batch.ids[:, 1:-1]
    exists = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    rate = torch.tensor([0.9, 0.1])[:, None, None]
    partial = targets.masked_fill(torch.rand(targets.shape) < rate, 16)
    counted = exists[..., None] & (partial == 16)
    with torch.no_grad():
        logits, completed = task.module.complete(batch.ids[:, :-2], batch.cond, partial)
    parallel = F.cross_entropy(logits[exists].flatten(0, 1), targets[exists].flatten())
    maskgit = F.cross_entropy(completed[counted], targets[counted], reduction="sum")
    maskgit = maskgit / (2 / math.pi * 7 * 32)  # of the 7 inner frames' tokens
    for batches in ([[0, 2]], [[0], [2]]):
        masked = iter([partial] if len(batches) == 1 else [partial[:1], partial[1:, :3]])
        monkeypatch.setattr(gpt, "mask_tokens", lambda *_, masked=masked: next(masked))
        losses = [next(task.losses(rows, 0, 0)) for rows in batches]
        counts = [task.count_targets(rows) for rows in batches]
        shares = [count / sum(counts) for count in counts]
        of_step = sum(x.total.item() * w for x, w in zip(losses, shares, strict=True))
        part = sum(x.parts["maskgit"].item() * w for x, w in zip(losses, shares, strict=True))
        assert of_step == pytest.approx(((parallel + maskgit) / 2).item(), rel=1e-5)
        assert part == pytest.approx(maskgit.item(), rel=1e-5)


@pytest.mark.parametrize("mode", ["parallel", "maskgit"])
def test_it_starts_from_the_frequencies_of_the_token_ids(gpt_task, mode, tmp_path, write_tokens):
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 16, (6, 32), generator=generator) for _ in range(4)]
    for clip in clips:
        clip[torch.rand(clip.shape, generator=generator) < 0.7] = 5
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips[:1]}, channels=2)
    task = gpt_task({"train.mode": mode, "transformer.n_embd": 32}, folder=folder)
    task.module.eval()
    shares = torch.stack(clips).flatten().bincount() / (4 * 6 * 32)
    entropy = -(shares * shares.log()).sum().item()
    assert total(list(task.losses([0, 1, 2], 0, 0))) == pytest.approx(entropy, abs=0.2)
    batch = batch_of(task, [0, 1])
    frames = torch.stack(list(generate(task.module, batch.ids[:, 0], batch.cond)))
    assert (frames == 5).all()
    features = torch.stack([torch.stack(clips), torch.stack(clips) + 1], -1).float()
    assert torch.allclose(task.module.context_mean, features.mean((0, 1, 2)), atol=1e-4)
    assert torch.allclose(task.module.context_std, features.flatten(0, 2).std(0), atol=1e-4)


@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_weight_decay_only_on_matrices(gpt_task, kind):
    task = gpt_task({"train.mode": "maskgit", "transformer.transformer_type": kind})
    names = {id(p): name for name, p in task.module.named_parameters()}
    decayed, others = task.optimizers["gpt"].optimizer.param_groups
    assert decayed["weight_decay"] == gpt.WEIGHT_DECAY and others["weight_decay"] == 0
    decayed_names = {names[id(p)] for p in decayed["params"]}
    assert all(name.endswith(("attn.weight", "fc.weight", "proj.weight")) for name in decayed_names)
    embeddings = [m for m in task.module.modules() if isinstance(m, nn.Embedding)]
    assert {id(m.weight) for m in embeddings} <= {id(p) for p in others["params"]}
    everything = decayed["params"] + others["params"]
    assert {id(p) for p in everything} == names.keys() and len(everything) == len(names)


def test_clips_are_named_in_messages(gpt_task):
    assert gpt_task().names([2, 0]) == ["clip train-02", "clip train-00"]


def test_tokens_of_another_tokenizer_are_refused(gpt_task, tmp_path, write_tokens):
    good = torch.zeros(5, 32, dtype=torch.int64)
    for wrong in (torch.full((5, 32), 16), torch.zeros(5, 30, dtype=torch.int64)):
        folder = write_tokens(tmp_path / "tokens", {"train": [good, wrong], "val": [good]})
        with pytest.raises(UserError, match=r"clip train-01 has 3\d tokens.*token_precompute"):
            gpt_task(folder=folder)
    write_tokens(folder, {"train": [good], "val": [good]})
    table = io.read_table(folder / "train.parquet", io.TOKENS).assign(n_frames=7)
    io.write_table(table, io.TOKENS, folder / "train.parquet")
    with pytest.raises(UserError, match=r"has 22\.8571 tokens a frame"):
        gpt_task(folder=folder)
    write_tokens(folder, {"train": [good]}, channels=2)
    write_tokens(folder, {"val": [good]}, channels=3)
    with pytest.raises(UserError, match=r"with 3 context channels, expected .* with 2: tokens"):
        gpt_task(folder=folder)


def test_the_perceptual_loss_reaches_every_part_of_the_transformer(gpt_task, monkeypatch):
    """Its gradient alone, with the cross entropy taken out: behind an argmax it would be zero."""
    monkeypatch.setattr(gpt, "perceptual_loss", lambda *_: F.mse_loss)
    task = gpt_task(PERCEPTUAL | {"vqgan.loss.perceptual_subset": 3})
    predictions = []
    task.perceptual = lambda a, b: predictions.append(a) or F.mse_loss(a, b)
    (loss,) = task.losses([0, 1, 2], 0, 0)
    assert len(predictions[0]) == 3, "frames"
    (without,) = gpt_task().losses([0, 1, 2], 0, 0)
    perceptual = loss.parts["perceptual"]
    assert loss.total.item() == pytest.approx((without.total + 2 * perceptual).item(), rel=1e-5)
    perceptual.backward()
    unreached = [n for n, p in task.module.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []
    assert all(p.grad is None for p in task.tokenizer.parameters())


def test_the_perceptual_loss_is_zero_where_the_model_is_certain_and_right(gpt_task, monkeypatch):
    monkeypatch.setattr(gpt, "perceptual_loss", lambda *_: F.l1_loss)
    task = gpt_task(PERCEPTUAL)
    ids, exists = torch.randint(0, 16, (1, 2, 32)), torch.ones(1, 2).bool()
    certain = 1e4 * F.one_hot(ids, 16).float()
    loss = task._perceptual(certain, ids, exists, task.generator)
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert task._perceptual(-certain, ids, exists, task.generator).item() > 1e-3


def test_the_untrained_model_predicts_what_is_to_be_predicted(gpt_task, tmp_path, write_tokens):
    clip = torch.full((7, 32), 5)
    clip[0] = clip[-1] = 9  # given
    folder = write_tokens(tmp_path / "tokens", {"train": [clip, clip], "val": [clip]})
    bias = gpt_task(folder=folder).module.output_bias
    assert bias.argmax() == 5 and bias[9] == bias.min()


def test_processes_draw_other_noise(gpt_task):
    states = [gpt_task(rank=rank).generator.get_state() for rank in (0, 1)]
    assert not torch.equal(*states)


def test_token_noise_leaves_the_first_frame_and_the_targets(gpt_task, tmp_path, write_tokens):
    clips = [torch.arange(12)[:, None].expand(12, 32) for _ in range(2)]
    folder = write_tokens(tmp_path / "tokens", {"train": clips, "val": clips})
    task = gpt_task({"train.token_noise": 0.8}, folder=folder)
    batch = batch_of(task, [0, 1])
    generator, rates = torch.Generator().manual_seed(0), []
    for _ in range(200):
        noisy = add_token_noise(batch.ids, batch.n_frames, 0.8, generator)
        assert torch.equal(noisy[:, 0], batch.ids[:, 0]) and noisy.max() < 12
        rates.append((noisy != batch.ids[:, :-2])[:, 1:].float().mean((1, 2)))
    rates = torch.stack(rates)
    assert rates.max() < 0.85 and rates.min() < 0.05, "each clip has a rate of its own"
    assert rates.mean().item() == pytest.approx(0.4 * 0.92, abs=0.03), "1 in 12 is right by chance"
    inputs = []
    task.module.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    passes = []
    task._passes = lambda *args: passes.append(args) or gpt.GptTask._passes(task, *args)
    list(task.losses([0, 1], 0, 0))
    assert not torch.equal(inputs[0], batch.ids[:, :-2]), "training reads them"
    assert torch.equal(passes[0][1], batch.ids), "targets are the true ones"


def test_masked_tokens_follow_the_cosine():
    targets = torch.zeros(50, 40, 32, dtype=torch.int64)
    masked = (mask_tokens(targets, 16, torch.Generator().manual_seed(0)) == 16).float().mean(2)
    assert masked.mean().item() == pytest.approx(2 / math.pi, abs=0.02), "mean of cos(pi r / 2)"
    assert masked.min() > 0 and (masked > 0.9).float().mean().item() == pytest.approx(
        0.29, abs=0.04
    )


@SEQUENCES
def test_truncation_keeps_both_ends_of_each_clip(gpt_task, sequence, context_tokens, monkeypatch):
    """Thesis, figure 17: of clips of 6, 8 and 5 frames five stay; features are picked alike."""
    changes = {"train.batch_method": "truncation", "train.sequence": sequence}
    task = gpt_task(changes, folder=context_tokens)
    task.module.eval()
    batch = task.tokens["train"].batch([0, 1, 2], CPU, torch.Generator().manual_seed(1))
    assert batch.ids.shape[:2] == (3, 5) and batch.n_frames.tolist() == [5, 5, 5]
    assert torch.equal(batch.last, batch.ids[:, 4])
    assert torch.equal(batch.features[..., 0], batch.ids.float())
    for row, n in enumerate((6, 8, 5)):
        whole = batch_of(task, [row]).ids[0]
        numbers = [int((whole == frame).all(1).nonzero()) for frame in batch.ids[row]]
        assert numbers == sorted(set(numbers)) and (numbers[0], numbers[-1]) == (0, n - 1)

    rows = [TokenBatch(*(part[k : k + 1] for part in batch)) for k in range(3)]
    with torch.no_grad():
        expected = sum(loss_by_hand(task, one.ids, one) for one in rows) / 3
    lefts, add_time = [], task.module._add_time
    monkeypatch.setattr(
        task.module, "_add_time", lambda *args: lefts.append(args[1]) or add_time(*args)
    )
    task.generator.manual_seed(1)
    assert total(list(task.losses([0, 1, 2], 0, 0))) == pytest.approx(expected, rel=1e-5)
    counts = {count for left in lefts for count in left.unique().tolist()}
    assert counts == {0, 1, 2, 3}, "remaining frames of five; 0 marks the last frame"


@SEQUENCES
def test_a_killed_training_goes_on_with_the_same_truncated_clips(
    gpt_task, run, sequence, context_tokens
):
    changes = {"train.batch_method": "truncation", "train.sequence": sequence}

    def kill(values, step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    straight, killed, again, other = (gpt_task(changes, folder=context_tokens) for _ in range(4))
    run(straight)
    with pytest.raises(KeyboardInterrupt):
        run(killed, kill)
    run(again)
    other.generator.manual_seed(2)
    run(other)
    equal = [
        all(map(torch.equal, straight.module.parameters(), task.module.parameters()))
        for task in (again, other)
    ]
    assert equal == [True, False], "the frames that stay follow the seed"


def test_the_published_token_table_is_taken_with_as_many_codes(
    gpt_task, published_gpt2, tmp_path, write_tokens, capsys
):
    """Thesis, figure 26: 50,257 codes, as many as GPT-2 has tokens."""
    folder = published_gpt2(tmp_path / "gpt2", vocabulary=50_257)
    clip = torch.randint(0, 50_257, (5, 32))
    tokens = write_tokens(tmp_path / "tokens", {"train": [clip], "val": [clip]})
    changes = {"transformer.pretrained": str(folder), "train.sequence": "sliding_window"}
    taken = gpt_task(changes | {"vqgan.vqvae.num_embeddings": 50_257}, folder=tokens)
    published = load_file(folder / "model.safetensors")
    assert torch.equal(taken.module.table, published["wte.weight"])
    assert torch.equal(taken.module.gpt.model.wpe.weight, published["wpe.weight"])
    assert "left out" not in capsys.readouterr().err
    left_out = gpt_task(changes)
    assert left_out.module.table.shape == (16, 16)
    assert torch.equal(left_out.module.gpt.model.wpe.weight, published["wpe.weight"])
    said = capsys.readouterr().err
    assert "its table of 50257 tokens is left out, as the codebook has 16 codes" in said


def test_variants_of_a_clip_are_rows_of_their_own(gpt_task, tokens, tmp_path, write_tokens):
    clip = torch.zeros(5, 32, dtype=torch.int64)
    folder = write_tokens(tmp_path / "tokens", {"train": [clip, clip], "val": [clip]})
    table = io.read_table(folder / "train.parquet", io.TOKENS)
    table.loc[1, ["clip_id", "flipped", "reversed"]] = ["train-00", True, True]
    io.write_table(table, io.TOKENS, folder / "train.parquet")
    task = gpt_task(folder=folder)
    assert task.size("train") == 2
    assert task.names([0, 1]) == ["clip train-00", "clip train-00 flipped reversed"]
    assert token_dataset.count_context_channels(folder, 32) == 0


def gradients(task, rows: list[int]) -> tuple[dict[str, torch.Tensor], int]:
    """Of one step, and how many numbers its passes kept for the backward pass at most."""
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


@SEQUENCES
@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_checkpointed_gradients_are_the_same_and_keep_less(gpt_task, sequence, kind):
    changes = {"train.sequence": sequence, "transformer.n_layer": 6}
    changes |= {"transformer.transformer_type": kind}
    changes |= {"transformer.dropout": 0.2}
    plain, kept = gradients(gpt_task(changes), [0, 1])
    changes |= {"base.gradient_checkpointing": True}
    checkpointed, less = gradients(gpt_task(changes), [0, 1])
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert less < 0.5 * kept
