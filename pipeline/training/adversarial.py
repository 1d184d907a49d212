"""The adversarial part of the tokenizer's training: losses, weights, and what keeps it in balance.

Thesis (section 3.2): the discriminator D begins with the adversarial loss at `iter_start`, whose
weight is scaled by the ratio of gradients at the decoder's last layer (Esser et al., 2021, eq. 7).
Its artifacts began there: D was untrained, or soon much too strong. Ours: D learns from the start
on reconstructions without telling the tokenizer; then the weight rises slowly to a fixed one; LeCam
(Tseng et al., 2021, arXiv:2104.03310) pulls D's logits together; the tokenizer may be told by D's
features as well, which say what is missing where a verdict only says that something is; and the
weight is halved where D wins or the pictures get worse.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models.vqgan.discriminator import Discriminator
from pipeline.params import AdversarialLoss
from pipeline.params import Discriminator as Sizes

LOGIT_DECAY = 0.99  # of LeCam's averages of the logits
ACCURACY_DECAY = 0.98  # of D's accuracy, by which the back-off decides: about 50 steps


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, kind: str) -> torch.Tensor:
    """Lower when `real` logits are high and `fake` ones low; `hinge` or `cross_entropy`."""
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake: torch.Tensor, kind: str) -> torch.Tensor:
    """Lower when the discriminator takes the pictures for real ones."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def feature_distance(drawn: list[torch.Tensor], true: list[torch.Tensor]) -> torch.Tensor:
    """Mean absolute difference of D's features, each layer alike (Wang et al., pix2pixHD, 2018,
    arXiv:1711.11585)."""
    each = [(a.float() - b.float()).abs().mean() for a, b in zip(drawn, true, strict=True)]
    return torch.stack(each).mean()


def adaptive_weight(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Ratio of the norms of two gradients, the reconstruction's and the adversarial loss', at the
    decoder's last layer (thesis, eq. 7), clamped to [0, 1e4]."""
    return (ours.norm() / (theirs.norm() + 1e-4)).clamp(0.0, 1e4)


class Adversary(nn.Module):
    """Discriminator and balance; everything that must survive a kill is a buffer."""

    def __init__(self, rules: AdversarialLoss, sizes: Sizes) -> None:
        super().__init__()
        self.rules = rules
        self.discriminator = Discriminator(sizes)
        self.register_buffer("real_logit", torch.zeros(()))
        self.register_buffer("fake_logit", torch.zeros(()))
        self.register_buffer("accuracy", torch.full((), 0.5))
        self.register_buffer("best_psnr", torch.full((), -torch.inf))
        self.register_buffer("strength", torch.ones(()))

    def learns(self, step: int) -> bool:
        """Whether D itself is trained at this step."""
        return step >= self.rules.discriminator_start

    def weight(self, step: int) -> torch.Tensor | None:
        """What the tokenizer's adversarial loss is multiplied with, or None before it begins."""
        rules, since = self.rules, step - self.rules.iter_start
        if since < 0:
            return None
        share = min(1.0, (since + 1) / rules.ramp_steps) if rules.ramp_steps else 1.0
        return rules.factor * rules.weight * share * self.strength

    def fooled(
        self, drawn: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The tokenizer's loss and its named parts; D's own weights get no gradient from it."""
        self.discriminator.requires_grad_(False)
        logits, seen = self.discriminator.judge(drawn, images)
        loss = generator_loss(logits.float(), self.rules.loss)
        parts = {"adversarial": loss.detach()}
        if self.rules.feature_matching:
            with torch.no_grad():
                _, wanted = self.discriminator.judge(images, images)
            distance = feature_distance(seen, wanted)
            parts["feature_matching"] = distance.detach()
            loss = loss + self.rules.feature_matching * distance
        self.discriminator.requires_grad_(True)
        return loss, parts

    def loss(
        self, images: torch.Tensor, drawn: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """D's loss on true pictures and reconstructions `B 3 H W`, and its named parts."""
        real = self.discriminator(images, images).float()
        fake = self.discriminator(drawn, images).float()
        total = discriminator_loss(real, fake, self.rules.loss)
        right = {"accuracy_real": real > 0, "accuracy_fake": fake < 0}
        parts = {name: value.float().mean() for name, value in right.items()}
        parts |= {"logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}
        if self.rules.lecam_weight:
            apart = (real - self.fake_logit).square() + (fake - self.real_logit).square()
            parts["lecam"] = apart.mean()
            total = total + self.rules.lecam_weight * parts["lecam"]
        return total, parts

    @torch.no_grad()
    def follow(self, parts: dict[str, torch.Tensor]) -> None:
        """The moving averages, after a step of D: `parts` are those of `loss`, of all processes."""
        self.real_logit.lerp_(parts["logit_real"], 1 - LOGIT_DECAY)
        self.fake_logit.lerp_(parts["logit_fake"], 1 - LOGIT_DECAY)
        accuracy = 0.5 * (parts["accuracy_real"] + parts["accuracy_fake"])
        self.accuracy.lerp_(accuracy, 1 - ACCURACY_DECAY)

    @torch.no_grad()
    def balance(self, psnr: float, step: int) -> str | None:
        """Halves the weight where D wins or the PSNR of the val split fell; says so."""
        rules, fell = self.rules, float(self.best_psnr) - psnr
        self.best_psnr.clamp_(min=psnr)
        if step <= rules.iter_start:
            return None
        reasons = []
        if rules.back_off_psnr and fell > rules.back_off_psnr:
            reasons.append(f"PSNR fell {fell:.2f} dB below the best, {psnr + fell:.2f} dB")
        if rules.back_off_accuracy and float(self.accuracy) > rules.back_off_accuracy:
            reasons.append(f"the discriminator tells {float(self.accuracy):.1%} apart")
        if not reasons:
            return None
        self.strength.mul_(0.5)
        return (
            f"adversarial weight halved to {float(self.strength):g} of its value at step {step}: "
            + " and ".join(reasons)
        )
