"""Training of both kinds of tokenizer: parts of the loss, two players apart, and that it learns."""

import math

import pytest
import torch

from pipeline.errors import UserError
from pipeline.models.flow import EVEN
from pipeline.training.adversarial import generator_loss
from pipeline.training.perceptual import edge_loss
from pipeline.training.vqgan import perplexity

ADVERSARIAL = {"vqgan.loss.discriminator.factor": 1.0, "vqgan.loss.discriminator.iter_start": 5}
IMAGES = {"vqgan.context": "none"}  # the thesis' tokenizer
NETWORK = {"vqgan.keyframes.encoder": "network"}


@pytest.fixture(params=["keyframes", "none"])
def context(request) -> dict:
    return {"vqgan.context": request.param}


def gradients(module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "changes", [IMAGES, IMAGES | {"vqgan.vqvae.quantizer": "vq"}, {}, NETWORK], ids=str
)
def test_total_is_the_weighted_sum_of_its_parts(vqgan_task, changes):
    task = vqgan_task(changes | {"vqgan.loss.codebook_weight": 3.0})
    (loss,) = task.losses([0, 1, 2], 0, 0)
    parts = loss.parts
    wanted = parts["mae"] + 3.0 * (parts["commitment"] + parts["codebook"])
    assert loss.optimizer == "generator" and loss.total.item() == pytest.approx(wanted.item())
    assert (parts["codebook"].item() > 0) == ("vqgan.vqvae.quantizer" in changes)


def test_augmentation_changes_what_is_trained_on_and_not_what_is_measured(vqgan_task, context):
    changes = context | {"vqgan.trainer.augmentation": "shift_flip"}

    def error(epoch: int, changes: dict) -> float:
        return next(vqgan_task(changes).losses([0, 1], epoch, 0)).parts["mae"].item()

    assert error(0, changes) == error(0, changes)
    assert len({error(0, context), error(0, changes), error(1, changes)}) == 3
    rows = [[0, 1]]
    assert vqgan_task(changes).validate(rows) == vqgan_task(context).validate(rows)


def test_perceptual_and_other_losses_are_weighed(vqgan_task, context):
    weights = {"vqgan.loss.edge_weight": 0.5, "vqgan.loss.mse_weight": 0.2}
    task = vqgan_task(context | weights)
    task.perceptual = lambda drawn, images: (drawn - images).square().mean()
    (loss,) = task.losses([0, 1], 0, 0)
    parts = loss.parts
    wanted = parts["mae"] + parts["commitment"] + 0.1 * parts["perceptual"]
    wanted = wanted + 0.5 * parts["edge"] + 0.2 * parts["mse"]
    assert parts["perceptual"] > 0 and parts["edge"] > 0 and parts["mse"] > 0
    assert loss.total.item() == pytest.approx(wanted.item())


