"""Which weight files a run will need, so that a missing one is said before hours of work.

Each fault is a sentence: the parameter that asks, what is missing, the remedy, and the value of
the parameter that does without.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.config import GPT2_SIZES, Params, Transformer
from pipeline.errors import UserError
from pipeline.io import read_json
from pipeline.models.pretrained import inception, weights
from pipeline.models.pretrained.weights import Weights


class Requirement(NamedTuple):
    """A weight file and the parameter that asks for it."""

    weights: Weights
    parameter: str  # "evaluate.lpips_network = alexnet"
    instead: str  # how to do without


def problems(settings: Params) -> Iterator[str]:
    """A sentence for every weight file that is asked for and missing, or another than expected."""
    if settings.evaluate.fid_network == "inception":
        try:
            inception.verified()
        except UserError as error:
            yield f"evaluate.fid_network = inception: {error}"
    yield from _vgg19_problems(settings)
    yield from _gpt2_problems(settings.transformer)
    for requirement in requirements(settings):
        try:
            weights.verified(requirement.weights)
        except UserError as error:
            yield f"{requirement.parameter}: {error}; or {requirement.instead}"


def requirements(settings: Params) -> Iterator[Requirement]:
    """All that the stages will read from packages, in their order."""
    if settings.scene_split.detector == "transnetv2":
        # imports torch: only where it is needed anyway
        from pipeline.models.pretrained import transnet

        parameter = "scene_split.detector = transnetv2"
        yield Requirement(transnet.WEIGHTS, parameter, "set it to content")
    lpips = {"alexnet": weights.LPIPS_ALEXNET, "vgg16": weights.LPIPS_VGG16}
    if settings.vqgan.context == "keyframes" and settings.flow.method != "dis":
        parameter = f"flow.method = {settings.flow.method}"
        yield Requirement(weights.RIFE, parameter, "set it to dis")
    loss = settings.vqgan.loss
    if loss.network in lpips:
        parameter = f"vqgan.loss.perceptual_loss = {loss.perceptual_loss}"
        yield Requirement(lpips[loss.network], parameter, "set it to none")
    train = settings.train
    if train.perceptual_loss_weight and train.network(loss) == "vgg16":
        parameter = f"train.perceptual_loss = {train.perceptual_loss}"
        instead = "set train.perceptual_loss_weight to 0"
        yield Requirement(weights.LPIPS_VGG16, parameter, instead)
    evaluate = settings.evaluate
    if evaluate.lpips_network in lpips:
        parameter = f"evaluate.lpips_network = {evaluate.lpips_network}"
        yield Requirement(lpips[evaluate.lpips_network], parameter, "set it to none")
    if evaluate.fid_network == "vgg16":
        yield Requirement(weights.LPIPS_VGG16, "evaluate.fid_network = vgg16", "set it to none")
    if evaluate.video_metrics:
        yield Requirement(weights.I3D_KINETICS, "evaluate.video_metrics", "set it to []")
    if evaluate.thesis_metrics == "full":
        yield Requirement(
            weights.I3D_KINETICS, "evaluate.thesis_metrics = full", "set it to test or none"
        )
    if "rife" in evaluate.baselines:
        yield Requirement(weights.RIFE, "evaluate.baselines", "remove rife from the list")


def _vgg19_problems(settings: Params) -> Iterator[str]:
    """A sentence where VGG19 is asked for and the user's file is missing, or broken."""
    loss, train = settings.vqgan.loss, settings.train
    parameters = []
    if loss.network == "vgg19":
        key = "style_network" if loss.perceptual_loss == "style" else "perceptual_loss"
        parameters.append(f"vqgan.loss.{key}")
    if train.perceptual_loss_weight and train.network(loss) == "vgg19":
        style = train.perceptual_loss == "style"
        parameters.append("vqgan.loss.style_network" if style else "train.perceptual_loss")
    if not parameters:
        return
    from pipeline.models.pretrained import vgg  # imports torch: only where it is needed anyway

    try:
        vgg.verify(Path(loss.vgg19_file))
    except UserError as error:
        yield f"{' and '.join(dict.fromkeys(parameters))} = vgg19: {error}; or set it to vgg16"


def _gpt2_problems(transformer: Transformer) -> Iterator[str]:
    """A sentence where pretrained weights are not there or of other sizes. No hub is asked."""
    source, folder = transformer.pretrained, Path(transformer.pretrained)
    if not source:
        return
    instead = '; name a folder that transformers\' save_pretrained wrote, a name on the hub, or ""'
    local = (
        folder.exists() or folder.is_absolute() or source.startswith(".") or source.count("/") > 1
    )
    if local and not (folder / "config.json").is_file():
        yield f"transformer.pretrained = {source}: no config.json there{instead}"
        return
    kind = transformer.transformer_type
    own = (transformer.n_layer, transformer.n_head, transformer.n_embd)
    wanted, sizes = GPT2_SIZES.get(kind, own), GPT2_SIZES.get(source)
    if local:
        config = read_json(folder / "config.json")
        sizes = tuple(config.get(key) for key in ("n_layer", "n_head", "n_embd"))
    if sizes and sizes != wanted:
        yield (
            f"transformer.pretrained = {source}: it has {sizes} layers, heads and width, and "
            f"transformer.transformer_type = {kind} has {wanted}; choose the published sizes"
        )
