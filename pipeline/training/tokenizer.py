"""Training of the tokenizer: VQ-GAN's losses on the image shards (thesis, section 3.2).

Total of the generator: mean absolute error + perceptual_weight * perceptual loss + edge_weight *
edge loss + codebook_weight * (codebook + commitment loss) + weight * adversarial loss, the last
from step `iter_start` on (adversarial.py).

What compares pictures is differentiated down to the picture first, each loss for itself; the
decoder's backward pass then runs once, for the sum of these gradients. So the adaptive weight costs
two gradients of one layer and no second pass through VGG, the discriminator is passed back
through once, and the memory of each is free before the next needs it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pipeline import frames, params, torch_setup
from pipeline.models.vqgan.model import Tokenizer
from pipeline.models.vqgan.quantizers import Quantized
from pipeline.shards.augmentation import augment
from pipeline.shards.loaders import ImageSet
from pipeline.torch_setup import autocast
from pipeline.training.adversarial import GanLoss, adaptive_weight
from pipeline.training.appearance import edge_loss, perceptual_loss
from pipeline.training.averaging import Averaged
from pipeline.training.contract import Loss, Player, Task, weighted_means
from pipeline.training.processes import ALONE, Processes
from pipeline.training.schedule import warmup_cosine

START_IMAGES = 512  # pictures from which shortcut and codebook start


class Judged(NamedTuple):
    """A loss of drawn pictures and its gradient with respect to them, `B 3 H W`."""

    value: torch.Tensor
    gradient: torch.Tensor
    parts: dict[str, torch.Tensor]


class TokenizerTask(Task):
    """Task of `training.loop`: players `generator` and, with factor > 0, `discriminator`."""

    def __init__(
        self,
        settings: params.Params,
        shards: Path,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.device, self.processes = settings.vqgan, device, processes
        self.precision = settings.base.precision
        self.images = {split: ImageSet(shards, split) for split in ("train", "val")}
        self.seed = settings.base.seed
        self.generator = torch.Generator().manual_seed(self.seed)
        self._build(settings)
        self.perceptual = perceptual_loss(self.settings.loss, device)
        self.players = self._players()
        self._start()

    def _build(self, settings: params.Params) -> None:
        trainer, adversarial = self.settings.trainer, self.settings.loss.discriminator
        size = (settings.ingest.height, settings.ingest.width)
        self.tokenizer = Tokenizer(self.settings, *size)
        self.tokenizer.quantizer.gather = self.processes.gather
        self.tokenizer.checkpoint_gradients(trainer.gradient_checkpointing)
        networks: dict[str, nn.Module] = {"tokenizer": self.tokenizer}
        self.gan = self.averaged = None
        if adversarial.factor > 0:
            self.gan = GanLoss(adversarial, self.settings.discriminator)
            networks["gan"] = self.gan
        if trainer.ema_decay:
            self.averaged = Averaged(self.tokenizer, trainer.ema_decay)
            networks["averaged"] = self.averaged
        self.module = nn.ModuleDict(networks).to(self.device, memory_format=torch.channels_last)
        for network in (self.tokenizer.encoder, self.tokenizer.decoder):
            torch_setup.compiled(network, settings.base)

    @torch.no_grad()
    def _start(self) -> None:
        """Shortcut and codebook from a few hundred training pictures."""
        step = max(1, self.size("train") // START_IMAGES)
        images = self.batch("train", range(0, self.size("train"), step))
        if self.tokenizer.shortcut is not None:
            self.tokenizer.shortcut.start(images)
        if self.tokenizer.shortcut is not None or self.settings.vqvae.quantizer != "vq":
            # `vq` alone begins as in the thesis, with a small random codebook
            features = torch.cat([self.tokenizer.features(part) for part in images.split(64)])
            vectors = features.movedim(1, -1).flatten(0, 2).float()  # BN D
            self.tokenizer.quantizer.init_from_data(vectors, self.generator)
        if self.averaged is not None:
            self.averaged.start(self.tokenizer)

    def _players(self) -> dict[str, Player]:
        trainer = self.settings.trainer
        ours = list(self.tokenizer.parameters())
        betas = (trainer.gen_beta_1, trainer.gen_beta_2)
        adam = torch.optim.Adam(ours, lr=trainer.gen_lr, betas=betas, fused=True)
        rate = None
        if trainer.schedule == "cosine":
            rate = warmup_cosine(0.02 * trainer.gen_lr, trainer.gen_lr, trainer.warmup_share)
        players = {"generator": Player(ours, adam, trainer.gen_clip_norm, rate)}
        if self.gan is not None:
            theirs = list(self.gan.parameters())
            betas = (trainer.disc_beta_1, trainer.disc_beta_2)
            adam = torch.optim.Adam(theirs, lr=trainer.disc_lr, betas=betas, fused=True)
            players["discriminator"] = Player(theirs, adam, trainer.disc_clip_norm)
        return players

    @property
    def finished(self) -> Tokenizer:
        """The network that is measured and kept: the averaged one where there is one."""
        return self.tokenizer if self.averaged is None else self.averaged.network

    def size(self, split: str) -> int:
        return len(self.images[split])

    def names(self, rows: Sequence[int]) -> list[str]:
        table = self.images["train"].table
        return [f"{table['video_id'][row]} frame {table['frame'][row]}" for row in rows]

    def batch(self, split: str, rows: Sequence[int]) -> torch.Tensor:
        """float `B 3 H W` in [-1, 1] on the device."""
        return self._floats(self.images[split].batch(rows))

    def _floats(self, images: torch.Tensor) -> torch.Tensor:
        images = frames.to_float(images.to(self.device))
        return images.contiguous(memory_format=torch.channels_last)

    def _training_batch(self, rows: Sequence[int], epoch: int) -> torch.Tensor:
        images = self.images["train"].batch(rows)
        kind = self.settings.trainer.augmentation
        if kind != "none":
            images = torch.from_numpy(augment(images.numpy(), rows, self.seed, epoch, kind))
        return self._floats(images)

    def losses(self, rows: Sequence[int], epoch: int, step: int) -> Iterator[Loss]:
        images = self._training_batch(rows, epoch)
        with autocast(self.device, self.precision):
            quantized = self.tokenizer.quantize(images, self.generator)
            drawn = self.tokenizer.decode_features(quantized.vectors).float()
        yield self._generator_loss(images, drawn, quantized, step)
        if self.gan is not None and self.gan.active(step):
            yield self._discriminator_loss(images, drawn.detach())

    def _generator_loss(
        self, images: torch.Tensor, drawn: torch.Tensor, quantized: Quantized, step: int
    ) -> Loss:
        with autocast(self.device, self.precision):
            judged = self._reconstruction(images, drawn.detach().requires_grad_())
            adversarial = self._adversarial(images, drawn, judged, step)
        value, gradient, parts = judged
        if adversarial is not None:
            value, gradient = value + adversarial.value, gradient + adversarial.gradient
            parts |= adversarial.parts
        codes, more, counts = self._codebook_loss(quantized)
        more["perplexity"] = perplexity(self.processes.gather(counts[None]).sum(0))
        through = (drawn * gradient).sum()  # has this gradient, and passes it on to the decoder
        total = value + codes + (through - through.detach())
        return Loss("generator", total, parts | more)

    def _reconstruction(self, images: torch.Tensor, drawn: torch.Tensor) -> Judged:
        """All but the adversarial loss; `drawn` is a leaf where its gradient is wanted."""
        losses, parts = self.settings.loss, {"mae": (drawn - images).abs().mean()}
        value = parts["mae"]
        if self.perceptual is not None:
            seen = slice(losses.perceptual_subset or None)
            parts["perceptual"] = self.perceptual(drawn[seen], images[seen])
            value = value + losses.vqvae.perceptual_weight * parts["perceptual"]
        if losses.edge_weight:
            parts["edge"] = edge_loss(drawn, images).mean()
            value = value + losses.edge_weight * parts["edge"]
        gradient = torch.zeros_like(drawn)
        if drawn.requires_grad:
            (gradient,) = torch.autograd.grad(value, drawn)
        return Judged(value.detach(), gradient, {n: v.detach() for n, v in parts.items()})

    def _adversarial(
        self, images: torch.Tensor, drawn: torch.Tensor, judged: Judged, step: int
    ) -> Judged | None:
        """The weighted adversarial loss, or None before it begins."""
        if self.gan is None or not self.gan.active(step):
            return None
        leaf = drawn.detach().requires_grad_()
        loss = self.gan.for_generator(leaf, images)
        (gradient,) = torch.autograd.grad(loss, leaf)
        ours = self._at_last_layer(drawn, judged.gradient)
        theirs = self._at_last_layer(drawn, gradient)
        weight = theirs.new_full((), self.gan.weight)
        if self.settings.loss.discriminator.weighting == "adaptive":
            weight = weight * adaptive_weight(ours, theirs)
        parts = {
            "adversarial": loss.detach(),
            "adversarial_weight": weight,
            "gradient_ratio": weight * theirs.norm() / ours.norm().clamp_min(1e-12),
        }
        return Judged(weight * loss.detach(), weight * gradient, parts)

    def _at_last_layer(self, drawn: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """What a gradient at the pictures becomes at the decoder's last layer, of all processes."""
        layer = self.tokenizer.decoder.last_layer
        (found,) = torch.autograd.grad(drawn, layer, gradient, retain_graph=True)
        return self.processes.mean(found)

    def _codebook_loss(
        self, quantized: Quantized
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """The weighted losses, each by itself, and how often each code came, `V`."""
        parts = {"commitment": quantized.commitment_loss, "codebook": quantized.codebook_loss}
        total = self.settings.loss.vqvae.codebook_weight * sum(parts.values())
        counts = torch.bincount(quantized.codes.flatten(), minlength=self.tokenizer.quantizer.size)
        return total, parts, counts

    def _discriminator_loss(self, images: torch.Tensor, drawn: torch.Tensor) -> Loss:
        with autocast(self.device, self.precision):
            total, parts = self.gan.for_discriminator(drawn, images)
        return Loss("discriminator", total, parts)

    def stepped(self, player: str) -> None:
        if player == "generator" and self.averaged is not None:
            self.averaged.follow(self.tokenizer)

    def validate(self, batches: Sequence[Sequence[int]]) -> dict[str, float]:
        """Loss and PSNR (dB, each picture's at most 60), and how the codes are used."""
        tokenizer = self.finished
        counts = torch.zeros(tokenizer.quantizer.size, dtype=torch.int64, device=self.device)
        found = []
        for rows in batches:
            images = self.batch("val", rows)
            with autocast(self.device, self.precision):
                quantized = tokenizer.quantize(images, self.generator)
                drawn = tokenizer.decode_features(quantized.vectors).float()
                value = self._reconstruction(images, drawn).value
            error = (drawn.clamp(-1, 1) - images).square().mean((1, 2, 3))
            psnr = 10 * torch.log10(4 / error.clamp_min(4e-6))
            codes, _, here = self._codebook_loss(quantized)
            total = float((value + codes).detach())
            found.append(({"total": total, "psnr": float(psnr.mean().detach())}, len(rows)))
            counts += here
        used = {"codebook_usage": float((counts > 0).float().mean())}
        return weighted_means(found) | used | {"perplexity": float(perplexity(counts))}


def perplexity(counts: torch.Tensor) -> torch.Tensor:
    """How many codes, all used alike, would be as varied as these: exp of the entropy, 1 to V."""
    chances = counts.double() / counts.sum().clamp_min(1)
    return (-torch.special.xlogy(chances, chances).sum()).exp().float()
