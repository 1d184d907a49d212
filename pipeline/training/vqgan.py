"""Training of the tokenizers: VQ-GAN's losses (thesis, section 3.2), for all three kinds.

Total of the generator: mean absolute error + mse_weight * mean squared error + edge_weight * edge
loss + perceptual_weight * perceptual loss + codebook_weight * (codebook + commitment loss) + weight
* adversarial loss, the last from step `iter_start` on. With the previous frame as context no
codebook learns.

`ImageTask` trains the tokenizer of whole images, on the image shards. `KeyframeTask` trains the one
with keyframes as context, on the inner frames of the clip shards. There errors count relative to
those of the eased warp, from which the decoder starts: with plain errors clips that move spoil
those that do not (1.8 dB in the third with least motion). The squared error is what PSNR measures:
with the absolute error alone still clips lose 0.3 dB. In a share of the frames all codes are left
out, so that the decoder alone is an interpolator too, and in the others some. `PreviousTask` trains
the one with the previous frame as context, on consecutive frames. It starts from pictures that have
faded: some frames are decoded before, one from the other, and some codes are wrong. The moved image
and the refined one both count, without a gradient between them: so the decoder learns to move,
whatever the keyframes can mend.

What compares images is differentiated down to the image first, each loss for itself; the
decoder's backward pass then runs once, for the sum of these gradients. So the adaptive weight costs
two gradients of one layer and no second pass through VGG, the discriminator is passed back
through once, and the memory of each is free before the next needs it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pipeline import config, frames
from pipeline.data.augmentation import augment
from pipeline.data.datasets import ClipSet, ImageSet
from pipeline.models.flow import EVEN, FIT_CLIPS, Context, FlowEstimator, fit_easing
from pipeline.models.vqgan.keyframes import KeyframeTokenizer, compose
from pipeline.models.vqgan.model import Tokenizer
from pipeline.models.vqgan.previous import PreviousTokenizer
from pipeline.models.vqgan.quantizers import Quantized, perplexity
from pipeline.runtime import autocast
from pipeline.training.adversarial import GanLoss, adaptive_weight
from pipeline.training.distributed import SINGLE_PROCESS, DistributedContext
from pipeline.training.keyframe_dataset import KeyframeSet
from pipeline.training.perceptual import edge_loss, perceptual_loss
from pipeline.training.sequence_dataset import SequenceSet
from pipeline.training.task import Loss, OptimizerSpec, Task, warmup_cosine, weighted_means

WARMUP_SHARE = 0.05  # of the training, in which gen_lr rises
START_IMAGES = 512  # images from which linear skip and codebook start
START_FRAMES = 2048  # frames from whose differences principal components and codes start
# The tokenizer with context previous: frames that it decodes one from the other, how many at most
# are decoded before these without a gradient, and the share of codes that is wrong, at most.
UNROLLED, ROLLED_IN, WRONG_CODES = 2, 6, 0.1
NEAREST = 8  # codes of which one takes the place of a right one
# Errors of the eased warp, on [-1, 1], below which all frames count alike: absolute and squared.
MAE_FLOOR, MSE_FLOOR = 0.005, 1e-4


class Reconstruction(NamedTuple):
    """A batch through the tokenizer and back."""

    images: torch.Tensor  # B 3 H W, the truth
    decoded: torch.Tensor  # B 3 H W, not clamped
    codes: torch.Tensor  # token ids, of any shape
    quantized: Quantized | None = None  # None where no codebook learns
    weight: torch.Tensor | float = 1.0  # B, mean 1: how much the absolute error of each counts
    mse_weight: torch.Tensor | float = 1.0  # B: how much the squared error counts, with any mean
    context: Context | None = None


class ImageLoss(NamedTuple):
    """A loss of decoded images and its gradient with respect to them, `B 3 H W`."""

    value: torch.Tensor
    gradient: torch.Tensor
    parts: dict[str, torch.Tensor]


class VqganTask(Task):
    """Task of `trainer.train`: optimizers `generator` and, with factor > 0, `discriminator`."""

    tokenizer: Tokenizer | KeyframeTokenizer | PreviousTokenizer
    sets: dict[str, ImageSet | KeyframeSet | SequenceSet]  # by split

    def __init__(
        self,
        settings: config.Params,
        shards: Path,
        device: torch.device,
        processes: DistributedContext = SINGLE_PROCESS,
        saved: Path | None = None,
    ) -> None:
        """saved: a folder for what is computed before the first step, kept for a restart."""
        self.saved = saved
        self.settings, self.device, self.processes = settings.vqgan, device, processes
        self.precision, self.seed = settings.base.precision, settings.base.seed
        self.generator = torch.Generator().manual_seed(self.seed)
        self.perceptual = perceptual_loss(self.settings.loss, device)
        self._start(settings, shards)

    def _start(self, settings: config.Params, shards: Path) -> None:
        """Reads the data, builds the networks, and starts them from the data."""
        raise NotImplementedError

    def size(self, split: str) -> int:
        return len(self.sets[split])

    def names(self, rows: Sequence[int]) -> list[str]:
        return [self.sets["train"].name(row) for row in rows]

    def _build(self, tokenizer: Tokenizer | KeyframeTokenizer | PreviousTokenizer) -> None:
        """The networks and their optimizers."""
        trainer, adversarial = self.settings.trainer, self.settings.loss.discriminator
        self.tokenizer = tokenizer
        if self.tokenizer.quantizer is not None:
            self.tokenizer.quantizer.gather = self.processes.all_gather
        networks: dict[str, nn.Module] = {"tokenizer": self.tokenizer}
        self.gan = None
        if adversarial.factor > 0:
            self.gan = GanLoss(adversarial, self.settings.discriminator)
            networks["gan"] = self.gan
        self.module = nn.ModuleDict(networks).to(self.device)

        parameters = [p for p in self.tokenizer.parameters() if p.requires_grad]
        betas = tuple(trainer.gen_betas)
        adam = torch.optim.Adam(parameters, lr=trainer.gen_lr, betas=betas, fused=True)
        schedule = None
        if trainer.schedule == "cosine":
            schedule = warmup_cosine(0.02 * trainer.gen_lr, trainer.gen_lr, WARMUP_SHARE)
        spec = OptimizerSpec(parameters, adam, trainer.clip_norm, schedule)
        self.optimizers = {"generator": spec}
        if self.gan is not None:
            parameters = list(self.gan.parameters())
            betas = tuple(trainer.disc_betas)
            adam = torch.optim.Adam(parameters, lr=trainer.disc_lr, betas=betas, fused=True)
            spec = OptimizerSpec(parameters, adam, trainer.clip_norm)
            self.optimizers["discriminator"] = spec

    def _reconstruct(self, rows: Sequence[int], epoch: int | None) -> Reconstruction:
        """A batch of train, augmented, or of val where `epoch` is None."""
        raise NotImplementedError

    def _chance(self, batch: int, *shape: int) -> torch.Tensor:
        """Uniform random numbers `B ...`, drawn for the batches of all processes together."""
        chance = torch.rand(batch * self.processes.world_size, *shape, generator=self.generator)
        return chance.chunk(self.processes.world_size)[self.processes.rank]

    def losses(self, rows: Sequence[int], epoch: int, step: int) -> Iterator[Loss]:
        with autocast(self.device, self.precision):
            batch = self._reconstruct(rows, epoch)
        yield self._generator_loss(batch, step)
        if self.gan is not None and self.gan.active(step):
            with autocast(self.device, self.precision):
                total, parts = self.gan.for_discriminator(batch.decoded.detach(), batch.images)
            yield Loss("discriminator", total, parts)

    def _generator_loss(self, batch: Reconstruction, step: int) -> Loss:
        with autocast(self.device, self.precision):
            leaf = batch.decoded.detach().requires_grad_()
            reconstruction = self._image_loss(batch._replace(decoded=leaf))
            adversarial = self._adversarial(batch, reconstruction, step)
        value, gradient, parts = reconstruction
        codes, codebook_parts, counts = self._codebook_loss(batch)
        parts = {"reconstruction": value + codes.detach()} | parts | codebook_parts
        if adversarial is not None:
            value, gradient = value + adversarial.value, gradient + adversarial.gradient
            parts |= adversarial.parts
        parts["perplexity"] = perplexity(self.processes.all_gather(counts[None]).sum(0))
        # of value 0, with this gradient at `decoded`
        through = (batch.decoded * gradient).sum()
        total = value + codes + (through - through.detach())
        return Loss("generator", total, parts)

    def _image_loss(self, batch: Reconstruction) -> ImageLoss:
        """All but the adversarial loss; `decoded` is a leaf where its gradient is wanted."""
        settings, images, decoded = self.settings.loss, batch.images, batch.decoded

        error = decoded - images
        parts = {"mae": (batch.weight * error.abs().mean((1, 2, 3))).mean()}
        value = parts["mae"]
        if settings.mse_weight:
            parts["mse"] = (batch.mse_weight * error.square().mean((1, 2, 3))).mean()
            value = value + settings.mse_weight * parts["mse"]
        if settings.edge_weight:
            parts["edge"] = (batch.weight * edge_loss(decoded, images)).mean()
            value = value + settings.edge_weight * parts["edge"]
        if self.perceptual is not None:
            subset = slice(settings.perceptual_subset or None)
            parts["perceptual"] = self.perceptual(decoded[subset], images[subset])
            value = value + settings.perceptual_weight * parts["perceptual"]
        gradient = torch.zeros_like(decoded)
        if decoded.requires_grad:
            (gradient,) = torch.autograd.grad(value, decoded)
        return ImageLoss(value.detach(), gradient, {n: v.detach() for n, v in parts.items()})

    def _adversarial(
        self, batch: Reconstruction, reconstruction: ImageLoss, step: int
    ) -> ImageLoss | None:
        """The weighted adversarial loss, or None before it begins."""
        if self.gan is None or not self.gan.active(step):
            return None
        leaf = batch.decoded.detach().requires_grad_()
        loss = self.gan.for_generator(leaf)
        (gradient,) = torch.autograd.grad(loss, leaf)
        at_reconstruction = self._at_last_layer(batch.decoded, reconstruction.gradient)
        at_adversarial = self._at_last_layer(batch.decoded, gradient)
        weight = self.gan.weight * adaptive_weight(at_reconstruction, at_adversarial)
        ratio = weight * at_adversarial.norm() / at_reconstruction.norm().clamp_min(1e-12)
        parts = {
            "adversarial": loss.detach(),
            "adversarial_weight": weight,
            "gradient_ratio": ratio,
        }
        return ImageLoss(weight * loss.detach(), weight * gradient, parts)

    def _at_last_layer(self, decoded: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """A gradient at the decoded images, passed back to the decoder's last layer."""
        layer = self.tokenizer.decoder.last_layer
        (at_layer,) = torch.autograd.grad(decoded, layer, gradient, retain_graph=True)
        return self.processes.mean(at_layer)

    def _codebook_loss(
        self, batch: Reconstruction
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """The weighted losses, each by itself, and how often each code came, `V`."""
        counts = torch.bincount(batch.codes.flatten(), minlength=len(self.tokenizer.codebook))
        if (quantized := batch.quantized) is None:
            return batch.images.new_zeros(()), {}, counts
        parts = {"commitment": quantized.commitment_loss, "codebook": quantized.codebook_loss}
        total = self.settings.loss.codebook_weight * sum(parts.values())
        return total, parts, counts

    def validate(self, batches: Sequence[Sequence[int]]) -> dict[str, float]:
        """Loss without its adversarial part, PSNR (dB, an image's at most 60), use of codes."""
        counts = torch.zeros(len(self.tokenizer.codebook), dtype=torch.int64, device=self.device)
        metrics = []
        for rows in batches:
            with autocast(self.device, self.precision):
                batch = self._reconstruct(rows, None)
                value = self._image_loss(batch).value
                codes, _, used = self._codebook_loss(batch)
                row = {"reconstruction": float((value + codes).detach()), "psnr": psnr(batch)}
                row |= self._more_validation(batch)
            metrics.append((row, len(rows)))
            counts += used
        usage = {"codebook_usage": float((counts > 0).float().mean())}
        return weighted_means(metrics) | usage | {"perplexity": float(perplexity(counts))}

    def _more_validation(self, batch: Reconstruction) -> dict[str, float]:
        return {}


class ImageTask(VqganTask):
    """The tokenizer of whole images (`vqgan.context: none`)."""

    def _start(self, settings: config.Params, shards: Path) -> None:
        self.sets = {split: ImageSet(shards, split) for split in ("train", "val")}
        self._build(Tokenizer(self.settings, settings.ingest.height, settings.ingest.width))
        self.tokenizer.checkpoint_gradients(settings.base.gradient_checkpointing)
        self.module.to(memory_format=torch.channels_last)
        self._init_from_data()

    @torch.no_grad()
    def _init_from_data(self) -> None:
        """Shortcut and codebook from a few hundred training pictures."""
        step = max(1, self.size("train") // START_IMAGES)
        rows = range(0, self.size("train"), step)
        images = self._floats(self.sets["train"].batch(rows))
        if self.tokenizer.linear_skip is not None:
            self.tokenizer.linear_skip.start(images)
        if self.tokenizer.linear_skip is not None or self.settings.vqvae.quantizer != "vq":
            # `vq` alone begins as in the thesis, with a small random codebook
            features = torch.cat([self.tokenizer.features(part) for part in images.split(64)])
            vectors = features.movedim(1, -1).flatten(0, 2).float()  # BN D
            self.tokenizer.quantizer.init_from_data(vectors, self.generator)

    def _floats(self, images: torch.Tensor) -> torch.Tensor:
        images = frames.to_float(images.to(self.device))
        return images.contiguous(memory_format=torch.channels_last)

    def _reconstruct(self, rows: Sequence[int], epoch: int | None) -> Reconstruction:
        tokenizer, kind = self.tokenizer, self.settings.trainer.augmentation
        images = self.sets["val" if epoch is None else "train"].batch(rows)
        if epoch is not None and kind != "none":
            images = torch.from_numpy(augment(images.numpy(), rows, self.seed, epoch, kind))
        images = self._floats(images)
        quantized = tokenizer.quantize(images, self.generator)
        return Reconstruction(
            images,
            tokenizer.decode_features(quantized.vectors).float(),
            quantized.codes,
            quantized,
        )


class KeyframeTask(VqganTask):
    """The tokenizer with the warped keyframes as context (`vqgan.context: keyframes`)."""

    def _start(self, settings: config.Params, shards: Path) -> None:
        ClipSet(shards, "val")  # says what is damaged before the flow of train is computed
        estimator = FlowEstimator(settings.flow.method, self.device)
        if estimator.method != "dis":
            _ = estimator.rife  # takes random numbers: also where no flow is left to find
        workers, spans = settings.base.threads, self.settings.keyframes.spans_per_clip
        self.sets = {
            "train": KeyframeSet(shards, "train", estimator, spans, self.seed, workers, self.saved),
            "val": KeyframeSet(shards, "val", estimator, workers=workers, saved=self.saved),
        }
        self.easing = EVEN
        if settings.flow.easing:
            self.easing = fit_easing(*self.sets["train"].whole_clips(FIT_CLIPS))
        for split in self.sets.values():
            split.easing = self.easing
        size = (settings.ingest.height, settings.ingest.width)
        self._build(KeyframeTokenizer(self.settings, *size, settings.flow.method))
        self._init_from_data()

    @torch.no_grad()
    def _init_from_data(self) -> None:
        """Principal components and codes from the differences of some thousand frames."""
        count = self.size("train")
        rows = range(0, count, max(1, count // START_FRAMES))
        differences = []
        for start in range(0, len(rows), 64):
            images, context = self.sets["train"].batch(rows[start : start + 64], self.device, 0)
            differences.append(images - context.eased)
        self.tokenizer.init_from_data(torch.cat(differences), self.generator)

    def _reconstruct(self, rows: Sequence[int], epoch: int | None) -> Reconstruction:
        tokenizer, kind = self.tokenizer, self.settings.trainer.augmentation
        if epoch is None:
            images, context = self.sets["val"].batch(rows, self.device)
        else:
            flip, shift = kind != "none", kind == "shift_flip"
            images, context = self.sets["train"].batch(rows, self.device, epoch, shift, flip)
        quantized = tokenizer.quantize(images, context, self.generator)
        known = torch.ones_like(quantized.vectors[:, :1])
        if tokenizer.training:
            known = self._known_codes(len(rows))
        decoded = compose(tokenizer(quantized.vectors, known, context), context).float()
        error = context.eased - images
        weight = 1 / (error.abs().mean((1, 2, 3)) + MAE_FLOOR)
        mean = weight.mean()
        if tokenizer.training:
            mean = self.processes.mean(mean)
        mse_weight = 1 / (error.square().mean((1, 2, 3)) + MSE_FLOOR)
        return Reconstruction(
            images, decoded, quantized.codes, quantized, weight / mean, mse_weight, context
        )

    def _known_codes(self, batch: int) -> torch.Tensor:
        """`B 1 h w`, 0 where a training frame lacks the code."""
        dropped, chance = self._chance(batch, 1, 1, 1), self._chance(batch, 1, *self.tokenizer.grid)
        without = self._chance(batch, 1, 1, 1) < self.settings.keyframes.frames_without_codes
        return ((chance >= dropped) & ~without).float().to(self.device)

    def _more_validation(self, batch: Reconstruction) -> dict[str, float]:
        """PSNR of the decoder alone, and of what it starts from."""
        vectors, context = batch.quantized.vectors, batch.context
        nothing = torch.zeros_like(vectors[:, :1])
        alone = compose(self.tokenizer(vectors, nothing, context), context)
        return {
            "psnr_without_codes": psnr(batch._replace(decoded=alone.float())),
            "psnr_start": psnr(batch._replace(decoded=context.eased)),
        }


class PreviousTask(VqganTask):
    """The tokenizer with the previous frame as context (`vqgan.context: previous`)."""

    def _start(self, settings: config.Params, shards: Path) -> None:
        self.sets = {split: SequenceSet(shards, split, self.seed) for split in ("train", "val")}
        lengths = [clips.shortest for clips in self.sets.values() if len(clips)]
        self.length = min(1 + ROLLED_IN + UNROLLED, *lengths)  # frames of a window
        size = (settings.ingest.height, settings.ingest.width)
        self._build(PreviousTokenizer(self.settings, *size))
        codebook = self.tokenizer.codebook
        distances = torch.cdist(codebook, codebook)
        self.nearest = distances.topk(1 + NEAREST, largest=False).indices  # V 9, each code first

    def _windows(self, rows: Sequence[int], epoch: int | None) -> torch.Tensor:
        """`B T 3 H W`: consecutive frames between the row's two ends."""
        clips = self.sets["val" if epoch is None else "train"]
        windows = clips.windows(rows, epoch or 0, self.length)  # B T H W 3
        return frames.to_float(windows.flatten(0, 1).to(self.device)).unflatten(
            0, windows.shape[:2]
        )

    def _reconstruct(self, rows: Sequence[int], epoch: int | None) -> Reconstruction:
        tokenizer, windows = self.tokenizer, self._windows(rows, epoch)  # B T 3 H W
        keyframes, windows = windows[:, [0, -1]], windows[:, 1:-1]
        start = 0
        if tokenizer.training:  # of as many frames before as chance will have it
            most = self.length - 1 - UNROLLED
            start = most - int(torch.randint(most + 1, (), generator=self.generator))
        previous = self._roll_in(windows[:, start:-UNROLLED], keyframes)

        images, true_previous = windows[:, -UNROLLED:], windows[:, -UNROLLED - 1 : -1]
        codes, moved, refined = [], [], []
        for step in range(UNROLLED):
            codes.append(self._codes(images[:, step], true_previous[:, step]))
            moved.append(tokenizer(codes[-1], previous).float())
            refined.append(tokenizer.refine(moved[-1].detach(), keyframes).float())
            previous = refined[-1].detach().clamp(-1, 1)
        codes = torch.stack(codes, 1).flatten(0, 1)  # BT N
        images, decoded = images.flatten(0, 1), torch.stack(refined, 1).flatten(0, 1)
        if tokenizer.training:  # both, one after the other: a subset holds as many of each
            both = [decoded, torch.stack(moved, 1).flatten(0, 1)]
            images, decoded = images.repeat_interleave(2, 0), torch.stack(both, 1).flatten(0, 1)
        return Reconstruction(images, decoded, codes)

    @torch.no_grad()
    def _roll_in(self, windows: torch.Tensor, keyframes: torch.Tensor) -> torch.Tensor:
        """The last one of frames `B T 3 H W`, `B 3 H W`, each but the first decoded."""
        previous = windows[:, 0]
        for step in range(1, windows.shape[1]):
            ids = self._codes(windows[:, step], windows[:, step - 1])
            previous = self.tokenizer.decode(ids, previous, keyframes).float()
        return previous

    def _codes(self, images: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Ids `B N`; in training up to a share WRONG_CODES of each image's are wrong."""
        ids = self.tokenizer.encode(images, previous)
        if not self.tokenizer.training:
            return ids
        return self._with_wrong_codes(ids, WRONG_CODES * self._chance(len(ids), 1))

    def _with_wrong_codes(self, ids: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        """Ids `B N`, a share of them (rate, `B 1`) in exchange for one of the nearest codes."""
        number = 1 + (NEAREST * self._chance(*ids.shape)).long()
        number = (number * (self._chance(*ids.shape) < rate)).to(self.device)  # 0: the code itself
        return self.nearest[ids].gather(2, number[..., None])[..., 0]


# by vqgan.context
TASKS = {"none": ImageTask, "keyframes": KeyframeTask, "previous": PreviousTask}


def psnr(batch: Reconstruction) -> float:
    """Mean of a batch in dB, each image's at most 60."""
    error = (batch.decoded.clamp(-1, 1) - batch.images).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / error.clamp_min(4e-6))).mean().detach())
