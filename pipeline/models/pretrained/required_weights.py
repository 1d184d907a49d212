"""Which weight files a run will need, so that a missing one is said before hours of work.

Each fault is a sentence: the parameter that asks, what is missing, the remedy, and the value of
the parameter that does without.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.config import Params, Transformer
from pipeline.errors import UserError
from pipeline.io import read_json
from pipeline.models.pretrained import inception, weights
from pipeline.models.pretrained.weights import Weights


class Required(NamedTuple):
    """A weight file and the parameter that asks for it."""

    weights: Weights
    key: str  # "evaluate.lpips_network = alexnet"
    without: str  # how to do without


def faults(settings: Params) -> Iterator[str]:
    """A sentence for every weight file that is asked for and missing, or another than expected."""
    if settings.evaluate.fid_network == "inception":
        try:
            inception.verified()
        except UserError as error:
            yield f"evaluate.fid_network = inception: {error}"
    yield from _vgg19_faults(settings)
    yield from _gpt2_faults(settings.transformer)
    for item in required(settings):
        try:
            weights.verified(item.weights)
        except UserError as error:
            yield f"{item.key}: {error}; or {item.without}"


def required(settings: Params) -> Iterator[Required]:
    """All that the stages will read, in their order."""
    lpips = {"alexnet": weights.LPIPS_ALEXNET, "vgg16": weights.LPIPS_VGG16}
    if settings.scene_split.detector == "transnetv2":
        from pipeline.models.pretrained import transnet  # imports torch: only where it is needed

        yield Required(transnet.WEIGHTS, "scene_split.detector = transnetv2", "set it to content")
    if settings.vqgan.context == "keyframes" and settings.flow.method != "dis":
        yield Required(weights.RIFE, f"flow.method = {settings.flow.method}", "set it to dis")
    key, network = _perceptual_loss(settings)
    if network in lpips:
        yield Required(lpips[network], key, "set it to none")
    evaluate = settings.evaluate
    if evaluate.lpips_network in lpips:
        key = f"evaluate.lpips_network = {evaluate.lpips_network}"
        yield Required(lpips[evaluate.lpips_network], key, "set it to none")
    if evaluate.fid_network == "vgg16":
        yield Required(weights.LPIPS_VGG16, "evaluate.fid_network = vgg16", "set it to none")
    if evaluate.video_metrics:
        yield Required(weights.I3D_KINETICS, "evaluate.video_metrics", "set it to []")
    if evaluate.thesis_metrics == "full":
        without = "set it to test or none"
        yield Required(weights.I3D_KINETICS, "evaluate.thesis_metrics = full", without)
    if "rife" in evaluate.baselines:
        yield Required(weights.RIFE, "evaluate.baselines", "remove rife from the list")


def _perceptual_loss(settings: Params) -> tuple[str, str]:
    """The key with its value, and the network."""
    kind = settings.vqgan.loss.perceptual_loss
    network = {"style": "vgg16", "style_vgg19": "vgg19"}.get(kind, kind)
    return f"vqgan.loss.perceptual_loss = {kind}", network


def _vgg19_faults(settings: Params) -> Iterator[str]:
    """A sentence where VGG19 is asked for and its file is missing, or broken."""
    key, network = _perceptual_loss(settings)
    if network == "vgg19":
        from pipeline.models.pretrained import vgg  # imports torch: only where it is needed

        try:
            vgg.verify()
        except UserError as error:
            yield f"{key}: {error}; or set it to vgg16"


def _gpt2_faults(transformer: Transformer) -> Iterator[str]:
    """A sentence where pretrained weights are not there, or of other sizes."""
    if not (source := transformer.pretrained):
        return
    from pipeline.models.gpt.model import GPT2_SIZES  # imports torch: only where it is needed

    kind = transformer.transformer_type
    own = (transformer.n_layer, transformer.n_head, transformer.n_embd)
    expected, there = GPT2_SIZES.get(kind, own), GPT2_SIZES.get(source)
    if there in (None, expected):
        try:
            published = read_json(weights.gpt2_folder(source) / "config.json")
        except UserError as error:
            yield str(error)
            return
        there = tuple(published.get(key) for key in ("n_layer", "n_head", "n_embd"))
    if there != expected:
        yield (
            f"transformer.pretrained = {source}: it has {there} layers, heads and width, and "
            f"transformer.transformer_type = {kind} has {expected}; choose the published sizes"
        )
