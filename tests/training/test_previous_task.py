"""Frame after frame: both networks on sequences that are drawn anew in every epoch."""

import numpy as np
import pytest
import torch
from previous_settings import CPU, floats, save_digits, sequence, settings, tokenizer
from tiny_settings import decoding_with

from pipeline import frames
from pipeline.data import moving_mnist
from pipeline.errors import UserError
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.tokenize import precompute
from pipeline.models.checkpoints import LoadedTokenizer
from pipeline.models.flow import EVEN
from pipeline.models.gpt.model import Conditioning
from pipeline.models.gpt.sampling import predict
from pipeline.training import sequence_dataset
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
    windows = stored.windows([0, 1, 1], 0, 3)
    assert windows.shape == (3, 3, 64, 64, 3) and windows.dtype == torch.uint8


def test_the_tokenizer_learns(shards, run):
    torch.manual_seed(1)
    task = PreviousTask(settings(), shards, CPU)
    history = run(task, n_epochs=30)
    first, last = history.epochs[0], history.epochs[-1]
    assert last["psnr"] > first["psnr"] + 1, (first, last)
    assert {"reconstruction", "perplexity", "codebook_usage"} <= last.keys()


def test_from_the_second_frame_on_the_decoder_starts_from_its_own(shards):
    torch.manual_seed(1)
    task = PreviousTask(settings(), shards, CPU)
    task.module.eval()
    batch = task._reconstruct([0, 1], None)
    windows = frames.to_float(task.sets["val"].windows([0, 1], 0, 3))
    ids = task.tokenizer.encode(windows[:, 1:].flatten(0, 1), windows[:, :-1].flatten(0, 1))
    ids = ids.unflatten(0, (2, 2))
    first = task.tokenizer.decode(ids[:, 0], windows[:, 0])
    second = task.tokenizer.decode(ids[:, 1], first)
    decoded = batch.decoded.clamp(-1, 1).unflatten(0, (2, 2))
    assert torch.allclose(decoded, torch.stack([first, second], 1), atol=1e-5)


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
    history = run(task, n_epochs=12)
    values = [row["cross_entropy"] for row in history.steps]
    assert np.mean(values[-6:]) < np.mean(values[:6])
    assert "rollout_accuracy" not in history.epochs[-1], "tokens alone are no frames"


def test_frames_are_drawn_one_from_the_other(shards, tokens):
    """By hand: each frame's tokens come of the frames drawn before it, as in a part of training."""
    task = gpt_task(tokens, shards)
    model = InBetweener(
        tokenizer(), task.module.eval(), settings().ingest.frame_size, CPU, "float32"
    )
    clips = [sequence(5)[:8], sequence(6)[:8]]
    first, last = (torch.stack([clip[k] for clip in clips]) for k in (0, 7))
    together = model.generate(first, last, [8, 6])
    assert [clip.shape for clip in together] == [(8, 64, 64, 3), (6, 64, 64, 3)]
    for k, n in enumerate((8, 6)):
        alone = model.generate(first[k : k + 1], last[k : k + 1], [n])[0]
        assert (alone.int() - together[k].int()).abs().max() <= 1
        assert torch.equal(alone[0], first[k]) and torch.equal(alone[-1], last[k])
    ids = model.token_ids(first, last, [8, 8])  # T B N
    images, end = [frames.to_float(first)], frames.to_float(last)
    for number, codes in enumerate(ids, 1):
        start = max(0, number - 3)  # of the part: two frames before, and the oldest as its first
        part = torch.stack([*images[start:], torch.zeros_like(end), end], 1)
        known = torch.full((2,), 8 - start)
        _, features = model.tokenizer.encode_sequence(part, known)
        window = torch.stack([torch.zeros_like(codes), *ids[start : number - 1]], 1)
        given = Conditioning(torch.zeros_like(codes), known, features)
        assert torch.equal(predict(model.gpt, window, given), codes)
        images.append(model.tokenizer.decode(codes, images[-1]))
    previous = images[-1]
    drawn = torch.cat(list(model.draw(first[0], last[0], 8, ids[:, 0])))
    assert torch.equal(drawn[-1], frames.to_uint8(previous)[0])
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
    clip = sequence(5)
    decoded, ids = draws.round_trip(clip)
    images = floats(5)[0]
    assert torch.equal(ids, model.encode(images[1:-1], images[:-2]))
    one = frames.to_uint8(model.decode(ids[:1], images[:1]))
    assert torch.equal(decoded[:1], one) and len(decoded) == 18


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
        ({"vqgan.previous.patch_size": 4}, "patch_size"),
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
