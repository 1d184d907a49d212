"""Training of the tokenizer: parts of the loss, two players that stay apart, and that it learns."""

import math

import pytest
import torch
from pipeline.training.tokenizer import perplexity

from pipeline.errors import UserError
from pipeline.training.adversarial import generator_loss
from pipeline.training.appearance import edge_loss

ADVERSARIAL = {"vqgan.loss.discriminator.factor": 1.0, "vqgan.loss.discriminator.iter_start": 5}


def gradients(module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("quantizer", ["ema", "vq"])
def test_total_is_the_weighted_sum_of_its_parts(tokenizer_task, quantizer):
    changes = {"vqgan.vqvae.quantizer": quantizer, "vqgan.loss.vqvae.codebook_weight": 3.0}
    task = tokenizer_task(changes)
    (loss,) = task.losses([0, 1, 2], 0, 0)
    parts = loss.parts
    wanted = parts["mae"] + 3.0 * (parts["commitment"] + parts["codebook"])
    assert loss.player == "generator" and loss.total.item() == pytest.approx(wanted.item())
    assert (parts["codebook"].item() > 0) == (quantizer == "vq")


def test_augmentation_changes_what_is_trained_on_and_not_what_is_measured(tokenizer_task):
    changes = {"vqgan.trainer.augmentation": "crop_flip"}

    def error(epoch: int, changes: dict | None = None) -> float:
        return next(tokenizer_task(changes).losses([0, 1], epoch, 0)).parts["mae"].item()

    assert error(0, changes) == error(0, changes)
    assert len({error(0), error(0, changes), error(1, changes)}) == 3
    rows = [[0, 1]]
    assert tokenizer_task(changes).validate(rows) == tokenizer_task().validate(rows)


def test_perceptual_and_edge_loss_are_weighed(tokenizer_task):
    task = tokenizer_task({"vqgan.loss.edge_weight": 0.5})
    task.perceptual = lambda drawn, images: (drawn - images).square().mean()
    (loss,) = task.losses([0, 1], 0, 0)
    parts = loss.parts
    wanted = parts["mae"] + parts["commitment"] + 0.1 * parts["perceptual"] + 0.5 * parts["edge"]
    assert parts["perceptual"] > 0 and parts["edge"] > 0
    assert loss.total.item() == pytest.approx(wanted.item())


def test_the_perceptual_loss_looks_at_the_first_pictures_of_a_batch(tokenizer_task):
    task, seen = tokenizer_task({"vqgan.loss.perceptual_subset": 2}), []

    def perceptual(drawn: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return (drawn - images).square().mean()

    task.perceptual = perceptual
    next(task.losses([3, 0, 1], 0, 0))
    assert torch.equal(seen[0], task.batch("train", [3, 0]))


def test_gradients_are_those_of_the_plain_sum(tokenizer_task):
    """Losses are differentiated down to the picture one by one; their sum gives the same."""
    changes = ADVERSARIAL | {
        "vqgan.vqvae.quantizer": "vq",
        "vqgan.loss.edge_weight": 0.5,
        "vqgan.loss.discriminator.weighting": "fixed",
        "vqgan.loss.discriminator.weight": 0.7,
    }
    found, wanted = tokenizer_task(changes), tokenizer_task(changes)
    for task in (found, wanted):
        torch.nn.init.normal_(task.tokenizer.decoder.last_layer, std=0.1)
        task.tokenizer.eval()
    wanted.tokenizer.load_state_dict(found.tokenizer.state_dict())
    wanted.gan.load_state_dict(found.gan.state_dict())
    next(found.losses([0, 1], 0, 9)).total.backward()
    images = wanted.batch("train", [0, 1])
    quantized = wanted.tokenizer.quantize(images, wanted.generator)
    drawn = wanted.tokenizer.decode_features(quantized.vectors)
    total = (drawn - images).abs().mean() + 0.5 * edge_loss(drawn, images).mean()
    total = total + quantized.commitment_loss + quantized.codebook_loss
    (total + 0.7 * generator_loss(wanted.gan.discriminator(drawn, images), "hinge")).backward()
    ours, theirs = gradients(found.tokenizer), gradients(wanted.tokenizer)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-6, rtol=1e-4), name


def test_the_discriminator_begins_with_the_adversarial_loss(tokenizer_task):
    task = tokenizer_task(ADVERSARIAL)
    assert set(task.players) == {"generator", "discriminator"}
    before, after = (list(task.losses([0, 1], 0, step)) for step in (4, 5))
    assert [loss.player for loss in before] == ["generator"]
    assert [loss.player for loss in after] == ["generator", "discriminator"]
    assert "adversarial" in after[0].parts and "adversarial" not in before[0].parts
    assert set(tokenizer_task().players) == {"generator"}, "factor 0: no second player"
    assert "gan" not in tokenizer_task().module


def test_neither_player_gets_a_gradient_from_the_others_step(tokenizer_task):
    task = tokenizer_task(ADVERSARIAL)
    losses = task.losses([0, 1], 0, 5)
    next(losses).total.backward()
    assert gradients(task.gan) == {}
    ours = gradients(task.tokenizer)
    assert any(gradient.abs().sum() > 0 for gradient in ours.values())
    next(losses).total.backward()
    theirs = gradients(task.gan)
    assert theirs and all(g.abs().sum() > 0 for n, g in theirs.items() if "weight" in n)
    again = gradients(task.tokenizer)
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_the_adversarial_part_is_scaled_to_the_reconstruction(tokenizer_task):
    """At the decoder's last layer its gradient is `weight` times as long as all the others'."""
    task = tokenizer_task(ADVERSARIAL | {"vqgan.loss.discriminator.weight": 0.5})
    layer = task.tokenizer.decoder.last_layer
    torch.nn.init.normal_(layer, std=0.1)
    task.tokenizer.eval()
    images = task.batch("train", [0, 1])
    quantized = task.tokenizer.quantize(images, task.generator)
    drawn = task.tokenizer.decode_features(quantized.vectors)
    total = (drawn - images).abs().mean()
    fooled = generator_loss(task.gan.discriminator(drawn, images), "hinge")
    (ours,) = torch.autograd.grad(total, layer, retain_graph=True)
    (theirs,) = torch.autograd.grad(fooled, layer)
    parts = next(task.losses([0, 1], 0, 5)).parts
    ratio = ours.norm() / (theirs.norm() + 1e-6)
    assert parts["adversarial_weight"].item() == pytest.approx(0.5 * ratio.item(), rel=1e-4)
    assert parts["gradient_ratio"].item() == pytest.approx(0.5, rel=1e-2)


def test_the_averaged_network_is_measured_and_kept(tokenizer_task, run):
    task = tokenizer_task({"vqgan.trainer.ema_decay": 0.9})
    assert task.finished is task.averaged.network
    first = task.finished.state_dict()
    theirs = task.tokenizer.state_dict()
    assert all(torch.equal(first[name], theirs[name]) for name in first), "same start"
    run(task, n_epochs=2, checkpoint_interval=1e9)
    ours, theirs = task.finished.state_dict(), task.tokenizer.state_dict()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    assert int(task.averaged.updates) > 0
    with torch.no_grad():
        for value in task.tokenizer.parameters():
            value.zero_()
    assert task.validate([[0, 1]])["psnr"] > 5, "what is measured is not the last step's"
    assert tokenizer_task().finished is not None and tokenizer_task().averaged is None


def test_one_batch_overfits(tokenizer_task, run):
    changes = {"vqgan.trainer.gen_lr": 5e-3, "vqgan.vqvae.num_embeddings": 64}
    task = tokenizer_task(changes)
    task.size = lambda split: 3
    before = task.validate([[0, 1, 2]])  # of the val pictures: only that it can be called
    history = run(task, batch_size=3, n_epochs=150, checkpoint_interval=1e9)
    assert before["psnr"] > 0
    assert history.steps[-1]["mae"] < 0.4 * history.steps[0]["mae"]


def test_pictures_are_called_by_video_and_frame(tokenizer_task):
    assert tokenizer_task().names([0, 1]) == ["train-00 frame 0", "train-00 frame 2"]


def test_the_state_before_a_failed_step_holds_the_codebook_from_before_it(
    tokenizer_task, run, resume
):
    task, codebooks = tokenizer_task(), []
    losses = task.losses

    def failing(rows, epoch, step):
        codebooks.append(task.tokenizer.codebook.clone())
        for loss in losses(rows, epoch, step):
            yield loss._replace(total=loss.total * (math.nan if step == 2 else 1.0))

    task.losses = failing
    with pytest.raises(UserError, match="not finite at step 2"):
        run(task, checkpoint_interval=1e9)
    state = torch.load(resume().path.with_suffix(".failed.pt"))
    saved = state["module"]["tokenizer.quantizer.codebook"]
    assert torch.equal(saved, codebooks[-1]) and not torch.equal(saved, task.tokenizer.codebook)


def test_perplexity_by_hand():
    assert perplexity(torch.tensor([5, 5, 0, 5, 5])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([0, 9, 0])).item() == pytest.approx(1)


@pytest.mark.parametrize("quantizer", ["ema", "vq"])
def test_training_improves_the_pictures(tokenizer_task, run, quantizer):
    changes = {"vqgan.vqvae.quantizer": quantizer, "vqgan.trainer.gen_lr": 5e-3}
    task = tokenizer_task(changes)
    history = run(task, batch_size=8, n_epochs=25, checkpoint_interval=1e9)
    first, last = history.epochs[0], history.epochs[-1]
    assert last["psnr"] > first["psnr"] and history.steps[-1]["mae"] < history.steps[0]["mae"]


def test_validation_moves_nothing(tokenizer_task):
    task = tokenizer_task()
    task.module.eval()
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    state = task.generator.get_state()
    with torch.no_grad():
        found = task.validate([[0, 1], [2]])
    assert found["psnr"] > 5 and 1 <= found["perplexity"] <= 16
    assert 1 / 16 <= found["codebook_usage"] <= 1 and set(found) >= {"total"}
    assert all(torch.equal(before[name], v) for name, v in task.module.state_dict().items())
    assert torch.equal(state, task.generator.get_state())
