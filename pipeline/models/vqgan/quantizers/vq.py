"""`vq`: the codebook is trained by its own loss (van den Oord et al., 2017, arXiv:1711.00937).

The thesis' way. Its codebook starts uniform in (-0.05, 0.05), which is the default of the embedding
layer that it used (Keras), as in van den Oord's.
"""

import torch
from torch import nn

from pipeline.models.vqgan.quantizers.clusters import k_means
from pipeline.models.vqgan.quantizers.interface import NearestCode
from pipeline.params import Vqvae

WITHIN = 0.05


class GradientCodebook(NearestCode):
    learns = True

    def __init__(self, settings: Vqvae) -> None:
        super().__init__(settings)
        codebook = torch.empty(self.size, settings.embedding_dim).uniform_(-WITHIN, WITHIN)
        self.codebook = nn.Parameter(codebook)

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, generator: torch.Generator) -> None:
        """Centres of k-means. The thesis goes without; features far from 0 need it."""
        self.codebook.copy_(k_means(vectors, self.size, self._placed, generator))
