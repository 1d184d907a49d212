"""Parameters that are fine alone and impossible together, each a sentence that names both."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import (
        ClipChunk,
        Decoding,
        Evaluate,
        Ingest,
        Params,
        Train,
        Transformer,
        Vqgan,
        VqganLoss,
    )

KEYFRAME_STRIDE = 16  # pixels of the smallest feature of the decoder with context
VGG_SIDE = 16  # smaller pictures do not pass its poolings
ALEXNET_SIDE = 31  # smaller pictures do not pass its poolings


def contradictions(params: "Params") -> list[str]:
    """Values that are fine alone and impossible together. Sections that failed are absent."""
    found = []
    has = params.__dict__.get
    clips, ingest, vqgan = has("clip_chunk"), has("ingest"), has("vqgan")
    gpt, train = has("transformer"), has("train")
    if clips and clips.min_frames > clips.max_frames:
        found.append(
            f"clip_chunk.min_frames = {clips.min_frames}: expected at most "
            f"clip_chunk.max_frames = {clips.max_frames}"
        )
    if clips and clips.test_share < 1e-9:
        found.append(
            f"clip_chunk.train_share + val_share = {clips.train_share + clips.val_share:g}: "
            "expected less than 1, the rest is the test split"
        )
    scenes = has("scene_split")
    if scenes and not sum(scenes.weights):
        found.append(f"scene_split.weights = {scenes.weights}: expected one above 0")
    if ingest and 0 < ingest.fps < 1:
        found.append(f"ingest.fps = {ingest.fps:g}: expected 0 (every frame), or 1 and more")
    if ingest and vqgan:
        found += _frame_contradictions(vqgan, ingest)
    if vqgan:
        found += _loss_contradictions(vqgan.loss, vqgan.trainer.batch_size)
    own_sizes = gpt and gpt.transformer_type in ("custom", "plain")
    if own_sizes and gpt.n_embd % gpt.n_head:
        found.append(
            f"transformer.n_embd = {gpt.n_embd}: expected a multiple of transformer.n_head = "
            f"{gpt.n_head}"
        )
    if gpt and train:
        found += _transformer_contradictions(gpt, train)
        found += _count_contradictions(gpt, vqgan, clips)
    looks = train and vqgan and train.perceptual_loss_weight
    if looks and vqgan.context != "none":
        found.append(
            f"train.perceptual_loss_weight = {train.perceptual_loss_weight:g}: expected 0 with "
            f"vqgan.context = {vqgan.context}, whose tokens show no picture by themselves; set it "
            "to 0, or vqgan.context to none"
        )
    elif looks and train.network(vqgan.loss) == "vgg19":
        key = f"train.perceptual_loss = {train.perceptual_loss}"
        found += _without_vgg19(key, vqgan.loss.vgg19_file)
    found += _evaluation_contradictions(has("evaluate"), ingest)
    if train and has("evaluate"):
        found += _decoding_contradictions(has("evaluate").decoding, train)
    if train and train.lr_start > train.lr_max:
        found.append(
            f"train.lr_start = {train.lr_start:g}: expected at most train.lr_max = {train.lr_max:g}"
        )
    return found


def _frame_contradictions(vqgan: "Vqgan", ingest: "Ingest") -> list[str]:
    """Frames that tokens do not cover, attention where no feature map is, frames too small."""
    found, sizes = [], vqgan.autoencoder
    context = vqgan.context == "keyframes"
    multiple = max(vqgan.stride, KEYFRAME_STRIDE) if context else vqgan.stride
    what = (
        f"vqgan.keyframes.patch_size {vqgan.keyframes.patch_size}"
        if context
        else f"vqgan.autoencoder: patch_size {sizes.patch_size}, "
        f"{len(sizes.channels_multiplier)} levels"
    )
    for side in ("height", "width"):
        value = getattr(ingest, side)
        if value % multiple:
            found.append(
                f"ingest.{side} = {value}: expected a multiple of {multiple}, the pixels that the "
                f"tokenizer's smallest feature stands for ({what})"
            )
    if context and vqgan.vqvae.quantizer != "ema":
        found.append(
            f"vqgan.vqvae.quantizer = {vqgan.vqvae.quantizer}: expected ema with vqgan.context = "
            "keyframes, whose codes start from k-means"
        )
    sides = sizes.resolutions(max(ingest.height, ingest.width))
    for side in sizes.attention_resolution:
        if side not in sides:
            found.append(
                f"vqgan.autoencoder.attention_resolution = {side}: expected one of {sides}, "
                "the longer sides of the feature maps that the encoder passes through"
            )
    smallest = min(ingest.height, ingest.width)
    least = ALEXNET_SIDE if vqgan.loss.network == "alexnet" else VGG_SIDE
    if vqgan.loss.network != "none" and smallest < least:
        found.append(
            f"vqgan.loss.perceptual_loss = {vqgan.loss.perceptual_loss}: frames have a side of "
            f"{smallest} pixels, expected at least {least}; set it to none"
        )
    return found


def _loss_contradictions(loss: "VqganLoss", batch_size: int) -> list[str]:
    """A network without its file, or without pictures."""
    found = []
    if loss.network == "vgg19":
        key = f"vqgan.loss.perceptual_loss = {loss.perceptual_loss}"
        found += _without_vgg19(key, loss.vgg19_file)
    if loss.perceptual_subset > batch_size:
        found.append(
            f"vqgan.loss.perceptual_subset = {loss.perceptual_subset}: expected at most "
            f"vqgan.trainer.batch_size = {batch_size}; 0 takes the whole batch"
        )
    return found


def _without_vgg19(key: str, file: str) -> list[str]:
    if file:
        return []
    return [
        f"{key} with vgg19: expected vqgan.loss.vgg19_file to name torchvision's "
        "vgg19-dcbb9e9d.pth; or set it to vgg16"
    ]


def _transformer_contradictions(gpt: "Transformer", train: "Train") -> list[str]:
    """What only one kind of sequence, or one kind of network, can do."""
    found = []
    if train.sequence == "sliding_window" and train.mode != "parallel":
        found.append(
            f"train.mode = {train.mode}: expected parallel with train.sequence = sliding_window, "
            "which predicts a frame in one pass; set train.sequence to full_clip"
        )
    if train.token_noise and not train.stop_ground_truth_after_epoch:
        found.append(
            f"train.token_noise = {train.token_noise:g}: expected "
            "train.stop_ground_truth_after_epoch above 0; before that epoch the model reads true "
            "frames with wrong tokens, after it its own predictions"
        )
    method = gpt.remaining_frames_method
    if method == "concat" and train.sequence == "full_clip":
        found.append(
            "transformer.remaining_frames_method = concat: expected train.sequence = "
            "sliding_window, where a sequence has one number of remaining frames"
        )
    if gpt.pretrained and gpt.transformer_type == "plain":
        found.append(
            f"transformer.pretrained = {gpt.pretrained}: expected transformer.transformer_type to "
            "be one of GPT-2's; plain has no published weights"
        )
    return found


def _decoding_contradictions(decoding: "Decoding", train: "Train") -> list[str]:
    """A mode for which the model is not trained: said before the training."""
    if decoding.mode in ("auto", "parallel", train.mode):
        return []
    return [
        f"evaluate.decoding.mode = {decoding.mode}: expected train.mode to be {decoding.mode}, not "
        f"{train.mode}"
    ]


def _count_contradictions(
    gpt: "Transformer", vqgan: "Vqgan | None", clips: "ClipChunk | None"
) -> list[str]:
    """Counts of remaining frames that find no row in the token table."""
    method = gpt.remaining_frames_method
    if method not in ("concat", "token_type_ids"):
        return []
    if not vqgan or not clips or vqgan.vqvae.num_embeddings >= clips.longest:
        return []
    return [
        f"vqgan.vqvae.num_embeddings = {vqgan.vqvae.num_embeddings}: expected at least "
        f"{clips.longest} with transformer.remaining_frames_method = {method}, a row for each "
        "number of frames of a clip"
    ]


def _evaluation_contradictions(evaluate: "Evaluate | None", ingest: "Ingest | None") -> list[str]:
    """Lists in which a name stands twice, or names what is not drawn; pictures too small; ..."""
    if evaluate is None:
        return []
    found = []
    lists = {
        "baselines": evaluate.baselines,
        "video_metrics": evaluate.video_metrics,
        "seed_ruler.splits": evaluate.seed_ruler.splits,
    }
    for key, names in lists.items():
        if len(set(names)) < len(names):
            found.append(f"evaluate.{key} = {names}: expected each name once")
    absent = [n for n in evaluate.video_metrics if n != "model" and n not in evaluate.baselines]
    if absent:
        found.append(
            f"evaluate.video_metrics = {evaluate.video_metrics}: {', '.join(absent)} not among "
            f"evaluate.baselines = {evaluate.baselines}; expected model and names from there"
        )
    if ingest and evaluate.lpips_network == "alexnet":
        smallest = min(ingest.height, ingest.width)
        if smallest < ALEXNET_SIDE:
            found.append(
                f"evaluate.lpips_network = alexnet: frames have a side of {smallest} pixels, "
                f"expected at least {ALEXNET_SIDE}; set it to vgg16"
            )
    if evaluate.samples == 1:
        found.append(
            "evaluate.samples = 1: expected 0, or at least 2 (diversity is a distance between two)"
        )
    return found
