"""Typed parameters: `params.yaml` in, frozen objects out, every mistake named at once.

One frozen class a section. Unknown, missing, mistyped, out-of-range and contradictory keys are
collected and reported together, each with key, value and what is allowed. A derived size is a
property, never a second parameter.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.config_rules import contradictions
from pipeline.errors import UserError

PARAMS_FILE = Path("params.yaml")
GPT2_SIZES = {  # transformer.transformer_type -> layers, heads, width
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


def _count_or_all(value: object) -> int | str:
    if value == "all" or (type(value) is int and value >= 1):
        return value
    raise PydanticCustomError("count_or_all", "integer from 1 on, or all")


CountOrAll = Annotated[int | str, PlainValidator(_count_or_all)]


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversions, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Base(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    precision: Literal["float32", "bf16"]
    threads: Count
    launcher: Annotated[str, Field(pattern=r"^(python|torchrun( .+)?)$")]
    compile: bool


class MovingMnist(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    train_sequences: Count
    test_sequences: Count
    digits: Annotated[int, Field(ge=1, le=1000)]
    n_frames: Annotated[int, Field(ge=3, le=1000)]


class Source(Section):
    kind: Literal["videos", "moving_mnist"]
    path: Annotated[str, Field(min_length=1)]
    moving_mnist: MovingMnist


class SampleEpisodes(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    episodes: Annotated[int, Field(ge=1, le=100)]
    seconds: Annotated[float, Field(ge=4.0, le=3600.0)]
    fps: Annotated[int, Field(ge=8, le=60)]
    height: Annotated[int, Field(ge=64, le=2160, multiple_of=2)]
    width: Annotated[int, Field(ge=64, le=3840, multiple_of=2)]


class FrameSize(Section):
    """What a trained model remembers of the frames it saw."""

    height: Annotated[int, Field(ge=16, le=1024)]
    width: Annotated[int, Field(ge=16, le=1024)]
    fit: Literal["squeeze", "crop", "pad"]


class Ingest(FrameSize):
    fps: Annotated[float, Field(ge=0.0, le=1000.0)]
    deinterlace: bool
    cut_bars: bool
    min_frames: Count
    compression: Literal["none", "lz4", "zstd"]
    on_error: Literal["reject", "fail"]

    @property
    def frame_size(self) -> FrameSize:
        return FrameSize(height=self.height, width=self.width, fit=self.fit)


class Adaptive(Section):
    threshold: Positive
    window_width: Count
    min_content_val: Weight


class Fade(Section):
    threshold: Annotated[int, Field(ge=1, le=255)]
    method: Literal["floor", "ceiling"]
    bias: Annotated[float, Field(ge=-1.0, le=1.0)]
    add_final_scene: bool


class Hash(Section):
    threshold: Annotated[float, Field(gt=0.0, le=1.0)]
    size: Literal[4, 8, 16, 32]
    lowpass: Literal[1, 2, 4, 8]


class Histogram(Section):
    threshold: Annotated[float, Field(gt=0.0, le=1.0)]
    bins: Literal[2, 4, 8, 16, 32, 64, 128, 256]


class TransNetV2(Section):
    threshold: Share


class SceneSplit(Section):
    detector: Literal["content", "adaptive", "threshold", "hash", "histogram", "transnetv2"]
    threshold: Annotated[float, Field(gt=0.0, le=255.0)]
    weights: Annotated[list[Weight], Field(min_length=4, max_length=4)]
    flashes: Literal["merge", "suppress"]
    min_scene_seconds: Weight
    adaptive: Adaptive
    fade: Fade
    hash: Hash
    histogram: Histogram
    transnetv2: TransNetV2


class FrameSubsample(Section):
    image_step: Count
    hold_threshold: Annotated[float, Field(ge=0.0, le=255.0)]
    hold_metric: Literal["block", "mean"]
    clip_frames: Literal["all", "unique", "every_nth"]
    clip_step: Count


class ClipFilters(Section):
    min_motion: Weight
    min_contrast: Weight
    max_luma_change: Weight
    text: bool


class ClipChunk(Section):
    min_frames: Annotated[int, Field(ge=3)]
    max_frames: Annotated[int, Field(ge=3, le=1000)]
    drop_first_frames: Annotated[int, Field(ge=0)]
    split_by: Literal["scene", "video"]
    train_share: Share
    val_share: Share
    near_identical_bits: Annotated[int, Field(ge=-1, le=256)]
    filters: ClipFilters

    @property
    def longest(self) -> int:
        """Frames of the longest clip: a scene too short for two parts stays whole."""
        return max(self.max_frames, 2 * self.min_frames - 1)

    @property
    def test_share(self) -> float:
        return 1.0 - self.train_share - self.val_share


class ShardPack(Section):
    shard_mb: Annotated[float, Field(gt=0.0, le=4096.0)]


class FlowSection(Section):
    method: Literal["dis", "rife", "mixed"]
    easing: bool


class Keyframes(Section):
    patch_size: Literal[4, 8, 16, 32]
    channels: Annotated[int, Field(ge=8, multiple_of=8)]
    encoder: Literal["linear", "network"]
    frames_without_codes: Annotated[float, Field(ge=0.0, le=1.0)]
    dropped_codes: Annotated[float, Field(ge=0.0, le=1.0)]
    spans_per_clip: Annotated[int, Field(ge=0)]


class Vqvae(Section):
    quantizer: Literal["ema", "vq"]
    beta: Weight
    num_embeddings: Annotated[int, Field(ge=2, le=65536)]  # tokens are stored as uint16
    embedding_dim: Count


class Autoencoder(Section):
    z_channels: Count
    channels: Count
    channels_multiplier: Annotated[list[Count], Field(min_length=1, max_length=8)]
    num_res_blocks: Count
    attention_resolution: list[Count]
    dropout: Probability
    norm_groups: Count
    middle: Literal["block", "attention"]
    symmetric: bool
    downsampling: Literal["strided", "average"]
    upsampling: Literal["nearest", "bilinear", "transposed"]
    output: Literal["linear", "tanh"]
    patch_size: Literal[1, 2, 4, 8]
    shortcut: bool

    @property
    def stride(self) -> int:
        """Pixels a side that one token stands for."""
        return self.patch_size * 2 ** (len(self.channels_multiplier) - 1)

    def resolutions(self, side: int) -> list[int]:
        """Sides of the feature maps that the encoder passes through, for a picture's side."""
        return [side // self.patch_size // 2**i for i in range(len(self.channels_multiplier))]


class Discriminator(Section):
    num_layers: Annotated[int, Field(ge=1, le=6)]
    filters: Count
    norm: Literal["none", "instance", "batch"]
    output: Literal["patch", "single"]
    input_scale: Literal[1, 2, 4]
    paired: bool

    @property
    def receptive_field(self) -> int:
        """Pixels a side of the picture that one logit of the patch output depends on."""
        field = 1 + 3 + 3  # two convolutions of 4x4 and stride 1 at the end
        for _ in range(self.num_layers):
            field = 2 * field + 2  # a 4x4 convolution of stride 2
        return -(-field // self.input_scale)


class AdversarialLoss(Section):
    loss: Literal["hinge", "cross_entropy"]
    factor: Weight
    iter_start: Annotated[int, Field(ge=0)]
    weighting: Literal["adaptive", "fixed"]
    weight: Weight


class VqvaeLoss(Section):
    codebook_weight: Weight
    perceptual_weight: Weight


class VqganLoss(Section):
    discriminator: AdversarialLoss
    vqvae: VqvaeLoss
    perceptual_loss: Literal["vgg16", "alexnet", "vgg19", "style", "none"]
    perceptual_subset: Annotated[int, Field(ge=0)]
    style_network: Literal["vgg16", "vgg19"]
    vgg19_file: str
    worst_pixel_weight: Weight
    edge_weight: Weight

    @property
    def network(self) -> Literal["vgg16", "alexnet", "vgg19", "none"]:
        """Whose features the perceptual loss compares."""
        return self.style_network if self.perceptual_loss == "style" else self.perceptual_loss


class VqganTrainer(Section):
    batch_size: Count
    accumulation_size: Count
    n_epochs: Count
    augmentation: Literal["none", "crop_flip", "shift_flip"]
    schedule: Literal["cosine", "constant"]
    warmup_share: Annotated[float, Field(ge=0.0, lt=1.0)]
    gen_lr: Positive
    disc_lr: Positive
    gen_beta_1: Probability
    gen_beta_2: Probability
    disc_beta_1: Probability
    disc_beta_2: Probability
    gen_clip_norm: Positive
    disc_clip_norm: Positive
    ema_decay: Probability
    gradient_checkpointing: bool


class Vqgan(Section):
    context: Literal["none", "keyframes"]
    keyframes: Keyframes
    vqvae: Vqvae
    autoencoder: Autoencoder
    discriminator: Discriminator
    loss: VqganLoss
    trainer: VqganTrainer

    @property
    def stride(self) -> int:
        """Pixels a side that one token stands for."""
        return self.autoencoder.stride if self.context == "none" else self.keyframes.patch_size


class TokenPrecompute(Section):
    batch_size: Count


class Transformer(Section):
    transformer_type: Literal["custom", "plain", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    pretrained: str
    n_layer: Count
    n_head: Count
    n_embd: Count
    embd_pdrop: Probability
    resid_pdrop: Probability
    attn_pdrop: Probability
    remaining_frames_method: Literal["own_embeddings", "concat", "token_type_ids", "none"]


class Train(Section):
    sequence: Literal["full_clip", "sliding_window"]
    mode: Literal["parallel", "maskgit"]
    n_frames_before: CountOrAll
    batch_method: Literal["padding", "truncation"]
    batch_size: Count
    accumulation_size: Count
    n_epochs: Count
    warmup_epoch_percentage: Annotated[float, Field(ge=0.0, le=1.0)]
    lr_start: Weight
    lr_max: Positive
    stop_ground_truth_after_epoch: Annotated[int, Field(ge=0)]
    token_noise: Annotated[float, Field(ge=0.0, lt=1.0)]
    perceptual_loss_weight: Weight
    perceptual_loss: Literal["vgg16", "vgg19", "style"]
    perceptual_subset: Annotated[int, Field(ge=0)]
    gradient_checkpointing: bool

    def network(self, loss: VqganLoss) -> Literal["vgg16", "alexnet", "vgg19", "none"]:
        """Whose features the perceptual loss compares; `style` looks where the tokenizer's does."""
        return loss.model_copy(update={"perceptual_loss": self.perceptual_loss}).network


class Decoding(Section):
    mode: Literal["auto", "parallel", "maskgit"]
    steps: Count
    temperature: Weight
    top_k: Annotated[int, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    min_confidence: Annotated[float, Field(ge=0.0, le=1.0)]


Baseline = Literal[
    "black",
    "hold_first",
    "hold_nearest",
    "cross_fade",
    "optical_flow",
    "rife",
    "untrained",
    "without_codes",
    "round_trip",
]


class SeedRuler(Section):
    splits: list[Literal["test", "train"]]
    repetitions: Annotated[int, Field(ge=1, le=100)]
    video_metrics: bool


class Evaluate(Section):
    batch_size: Count
    decoding: Decoding
    baselines: list[Baseline]
    lpips_network: Literal["alexnet", "vgg16", "none"]
    fid_network: Literal["auto", "inception", "vgg16", "none"]
    video_metrics: list[Literal["model"] | Baseline]
    samples: Annotated[int, Field(ge=0, le=100)]
    halvings: Annotated[int, Field(ge=2, le=1000)]
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    seed_ruler: SeedRuler
    weights_dir: str
    strips: Count

    @property
    def weights_folder(self) -> Path | None:
        return Path(self.weights_dir) if self.weights_dir else None


class Tracking(Section):
    enabled: bool
    experiment: Annotated[str, Field(min_length=1)]


class Engine(Section):
    kind: Literal["local", "ray"]
    address: str
    workers: Count
    checkpoint_interval: Weight


class Params(Section):
    """All of `params.yaml`."""

    base: Base
    source: Source
    sample_episodes: SampleEpisodes
    ingest: Ingest
    scene_split: SceneSplit
    frame_subsample: FrameSubsample
    clip_chunk: ClipChunk
    shard_pack: ShardPack
    flow: FlowSection
    vqgan: Vqgan
    token_precompute: TokenPrecompute
    transformer: Transformer
    train: Train
    evaluate: Evaluate
    tracking: Tracking
    engine: Engine

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of a frame: rows, columns."""
        stride = self.vqgan.stride
        return self.ingest.height // stride, self.ingest.width // stride


def read_yaml(path: Path = PARAMS_FILE) -> dict:
    """The plain mapping in a YAML 1.2 file (the dialect that DVC reads and writes)."""
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; run this from the root of the project, where params.yaml lies"
        ) from None
    except YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, expected sections with keys")
    return content


def load(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks all parameters; raises one UserError that names every mistake."""
    return parse(read_yaml(path), path)


def parse(content: dict, path: Path = PARAMS_FILE) -> Params:
    """Checks a mapping as `load` does; `path` is only named in the error."""
    mistakes = []
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        mistakes = [_describe(item) for item in error.errors()]
        sections = {item["loc"][0] for item in error.errors()}
        params = _valid_sections(content, sections)
    mistakes += contradictions(params)
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise UserError(f"{count} in {path}:\n" + "\n".join(f"  {line}" for line in mistakes))
    return params


def _valid_sections(content: dict, broken: set) -> Params:
    """The sections that are fine, so that their contradictions are named in the same message."""
    fine = {}
    for name, field in Params.model_fields.items():
        if name not in broken:
            fine[name] = field.annotation.model_validate(content[name])
    return Params.model_construct(**fine)


def _describe(item: dict) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its spelling"
    if item["type"] == "missing":
        return f"{key}: missing; copy it from the project's params.yaml"
    expected = item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{key} = {item['input']!r}: expected {expected}"
