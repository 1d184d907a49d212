"""Frame after frame: both networks on sequences that are drawn anew in every epoch."""

import numpy as np
import pytest
import torch
from previous_settings import CPU, floats, save_digits, sequence, settings, tokenizer
from tiny_settings import decoding_with
from torch import nn

from pipeline import frames
from pipeline.data import moving_mnist
from pipeline.errors import UserError
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.tokenize import precompute
from pipeline.models.checkpoints import LoadedTokenizer
from pipeline.models.flow import EVEN
from pipeline.models.gpt.model import Conditioning
from pipeline.models.gpt.sampling import predict
from pipeline.models.vqgan.previous import SHIFTS
from pipeline.training import sequence_dataset, vqgan
from pipeline.training.distributed import DistributedContext
from pipeline.training.gpt import GptTask
from pipeline.training.sequence_dataset import SequenceSet
from pipeline.training.token_dataset import PartSet
from pipeline.training.vqgan import PreviousTask


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two sequences of each split, and digits to draw six an epoch from."""
    from pipeline.data.shard_writer import clip_schema, open_shard

    folder = tmp_path_factory.mktemp("shards")
    for k, split in enumerate(("train", "val", "test")):
        with open_shard(folder / f"clips-{split}-00000.arrow", clip_schema(64, 64)) as add:
            for seed in (10 * k, 10 * k + 1):
                images = sequence(seed).numpy().tobytes()
                add({"clip_id": f"{split}-{seed}", "n_frames": 20, "images": images})
    save_digits(folder)
    return folder


@pytest.fixture
def tokens(shards, tmp_path):
    loaded = LoadedTokenizer(tokenizer(), settings().ingest.frame_size, "dis", EVEN, "")
    precompute(loaded, shards, tmp_path / "tokens", CPU, "float32", tmp_path / "parts")
    return tmp_path / "tokens"


def gpt_task(tokens, shards, changes: dict | None = None) -> GptTask:
    torch.manual_seed(1)
    return GptTask(settings(changes), tokens, tokenizer(), CPU, shards=shards)


def test_sequences_are_new_in_every_epoch_and_the_same_in_every_run(shards):
    one, again = SequenceSet(shards, "train", 1), SequenceSet(shards, "train", 1)
    other = SequenceSet(shards, "train", 2)
    assert len(one) == 6 and len(SequenceSet(shards, "val")) == 2
    whole = {k: one.frames(3, k, range(20)) for k in range(3)}
    assert np.array_equal(whole[1], again.frames(3, 1, range(20)))
    assert not np.array_equal(whole[1], whole[2]) and not np.array_equal(whole[1], whole[0])
    assert not np.array_equal(whole[1], other.frames(3, 1, range(20)))
    assert np.array_equal(whole[1][[0, 7, 19]], one.frames(3, 1, [0, 7, 19])), "parts of one whole"


def test_no_sequence_that_is_drawn_anew_is_a_stored_one():
    """NumPy takes seeds that differ by zeros at the end for the same."""
    starts = {}
    for key in [(moving_mnist.SEED, split, k) for split in (0, 1) for k in range(50)]:
        starts[np.random.default_rng(key).random()] = key
    for seed in range(3):
        for epoch in range(3):
            for row in range(50):
                key = (seed, epoch, row, sequence_dataset.KEY)
                assert np.random.default_rng(key).random() not in starts
    assert np.random.default_rng((1, 1, 7)).random() == np.random.default_rng((1, 1, 7, 0)).random()


def test_without_digits_the_stored_sequences_are_taken(shards, tmp_path):
    for path in shards.glob("*.arrow"):
        (tmp_path / path.name).symlink_to(path)
    stored = SequenceSet(tmp_path, "train", 1)
    assert len(stored) == 2
    assert np.array_equal(stored.frames(1, 5, range(20)), sequence(1).numpy())
    rows = [0, 1] * 8
    windows = stored.windows(rows, 0, 3)
    assert windows.shape == (16, 5, 64, 64, 3) and windows.dtype == torch.uint8
    for row, window in zip(rows, windows, strict=True):
        whole = sequence(row)
        backwards = not torch.equal(window[0], whole[0])
        whole = whole.flip(0) if backwards else whole
        assert torch.equal(window[0], whole[0]) and torch.equal(window[-1], whole[-1])
        start = next(k for k in range(20) if torch.equal(whole[k], window[1]))
        assert torch.equal(window[1:-1], whole[start : start + 3])


def test_the_tokenizer_learns(shards, run):
    torch.manual_seed(1)
    task = PreviousTask(settings(), shards, CPU)
    history = run(task, n_epochs=30)
    first, last = history.epochs[0], history.epochs[-1]
    assert last["psnr"] > first["psnr"] and last["reconstruction"] < first["reconstruction"]
    assert {"reconstruction", "perplexity", "codebook_usage"} <= last.keys()


def test_the_decoder_starts_from_its_own_frames(shards):
    torch.manual_seed(1)
    task = PreviousTask(settings(), shards, CPU)
    task.module.eval()
    batch = task._reconstruct([0, 1], None)
    windows = frames.to_float(task.sets["val"].windows([0, 1], 0, 9))  # between two keyframes
    keyframes, images = windows[:, [0, -1]], windows[:, 1:-1]
    decoded = [images[:, 0]]
    for number in range(1, 9):
        ids = task.tokenizer.encode(images[:, number], images[:, number - 1])
        decoded.append(task.tokenizer.decode(ids, decoded[-1], keyframes))
    expected = torch.stack(decoded[-2:], 1).flatten(0, 1)
    true = images[:, -3:-1].flatten(0, 1), keyframes.repeat_interleave(2, 0)
    from_true = task.tokenizer.decode(
        task.tokenizer.encode(images[:, -2:].flatten(0, 1), true[0]), *true
    )
    off, other = ((batch.decoded.clamp(-1, 1) - x).abs().mean() for x in (expected, from_true))
    assert off < 0.1 * other, "where two places match alike, either is taken"
    assert torch.equal(batch.images, images[:, -2:].flatten(0, 1))


def test_in_training_some_codes_are_wrong(shards):
    torch.manual_seed(1)
    task = PreviousTask(settings(), shards, CPU)
    ids = torch.randint(0, SHIFTS, (4, 64))
    none, all_ = torch.zeros(4, 1), torch.ones(4, 1)
    assert torch.equal(task._with_wrong_codes(ids, none), ids)
    wrong = task._with_wrong_codes(ids, all_)
    assert (wrong != ids).all()
    codebook = task.tokenizer.codebook
    distances = torch.cdist(codebook, codebook)[ids]  # B N V
    farthest = distances.topk(vqgan.NEAREST + 1, largest=False).values[..., -1]
    assert (distances.gather(2, wrong[..., None])[..., 0] <= farthest + 1e-3).all()
    images, previous = (frames.to_float(sequence(5)[k]) for k in (slice(1, 5), slice(4)))
    task.module.train()
    changed = task._codes(images, previous) != task.tokenizer.encode(images, previous)
    assert 0 < changed.float().mean() < vqgan.WRONG_CODES
    task.module.eval()
    assert torch.equal(task._codes(images, previous), task.tokenizer.encode(images, previous))
    task.module.train()
    batch = task._reconstruct([0, 1], 0)
    assert len(batch.decoded) == len(batch.images) == 8, "two frames, moved and refined"


def test_two_processes_change_the_codes_that_one_would(shards):
    images, previous = (frames.to_float(sequence(5)[k]) for k in (slice(1, 5), slice(4)))
    codes = []
    for count, rank in ((1, 0), (2, 0), (2, 1)):
        task = PreviousTask(settings(), shards, CPU, DistributedContext(count, rank, CPU))
        task.module.train()
        part = slice(4 * rank // count, 4 * (rank + 1) // count)
        codes.append(task._codes(images[part], previous[part]))
    assert torch.equal(torch.cat(codes[1:]), codes[0])


def test_the_decoder_learns_nothing_from_the_refined_image(shards):
    torch.manual_seed(1)
    task = PreviousTask(settings(), shards, CPU)
    batch = task._reconstruct([0, 1], 0)
    refined, moved = batch.decoded[::2], batch.decoded[1::2]
    tokenizer = task.tokenizer
    refined.sum().backward(retain_graph=True)
    assert learns(tokenizer.refiner) and not learns(tokenizer.decoder)
    moved.sum().backward()
    assert learns(tokenizer.decoder)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_both_networks_learn_after_frames_without_a_gradient(shards, precision):
    """In bf16 PyTorch keeps the weights that it has cast, once without a gradient."""
    torch.manual_seed(1)
    task = PreviousTask(settings({"base.precision": precision}), shards, CPU)
    tokenizer = task.tokenizer
    for step in range(4):  # with another number of frames before
        tokenizer.zero_grad()
        next(task.losses([0, 1], 0, step)).total.backward()
        assert learns(tokenizer.decoder) and learns(tokenizer.refiner)


def learns(module: nn.Module) -> bool:
    """Whether a gradient reaches both output layers, which start at zero."""
    weights = module.weights.weight, module.residual.weight
    return all(weight.grad is not None and bool(weight.grad.any()) for weight in weights)


def test_parts_of_sequences_grow_and_their_targets_are_the_frames_that_follow(shards):
    model = tokenizer()
    tokens = PartSet(SequenceSet(shards, "train", 1), model, n_epochs=10, most_targets=3)
    lengths, predicted = {}, set()
    for epoch in range(10):
        batch = tokens.batch(list(range(6)), CPU, epoch, step=epoch)
        targets = batch.ids.shape[1] - 2
        predicted.add(targets)
        assert batch.n_targets.tolist() == [targets] * 6
        lengths[epoch] = batch.n_frames.tolist()
        assert min(lengths[epoch]) >= targets + 2
        assert not batch.ids[:, 0].any() and not batch.last.any()
        found = batch.features[torch.arange(6), batch.n_frames - 1]
        assert found.flatten(1).any(1).all(), "features of the last frame"
    assert predicted == {1, 3}
    assert max(lengths[0]) < max(lengths[3]) < 20
    assert max(lengths[9]) == 20 and min(lengths[9]) < 20
    halves = [tokens.batch(rows, CPU, 9, step=9) for rows in ([0, 1, 2], [3, 4, 5])]
    assert [*halves[0].n_frames.tolist(), *halves[1].n_frames.tolist()] == lengths[9]
    stored = PartSet(SequenceSet(shards, "val", 1), model, n_epochs=10, most_targets=3)
    val = [stored.batch([0, 1], CPU, epoch, step=None).ids for epoch in (0, 7)]
    assert torch.equal(*val) and val[0].shape[1] == 5


@pytest.mark.parametrize("changes", [{}, {"transformer.merge": 2}, {"train.mode": "maskgit"}])
def test_the_transformer_learns(shards, tokens, run, changes):
    task = gpt_task(tokens, shards, changes)
    assert task.size("train") == 6 and task.size("val") == 2
    history = run(task, n_epochs=40)
    values = [row["cross_entropy"] for row in history.steps]
    assert np.mean(values[-24:]) < np.mean(values[:24])
    assert "rollout_accuracy" not in history.epochs[-1], "tokens alone are no frames"


def test_both_ends_draw_towards_each_other(shards, tokens):
    """By hand: each frame's tokens come of the frames that its side has drawn, as in a part of
    training that ends with the frame which the other side has drawn last."""
    task = gpt_task(tokens, shards)
    model = InBetweener(
        tokenizer(), task.module.eval(), settings().ingest.frame_size, CPU, "float32"
    )
    clips = [sequence(5)[:8], sequence(6)[:8]]
    first, last = (torch.stack([clip[k] for clip in clips]) for k in (0, 7))
    together = model.generate(first, last, [8, 5])
    assert [clip.shape for clip in together] == [(8, 64, 64, 3), (5, 64, 64, 3)]
    for k, n in enumerate((8, 5)):
        alone = model.generate(first[k : k + 1], last[k : k + 1], [n])[0]
        assert (alone.int() - together[k].int()).abs().max() <= 1
        assert torch.equal(alone[0], first[k]) and torch.equal(alone[-1], last[k])
    ids = model.token_ids(first, last, [8, 8])  # T B N
    sides = [[frames.to_float(first)], [frames.to_float(last)]]
    codes = [ids[:3], ids[3:].flip(0)]
    nothing = torch.zeros_like(ids[0])
    for step in range(3):
        start = max(0, step - 2)  # of the part: two frames before, and the oldest as its first
        known = torch.full((2,), 8 - step - start)
        for side, other in ((0, 1), (1, 0)):
            end = sides[other][step]
            part = torch.stack([*sides[side][start:], torch.zeros_like(end), end], 1)
            _, features = model.tokenizer.encode_sequence(part, known)
            window = torch.stack([nothing, *codes[side][start:step]], 1)
            given = Conditioning(nothing, known, features)
            assert torch.equal(predict(model.gpt, window, given), codes[side][step])
        for side, other in ((0, 1), (1, 0)):
            keyframes = torch.stack([sides[side][0], sides[other][0]], 1)
            image = model.tokenizer.decode(codes[side][step], sides[side][-1], keyframes)
            sides[side].append(image)
    drawn = torch.cat(list(model.draw(first[0], last[0], 8, ids[:, 0])))
    for frame, image in ((2, sides[0][3]), (3, sides[1][3]), (5, sides[1][1])):
        assert torch.equal(drawn[frame], frames.to_uint8(image)[0])
    shorter = model.token_ids(first, last, [8, 5])[:, 1]  # with zeros behind
    clip = torch.cat(list(model.draw(first[1], last[1], 5, shorter)))
    assert torch.equal(clip, together[1][1:-1])
    only = list(model.draw(first[0], last[0], 8, ids[:, 0], numbers=torch.tensor([6])))
    assert torch.equal(only[0][0], drawn[-1])
    large = first[0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    shape = next(model.draw(first[0], last[0], 8, ids[:, 0], (large, large))).shape
    assert shape[1:] == (128, 128, 3)
    again = model.token_ids(first, last, [8, 8], decoding_with(temperature=1.0))
    assert not torch.equal(again, ids)


def test_true_tokens_make_a_round_trip():
    model = tokenizer()
    draws = InBetweener(model, None, settings().ingest.frame_size, CPU, "float32")
    decoded, ids = draws.round_trip(sequence(5)[:6])
    images = floats(5)[0, :6]
    neighbours = images[[0, 1, 4, 5]]  # of the frames 1, 2 before, of 3, 4 after
    assert torch.equal(ids, model.encode(images[1:-1], neighbours))
    first = model.decode(ids[:1], images[:1], images[None, [0, 5]])
    fourth = model.decode(ids[3:], images[5:], images[None, [5, 0]])
    third = model.decode(ids[2:3], fourth, images[None, [5, 0]])
    for frame, image in ((0, first), (3, fourth), (2, third)):
        assert torch.equal(decoded[frame], frames.to_uint8(image)[0])
    assert len(decoded) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.sequence": "sliding_window"}, "expected full_clip with vqgan.context = previous"),
        ({"train.stop_ground_truth_after_epoch": 1}, "expected train.n_epochs = 2 or more"),
        ({"train.token_noise": 0.5}, "train.token_noise = 0.5: expected 0 with"),
        (
            {"ingest.height": 32, "ingest.width": 32},
            "expected ingest.height and ingest.width of 64",
        ),
        ({"vqgan.context": "none"}, "epoch_sequences = 6: expected vqgan.context = previous, or 0"),
        ({"vqgan.patch_size": 4}, "patch_size = 4: expected 8 or 16 with vqgan.context = previous"),
        ({"vqgan.vqvae.num_embeddings": 80}, "num_embeddings = 80: expected 81 with vqgan.context"),
        ({"train.batch_method": "truncation"}, "expected padding with vqgan.context = previous"),
        ({"vqgan.trainer.augmentation": "shift_flip"}, "expected none with vqgan.context = prev"),
        ({"train.n_frames_before": "all"}, "all: expected a number with vqgan.context = previous"),
        ({"train.n_frames_before": 18}, r"min_frames = 20: expected .* = 21 or more"),
        (
            {"transformer.merge": 2, "ingest.width": 48, "source.moving_mnist.epoch_sequences": 0},
            r"ingest\.width = 48: expected a multiple of 32 \(transformer\.merge = 2",
        ),
        ({"transformer.merge": 3}, "transformer.merge"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        settings(changes)
