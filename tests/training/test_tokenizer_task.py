"""Training of the tokenizer: parts of the loss, two players that stay apart, and that it learns."""

import pytest
import torch

from pipeline.training.adversarial import generator_loss

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
        return float(next(tokenizer_task(changes).losses([0, 1], epoch, 0)).parts["mae"])

    assert error(0, changes) == error(0, changes)
    assert len({error(0), error(0, changes), error(1, changes)}) == 3
    rows = [0, 1]
    assert tokenizer_task(changes).validate(rows) == tokenizer_task().validate(rows)


def test_perceptual_loss_by_a_stand_in(tokenizer_task):
    task = tokenizer_task()
    task.lpips = lambda drawn, images: (drawn - images).square().mean((1, 2, 3))
    (loss,) = task.losses([0, 1], 0, 0)
    parts = loss.parts
    wanted = parts["mae"] + parts["commitment"] + 0.1 * parts["lpips"]
    assert parts["lpips"] > 0 and loss.total.item() == pytest.approx(wanted.item())


def test_the_discriminator_plays_from_its_step_on(tokenizer_task):
    task = tokenizer_task(ADVERSARIAL)
    assert set(task.players) == {"generator", "discriminator"}
    assert [loss.player for loss in task.losses([0, 1], 0, 4)] == ["generator"]
    both = list(task.losses([0, 1], 0, 5))
    assert [loss.player for loss in both] == ["generator", "discriminator"]
    assert {"adversarial", "adaptive_weight"} <= set(both[0].parts)
    assert set(tokenizer_task().players) == {"generator"}, "factor 0: no second player"


def test_neither_player_gets_a_gradient_from_the_others_step(tokenizer_task):
    task = tokenizer_task(ADVERSARIAL)
    losses = task.losses([0, 1], 0, 5)
    next(losses).total.backward()
    assert gradients(task.discriminator) == {}
    ours = gradients(task.tokenizer)
    assert any(gradient.abs().sum() > 0 for gradient in ours.values())
    next(losses).total.backward()
    assert all(g.abs().sum() > 0 for n, g in gradients(task.discriminator).items() if "weight" in n)
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
    total, _ = task._reconstruction(images, drawn, quantized)
    fooled = generator_loss(task.discriminator(drawn), "hinge")
    (ours,) = torch.autograd.grad(total, layer, retain_graph=True)
    (theirs,) = torch.autograd.grad(fooled, layer)
    loss = next(task.losses([0, 1], 0, 5))
    ratio = ours.norm() / (theirs.norm() + 1e-4)
    assert loss.parts["adaptive_weight"].item() == pytest.approx(ratio.item(), rel=1e-4)
    wanted = total + 0.5 * ratio * fooled
    assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-4)


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
        found = task.validate([0, 1, 2])
    assert found["psnr"] > 5 and 1 <= found["codes_in_batch"] <= 16
    assert all(torch.equal(before[name], v) for name, v in task.module.state_dict().items())
    assert torch.equal(state, task.generator.get_state())
