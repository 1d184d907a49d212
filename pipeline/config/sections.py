"""The sections of `params.yaml`: one frozen class each, with types, ranges, and its own rules.

Values that are fine alone and impossible together are named by `broken_rules` of the section that
holds them.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

MOST_FRAMES = 1000  # of a clip
SHIFTS = 81  # by up to 4 pixels each way, the codes of context previous
MOST_WEIGHTS = 10**10  # of the transformer; GPT-2's largest has 1.6e9

# Of torchrun; each but one takes a value, so that no word of a preset is the script that it runs.
LAUNCH_OPTION = (
    r"--(standalone|(nnodes|nproc[-_]per[-_]node|node[-_]rank|max[-_]restarts|master[-_](addr|port)"
    r"|rdzv[-_](id|backend|endpoint|conf)|local[-_]addr)[ =][\w.:,=+][\w.:,=+-]*)"
)

Count = Annotated[int, Field(ge=1, le=10**6)]
Batch = Annotated[int, Field(ge=1, le=65536)]
Size = Annotated[int, Field(ge=1, le=8192)]  # channels, and the like, of a network
Layers = Annotated[int, Field(ge=1, le=1000)]
Parallel = Annotated[int, Field(ge=1, le=1024)]  # threads, processes
Number = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
UpToOne = Annotated[float, Field(ge=0.0, le=1.0)]
AboveZero = Annotated[float, Field(gt=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=10**6)]
Positive = Annotated[float, Field(gt=0.0, le=10**6)]
Betas = Annotated[list[Probability], Field(min_length=2, max_length=2)]
Text = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
Name = Annotated[Text, Field(min_length=1)]


def _count_or_all(value: object) -> int | str:
    if value == "all" or (type(value) is int and 1 <= value <= MOST_FRAMES):
        return value
    raise PydanticCustomError("count_or_all", f"integer from 1 to {MOST_FRAMES}, or all")


def _integer(value: object) -> object:
    if type(value) is int:  # to Literal, true is 1
        return value
    raise PydanticCustomError("int_type", "integer")


CountOrAll = Annotated[int | str, PlainValidator(_count_or_all)]


def _device(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"cpu|cuda(:\d+)?", value):
        return value
    raise PydanticCustomError("device", "cpu, cuda or cuda:N")


def _launcher(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(f"python|torchrun( {LAUNCH_OPTION})*", value):
        return value  # a part of a shell's command line
    raise PydanticCustomError("launcher", "python, or torchrun with options of nodes and processes")


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversions, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def broken_rules(self) -> Iterator[str]:
        """A sentence for each pair of values that are fine alone and impossible together."""
        return iter(())

    @model_validator(mode="after")
    def _refuse_broken_rules(self) -> "Section":
        if sentences := list(self.broken_rules()):
            text = "\n".join(sentences)
            raise PydanticCustomError("broken_rules", "{text}", {"text": text})
        return self


class Base(Section):
    seed: Seed
    device: Annotated[str, PlainValidator(_device)]
    precision: Literal["float32", "bf16"]
    threads: Parallel
    launcher: Annotated[str, PlainValidator(_launcher)]
    gradient_checkpointing: bool


class MovingMnist(Section):
    train_sequences: Count
    test_sequences: Count
    epoch_sequences: Number


class Source(Section):
    kind: Literal["videos", "moving_mnist"]
    path: Name
    moving_mnist: MovingMnist


class SampleEpisodes(Section):
    episodes: Annotated[int, Field(ge=1, le=100)]
    seconds: Annotated[float, Field(ge=4.0, le=3600.0)]


class FrameSize(Section):
    """What a trained model remembers of the frames it saw."""

    height: Annotated[int, Field(ge=16, le=1024)]
    width: Annotated[int, Field(ge=16, le=1024)]
    fit: Literal["squeeze", "crop", "pad"]


class Ingest(FrameSize):
    fps: Annotated[float, Field(ge=0.0, le=1000.0)]
    deinterlace: bool
    crop_letterbox: bool
    compression: Literal["none", "lz4", "zstd"]
    on_error: Literal["reject", "fail"]

    def broken_rules(self) -> Iterator[str]:
        if 0 < self.fps < 1:
            yield f"ingest.fps = {self.fps:g}: expected 0 (every frame), or 1 and more"

    @property
    def frame_size(self) -> FrameSize:
        return FrameSize(height=self.height, width=self.width, fit=self.fit)


class SceneSplit(Section):
    detector: Literal["content", "adaptive", "threshold", "transnetv2"]
    threshold: Annotated[float, Field(gt=0.0, le=255.0)]
    weights: Annotated[list[Weight], Field(min_length=4, max_length=4)]
    min_scene_seconds: Weight

    def broken_rules(self) -> Iterator[str]:
        if not sum(self.weights):
            yield f"scene_split.weights = {self.weights}: expected one above 0"


class FrameSubsample(Section):
    image_step: Count
    hold_threshold: Annotated[float, Field(ge=0.0, le=255.0)]
    clip_frames: Literal["all", "unique"]


class ClipFilters(Section):
    min_motion: Weight
    min_contrast: Weight
    max_luma_change: Weight


class ClipChunk(Section):
    min_frames: Annotated[int, Field(ge=3, le=MOST_FRAMES)]
    max_frames: Annotated[int, Field(ge=3, le=MOST_FRAMES)]
    drop_first_frames: Number
    split_by: Literal["scene", "video"]
    train_share: Share
    val_share: Share
    near_duplicate_hamming: Annotated[int, Field(ge=-1, le=256)]
    filters: ClipFilters

    def broken_rules(self) -> Iterator[str]:
        if self.min_frames > self.max_frames:
            yield f"clip_chunk.min_frames = {self.min_frames}: expected at most {self.max_frames}"
        if (share := self.train_share + self.val_share) > 1 - 1e-9:
            rest = "the rest is the test split"
            yield f"clip_chunk.train_share + val_share = {share:g}: expected less than 1, {rest}"


class FlowSection(Section):
    method: Literal["dis", "rife", "mixed"]
    easing: bool


class Keyframes(Section):
    encoder: Literal["linear", "network"]
    frames_without_codes: UpToOne
    spans_per_clip: Annotated[int, Field(ge=0, le=MOST_FRAMES)]


class Previous(Section):
    grey: bool


class Vqvae(Section):
    quantizer: Literal["ema", "vq"]
    beta: Weight
    num_embeddings: Annotated[int, Field(ge=2, le=65536)]  # tokens are stored as uint16
    embedding_dim: Size


class Autoencoder(Section):
    architecture: Literal["fast", "thesis"]
    z_channels: Size
    channels: Size
    channels_multiplier: Annotated[list[Size], Field(min_length=1, max_length=8)]
    num_res_blocks: Annotated[int, Field(ge=1, le=100)]
    attention_resolution: Annotated[list[Count], Field(max_length=8)]
    dropout: Probability
    upsampling: Literal["nearest", "bilinear", "transposed"]
    patch_size: Annotated[Literal[1, 2, 4, 8], BeforeValidator(_integer)]

    def broken_rules(self) -> Iterator[str]:
        if (widest := self.channels * max(self.channels_multiplier)) > 8192:
            yield (
                f"vqgan.autoencoder.channels * channels_multiplier = {widest}: expected at most "
                "8192 channels"
            )


class Discriminator(Section):
    num_layers: Annotated[int, Field(ge=1, le=6)]
    filters: Size
    norm: Literal["none", "instance", "batch"]


class AdversarialLoss(Section):
    loss: Literal["hinge", "cross_entropy"]
    factor: Weight
    iter_start: Number
    weight: Weight


class VqganLoss(Section):
    discriminator: AdversarialLoss
    codebook_weight: Weight
    perceptual_weight: Weight
    perceptual_loss: Literal["vgg16", "alexnet", "vgg19", "style", "style_vgg19", "none"]
    perceptual_subset: Number
    mse_weight: Weight
    edge_weight: Weight


class VqganTrainer(Section):
    batch_size: Batch
    accumulation_size: Count
    n_epochs: Count
    augmentation: Literal["none", "crop_flip", "shift_flip"]
    schedule: Literal["cosine", "constant"]
    gen_lr: AboveZero
    disc_lr: AboveZero
    gen_betas: Betas
    disc_betas: Betas
    clip_norm: Positive


class Vqgan(Section):
    context: Literal["none", "keyframes", "previous"]
    patch_size: Annotated[Literal[4, 8, 16, 32], BeforeValidator(_integer)]
    channels: Annotated[int, Field(ge=8, le=1024, multiple_of=8)]
    keyframes: Keyframes
    previous: Previous
    vqvae: Vqvae
    autoencoder: Autoencoder
    discriminator: Discriminator
    loss: VqganLoss
    trainer: VqganTrainer

    def broken_rules(self) -> Iterator[str]:
        if self.context == "keyframes" and self.vqvae.quantizer != "ema":
            kind = self.vqvae.quantizer
            yield f"vqgan.vqvae.quantizer = {kind}: expected ema with vqgan.context = keyframes"
        if self.context == "previous" and self.patch_size not in (8, 16):
            yield (
                f"vqgan.patch_size = {self.patch_size}: expected 8 or 16 with "
                "vqgan.context = previous"
            )
        if self.context == "previous" and self.vqvae.num_embeddings != SHIFTS:
            yield (
                f"vqgan.vqvae.num_embeddings = {self.vqvae.num_embeddings}: expected {SHIFTS} with "
                "vqgan.context = previous, whose codes are shifts of up to 4 pixels"
            )
        if (subset := self.loss.perceptual_subset) > (batch := self.trainer.batch_size):
            yield (
                f"vqgan.loss.perceptual_subset = {subset}: expected at most "
                f"vqgan.trainer.batch_size = {batch}; 0 takes the whole batch"
            )


class Transformer(Section):
    transformer_type: Literal["custom", "plain", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    pretrained: Text
    n_layer: Layers
    n_head: Count
    n_embd: Count
    merge: Annotated[Literal[1, 2], BeforeValidator(_integer)]
    dropout: Probability
    remaining_frames_method: Literal["own_embeddings", "concat", "token_type_ids", "none"]

    def broken_rules(self) -> Iterator[str]:
        own_sizes = self.transformer_type in ("custom", "plain")
        if own_sizes and self.n_embd % self.n_head:
            heads = f"transformer.n_head = {self.n_head}"
            yield f"transformer.n_embd = {self.n_embd}: expected a multiple of {heads}"
        if own_sizes and (weights := 12 * self.n_layer * self.n_embd**2) > MOST_WEIGHTS:
            sizes = f"transformer.n_layer = {self.n_layer}, n_embd = {self.n_embd}"
            yield f"{sizes}: {weights:.1g} weights, expected at most {MOST_WEIGHTS:.0g}"
        if self.pretrained and self.transformer_type == "plain":
            yield (
                f"transformer.pretrained = {self.pretrained}: transformer_type = plain has no "
                "published weights, expected one of GPT-2's sizes, or custom"
            )


class Train(Section):
    sequence: Literal["full_clip", "sliding_window"]
    mode: Literal["parallel", "maskgit"]
    n_frames_before: CountOrAll
    batch_method: Literal["padding", "truncation"]
    batch_size: Batch
    accumulation_size: Count
    n_epochs: Count
    warmup_epoch_percentage: UpToOne
    lr_start: UpToOne
    lr_max: AboveZero
    stop_ground_truth_after_epoch: Number
    token_noise: Probability
    perceptual_loss_weight: Weight

    def broken_rules(self) -> Iterator[str]:
        if self.sequence == "sliding_window" and self.mode != "parallel":
            yield (
                f"train.mode = {self.mode}: expected parallel with train.sequence = "
                "sliding_window; set train.sequence to full_clip"
            )
        if self.token_noise and not self.stop_ground_truth_after_epoch:
            yield (
                f"train.token_noise = {self.token_noise:g}: expected "
                "train.stop_ground_truth_after_epoch above 0: noise is in true frames only"
            )
        if self.lr_start > self.lr_max:
            most = f"train.lr_max = {self.lr_max:g}"
            yield f"train.lr_start = {self.lr_start:g}: expected at most {most}"


class Decoding(Section):
    mode: Literal["auto", "parallel", "maskgit"]
    steps: Count
    temperature: Weight
    top_k: Number
    top_p: AboveZero
    min_confidence: UpToOne

    def broken_rules(self) -> Iterator[str]:
        if 0 < self.temperature < 0.01:
            where = f"evaluate.decoding.temperature = {self.temperature:g}"
            yield f"{where}: expected 0 (greedy), or 0.01 and more"


Baseline = Literal[
    "black", "hold_first", "hold_nearest", "cross_fade", "optical_flow", "rife",
    "untrained", "without_codes", "round_trip",
]  # fmt: skip


class Evaluate(Section):
    decoding: Decoding
    baselines: list[Baseline]
    lpips_network: Literal["alexnet", "vgg16", "none"]
    fid_network: Literal["inception", "vgg16", "none"]
    video_metrics: list[Literal["model", Baseline]]
    n_samples: Annotated[int, Field(ge=0, le=100)]
    thesis_metrics: Literal["none", "test", "full"]

    def broken_rules(self) -> Iterator[str]:
        for key in ("baselines", "video_metrics"):
            if len(set(names := getattr(self, key))) < len(names):
                yield f"evaluate.{key} = {names}: expected each name once"
        absent = [n for n in self.video_metrics if n not in ("model", *self.baselines)]
        if absent:
            yield (
                f"evaluate.video_metrics: expected model and names from evaluate.baselines, and "
                f"{', '.join(absent)} not among {self.baselines}"
            )
        if self.n_samples == 1:
            yield "evaluate.n_samples = 1: expected 0, or at least 2, whose distance is measured"


class Tracking(Section):
    enabled: bool


class Engine(Section):
    kind: Literal["local", "ray"]
    workers: Parallel
    checkpoint_interval: Weight
