"""`Params`: all sections of `params.yaml`, and the rules between them."""

from collections.abc import Iterator

from pipeline.config.sections import (
    Base,
    ClipChunk,
    Engine,
    Evaluate,
    FlowSection,
    FrameSubsample,
    Ingest,
    SampleEpisodes,
    SceneSplit,
    Section,
    Source,
    Tracking,
    Train,
    Transformer,
    Vqgan,
)

CANVAS = 64  # pixels a side of Moving MNIST
KEYFRAME_STRIDE = 16  # pixels of the smallest feature of the decoder with context
ALEXNET_SIDE = 31  # smaller pictures do not pass its poolings


class Params(Section):
    """All of `params.yaml`."""

    base: Base
    source: Source
    sample_episodes: SampleEpisodes
    ingest: Ingest
    scene_split: SceneSplit
    frame_subsample: FrameSubsample
    clip_chunk: ClipChunk
    flow: FlowSection
    vqgan: Vqgan
    transformer: Transformer
    train: Train
    evaluate: Evaluate
    tracking: Tracking
    engine: Engine

    def broken_rules(self) -> Iterator[str]:
        yield from self._broken_frame_rules()
        gpt, train = self.transformer, self.train
        method = gpt.remaining_frames_method
        if method == "concat" and train.sequence == "full_clip":
            yield (
                "transformer.remaining_frames_method = concat: expected train.sequence = "
                "sliding_window, whose sequences have one number of remaining frames each"
            )
        clips, rows = self.clip_chunk, self.vqgan.vqvae.num_embeddings
        longest = max(clips.max_frames, 2 * clips.min_frames - 1)
        if self.vqgan.context == "previous" and method in ("concat", "token_type_ids"):
            key = f"transformer.remaining_frames_method = {method}"
            yield f"{key}: expected own_embeddings or none with vqgan.context = previous"
        elif method in ("concat", "token_type_ids") and rows < longest:
            yield (
                f"vqgan.vqvae.num_embeddings = {rows}: expected at least {longest}, the frames of "
                f"the longest clip, with transformer.remaining_frames_method = {method}"
            )
        if train.perceptual_loss_weight and self.vqgan.context != "none":
            yield (
                f"train.perceptual_loss_weight = {train.perceptual_loss_weight:g}: expected 0 with "
                f"vqgan.context = {self.vqgan.context}, whose tokens alone make no picture"
            )
        elif train.perceptual_loss_weight and self.vqgan.loss.perceptual_loss == "none":
            yield (
                f"train.perceptual_loss_weight = {train.perceptual_loss_weight:g}: expected 0 with "
                "vqgan.loss.perceptual_loss = none, which it weighs"
            )
        yield from self._broken_previous_rules()
        if (mode := self.evaluate.decoding.mode) not in ("auto", "parallel", train.mode):
            trained = f"train.mode to be {mode}, not {train.mode}"
            yield f"evaluate.decoding.mode = {mode}: expected {trained}"

    def _broken_previous_rules(self) -> Iterator[str]:
        """Of context previous, and of sequences that are drawn anew."""
        train, ingest, fresh = self.train, self.ingest, self.source.moving_mnist.epoch_sequences
        previous = self.vqgan.context == "previous"
        if previous and train.sequence != "full_clip":
            key = f"train.sequence = {train.sequence}"
            yield f"{key}: expected full_clip with vqgan.context = previous"
        if previous and train.stop_ground_truth_after_epoch < train.n_epochs:
            yield (
                f"train.stop_ground_truth_after_epoch = {train.stop_ground_truth_after_epoch}: "
                f"expected train.n_epochs = {train.n_epochs} or more with vqgan.context = previous"
            )
        if previous and train.token_noise:
            key = f"train.token_noise = {train.token_noise:g}"
            yield f"{key}: expected 0 with vqgan.context = previous"
        if previous and train.batch_method != "padding":
            key = f"train.batch_method = {train.batch_method}"
            yield f"{key}: expected padding with vqgan.context = previous"
        if previous and self.vqgan.trainer.augmentation != "none":
            key = f"vqgan.trainer.augmentation = {self.vqgan.trainer.augmentation}"
            yield f"{key}: expected none with vqgan.context = previous"
        if previous and train.n_frames_before == "all":
            yield "train.n_frames_before = all: expected a number with vqgan.context = previous"
        elif previous and self.clip_chunk.min_frames < train.n_frames_before + 3:
            key = f"clip_chunk.min_frames = {self.clip_chunk.min_frames}"
            least = f"train.n_frames_before + 3 = {train.n_frames_before + 3}"
            yield f"{key}: expected {least} or more with vqgan.context = previous"
        if self.source.kind != "moving_mnist" or not fresh:
            return
        key = f"source.moving_mnist.epoch_sequences = {fresh}"
        if not previous:
            yield f"{key}: expected vqgan.context = previous, or 0"
        if (ingest.height, ingest.width) != (CANVAS, CANVAS):
            yield f"{key}: expected ingest.height and ingest.width of {CANVAS}, or 0"

    def _broken_frame_rules(self) -> Iterator[str]:
        """Frames that the tokens do not cover, or that are too small."""
        ingest, vqgan, sizes = self.ingest, self.vqgan, self.vqgan.autoencoder
        levels = len(sizes.channels_multiplier)
        if vqgan.context == "none":
            token = sizes.patch_size * 2 ** (levels - 1)  # pixels a side
            reason = f"vqgan.autoencoder.patch_size = {sizes.patch_size}, and {levels} levels"
        else:
            token = vqgan.patch_size
            reason = f"vqgan.patch_size = {token}"
        stride = max(token, KEYFRAME_STRIDE) if vqgan.context == "keyframes" else token
        for side in ("height", "width"):
            if (value := getattr(ingest, side)) % stride:
                yield f"ingest.{side} = {value}: expected a multiple of {stride} ({reason})"
            elif value % (token * self.transformer.merge):
                multiple = token * self.transformer.merge
                merge = f"transformer.merge = {self.transformer.merge} tokens of {token} pixels"
                yield f"ingest.{side} = {value}: expected a multiple of {multiple} ({merge})"
        longer = max(ingest.height, ingest.width)
        sides = [longer // sizes.patch_size // 2**level for level in range(levels)]
        for side in sizes.attention_resolution:
            if side not in sides:
                key = "vqgan.autoencoder.attention_resolution"
                yield f"{key} = {side}: expected one of {sides}, the sides of the feature maps"
        shorter = min(ingest.height, ingest.width)
        layers = vqgan.discriminator.num_layers
        if vqgan.loss.discriminator.factor and shorter < 2 ** (layers + 1):
            least = f"frames of at least {2 ** (layers + 1)} pixels a side, not {shorter}"
            yield f"vqgan.discriminator.num_layers = {layers}: expected {least}"
        pixels = f"expected frames of at least {ALEXNET_SIDE} pixels a side, not {shorter}"
        if vqgan.loss.perceptual_loss == "alexnet" and shorter < ALEXNET_SIDE:
            yield f"vqgan.loss.perceptual_loss = alexnet: {pixels}; set it to none"
        if self.evaluate.lpips_network == "alexnet" and shorter < ALEXNET_SIDE:
            yield f"evaluate.lpips_network = alexnet: {pixels}; set it to vgg16"
