"""The quantizer that `vqgan.vqvae.quantizer` names."""

from pipeline.models.vqgan.quantizers.fsq import FiniteScalars
from pipeline.models.vqgan.quantizers.interface import Quantizer
from pipeline.models.vqgan.quantizers.moving import MovingCodebook, SphericalCodebook
from pipeline.models.vqgan.quantizers.simvq import MappedCodebook
from pipeline.models.vqgan.quantizers.vq import GradientCodebook
from pipeline.params import Vqvae

KINDS: dict[str, type[Quantizer]] = {
    "ema": MovingCodebook,
    "vq": GradientCodebook,
    "vq_l2": SphericalCodebook,
    "simvq": MappedCodebook,
    "fsq": FiniteScalars,
}


def make_quantizer(settings: Vqvae) -> Quantizer:
    return KINDS[settings.quantizer](settings)
