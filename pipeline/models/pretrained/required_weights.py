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


class Wanted(NamedTuple):
    """A weight file and the parameter that asks for it."""

    weights: Weights
    folder: Path | None  # looked at before the package
    asking: str  # "evaluate.lpips_network = alexnet"
    instead: str  # how to do without


def faults(settings: Params) -> Iterator[str]:
    """A sentence for every weight file that is asked for and missing, or another than expected."""
    folder = settings.evaluate.weights_folder
    if folder is not None and not folder.is_dir():
        yield (
            f"evaluate.weights_dir = {folder}: no such folder; name one that holds weight files, "
            'or set it to ""'
        )
    if settings.evaluate.fid_network == "inception":
        try:
            inception.verify(inception.required(folder))
        except UserError as error:
            yield f"evaluate.fid_network = inception: {error}"
    yield from _without_vgg19(settings)
    yield from _without_gpt2(settings.transformer)
    for wish in wanted(settings):
        try:
            weights.verified(wish.weights, wish.folder)
        except UserError as error:
            yield f"{wish.asking}: {error}; or {wish.instead}"


def wanted(settings: Params) -> Iterator[Wanted]:
    """All that the stages will read, in their order."""
    if settings.scene_split.detector == "transnetv2":
        from pipeline.models.pretrained import (
            transnet,  # imports torch: only where it is needed anyway
        )

        asking = "scene_split.detector = transnetv2"
        yield Wanted(transnet.WEIGHTS, None, asking, "set it to content")
    lpips = {"alexnet": weights.LPIPS_ALEXNET, "vgg16": weights.LPIPS_VGG16}
    if settings.vqgan.context == "keyframes" and settings.flow.method != "dis":
        asking = f"flow.method = {settings.flow.method}"
        yield Wanted(weights.RIFE, None, asking, "set it to dis")
    loss = settings.vqgan.loss
    if loss.network in lpips:
        asking = f"vqgan.loss.perceptual_loss = {loss.perceptual_loss}"
        yield Wanted(lpips[loss.network], None, asking, "set it to none")
    train = settings.train
    if train.perceptual_loss_weight and train.network(loss) == "vgg16":
        asking = f"train.perceptual_loss = {train.perceptual_loss}"
        instead = "set train.perceptual_loss_weight to 0"
        yield Wanted(weights.LPIPS_VGG16, None, asking, instead)
    evaluate = settings.evaluate
    folder = evaluate.weights_folder
    if evaluate.lpips_network in lpips:
        asking = f"evaluate.lpips_network = {evaluate.lpips_network}"
        yield Wanted(lpips[evaluate.lpips_network], folder, asking, "set it to none")
    without_inception = evaluate.fid_network == "auto" and inception.find(folder) is None
    if evaluate.fid_network == "vgg16" or without_inception:
        asking = f"evaluate.fid_network = {evaluate.fid_network}"
        yield Wanted(weights.LPIPS_VGG16, folder, asking, "set it to none")
    if evaluate.video_metrics or (evaluate.seed_ruler.video_metrics and evaluate.seed_ruler.splits):
        asking = "evaluate.video_metrics and evaluate.seed_ruler.video_metrics"
        instead = "set them to [] and false"
        yield Wanted(weights.I3D_KINETICS, folder, asking, instead)
    if "rife" in evaluate.baselines:
        yield Wanted(weights.RIFE, folder, "evaluate.baselines", "remove rife from the list")


def _without_vgg19(settings: Params) -> Iterator[str]:
    """A sentence where VGG19 is asked for and the user's file is missing, or broken."""
    loss, train = settings.vqgan.loss, settings.train
    asking = []
    if loss.network == "vgg19":
        key = "style_network" if loss.perceptual_loss == "style" else "perceptual_loss"
        asking.append(f"vqgan.loss.{key}")
    if train.perceptual_loss_weight and train.network(loss) == "vgg19":
        style = train.perceptual_loss == "style"
        asking.append("vqgan.loss.style_network" if style else "train.perceptual_loss")
    if not asking:
        return
    from pipeline.models.pretrained import vgg  # imports torch: only where it is needed anyway

    try:
        vgg.verify(Path(loss.vgg19_file))
    except UserError as error:
        yield f"{' and '.join(dict.fromkeys(asking))} = vgg19: {error}; or set it to vgg16"


def _without_gpt2(transformer: Transformer) -> Iterator[str]:
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
    ours, theirs = GPT2_SIZES.get(kind, own), GPT2_SIZES.get(source)
    if local:
        config = read_json(folder / "config.json")
        theirs = tuple(config.get(key) for key in ("n_layer", "n_head", "n_embd"))
    if theirs and theirs != ours:
        yield (
            f"transformer.pretrained = {source}: it has {theirs} layers, heads and width, and "
            f"transformer.transformer_type = {kind} has {ours}; choose the published sizes"
        )
