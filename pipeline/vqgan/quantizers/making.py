"""The quantizer that `vqgan.vqvae.quantizer` names."""

from pipeline.params import Vqvae
from pipeline.vqgan.quantizers.fsq import FiniteScalars
from pipeline.vqgan.quantizers.interface import Quantizer
from pipeline.vqgan.quantizers.moving import MovingCodebook, SphericalCodebook
from pipeline.vqgan.quantizers.simvq import MappedCodebook
from pipeline.vqgan.quantizers.vq import GradientCodebook

KINDS: dict[str, type[Quantizer]] = {
    "ema": MovingCodebook,
    "vq": GradientCodebook,
    "vq_l2": SphericalCodebook,
    "simvq": MappedCodebook,
    "fsq": FiniteScalars,
}


def make_quantizer(settings: Vqvae) -> Quantizer:
    return KINDS[settings.quantizer](settings)
