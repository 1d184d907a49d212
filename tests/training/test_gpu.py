"""What a GPU must do as the CPU does: every mode, and the same numbers within a tolerance.

`python -m benchmarks.gpu` runs these first on a GPU. Where there is none they run on the CPU, which
keeps them in order. Sums of a GPU come in any order and its float32 convolutions have 10 bits, so
nothing is compared to the last bit.
"""

from itertools import product

import pytest
import torch

from pipeline import frames
from pipeline.evaluation.metrics.image import psnr, ssim
from pipeline.runtime import autocast
from pipeline.training.trainer import TrainConfig, Trainer

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
FLOAT32, BF16 = 2e-3, 4e-2  # relative errors that are allowed, against float32 on the CPU
BF16_ON = {"base.precision": "bf16"}
TOKENIZERS = {
    "keyframes": {"vqgan.keyframes.encoder": "network"},
    "fast": {"vqgan.context": "none"},
    "thesis": {
        "vqgan.context": "none",
        "vqgan.vqvae.quantizer": "vq",
        "vqgan.autoencoder.architecture": "thesis",
        "vqgan.autoencoder.attention_resolution": [8],
        "vqgan.autoencoder.upsampling": "bilinear",
        "vqgan.discriminator.norm": "batch",
    },
}
MODES = [("full_clip", "parallel"), ("full_clip", "maskgit"), ("sliding_window", "parallel")]
KINDS = ("plain", "custom")
PAIRS = [*product(MODES, KINDS)] if DEVICE != CPU else [*zip(MODES, KINDS * 2, strict=False)]


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    value, truth = value.detach().double().cpu(), truth.detach().double().cpu()
    return float((value - truth).norm() / truth.norm())


def gpt_changes(mode: tuple[str, str], kind: str) -> dict:
    sequence, how = mode
    return {"train.sequence": sequence, "train.mode": how, "transformer.transformer_type": kind}


def gradient(task, config: TrainConfig | None = None, resume=None) -> torch.Tensor:
    """Of the first step: all parameters in one vector."""
    torch.manual_seed(5)
    trainer = Trainer(task, config or TrainConfig(4, 1, 1), resume, lambda *_: None)
    task.module.train()
    trainer._backward(*trainer.batches(0, 0), epoch=0)
    spec = next(iter(task.optimizers.values()))
    return torch.cat([p.grad.flatten() for p in spec.parameters if p.grad is not None])


@pytest.fixture(scope="module")
def clips_with_features(tmp_path_factory, write_tokens):
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 16, (n, 32), generator=generator) for n in (6, 8, 5, 7)]
    folder = tmp_path_factory.mktemp("features")
    return write_tokens(folder, {"train": clips, "val": clips[:2]}, channels=3)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_and_its_discriminator_train_in_bf16(vqgan_task, run, name):
    changes = TOKENIZERS[name] | BF16_ON | {"vqgan.loss.discriminator.factor": 1.0}
    task = vqgan_task(changes | {"vqgan.trainer.augmentation": "crop_flip"}, device=DEVICE)
    history = run(task, batch_size=4, n_epochs=1)
    assert history.steps[-1]["discriminator.total"] > 0 and history.epochs[-1]["psnr"] > 5


@pytest.mark.parametrize("mode,kind", PAIRS)
@pytest.mark.parametrize("context", ["keyframes", "none"])
def test_every_mode_trains_and_generates_in_bf16(
    gpt_task, run, untrained, tiny, moving, tokens, clips_with_features, context, mode, kind
):
    changes = gpt_changes(mode, kind) | BF16_ON
    folder = clips_with_features if context == "keyframes" else tokens
    task = gpt_task(changes, folder=folder, device=DEVICE)
    history = run(task, batch_size=4, n_epochs=2)  # true frames first, then its own predictions
    assert history.epochs[-1]["rollout_accuracy"] >= 0

    model = untrained(tiny(changes | {"vqgan.context": context}))
    model.device = DEVICE
    model.tokenizer.to(DEVICE)
    model.gpt.to(DEVICE)
    clips = torch.stack([moving(7, seed) for seed in range(2)])
    clip, shorter = model.generate(clips[:, 0], clips[:, -1], [7, 5])
    assert clip.shape == clips[0].shape and clip.dtype == torch.uint8 and len(shorter) == 5
    assert torch.equal(clip[[0, -1]], clips[0, [0, -1]])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pictures_are_those_of_the_cpu(vqgan_task, moving, name):
    """In float32 and in bf16: what the trained network decodes, from the same codes."""
    task = vqgan_task(TOKENIZERS[name])
    gradient(task)
    spec = task.optimizers["generator"]
    spec.optimizer.step()  # so that no layer is zero
    task.module.eval()
    batch, network = task._reconstruct([0, 1], None), task.tokenizer
    vectors = batch.quantized.vectors.detach()

    def decoded(device: torch.device, precision: str) -> torch.Tensor:
        network.to(device)
        with torch.no_grad(), autocast(device, precision):
            if name != "keyframes":
                return network.decode_features(vectors.to(device)).float()
            _, context = task.sets["val"].batch([0, 1], device)
            output = network(
                vectors.to(device), torch.ones_like(vectors[:, :1]).to(device), context
            )
            return torch.cat([output.mix, output.residual, output.correction], 1)  # B K H W

    truth = decoded(CPU, "float32")
    assert relative_error(decoded(DEVICE, "float32"), truth) < FLOAT32
    assert relative_error(decoded(DEVICE, "bf16"), truth) < BF16


