"""The adversarial part of the tokenizer's training: losses of both networks, and their weight.

As in the thesis (section 3.2): from step `iter_start` on the discriminator D learns to tell true
images from decoded ones, and the tokenizer learns to be taken for true. The weight of that loss is
scaled by the ratio of gradients at the decoder's last layer (Esser et al., 2021, arXiv:2012.09841;
thesis, eq. 7).
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import AdversarialLoss
from pipeline.config import Discriminator as Sizes
from pipeline.models.vqgan.discriminator import Discriminator

DELTA = 1e-6  # thesis, eq. 7
LARGEST_RATIO = 1e4  # as in the source


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, kind: str) -> torch.Tensor:
    """Lower when `real` logits are high and `fake` ones low; `hinge` or `cross_entropy`."""
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake: torch.Tensor, kind: str) -> torch.Tensor:
    """Lower when the discriminator takes decoded images for real ones."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def adaptive_weight(reconstruction: torch.Tensor, adversarial: torch.Tensor) -> torch.Tensor:
    """Ratio of the norms of two gradients at the decoder's last layer (thesis, eq. 7).

    Those of the reconstruction loss and of the adversarial loss; clamped to [0, 1e4].
    """
    ratio = reconstruction.norm() / (adversarial.norm() + DELTA)
    return ratio.clamp(0.0, LARGEST_RATIO)


class GanLoss(nn.Module):
    """The discriminator and both losses."""

    def __init__(self, settings: AdversarialLoss, sizes: Sizes) -> None:
        super().__init__()
        self.settings = settings
        self.discriminator = Discriminator(sizes)

    def active(self, step: int) -> bool:
        """Whether the discriminator learns, and the tokenizer from it."""
        return step >= self.settings.iter_start

    @property
    def weight(self) -> float:
        """What the tokenizer's adversarial loss is multiplied with."""
        return self.settings.factor * self.settings.weight

    def for_generator(self, decoded: torch.Tensor) -> torch.Tensor:
        """The tokenizer's loss on decoded images `B 3 H W`; D's weights get no gradient."""
        self.discriminator.requires_grad_(False)
        loss = generator_loss(self.discriminator(decoded).float(), self.settings.loss)
        self.discriminator.requires_grad_(True)
        return loss

    def for_discriminator(
        self, decoded: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """D's loss on decoded and true images `B 3 H W`, and numbers for the log."""
        real = self.discriminator(images).float()
        fake = self.discriminator(decoded).float()
        parts = {
            "accuracy_real": (real > 0).float().mean(),
            "accuracy_fake": (fake < 0).float().mean(),
            "logit_real": real.detach().mean(),
            "logit_fake": fake.detach().mean(),
        }
        return discriminator_loss(real, fake, self.settings.loss), parts
