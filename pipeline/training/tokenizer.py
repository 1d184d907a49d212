"""Training of the tokenizer: VQ-GAN's losses on the image shards (thesis, section 3.2).

Total of the generator: mean absolute error + perceptual_weight * LPIPS + codebook_weight *
(codebook + commitment loss) + factor * weight * adaptive weight * adversarial loss, the last from
step `iter_start` on, when the discriminator starts to learn too.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from pipeline import frames, params
from pipeline.pretrained.lpips import Lpips
from pipeline.shards.augmentation import augment
from pipeline.shards.loaders import ImageSet
from pipeline.torch_setup import autocast
from pipeline.training.adversarial import adaptive_weight, discriminator_loss, generator_loss
from pipeline.training.contract import Loss, Player
from pipeline.training.schedule import warmup_cosine
from pipeline.vqgan.discriminator import Discriminator
from pipeline.vqgan.model import Tokenizer
from pipeline.vqgan.quantizer import Quantized

START_IMAGES = 512  # pictures from which shortcut and codebook start


class TokenizerTask:
    """Task of `training.loop`: players `generator` and, with factor > 0, `discriminator`."""

    def __init__(self, settings: params.Params, shards: Path, device: torch.device) -> None:
        self.settings, self.device = settings.vqgan, device
        self.precision = settings.base.precision
        self.images = {split: ImageSet(shards, split) for split in ("train", "val")}
        self.seed = settings.base.seed
        self.generator = torch.Generator().manual_seed(self.seed)
        size = (settings.ingest.height, settings.ingest.width)
        self.tokenizer = Tokenizer(self.settings, *size).to(device)
        self.discriminator = Discriminator(self.settings.discriminator).to(device)
        networks = {"tokenizer": self.tokenizer, "discriminator": self.discriminator}
        self.module = nn.ModuleDict(networks).to(memory_format=torch.channels_last)
        wants_lpips = self.settings.loss.perceptual_loss == "vgg16"
        self.lpips = Lpips.pretrained().to(device) if wants_lpips else None
        self.players = self._players()
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Shortcut and codebook from a few hundred training pictures."""
        step = max(1, self.size("train") // START_IMAGES)
        images = self.batch("train", range(0, self.size("train"), step))
        if self.tokenizer.shortcut is not None:
            self.tokenizer.shortcut.start(images)
        if self.tokenizer.shortcut is None and self.settings.vqvae.quantizer == "vq":
            return  # the thesis' start: a small random codebook
        features = torch.cat([self.tokenizer.features(part) for part in images.split(64)])
        vectors = features.movedim(1, -1).flatten(0, 2).float()  # BN D
        self.tokenizer.quantizer.start(vectors, self.generator)

    def _players(self) -> dict[str, Player]:
        trainer = self.settings.trainer
        ours = [p for p in self.tokenizer.parameters() if p.requires_grad]
        betas = (trainer.gen_beta_1, trainer.gen_beta_2)
        adam = torch.optim.Adam(ours, lr=trainer.gen_lr, betas=betas)
        rate = None
        if trainer.schedule == "cosine":
            rate = warmup_cosine(0.02 * trainer.gen_lr, trainer.gen_lr, trainer.warmup_share)
        players = {"generator": Player(ours, adam, trainer.gen_clip_norm, rate)}
        if self.settings.loss.discriminator.factor > 0:
            theirs = list(self.discriminator.parameters())
            betas = (trainer.disc_beta_1, trainer.disc_beta_2)
            adam = torch.optim.Adam(theirs, lr=trainer.disc_lr, betas=betas)
            players["discriminator"] = Player(theirs, adam, trainer.disc_clip_norm)
        return players

    def size(self, split: str) -> int:
        return len(self.images[split])

    def batch(self, split: str, rows: Sequence[int]) -> torch.Tensor:
        """float `B 3 H W` in [-1, 1] on the device."""
        return self._floats(self.images[split].batch(rows))

    def _floats(self, images: torch.Tensor) -> torch.Tensor:
        images = frames.to_float(images.to(self.device))
        return images.contiguous(memory_format=torch.channels_last)

    def _training_batch(self, rows: Sequence[int], epoch: int) -> torch.Tensor:
        images = self.images["train"].batch(rows)
        if self.settings.trainer.augmentation == "crop_flip":
            images = torch.from_numpy(augment(images.numpy(), rows, self.seed, epoch))
        return self._floats(images)

    def losses(self, rows: Sequence[int], epoch: int, step: int) -> Iterator[Loss]:
        images = self._training_batch(rows, epoch)
        adversarial = self.settings.loss.discriminator
        plays = adversarial.factor > 0 and step >= adversarial.iter_start
        with autocast(self.device, self.precision):
            quantized = self.tokenizer.quantize(images, self.generator)
            drawn = self.tokenizer.decode_features(quantized.vectors)
            total, parts = self._reconstruction(images, drawn, quantized)
            if plays:
                self.discriminator.requires_grad_(False)
                total, more = self._with_adversarial(total, drawn)
                parts |= more
        yield Loss("generator", total, parts)
        if plays:
            self.discriminator.requires_grad_(True)
            yield self._discriminator_loss(images, drawn.detach())

    def _reconstruction(
        self, images: torch.Tensor, drawn: torch.Tensor, quantized: Quantized
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        weights = self.settings.loss.vqvae
        parts = {
            "mae": (drawn - images).abs().mean(),
            "commitment": quantized.commitment_loss,
            "codebook": quantized.codebook_loss,
        }
        total = parts["mae"] + weights.codebook_weight * (parts["commitment"] + parts["codebook"])
        if self.lpips is not None:
            parts["lpips"] = self.lpips(drawn, images).mean()
            total = total + weights.perceptual_weight * parts["lpips"]
        return total, parts

    def _with_adversarial(
        self, total: torch.Tensor, drawn: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        settings = self.settings.loss.discriminator
        fooled = generator_loss(self.discriminator(drawn), settings.loss)
        adaptive = adaptive_weight(total, fooled, self.tokenizer.decoder.last_layer)
        total = total + settings.factor * settings.weight * adaptive * fooled
        return total, {"adversarial": fooled, "adaptive_weight": adaptive}

    def _discriminator_loss(self, images: torch.Tensor, drawn: torch.Tensor) -> Loss:
        with autocast(self.device, self.precision):
            real, fake = self.discriminator(images), self.discriminator(drawn)
            total = discriminator_loss(real, fake, self.settings.loss.discriminator.loss)
        right = {"accuracy_real": real > 0, "accuracy_fake": fake < 0}
        parts = {name: value.float().mean() for name, value in right.items()}
        return Loss("discriminator", total, parts)

    def validate(self, rows: Sequence[int]) -> dict[str, float]:
        images = self.batch("val", rows)
        with autocast(self.device, self.precision):
            quantized = self.tokenizer.quantize(images, self.generator)
            drawn = self.tokenizer.decode_features(quantized.vectors)
            total, _ = self._reconstruction(images, drawn, quantized)
        error = (drawn.float().clamp(-1, 1) - images).square().mean((1, 2, 3))
        psnr = 10 * torch.log10(4 / error.clamp_min(4e-6))  # capped at 60 dB
        used = len(quantized.codes.unique())
        return {"total": float(total), "psnr": float(psnr.mean()), "codes_in_batch": float(used)}
