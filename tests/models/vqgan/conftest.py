"""What tests of quantizers share: one of each kind, small, with features that suit it."""

from collections.abc import Callable

import pytest
import torch

from pipeline.config import Vqvae
from pipeline.models.vqgan.quantizers import QUANTIZERS, Quantizer


@pytest.fixture(scope="session")
def seeded() -> Callable[[int], torch.Generator]:
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def quantizer() -> Callable[..., Quantizer]:
    """`quantizer("vq", num_embeddings=2, embedding_dim=1)`."""

    def make(kind: str = "ema", seed: int = 0, **changes) -> Quantizer:
        fields = {"beta": 0.25, "num_embeddings": 24, "embedding_dim": 3} | changes
        torch.manual_seed(seed)
        return QUANTIZERS[kind](Vqvae(quantizer=kind, **fields))

    return make


@pytest.fixture(scope="session")
def started(quantizer, seeded) -> Callable[..., tuple[Quantizer, torch.Tensor]]:
    """A quantizer that started from the features `2 D 8 8` given beside it."""

    def make(kind: str = "ema", **changes) -> tuple[Quantizer, torch.Tensor]:
        made = quantizer(kind, **changes)
        features = torch.randn(2, made.codebook.shape[1], 8, 8, generator=seeded(1))
        made.init_from_data(features.movedim(1, -1).flatten(0, 2), seeded())
        return made, features

    return make
