"""`fsq`: each dimension is bounded and rounded to one of L levels, and the codes are all
combinations of levels (Mentzer et al., Finite Scalar Quantization, 2023, arXiv:2309.15505).

Nothing is learned and no loss is needed. Levels of dimension d are the numbers 0 .. L_d - 1; a code
is their mixed-radix number, the first dimension being the fastest. Vectors are levels less the
middle one, divided by L // 2, so that they lie in [-1, 1].

Beyond the paper, `start` measures a middle and a reach of each dimension, which stay: the
vectors come out in the scale of the features, as they do from the other quantizers.
"""

import torch

from pipeline.models.vqgan.quantizers.gradients import straight_through
from pipeline.models.vqgan.quantizers.interface import Quantized, Quantizer
from pipeline.params import Vqvae

# Deviations that become 1 before the bound. Of 5 or 8 levels, normal features then use the worth of
# 85 % (perplexity), with 0.11 and 0.15 of their variance lost; with 1.25 deviations 93 % and 0.13,
# 0.19; with 2 deviations 72 % and 0.12.
REACH = 1.5
LEAST_REACH = 0.01  # of a dimension that does not vary yet


class FiniteScalars(Quantizer):
    def __init__(self, settings: Vqvae) -> None:
        super().__init__(settings)
        levels = torch.tensor(settings.fsq_levels)  # D
        assert self.size == levels.prod() and settings.embedding_dim == len(levels), settings
        amplitude = (levels - 1) * (1 - 1e-3) / 2  # rounding then never leaves the grid
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)  # even levels have none in the middle
        constants = {
            "amplitude": amplitude,
            "offset": offset,
            "shift": torch.tan(offset / amplitude),  # so that 0 stays 0
            "width": levels // 2,
            "base": torch.cat([torch.ones(1, dtype=torch.int64), levels.cumprod(0)[:-1]]),
        }
        constants["grid"] = (torch.arange(self.size)[:, None] // constants["base"]) % levels  # V D
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("middle", torch.zeros(len(levels)))
        self.register_buffer("reach", torch.ones(len(levels)))

    @property
    def codebook(self) -> torch.Tensor:
        """The grid `V D`, in the scale of the output."""
        return (self.grid - self.width) / self.width * self.reach + self.middle

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, generator: torch.Generator) -> None:
        """Middle and reach from mean and deviation; draws nothing."""
        self.middle.copy_(vectors.mean(0))
        deviation = (vectors - self.middle).square().mean(0).sqrt()
        self.reach.copy_(REACH * deviation.clamp_min(LEAST_REACH))

    def _quantize(self, features: torch.Tensor, generator: torch.Generator) -> Quantized:
        flat = (features.movedim(1, -1) - self.middle) / self.reach  # B h w D
        bounded = torch.tanh(flat + self.shift) * self.amplitude - self.offset
        rounded = bounded.detach().round()
        vectors = straight_through(bounded, rounded) / self.width * self.reach + self.middle
        # NaN is for the loss to tell, but may not become a code outside the codebook.
        codes = ((rounded.nan_to_num(0).long() + self.width) * self.base).sum(-1)  # B h w
        nothing = features.new_zeros(())
        return Quantized(vectors.movedim(-1, 1), codes, nothing, nothing)