def test_the_perceptual_loss_looks_at_the_first_pictures_of_a_batch(vqgan_task, context):
    task, seen = vqgan_task(context | {"vqgan.loss.perceptual_subset": 2}), []

    def perceptual(drawn: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return (drawn - images).square().mean()

    task.perceptual = perceptual
    next(task.losses([3, 0, 1], 0, 0))
    assert torch.equal(seen[0], task._reconstruct([3, 0], 0).images)


def test_gradients_are_those_of_the_plain_sum(vqgan_task, context):
    """Losses are differentiated down to the picture one by one; their sum gives the same."""
    changes = context | ADVERSARIAL
    changes |= {
        "vqgan.vqvae.quantizer": "vq" if context == IMAGES else "ema",
        "vqgan.keyframes.encoder": "network",
        "vqgan.loss.edge_weight": 0.5,
        "vqgan.loss.mse_weight": 0.3,
    }
    found, wanted = vqgan_task(changes), vqgan_task(changes)
    for task in (found, wanted):
        torch.nn.init.normal_(task.tokenizer.decoder.last_layer, std=0.1)
        task.tokenizer.eval()
    wanted.tokenizer.load_state_dict(found.tokenizer.state_dict())
    wanted.gan.load_state_dict(found.gan.state_dict())
    loss = next(found.losses([0, 1], 0, 9))
    loss.total.backward()
    batch = wanted._reconstruct([0, 1], 0)
    images, decoded, quantized = batch.images, batch.decoded, batch.quantized
    total = (batch.weight * (decoded - images).abs().mean((1, 2, 3))).mean()
    total = total + 0.3 * (batch.mse_weight * (decoded - images).square().mean((1, 2, 3))).mean()
    total = total + 0.5 * (batch.weight * edge_loss(decoded, images)).mean()
    total = total + quantized.commitment_loss + quantized.codebook_loss
    adversarial = generator_loss(wanted.gan.discriminator(decoded), "hinge")
    (total + loss.parts["adversarial_weight"] * adversarial).backward()
    actual, expected = gradients(found.tokenizer), gradients(wanted.tokenizer)
    assert actual.keys() == expected.keys() and len(actual) > 10
    for name in actual:
        assert torch.allclose(actual[name], expected[name], atol=1e-6, rtol=1e-4), name


def test_the_discriminator_begins_with_the_adversarial_loss(vqgan_task, context):
    task = vqgan_task(context | ADVERSARIAL)
    assert set(task.optimizers) == {"generator", "discriminator"}
    before, after = (list(task.losses([0, 1], 0, step)) for step in (4, 5))
    assert [loss.optimizer for loss in before] == ["generator"]
    assert [loss.optimizer for loss in after] == ["generator", "discriminator"]
    assert "adversarial" in after[0].parts and "adversarial" not in before[0].parts
    assert set(vqgan_task(context).optimizers) == {"generator"}, "factor 0: no second player"
    assert "gan" not in vqgan_task(context).module


def test_neither_player_gets_a_gradient_from_the_others_step(vqgan_task, context):
    task = vqgan_task(context | ADVERSARIAL)
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


def test_the_adversarial_part_is_scaled_to_the_reconstruction(vqgan_task, context):
    """At the decoder's last layer its gradient is `weight` times as long as all the others'."""
    task = vqgan_task(context | ADVERSARIAL | {"vqgan.loss.discriminator.weight": 0.5})
    layer = task.tokenizer.decoder.last_layer
    torch.nn.init.normal_(layer, std=0.1)
    task.tokenizer.eval()
    batch = task._reconstruct([0, 1], 0)
    images, decoded = batch.images, batch.decoded
    total = (batch.weight * (decoded - images).abs().mean((1, 2, 3))).mean()
    fooled = generator_loss(task.gan.discriminator(decoded), "hinge")
    (ours,) = torch.autograd.grad(total, layer, retain_graph=True)
    (theirs,) = torch.autograd.grad(fooled, layer)
    parts = next(task.losses([0, 1], 0, 5)).parts
    ratio = ours.norm() / (theirs.norm() + 1e-6)
    assert parts["adversarial_weight"].item() == pytest.approx(0.5 * ratio.item(), rel=1e-4)
    assert parts["gradient_ratio"].item() == pytest.approx(0.5, rel=1e-2)


def test_one_batch_overfits(vqgan_task, run, context):
    changes = {"vqgan.trainer.gen_lr": 5e-3, "vqgan.vqvae.num_embeddings": 64}
    task = vqgan_task(context | changes)
    ones = torch.ones(1, 1, *task.tokenizer.grid)
    task._known_codes = lambda batch: ones.expand(batch, -1, -1, -1)  # no code is left out
    task.size = lambda split: 3
    history = run(task, batch_size=3, n_epochs=150, checkpoint_interval=1e9)
    assert history.steps[-1]["mae"] < 0.4 * history.steps[0]["mae"]


def test_pictures_are_called_by_video_and_frame_and_frames_by_clip(vqgan_task):
    assert vqgan_task(IMAGES).names([0, 1]) == ["train-00 frame 0", "train-00 frame 2"]
    assert vqgan_task().names([0, 5]) == ["train-00 frame 1", "train-01 frame 1"]


def test_the_state_before_a_failed_step_holds_the_codebook_from_before_it(vqgan_task, run, resume):
    task, codebooks = vqgan_task(IMAGES), []
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
def test_training_improves_the_pictures(vqgan_task, run, quantizer):
    changes = {"vqgan.vqvae.quantizer": quantizer, "vqgan.trainer.gen_lr": 5e-3}
    task = vqgan_task(IMAGES | changes)
    history = run(task, batch_size=8, n_epochs=25, checkpoint_interval=1e9)
    first, last = history.epochs[0], history.epochs[-1]
    assert last["psnr"] > first["psnr"] and history.steps[-1]["mae"] < history.steps[0]["mae"]


def test_validation_moves_nothing(vqgan_task, context):
    task = vqgan_task(context)
    task.module.eval()
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    state = task.generator.get_state()
    with torch.no_grad():
        found = task.validate([[0, 1], [2]])
    assert found["psnr"] > 5 and 1 <= found["perplexity"] <= 16
    assert 1 / 16 <= found["codebook_usage"] <= 1 and set(found) >= {"reconstruction"}
    assert all(torch.equal(before[name], v) for name, v in task.module.state_dict().items())
    assert torch.equal(state, task.generator.get_state())


@pytest.mark.parametrize("encoder", ["linear", "network"])
def test_training_with_keyframes_begins_at_the_eased_warp_and_improves_it(vqgan_task, run, encoder):
    task = vqgan_task({"vqgan.keyframes.encoder": encoder, "vqgan.trainer.gen_lr": 5e-3})
    task.module.eval()
    start = task.validate([list(range(task.size("val")))])
    assert start["psnr_without_codes"] == pytest.approx(start["psnr_start"], abs=1e-3)
    assert start["psnr"] > start["psnr_start"], "codes bring the frame nearer to the truth"
    history = run(task, batch_size=6, n_epochs=25, checkpoint_interval=1e9)
    last = history.epochs[-1]
    assert last["psnr_start"] == pytest.approx(start["psnr_start"])
    assert last["psnr"] > start["psnr"] and last["psnr_without_codes"] > start["psnr_start"]


def test_code_0_stays_as_foreseen(vqgan_task, run):
    """Zero, although the codebook follows the encoder."""
    task = vqgan_task(NETWORK)
    before = task.tokenizer.codebook.clone()
    run(task, n_epochs=2, checkpoint_interval=1e9)
    assert not torch.equal(task.tokenizer.codebook, before)
    assert not task.tokenizer.codebook[0].any()


def test_spans_and_augmentation_are_of_the_seed(vqgan_task):
    one, same, other = (vqgan_task({"base.seed": seed}).sets["train"] for seed in (3, 3, 4))
    assert one.spans == same.spans and one.spans != other.spans
    rows = list(range(8))
    images = [each.batch(rows, torch.device("cpu"), 0).images for each in (one, same, other)]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


@pytest.mark.parametrize("fitted", [True, False])
def test_easing_is_fitted_to_the_train_split(vqgan_task, monkeypatch, fitted):
    from pipeline.models.flow import Easing
    from pipeline.training import vqgan

    monkeypatch.setattr(vqgan, "fit_easing", lambda clips, flows: Easing(0.7, 0.1))
    task = vqgan_task({"flow.easing": fitted})
    wanted = Easing(0.7, 0.1) if fitted else EVEN
    assert {task.easing, *(split.easing for split in task.sets.values())} == {wanted}