@pytest.mark.parametrize("mode,kind", PAIRS)
def test_logits_and_gradients_are_those_of_the_cpu(gpt_task, clips_with_features, mode, kind):
    values = {}
    for device, precision in ((CPU, "float32"), (DEVICE, "float32"), (DEVICE, "bf16")):
        changes = gpt_changes(mode, kind) | {"base.precision": precision}
        task = gpt_task(changes, folder=clips_with_features, device=device)
        batch = task.tokens["train"].batch([0, 1], device, torch.Generator())
        with torch.no_grad(), autocast(device, precision):
            logits = task.module(batch.ids[:, :2], batch.cond)
        values.setdefault("logits", []).append(logits)
        values.setdefault("gradients", []).append(gradient(task))
    for truth, float32, bf16 in values.values():
        assert relative_error(float32, truth) < FLOAT32
        assert relative_error(bf16, truth) < BF16


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointed_gradients_of_a_transformer_are_the_same(gpt_task, kind):
    changes = {"transformer.transformer_type": kind, "transformer.dropout": 0.2}
    plain = gradient(gpt_task(changes, device=DEVICE))
    changes["base.gradient_checkpointing"] = True
    assert relative_error(gradient(gpt_task(changes, device=DEVICE)), plain) < 1e-4


def test_checkpointed_gradients_of_a_tokenizer_are_the_same(vqgan_task):
    changes = {"vqgan.context": "none"}
    plain = gradient(vqgan_task(changes, device=DEVICE))
    changes["base.gradient_checkpointing"] = True
    assert relative_error(gradient(vqgan_task(changes, device=DEVICE)), plain) < 1e-4


@pytest.mark.parametrize("kind", ["vqgan_task", "gpt_task"])
def test_accumulated_gradients_are_those_of_a_larger_batch(request, kind):
    """Also of clips that differ in length."""
    make = request.getfixturevalue(kind)
    changes = {"vqgan.context": "none", "vqgan.vqvae.quantizer": "vq"}  # ema moves in between
    large = gradient(make(changes, device=DEVICE))
    parts = gradient(make(changes, device=DEVICE), TrainConfig(2, 1, 1, accumulation_size=2))
    assert relative_error(parts, large) < 1e-3


@pytest.mark.parametrize("kind", ["vqgan_task", "gpt_task"])
def test_a_killed_training_goes_on_as_if_it_were_not(request, run, resume, kind):
    make = request.getfixturevalue(kind)
    changes = BF16_ON | {"transformer.dropout": 0.2, "vqgan.trainer.augmentation": "shift_flip"}

    def weights(task) -> torch.Tensor:
        return torch.cat([p.detach().flatten().cpu() for p in task.module.parameters()])

    def killed(values: dict, step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    task = make(changes, device=DEVICE)
    before = weights(task)
    run(task)
    with pytest.raises(KeyboardInterrupt):
        run(make(changes, device=DEVICE), killed)
    assert resume().path.is_file()
    torch.manual_seed(99)
    continued = make(changes, seed=7, device=DEVICE)
    run(continued)
    way = (weights(task) - before).norm()
    assert (weights(continued) - weights(task)).norm() < 0.05 * way


def test_metrics_are_those_of_the_cpu(moving):
    clips = [moving(6, seed, 64, 64) for seed in (1, 2)]
    for metric in (psnr, ssim):
        there = metric(*(clip.to(DEVICE) for clip in clips)).cpu()
        assert (there - metric(*clips)).abs().max() < 1e-3
    assert torch.equal(frames.to_uint8(frames.to_float(clips[0].to(DEVICE))).cpu(), clips[0])
