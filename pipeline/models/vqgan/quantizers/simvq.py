"""`simvq`: frozen random codes behind one learned linear map (Zhu et al., 2024, arXiv:2411.02038).

Every step moves the map and so all codes, also those that nobody uses: none is left behind.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models.vqgan.quantizers.interface import NearestCode
from pipeline.params import Vqvae


class MappedCodebook(NearestCode):
    learns = True

    def __init__(self, settings: Vqvae) -> None:
        super().__init__(settings)
        dim = settings.embedding_dim
        self.register_buffer("frozen", torch.randn(self.size, dim) * dim**-0.5)
        self.map = nn.Linear(dim, dim)  # its bias takes over the features' mean

    @property
    def codebook(self) -> torch.Tensor:
        """The mapped codes `V D`, computed anew."""
        return self._mapped(self.frozen)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Maps the codes that are looked up only: the gradient then costs BN vectors, not V."""
        return self._mapped(F.embedding(codes, self.frozen)).movedim(-1, 1)

    def _mapped(self, frozen: torch.Tensor) -> torch.Tensor:
        with torch.autocast(frozen.device.type, enabled=False):  # also when decoding in bf16
            return self.map(frozen)

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, generator: torch.Generator) -> None:
        """A map that gives the codes mean and covariance of the vectors; draws nothing."""
        dim = vectors.shape[1]
        spread = torch.cov(vectors.double().T).reshape(dim, dim)
        variances, axes = torch.linalg.eigh(spread)
        root = axes * variances.clamp_min(0).sqrt() @ axes.T  # root @ root = spread
        self.map.weight.copy_(root * dim**0.5)  # frozen codes have variance 1 / D
        self.map.bias.copy_(vectors.mean(0))
