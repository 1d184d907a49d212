"""What every quantizer takes and gives, and the part shared by those that look for a nearest code.

In: feature maps float `B D h w`. Out: `Quantized`. The work is done in float32 with autocast off,
because bf16 confuses near codes. Evaluation changes no weight and no buffer.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models.vqgan.quantizers.gradients import rotated, straight_through
from pipeline.models.vqgan.quantizers.search import nearest
from pipeline.params import Vqvae


class Quantized(NamedTuple):
    vectors: torch.Tensor  # B D h w, with a gradient for the encoder
    codes: torch.Tensor  # B h w, int64
    commitment_loss: torch.Tensor  # scalar, already weighted with beta
    codebook_loss: torch.Tensor  # scalar, zero where the codebook learns without gradient


def _alone(rows: torch.Tensor) -> torch.Tensor:
    return rows


class Quantizer(nn.Module):
    """Base class. `codebook` is `V D`, what comes out and what codes are decoded with."""

    codebook: torch.Tensor

    def __init__(self, settings: Vqvae) -> None:
        super().__init__()
        self.size = settings.num_embeddings  # V
        # Rows `N ...` of this process to those of all processes, in process order. Two processes
        # with half a batch each then move a codebook as one does with the whole, if `generator`
        # is in the same state in both. Set by the training.
        self.gather: Callable[[torch.Tensor], torch.Tensor] = _alone

    def forward(self, features: torch.Tensor, generator: torch.Generator) -> Quantized:
        """`generator` draws the vectors from which dead codes restart; unused in evaluation."""
        with torch.autocast(features.device.type, enabled=False):
            return self._quantize(features.float(), generator)

    def _quantize(self, features: torch.Tensor, generator: torch.Generator) -> Quantized:
        raise NotImplementedError

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `B h w` to their vectors `B D h w`."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def start(self, vectors: torch.Tensor, generator: torch.Generator) -> None:
        """Fits the codes to features `N D`, the same in every process, before the first step."""
        raise NotImplementedError


class NearestCode(Quantizer):
    """Each feature vector becomes the nearest vector of the codebook."""

    learns: bool  # by the codebook loss

    def __init__(self, settings: Vqvae) -> None:
        super().__init__(settings)
        self.beta = settings.beta
        self.pass_back = rotated if settings.rotation_trick else straight_through

    def _quantize(self, features: torch.Tensor, generator: torch.Generator) -> Quantized:
        features = self._placed(features)
        flat = features.detach().movedim(1, -1).flatten(0, 2)  # B h w D -> BN D
        with torch.no_grad():
            found = nearest(flat, self.codebook)  # BN
        codes = found.unflatten(0, features[:, 0].shape)  # B h w
        vectors = self.lookup(codes)  # B D h w
        commitment = self.beta * F.mse_loss(features, vectors.detach())
        learning = F.mse_loss(vectors, features.detach()) if self.learns else features.new_zeros(())
        if self.training:
            self._follow(flat, found, generator)
        return Quantized(self.pass_back(features, vectors.detach()), codes, commitment, learning)

    def _placed(self, vectors: torch.Tensor) -> torch.Tensor:
        """Features `B D h w`, or vectors `N D`, to where codes lie."""
        return vectors

    def _follow(self, flat: torch.Tensor, codes: torch.Tensor, generator: torch.Generator) -> None:
        """Moves the codebook after the vectors `BN D` of a training step, where it moves so."""
