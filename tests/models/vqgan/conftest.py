"""What tests of quantizers share: one of each kind, small, with features that suit it."""

from collections.abc import Callable

import pytest
import torch

from pipeline.models.vqgan.quantizers.interface import Quantizer
from pipeline.models.vqgan.quantizers.making import make_quantizer
from pipeline.params import Vqvae


@pytest.fixture(scope="session")
def seeded() -> Callable[[int], torch.Generator]:
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def quantizer() -> Callable[..., Quantizer]:
    """`quantizer("vq", num_embeddings=2, embedding_dim=1)`; for fsq `fsq_levels` decides."""

    def make(kind: str = "ema", seed: int = 0, **changes) -> Quantizer:
        fields = {"rotation_trick": False, "beta": 0.25, "fsq_levels": [4, 2, 3]}
        fields |= {"num_embeddings": 24, "embedding_dim": 3} | changes
        if kind == "fsq":
            levels = torch.tensor(fields["fsq_levels"])
            fields |= {"num_embeddings": int(levels.prod()), "embedding_dim": len(levels)}
        torch.manual_seed(seed)
        return make_quantizer(Vqvae(quantizer=kind, **fields))

    return make


@pytest.fixture(scope="session")
def started(quantizer, seeded) -> Callable[..., tuple[Quantizer, torch.Tensor]]:
    """A quantizer that started from the features `2 D 8 8` given beside it."""

    def make(kind: str = "ema", **changes) -> tuple[Quantizer, torch.Tensor]:
        made = quantizer(kind, **changes)
        features = torch.randn(2, made.codebook.shape[1], 8, 8, generator=seeded(1))
        made.start(features.movedim(1, -1).flatten(0, 2), seeded())
        return made, features

    return make
